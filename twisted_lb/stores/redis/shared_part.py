"""The part of a batch that concerns buckets without an account, as arguments of take_tokens.lua.

It is absent in the most frequent batch.  Each bucket is named once, with its policy, and then given by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twisted_lb.interfaces import SharedBucket
from twisted_lb.stores.redis.protocol import encode_parts


class Limited(NamedTuple):
    """A taking that needs tokens of shared buckets."""

    position: int  # among those with a key, from 1; 0: it has none
    cost: int  # tokens, without a key
    limits: tuple[SharedBucket, ...]  # shadows last


def encode_shared(
    charges: Sequence[tuple[SharedBucket, int]], takings: Sequence[Limited]
) -> tuple[int, int, bytes]:
    """How many buckets are named, how many parts there are, and the parts; `charges` are microtokens."""
    numbers: dict[str, int] = {}
    named: list[bytes] = []

    def number(shared: SharedBucket) -> bytes:
        found = numbers.get(shared.key)
        if found is None:
            found = numbers[shared.key] = len(numbers) + 1
            rule = shared.rule
            named.extend((shared.key.encode(), b"%d" % rule.capacity, repr(float(rule.rate_per_sec)).encode()))
        return b"%d" % found

    rest: list[bytes] = []
    for shared, amount in charges:
        rest += number(shared), b"%d" % amount
    for position, cost, limits in takings:
        rest += b"%d" % position, b"%d" % cost, b"%d" % len(limits)
        rest += [b"-" + number(shared) if shared.shadow else number(shared) for shared in limits]
    parts = [b"%d" % len(charges), b"%d" % len(takings), *named, *rest]
    return len(numbers), len(parts), encode_parts(*parts)
