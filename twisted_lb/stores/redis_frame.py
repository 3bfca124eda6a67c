"""A batch of takings as the arguments of one script call, encoded.

Strategy: what is the same for every batch is encoded once, and the commonest batch (takings of one
token, no client that is new) adds nothing but its keys, framed with one `join`, since every digest has
the same length.  What is special about a taking is told in a sparse list behind the keys.
The layout is described in take_tokens.lua.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twisted_lb.interfaces import IAsker, Limits
from twisted_lb.limits.addresses import IN_USE_SECONDS
from twisted_lb.stores.redis_scripts import account_key, encode_parts

DIGEST_LENGTH = 64  # SHA-256 in hexadecimal

_FIRST_KEY, _AFTER_LAST = encode_parts(account_key("x" * DIGEST_LENGTH)).split(b"x" * DIGEST_LENGTH)
_BETWEEN_KEYS = (_AFTER_LAST + _FIRST_KEY).decode()
_NOTHING_SPECIAL = encode_parts(b"0", b"0", b"0", b"0")

TAKE_OF_ADDRESS, GIVE_TO_ADDRESS = 1, 0


class Extra(NamedTuple):
    """What is special about a taking; or a taking or giving-back of an address's bucket alone."""

    position: int  # of the taking, from 1; 0: the address alone
    cost: int  # tokens; of the address alone: TAKE_OF_ADDRESS or GIVE_TO_ADDRESS
    network: str  # "" for none


class Batch(NamedTuple):
    """What one call asks for."""

    digests: list[str]
    askers: list[IAsker]  # of the same place in digests
    extras: list[Extra]
    charged: list[str]
    tokens: list[int]  # of the same place in charged
    address_askers: list[tuple[str, IAsker]]  # with the network


def is_digest(text: str) -> bool:
    """Whether it fits the frame; what does not is no key of ours, and would break a whole batch."""
    return len(text) == DIGEST_LENGTH and text.isascii()


class BatchFrame:
    """Encodes the batches of one instance."""

    def __init__(self, limits: Limits, silence_seconds: float, process: bytes) -> None:
        """`silence_seconds`: after which an instance that does not announce itself is no more.

        `process` names this process for good, unlike the id of its instance.
        """
        everyone, address = limits.everyone, limits.address
        self._in_flight = b"%d" % limits.in_flight
        self._rest = (
            b"%d" % round(silence_seconds * 1_000_000),
            b"%d" % everyone.capacity,
            repr(float(everyone.rate_per_sec)).encode(),
            b"%d" % address.capacity,
            repr(float(address.rate_per_sec)).encode(),
            b"%d" % (IN_USE_SECONDS * 1_000_000),
            process,
        )
        self._constant = b""

    def set_instance(self, instance: bytes) -> None:
        """From now on the calls are those of this instance id."""
        self._constant = encode_parts(self._in_flight, instance, *self._rest)

    def encode(
        self,
        number: int,
        takings: list[str],
        released: Sequence[str] = (),
        charged: Sequence[str] = (),
        charges: Sequence[int] = (),
        everyone: int = 0,
        extras: Sequence[Extra] = (),
    ) -> tuple[int, bytes]:
        """How many parts, and the parts, for `RedisScript.call_encoded`.

        `number` is above those of all calls before.  All but `charges` and `extras` are digests; `charges` (of the
        same place in `charged`) and `everyone` are microtokens, below zero to give back.
        """
        digests = [*released, *charged, *takings] if released or charged else takings
        keys = len(digests)
        parts = [encode_parts(b"%d" % keys)]
        if keys:
            parts += _FIRST_KEY, _BETWEEN_KEYS.join(digests).encode("ascii"), _AFTER_LAST
        parts += self._constant, encode_parts(b"%d" % number)
        if not (released or charged or extras or everyone):
            parts.append(_NOTHING_SPECIAL)
            return keys + 15, b"".join(parts)
        parts.append(encode_parts(b"%d" % len(released), b"%d" % len(charged), b"%d" % len(extras), b"%d" % everyone))
        parts += [encode_parts(b"%d" % charge) for charge in charges]
        for position, cost, network in extras:
            name = network.encode()
            # Digits of a fixed number, so that one `%` frames all three.
            parts.append(b"$4\r\n%04d\r\n$10\r\n%010d\r\n$%d\r\n%b\r\n" % (position, cost, len(name), name))
        return keys + 15 + len(charges) + 3 * len(extras), b"".join(parts)
