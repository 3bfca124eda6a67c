"""When a bucket has a token more, and when it is full: what the header fields are held against."""

from __future__ import annotations

from twisted_lb.interfaces import MICROTOKENS
from twisted_lb.limits.bucket import seconds_to_refill


def seconds_to_next(capacity: int, rate_per_sec: float, level: int) -> int | None:
    """Whole seconds, rounded up, until there is one whole token more; 0 when full, None when it never comes."""
    if level >= capacity * MICROTOKENS:
        return 0
    # In debt, the next token is the first one.
    missing = MICROTOKENS - (level % MICROTOKENS if level > 0 else level)
    return seconds_to_refill(missing, rate_per_sec)


def seconds_to_full(capacity: int, rate_per_sec: float, level: int) -> int | None:
    """Whole seconds, rounded up, until the bucket is full; 0 when it is, None when it never will be."""
    return seconds_to_refill(capacity * MICROTOKENS - level, rate_per_sec)
