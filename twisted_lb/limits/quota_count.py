"""Counts what a user has used of a quota (see `twisted_lb.quotas`), in the memory of one process.

`stores/redis/lua/bucket.lua` implements the same steps in Lua, with the same results.

1. The first request after the end of a period begins the next one, which is determined by the calendar.  The stored
   period never goes back to an earlier one, even if the clock does.
2. A request is refused if it would use more than the amount.  A refused request uses nothing.
3. A charge belongs to a period.  If that is not the present period, a refund is lost, since it was not used in the
   present one, and an additional cost counts in the present one.  The charges for an outage are different: those of an
   earlier period do not count any more, since they were within its quota, and those of a later one begin that period.
4. Each threshold causes at most one notice per period, whatever is refunded or changed meanwhile.
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
    """A quota, and how much of it was used."""

    __slots__ = ("amount", "unit", "per", "time_zone", "used", "starts_us", "ends_us", "told", "counts_requests")

    def __init__(self, quota: Quota, told: int | None = None) -> None:
        """`told` is the highest threshold (percent) notified in the period; None: the highest that is reached."""
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
        """The quota as a value."""
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
        # Otherwise the present period is extended: see `quotas.renewed`.
        self.ends_us = ends_us

    def refuses(self, cost: int) -> bool:
        """Whether a request that costs `cost` tokens would use more than the amount."""
        return self.used + (1 if self.counts_requests else cost) > self.amount

    def take(self, cost: int) -> None:
        """Admit a request that costs `cost` tokens."""
        self.used += 1 if self.counts_requests else cost

    def charge(self, charge: QuotaCharge, now_us: int) -> bool:
        """Apply a charge, which corrects what was used by an admitted request; return whether anything has changed."""
        unit, starts_us, _, amount = charge
        if unit != self.unit or not amount or (starts_us != self.starts_us and amount < 0):
            return False
        if amount > 0 and 0 < self.ends_us <= now_us:
            # It counts in the next period, which has begun, and which the next request will determine.
            self.used = self.told = self.starts_us = self.ends_us = 0
        self.used = min(max(self.used + amount, 0), MAX_USED)
        return True

    def level(self, now_us: int) -> QuotaLevel:
        """The quota, and what is left of it now."""
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
        """The thresholds (percent) that are reached or exceeded now."""
        return [threshold for threshold in THRESHOLDS if self.used * 100 >= self.amount * threshold]

    def text(self) -> str:
        """As JSON, for `count_from_text`."""
        values = self.amount, self.unit, self.per, self.time_zone, self.used, self.starts_us, self.ends_us, self.told
        return json.dumps(values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.used} of {self.amount} {self.unit} a {self.per}, ends {self.ends_us}us>"


def count_from_text(text: str) -> QuotaCount:
    """The count that QuotaCount.text has written.  Raises ValueError for any other text."""
    try:
        *values, told = json.loads(text)
        quota = Quota(*values)
        # An unknown time zone is not checked for: it does not mean that the text is damaged.
        check_quota(quota._replace(time_zone=UTC))
        if type(quota.time_zone) is not str or type(told) is not int or not 0 <= told <= 100:
            raise ValueError(f"not a quota: {text}")
        return QuotaCount(quota, told)
    except TypeError as error:
        # In the compiled build, a member of the wrong type raises this.
        raise ValueError(f"not a quota: {error}") from None
