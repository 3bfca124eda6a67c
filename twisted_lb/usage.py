"""Counts by time: how often something has happened in the last hour and the last day.

A *subject*, such as a key, has *counters*, such as its requests.  Each counter has a number for each minute of the last
hour, and one for each half hour of the last day; a slot begins at a full minute, or half hour, of UTC.  A window is the
present slot, as far as it has gone, with all before it that fit in: the last 59 to 60 minutes, and the last 23½ to 24
hours.  So a request is in the hour for at least 59 minutes, and what leaves it at the end of a minute is what happened
in one minute.

Counts are a report, which decides nothing: some of them may be lost (see `IUsageStore`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MINUTE_SECONDS: Final = 60
MINUTES: Final = 60  # slots of the hour
HALF_HOUR_SECONDS: Final = 1800
HALF_HOURS: Final = 48  # slots of the day

MOST: Final = 2**53 - 1  # of a number: Redis's scripts have doubles

# What is counted of a key.
REQUESTS: Final = "requests"  # that were admitted, and are over
TOKENS: Final = "tokens"  # what they have cost in the end
REFUSED: Final = "refused:"  # before the name of the limit, or the reason why the key must not be used

# The subjects that belong to keys are `<kind>:<digest>`, and of a shadow policy `:<policy>`; see also users.lua.
_KEY: Final = "key"
_SHADOW: Final = "shadow"  # the shadow policy of a user, by the digest of the user's first key
_KINDS_OF_KEYS: Final = (_KEY, _SHADOW)
_OF_A_KEY: Final = re.compile(rf"(?:{'|'.join(_KINDS_OF_KEYS)}):([0-9a-f]{{64}})(?::[0-9.:e+-]+)?")


class WindowCounts(NamedTuple):
    """The numbers of one subject, by the names of its counters; those that are 0 are left out."""

    hour: dict[str, int]
    day: dict[str, int]


def key_subject(digest: str) -> str:
    """The subject that is the key with this digest."""
    return f"{_KEY}:{digest}"


def with_policy(subject: str, capacity: int, rate_per_sec: float) -> str:
    """The subject with this policy: another policy is another subject, so that its counts begin at 0."""
    return f"{subject}:{capacity}:{float(rate_per_sec)!r}"


def shadow_subject(digest: str, capacity: int, rate_per_sec: float) -> str:
    """The subject that is this shadow policy of the user whose first key has this digest."""
    return with_policy(f"{_SHADOW}:{digest}", capacity, rate_per_sec)


def digest_of_subject(subject: str) -> str:
    """The digest of the key to which a subject belongs, or "": its counts go with the key."""
    found = _OF_A_KEY.fullmatch(subject)
    return found[1] if found else ""
