"""Times and durations as text in APIs: RFC 3339 in UTC, and numbers with a unit; both are microseconds inside."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from twisted_lb.users import MAX_TIME_US

MAX_DURATION_US: Final = 366 * 86_400 * 1_000_000

TIME: Final = "a time before 2255, such as 2026-12-31T00:00:00Z"  # what is read, for error messages

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)  # half of the time, where all is UTC
# RFC 3339 section 5.6, with the precision of a microsecond.
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d|)")
_SECONDS_IN: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@lru_cache(maxsize=1024)  # users and their first keys have the same times
def rfc3339(time_us: int) -> str:
    """A time in microseconds since 1970, in UTC; without a fraction where there is none."""
    return f"{(_NAIVE_EPOCH + timedelta(0, 0, time_us)).isoformat()}Z"


def read_rfc3339(text: str) -> int:
    """Microseconds since 1970.  Raises ValueError for another format, and for times that stores do not have."""
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"not a time of RFC 3339: {text!r}")
    time_us = (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(microseconds=1)
    if not 0 <= time_us <= MAX_TIME_US:
        raise ValueError(f"before 1970 or after {rfc3339(MAX_TIME_US)}: {text!r}")
    return time_us


def read_duration(text: str) -> int:
    """Microseconds, from a number of seconds, or with a unit: ms, s, m, h or d.  Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"not a duration: {text!r}")
    duration_us = round(float(found[1]) * _SECONDS_IN[found[2]] * 1_000_000)
    if duration_us > MAX_DURATION_US:
        raise ValueError(f"longer than a year: {text!r}")
    return duration_us
