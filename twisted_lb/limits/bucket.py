"""The token bucket: the rules, and their implementation.

The guarantee: in any period of length t a bucket admits at most `capacity + rate_per_sec * t` tokens.  If costs are
settled afterwards, the tokens admitted and settled, minus those refunded, are at most that plus the present debt.

1. A level is an integer number of microtokens (`interfaces.MICROTOKENS`), a time an integer number of microseconds.  A
   rate of r tokens per second is therefore r microtokens per microsecond.
2. Refill: `elapsed_us` after the time stamp the level has increased by floor(elapsed_us * rate_per_sec), up to the
   capacity.
3. Time never goes backwards: a negative `elapsed_us` counts as 0, and the stamp is kept.
4. Take: if the refilled level is at least the cost, the level minus the cost is stored with the present time as stamp.
5. A refusal changes neither level nor stamp, so that frequent requests do not lose fractions.
6. Refund: the level is increased, up to the capacity.  The time is not needed: refill and refund commute.
7. Settle: the cost of a request beyond what was taken for it is taken.  The request has been served, so this is never
   refused, and the level may become negative, down to LOWEST_LEVEL.  The level is refilled first: otherwise a bucket
   that was full would be refilled for that time again.  Settling can only make a bucket admit less.
8. A new policy: the level is refilled under the old policy, and reduced to the new capacity if that is smaller.

`stores/redis/lua/bucket.lua` implements the same steps in Lua, with the same results.  Lua has only IEEE doubles, so
every integer is below 2**53 (MAX_CAPACITY is 10**15 microtokens; the time is 1.8 * 10**15 microseconds in 2027), and
the one product is a product of doubles in both implementations.  Rounding that product can add at most one part in
2**53 of the refill; each take drops less than one microtoken.
"""

from __future__ import annotations

import math
from typing import Final

from twisted_lb.interfaces import MICROTOKENS

MAX_CAPACITY: Final = 1_000_000_000  # tokens
MAX_RATE_PER_SEC: Final = 1_000_000  # tokens per second
MAX_COST: Final = MAX_CAPACITY  # tokens, of one request
LOWEST_LEVEL: Final = -MAX_CAPACITY * MICROTOKENS  # the largest debt
# The stamp of a bucket from which nothing was ever taken.  It is full, so a refill since then changes nothing.
NEVER_USED_US: Final = 0
# The largest integer of a structured field (RFC 9651 section 3.3.1), and the maximum for seconds.
MAX_SECONDS: Final = 999_999_999_999_999


def check_policy(capacity: object, rate_per_sec: object) -> None:
    """Raise ValueError, with a text that says what was expected, unless this is a valid policy."""
    check_capacity(capacity)
    check_rate(rate_per_sec)


def check_capacity(capacity: object) -> None:
    """Raise ValueError unless `capacity` is a whole number of tokens from 1 to MAX_CAPACITY."""
    if type(capacity) is not int or not 1 <= capacity <= MAX_CAPACITY:
        raise ValueError(f"capacity: expected a whole number from 1 to {MAX_CAPACITY}, not {capacity!r}")


def check_rate(rate_per_sec: object) -> None:
    """Raise ValueError unless `rate_per_sec` is a number of tokens per second from 0 to MAX_RATE_PER_SEC."""
    if isinstance(rate_per_sec, (int, float)) and not isinstance(rate_per_sec, bool):
        if 0 <= rate_per_sec <= MAX_RATE_PER_SEC:
            return
    raise ValueError(f"rate_per_sec: expected a number from 0 to {MAX_RATE_PER_SEC}, not {rate_per_sec!r}")


def check_change(capacity: object, rate_per_sec: object) -> None:
    """Raise ValueError unless these are valid for a bucket; None stands for a value that does not change."""
    if capacity is not None:
        check_capacity(capacity)
    if rate_per_sec is not None:
        check_rate(rate_per_sec)


def check_cost(cost: object) -> None:
    """Raise ValueError unless `cost` is a whole number of tokens from 0 to MAX_COST."""
    if type(cost) is not int or not 0 <= cost <= MAX_COST:
        raise ValueError(f"cost: expected a whole number from 0 to {MAX_COST}, not {cost!r}")


