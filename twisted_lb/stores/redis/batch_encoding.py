"""A batch of requests for tokens, encoded as the arguments of one script call.

The arguments that are the same for every batch are encoded once.  The most frequent batch (requests of one token, from
no new client) adds only its keys, framed by one `join`, since all digests have the same length.  The properties of
other requests are in a sparse list after the keys.  The layout is described in take_tokens.lua.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from twisted_lb.interfaces import ITokenReceiver, Limits, SharedBucket
from twisted_lb.limits.client_networks import IN_USE_SECONDS
from twisted_lb.quotas import QuotaCharge
from twisted_lb.stores.redis.keys import account_key
from twisted_lb.stores.redis.protocol import encode_parts
from twisted_lb.stores.redis.shared_part import Limited, encode_shared

DIGEST_LENGTH: Final = 64  # SHA-256 in hexadecimal

_FIRST_KEY, _AFTER_LAST = encode_parts(account_key("x" * DIGEST_LENGTH)).split(b"x" * DIGEST_LENGTH)
_BETWEEN_KEYS: Final = (_AFTER_LAST + _FIRST_KEY).decode()
_NOTHING_SPECIAL: Final = encode_parts(b"0", b"0", b"0", b"0", b"0")


class Extra(NamedTuple):
    """What is special about a taking."""

    position: int  # of the taking, from 1
    cost: int  # tokens
    network: str  # "" for none


# As the first extra: the charges are for the buckets of users only, and not for keys' own.
OF_USERS_ALONE: Final = Extra(-1, 0, "")


def charge_extra(place: int, charge: QuotaCharge) -> Extra:
    """The extra that says what the charge at this place, from 0, changes in the user's quota."""
    return Extra(-2 - place, 0, f"{charge.unit} {charge.starts_us} {charge.ends_us} {charge.amount}")


class WithoutKey(NamedTuple):
    """A taking for a request without a key."""

    limits: tuple[SharedBucket, ...]
    cost: int  # tokens
    receiver: ITokenReceiver
    served: bool = True  # see IBucketStore.take_address


class Batch(NamedTuple):
    """What one call asks for."""

    digests: list[str]
    receivers: list[ITokenReceiver]  # at the same places as in `digests`
    extras: list[Extra]
    charged: list[str]
    tokens: list[int]  # at the same places as in `charged`
    limits: dict[int, tuple[SharedBucket, ...]]  # of takings, by their places from 1
    without_key: list[WithoutKey]
    shared_charges: list[tuple[SharedBucket, int]]  # tokens
    quota_charges: dict[int, QuotaCharge]  # by their places in `charged`

    @property
    def limited(self) -> list[Limited]:
        """The takings that need tokens of shared buckets."""
        with_key = [Limited(position, 0, limits) for position, limits in self.limits.items()]
        return with_key + [Limited(0, cost, limits) for limits, cost, *_ in self.without_key]


def is_digest(text: str) -> bool:
    """Whether it fits the frame; any other text is not a digest, and would break a whole batch."""
    return len(text) == DIGEST_LENGTH and text.isascii()


class BatchFrame:
    """Encodes the batches of one instance."""

    def __init__(self, limits: Limits, silence_seconds: float, process: bytes) -> None:
        """`silence_seconds`: after this time an instance that does not announce itself counts as gone.

        `process` is the permanent id of this process, unlike the id of its instance, which changes.
        """
        global_bucket, address = limits.global_bucket, limits.address
        self._in_flight = b"%d" % limits.in_flight
        self._rest = (
            b"%d" % round(silence_seconds * 1_000_000),
            b"%d" % global_bucket.capacity,
            repr(float(global_bucket.rate_per_sec)).encode(),
            b"%d" % address.capacity,
            repr(float(address.rate_per_sec)).encode(),
            b"%d" % (IN_USE_SECONDS * 1_000_000),
            process,
        )
        self._constant = b""

    def set_instance(self, instance: bytes) -> None:
        """Use this instance id in all calls from now on."""
        self._constant = encode_parts(self._in_flight, instance, *self._rest)

    def encode(
        self,
        number: int,
        takings: list[str],
        released: Sequence[str] = (),
        charged: Sequence[str] = (),
        charges: Sequence[int] = (),
        global_bucket: int = 0,
        extras: Sequence[Extra] = (),
        shared_charges: Sequence[tuple[SharedBucket, int]] = (),
        limited: Sequence[Limited] = (),
    ) -> tuple[int, bytes]:
        """How many parts, and the parts, for `RedisScript.call_encoded`.

        `number` is above those of all calls before.  `takings`, `released` and `charged` are digests; `charges` (at the
        same places as in `charged`), `global_bucket` and those in `shared_charges` are microtokens, below zero to
        refund.
        """
        digests = [*released, *charged, *takings] if released or charged else takings
        keys = len(digests)
        parts = [encode_parts(b"%d" % keys)]
        if keys:
            parts += _FIRST_KEY, _BETWEEN_KEYS.join(digests).encode("ascii"), _AFTER_LAST
        parts += self._constant, encode_parts(b"%d" % number)
        if not (released or charged or extras or global_bucket or shared_charges or limited):
            parts.append(_NOTHING_SPECIAL)
            return keys + 16, b"".join(parts)
        buckets, more, shared = 0, 0, b""
        if shared_charges or limited:
            buckets, more, shared = encode_shared(shared_charges, limited)
        counts = (len(released), len(charged), len(extras), global_bucket, buckets)
        parts.append(encode_parts(*[b"%d" % count for count in counts]))
        parts += [encode_parts(b"%d" % charge) for charge in charges]
        for position, cost, network in extras:
            name = network.encode()
            # With fixed numbers of digits, one `%` frames all three.
            parts.append(b"$4\r\n%04d\r\n$10\r\n%010d\r\n$%d\r\n%b\r\n" % (position, cost, len(name), name))
        parts.append(shared)
        return keys + 16 + len(charges) + 3 * len(extras) + more, b"".join(parts)
