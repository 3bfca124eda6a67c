"""Quotas: how many requests or tokens a user may have in each calendar day or month of a time zone.

A quota is beside the bucket of its user, and counts up: what was used in the period, from 0.  A period has a start and
an end, in microseconds since 1970; it begins with the first moment of a day or month in the time zone, so that a day
may have 23 or 25 hours, and begin at 01:00 where the clocks skip midnight.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

# What is counted.
REQUESTS: Final = "requests"  # that were admitted, but for those that no server has answered
TOKENS: Final = "tokens"  # what requests have cost
UNITS: Final = (REQUESTS, TOKENS)

# For how long.
DAY: Final = "day"
MONTH: Final = "month"
PERIODS: Final = (DAY, MONTH)

UTC: Final = "UTC"
MAX_AMOUNT: Final = 10**12
MAX_USED: Final = 10**15
SECOND_US: Final = 1_000_000
# Percent of the amount at which there is a notice.
THRESHOLDS: Final = (80, 100)

# Names of the IANA database; they are part of texts that scripts read.
# Files of the database that are no names of zones: other countings of time, or another zone on each machine.
_NO_ZONES: Final = frozenset(("right", "posix", "localtime", "posixrules", "Factory"))
_NAME: Final = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,3}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
# The clocks of no zone were ever changed by more than a day.
_LONGEST_CHANGE: Final = 26 * 3600


class Quota(NamedTuple):
    """A quota, and what was used of it in the period."""

    amount: int  # from 1 to MAX_AMOUNT
    unit: str  # one of UNITS
    per: str  # one of PERIODS
    time_zone: str = UTC  # a name of the IANA database
    used: int = 0
    starts_us: int = 0  # of the period
    ends_us: int = 0  # 0: it is not known yet, and what was used counts in the one that is determined next

    @property
    def left(self) -> int:
        """What may still be used in the period; below zero after costs that were settled later."""
        return self.amount - self.used


# As the quota of a change: the user has none any more.
NO_QUOTA: Final = Quota(0, REQUESTS, DAY)


class QuotaLevel(NamedTuple):
    """A quota after a decision."""

    amount: int
    unit: str
    per: str
    time_zone: str
    left: int  # may be below zero
    starts_us: int
    ends_us: int
    now_us: int  # of the decision, by the clock of the store

    @property
    def window(self) -> int:
        """The seconds of the whole period, rounded up."""
        return -((self.starts_us - self.ends_us) // SECOND_US)

    @property
    def seconds_left(self) -> int:
        """The seconds until the period ends, rounded up; at least 1."""
        return max(1, -((self.now_us - self.ends_us) // SECOND_US))


class QuotaCharge(NamedTuple):
    """A change of what was used, for something that was admitted in this period."""

    unit: str
    starts_us: int
    ends_us: int
    amount: int  # below zero: it is given back


class UnknownTimeZone(ValueError):
    """The database of time zones has no zone of this name."""


def zone_named(name: str) -> tzinfo:
    """Raises UnknownTimeZone."""
    if name == UTC:
        return timezone.utc
    try:
        if _NAME.fullmatch(name) is not None and name.partition("/")[0] not in _NO_ZONES:
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        """A ZoneInfoNotFoundError is a KeyError; a directory of the database may be any of them."""
    raise UnknownTimeZone(f"time_zone: expected a name of the IANA database such as Europe/Berlin, not {name!r}")


def check_quota(quota: Quota) -> None:
    """Raise ValueError unless this can be stored."""
    amount, unit, per, time_zone, used, starts_us, ends_us = quota
    if unit not in UNITS:
        raise ValueError(f"quota: expected one of {', '.join(UNITS)}, not {unit!r}")
    if type(amount) is not int or not 1 <= amount <= MAX_AMOUNT:
        raise ValueError(f"{unit}: expected a whole number from 1 to {MAX_AMOUNT}, not {amount!r}")
    if per not in PERIODS:
        raise ValueError(f"per: expected one of {', '.join(PERIODS)}, not {per!r}")
    if not isinstance(time_zone, str):
        raise UnknownTimeZone(f"time_zone: expected a name of the IANA database, not {time_zone!r}")
    zone_named(time_zone)
    check_used(used)
    if not all(type(time_us) is int and 0 <= time_us < 2**53 for time_us in (starts_us, ends_us)) or not (
        starts_us < ends_us or starts_us == ends_us == 0
    ):
        raise ValueError("quota: expected a period with starts_us before ends_us, or none")


def check_used(used: object) -> None:
    """Raise ValueError unless so much can have been used."""
    if type(used) is not int or not 0 <= used <= MAX_USED:
        raise ValueError(f"used: expected a whole number from 0 to {MAX_USED}, not {used!r}")


def period_at(per: str, time_zone: str, now_us: int) -> tuple[int, int]:
    """The start and the end of the period that has this moment, in microseconds.  Raises UnknownTimeZone."""
    zone = zone_named(time_zone)
    now = now_us // SECOND_US
    today = _local(now, zone).date()
    first = today if per == DAY else today.replace(day=1)
    # Around its beginning, the clocks may go back to the day before.
    boundaries = [_begin(one, zone) for one in (_before(first, per), first, _after(first, per))]
    if now >= boundaries[2]:
        boundaries.append(_begin(_after(_after(first, per), per), zone))
    starts = max(one for one in boundaries if one <= now)
    ends = min(one for one in boundaries if one > now)
    return starts * SECOND_US, ends * SECOND_US


def quota_at(quota: Quota, now_us: int) -> Quota:
    """The quota as it is at this moment: nothing is used of a period that begins."""
    if now_us < quota.ends_us:
        return quota
    try:
        starts_us, ends_us = period_at(quota.per, quota.time_zone, now_us)
    except UnknownTimeZone:
        return quota
    return renewed(quota, starts_us, ends_us)


def renewed(quota: Quota, starts_us: int, ends_us: int) -> Quota:
    """The quota in its next period, which is over or not known yet.

    A period that would begin before the one that is over has ended is by another edition of the database of time zones:
    then it goes on until the later end, so that nobody gets the quota of a part of a period.
    """
    if not quota.ends_us:
        return quota._replace(starts_us=starts_us, ends_us=ends_us)
    if starts_us < quota.ends_us:
        return quota._replace(ends_us=ends_us)
    return quota._replace(used=0, starts_us=starts_us, ends_us=ends_us)


def changed_quota(before: Quota | None, quota: Quota, now_us: int) -> Quota:
    """The quota that a user has after this one was set: what was used stays if unit and period do."""
    new = quota._replace(used=0, starts_us=0, ends_us=0)
    if before is None or (before.unit, before.per) != (quota.unit, quota.per):
        return new
    if before.ends_us and before.ends_us <= now_us:
        return new
    if before.time_zone != quota.time_zone:
        # The period that has begun ends at another time.
        return new._replace(used=before.used)
    return new._replace(used=before.used, starts_us=before.starts_us, ends_us=before.ends_us)


def quota_text(quota: Quota) -> str:
    """Without what was used, as scripts read it."""
    return f"{quota.amount} {quota.unit} {quota.per} {quota.time_zone}"


def quota_from_text(text: str, used: int, starts_us: int, ends_us: int) -> Quota:
    """The quota of such a text."""
    amount, unit, per, time_zone = text.split(" ")
    return Quota(int(amount), unit, per, time_zone, used, starts_us, ends_us)


def _local(seconds: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(seconds=seconds)).astimezone(zone).replace(tzinfo=None)


def _begin(day: date, zone: tzinfo) -> int:
    """The first moment of this day, in seconds."""
    midnight = datetime(day.year, day.month, day.day)
    # The earlier one of two midnights; where there is none, close to the change of the clocks.
    found = round((midnight.replace(tzinfo=zone) - _EPOCH).total_seconds())
    if _local(found, zone) == midnight:
        return found
    before, after = found - _LONGEST_CHANGE, found + _LONGEST_CHANGE
    while after - before > 1:
        middle = (before + after) // 2
        if _local(middle, zone) < midnight:
            before = middle
        else:
            after = middle
    return after


def _before(first: date, per: str) -> date:
    day = first - timedelta(days=1)
    return day if per == DAY else day.replace(day=1)


def _after(first: date, per: str) -> date:
    return first + timedelta(days=1) if per == DAY else (first.replace(day=28) + timedelta(days=4)).replace(day=1)