class Bucket:
    """One bucket: `capacity` in tokens, `rate_per_sec` in tokens per second, `level` in microtokens at `stamp_us`."""

    __slots__ = ("capacity", "rate_per_sec", "level", "stamp_us", "_full")

    def __init__(self, capacity: int, rate_per_sec: float, level: int, stamp_us: int) -> None:
        """The policy must have passed `check_policy`; a level above the capacity is reduced to it."""
        self.capacity = capacity
        # A double, and never -0.0, so that Python multiplies exactly as Lua does.
        self.rate_per_sec = float(rate_per_sec) + 0.0
        self._full = capacity * MICROTOKENS
        self.level = min(level, self._full)
        self.stamp_us = stamp_us

    def level_at(self, now_us: int) -> int:
        """The level in microtokens at `now_us`.  Changes nothing."""
        elapsed_us = now_us - self.stamp_us
        if elapsed_us <= 0:
            return self.level
        return min(self.level + int(elapsed_us * self.rate_per_sec), self._full)

    def take(self, cost: int, now_us: int) -> tuple[bool, int]:
        """Take `cost` tokens (see `check_cost`); return whether there were enough, and the level (microtokens) then."""
        # This repeats `level_at`: it runs once per request, and a call would take a tenth of its time.
        level = self.level
        elapsed_us = now_us - self.stamp_us
        if elapsed_us > 0:
            level += int(elapsed_us * self.rate_per_sec)
            if level > self._full:
                level = self._full
        left = level - cost * MICROTOKENS
        if left < 0:
            return False, level
        self.level = left
        if elapsed_us > 0:
            self.stamp_us = now_us
        return True, left

    def refund(self, cost: int) -> None:
        """Add `cost` tokens, up to the capacity."""
        self.level = min(self.level + cost * MICROTOKENS, self._full)

    def settle(self, tokens: int, now_us: int) -> None:
        """Take `tokens` more, even if the level becomes negative; negative `tokens` are refunded."""
        if tokens <= 0:
            self.refund(-tokens)
            return
        self.refill(now_us)
        self.level = max(self.level - tokens * MICROTOKENS, LOWEST_LEVEL)

    def refill(self, now_us: int) -> None:
        """Store the level at `now_us`, with this time as stamp."""
        self.level = self.level_at(now_us)
        self.stamp_us = max(self.stamp_us, now_us)

    def change(self, capacity: int, rate_per_sec: float, now_us: int) -> None:
        """Set a policy that has passed `check_policy`; the level is kept, or reduced to a smaller capacity."""
        self.refill(now_us)
        self.capacity = capacity
        self.rate_per_sec = float(rate_per_sec) + 0.0
        self._full = capacity * MICROTOKENS
        self.level = min(self.level, self._full)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.level / MICROTOKENS:.6f} of {self.capacity}"
            f" at {self.stamp_us}us, {self.rate_per_sec:g}/s>"
        )


def seconds_to_refill(missing: int, rate_per_sec: float) -> int | None:
    """The smallest whole number of seconds in which at least `missing` microtokens are refilled, at most MAX_SECONDS.

    None if the rate is 0.  The result is exact by rule 2: one second less would not be enough.
    """
    if missing <= 0:
        return 0
    if rate_per_sec == 0:
        return None
    a_second = rate_per_sec * MICROTOKENS
    quotient = missing / a_second
    if quotient < 1e6:
        # The usual case: the quotient is not close to an integer, so its rounding error does not matter.  A short path,
        # because this runs twice for each response.
        seconds = int(quotient)
        if 1e-9 < quotient - seconds < 1 - 1e-9:
            return seconds + 1
    if missing > a_second * MAX_SECONDS:
        return MAX_SECONDS
    seconds = math.ceil(quotient)
    # The quotient may be wrong by one unit in its last place, which changes the ceiling by at most one.
    if seconds * 1_000_000 * rate_per_sec < missing:
        return seconds + 1
    if (seconds - 1) * 1_000_000 * rate_per_sec >= missing:
        return seconds - 1
    return seconds
