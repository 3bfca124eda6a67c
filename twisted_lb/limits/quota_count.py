"""What a user has used of a quota (see `twisted_lb.quotas`), in the memory of one process.

`stores/redis/lua/bucket.lua` implements the same steps in Lua, with the same results.

1. A request for which the period is over begins the next one, which is determined by the calendar.  What is stored
   never goes back to an earlier period, whatever the clock does.
2. A request is refused if more than the amount would be used with it.  It is admitted completely, or uses nothing.
3. A charge belongs to a period.  Charged to another one than the last that has begun: what is given back is lost, since
   it was not used of this one; what is used in addition counts in this one.  After an outage, during which it was
   within the earlier period, it does not count any more, and what was used in a later period begins that.
4. Each threshold is crossed once in each period, whatever is given back or changed meanwhile.
"""

from __future__ import annotations

import json

from twisted_lb.quotas import (
    MAX_USED,
    REQUESTS,
    THRESHOLDS,
    UTC,
    Quota,
    QuotaCharge,
    QuotaLevel,
    check_quota,
    period_at,
)


class QuotaCount:
    """A quota and what was used of it."""

    __slots__ = ("amount", "unit", "per", "time_zone", "used", "starts_us", "ends_us", "told", "counts_requests")

    def __init__(self, quota: Quota, told: int | None = None) -> None:
        """`told` is the highest threshold that was crossed in the period; None: as what was used says."""
        self.amount = quota.amount
        self.unit = quota.unit
        self.per = quota.per
        self.time_zone = quota.time_zone
        self.used = quota.used
        self.starts_us = quota.starts_us
        self.ends_us = quota.ends_us
        self.counts_requests = quota.unit == REQUESTS
        self.told = max([0, *self.reached()]) if told is None else told

    def quota(self) -> Quota:
        """As a value."""
        return Quota(
            self.amount, self.unit, self.per, self.time_zone, self.used, self.starts_us, self.ends_us
        )

    def begin(self, now_us: int) -> None:
        """Begin the next period if this one is over.  Raises UnknownTimeZone."""
        if now_us < self.ends_us:
            return
        starts_us, ends_us = period_at(self.per, self.time_zone, now_us)
        if not self.ends_us:
            self.starts_us = starts_us
        elif starts_us >= self.ends_us:
            self.used = self.told = 0
            self.starts_us = starts_us
        # Else this one goes on: see `quotas.renewed`.
        self.ends_us = ends_us

    def refuses(self, cost: int) -> bool:
        """Whether a request of so many tokens would use too much."""
        return self.used + (1 if self.counts_requests else cost) > self.amount

    def take(self, cost: int) -> None:
        """Admit a request of so many tokens."""
        self.used += 1 if self.counts_requests else cost

    def charge(self, charge: QuotaCharge, now_us: int) -> bool:
        """Charge what an admitted request has used in the end; whether that has changed anything."""
        unit, starts_us, _, amount = charge
        if unit != self.unit or not amount or (starts_us != self.starts_us and amount < 0):
            return False
        if amount > 0 and 0 < self.ends_us <= now_us:
            # It counts in the period that has begun, which the next request will determine.
            self.used = self.told = self.starts_us = self.ends_us = 0
        self.used = min(max(self.used + amount, 0), MAX_USED)
        return True

    def level(self, now_us: int) -> QuotaLevel:
        """What is left now."""
        return QuotaLevel(
            self.amount,
            self.unit,
            self.per,
            self.time_zone,
            self.amount - self.used,
            self.starts_us,
            self.ends_us,
            now_us,
        )

    def reached(self) -> list[int]:
        """The thresholds at which, or above which, it is now."""
        return [threshold for threshold in THRESHOLDS if self.used * 100 >= self.amount * threshold]

    def text(self) -> str:
        """As JSON, for `count_from_text`."""
        values = self.amount, self.unit, self.per, self.time_zone, self.used, self.starts_us, self.ends_us, self.told
        return json.dumps(values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.used} of {self.amount} {self.unit} a {self.per}, ends {self.ends_us}us>"


def count_from_text(text: str) -> QuotaCount:
    """Raises ValueError for what is not such a text."""
    try:
        *values, told = json.loads(text)
        quota = Quota(*values)
        # A zone that is not known any more is no damage.
        check_quota(quota._replace(time_zone=UTC))
        if type(quota.time_zone) is not str or type(told) is not int or not 0 <= told <= 100:
            raise ValueError(f"not a quota: {text}")
        return QuotaCount(quota, told)
    except TypeError as error:
        # Compiled, so is a member of another type.
        raise ValueError(f"not a quota: {error}") from None
