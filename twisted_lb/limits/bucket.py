"""The token bucket, in words and then in code.

The law: in any time t a bucket admits at most `capacity + rate_per_sec * t` tokens.  With costs that are settled
afterwards: what is admitted and settled, less what is given back, is at most that and the debt that is left.

1. A level is a whole number of microtokens (`interfaces.MICROTOKENS`), a time is a whole number of
   microseconds.  A rate of r tokens a second is therefore r microtokens a microsecond.
2. Refill: `elapsed_us` after the stamp the level is higher by floor(elapsed_us * rate_per_sec), and
   at most the capacity.
3. Time never goes backwards: where `elapsed_us` is negative it counts as 0, and the stamp stays.
4. Taking: when the refilled level holds the cost, the level less the cost is written, and the stamp.
5. A refusal changes nothing, neither level nor stamp: asking often does not cost fractions.
6. Giving back adds to the level, up to the capacity.  It needs no time: refill and gift commute.
7. Settling takes what a request cost beyond what was taken for it.  The request has been served, so this is
   never refused, and the level may go below zero, down to LOWEST_LEVEL.  The level is refilled to now first:
   what was full then would be refilled once more otherwise.  Settling can only make a bucket admit less.
8. A new policy: the level is refilled to now under the old policy, kept, and cut to a smaller capacity.

The same numbers in Lua: `stores/bucket.lua` does the same steps.  Lua knows only IEEE doubles, so
every whole number stays below 2**53 (MAX_CAPACITY is 10**15 microtokens; the time is 1.8 * 10**15
microseconds in 2027), and the one product is a product of doubles on both sides.  Rounding that
product can add at most one part in 2**53 of what was refilled; each taking drops less than one
microtoken.
"""

from __future__ import annotations

import math

from twisted_lb.interfaces import MICROTOKENS

MAX_CAPACITY = 1_000_000_000  # tokens
MAX_RATE_PER_SEC = 1_000_000  # tokens per second
MAX_COST = MAX_CAPACITY  # tokens, of one request
LOWEST_LEVEL = -MAX_CAPACITY * MICROTOKENS  # the deepest debt
# The stamp of a bucket of which nothing was ever taken.  It is full, so its refill since then changes nothing.
NEVER_USED_US = 0
# The largest integer of a structured field (RFC 9651 section 3.3.1): no count of seconds goes above it.
MAX_SECONDS = 999_999_999_999_999


def check_policy(capacity: int, rate_per_sec: float) -> None:
    """Raise ValueError, with a text that says what was expected, unless a bucket can have this policy."""
    check_capacity(capacity)
    check_rate(rate_per_sec)


def check_capacity(capacity: int) -> None:
    """Raise ValueError unless `capacity` is a whole number of tokens from 1 to MAX_CAPACITY."""
    if type(capacity) is not int or not 1 <= capacity <= MAX_CAPACITY:
        raise ValueError(f"capacity: expected a whole number from 1 to {MAX_CAPACITY}, not {capacity!r}")


def check_rate(rate_per_sec: float) -> None:
    """Raise ValueError unless `rate_per_sec` is a number of tokens per second from 0 to MAX_RATE_PER_SEC."""
    if type(rate_per_sec) not in (int, float) or not 0 <= rate_per_sec <= MAX_RATE_PER_SEC:
        raise ValueError(f"rate_per_sec: expected a number from 0 to {MAX_RATE_PER_SEC}, not {rate_per_sec!r}")


def check_cost(cost: int) -> None:
    """Raise ValueError unless `cost` is a whole number of tokens from 0 to MAX_COST."""
    if type(cost) is not int or not 0 <= cost <= MAX_COST:
        raise ValueError(f"cost: expected a whole number from 0 to {MAX_COST}, not {cost!r}")


class Bucket:
    """One bucket: `capacity` in tokens, `rate_per_sec` in tokens per second, `level` in microtokens at `stamp_us`."""

    __slots__ = ("capacity", "rate_per_sec", "level", "stamp_us", "_full")

    def __init__(self, capacity: int, rate_per_sec: float, level: int, stamp_us: int) -> None:
        """The policy must have passed `check_policy`; a level above the capacity is cut."""
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
        """Take `cost` tokens (see `check_cost`): whether they were there, and the level (microtokens) afterwards."""
        # This repeats `level_at`: it runs once a request, and a call costs a tenth of it.
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

    def give_back(self, cost: int) -> None:
        """Put `cost` tokens back, up to the capacity."""
        self.level = min(self.level + cost * MICROTOKENS, self._full)

    def settle(self, tokens: int, now_us: int) -> None:
        """Take `tokens` more, even if that leaves the level below zero; negative ones are given back."""
        if tokens <= 0:
            self.give_back(-tokens)
            return
        self.refill(now_us)
        self.level = max(self.level - tokens * MICROTOKENS, LOWEST_LEVEL)

    def refill(self, now_us: int) -> None:
        """Write the level of `now_us`, so that what follows counts from then."""
        self.level = self.level_at(now_us)
        self.stamp_us = max(self.stamp_us, now_us)

    def change(self, capacity: int, rate_per_sec: float, now_us: int) -> None:
        """Set a policy that has passed `check_policy`; the level so far is kept, and cut to a smaller capacity."""
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
    """The least whole number of seconds in which at least `missing` microtokens come back.

    None when they never come (rate 0).  Never above MAX_SECONDS.  "Exact" means: by rule 2, so
    that one second less would not have been enough.
    """
    if missing <= 0:
        return 0
    if rate_per_sec == 0:
        return None
    a_second = rate_per_sec * MICROTOKENS
    quotient = missing / a_second
    if quotient < 1e6:
        # Far from a whole number for a double of this size, so its error cannot matter: nearly always, and this
        # runs twice for each response.
        seconds = int(quotient)
        if 1e-9 < quotient - seconds < 1 - 1e-9:
            return seconds + 1
    if missing > a_second * MAX_SECONDS:
        return MAX_SECONDS
    seconds = math.ceil(quotient)
    # The quotient may be off by one unit in its last place, which moves the ceiling by one at most.
    if seconds * 1_000_000 * rate_per_sec < missing:
        return seconds + 1
    if (seconds - 1) * 1_000_000 * rate_per_sec >= missing:
        return seconds - 1
    return seconds


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
