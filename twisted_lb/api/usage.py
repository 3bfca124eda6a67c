"""The usage of keys in the last hour and the last day as it is shown; see `twisted_lb.usage`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from twisted_lb.interfaces import IUsageReport
from twisted_lb.usage import REFUSED, REQUESTS, TOKENS, WindowCounts, key_subject
from twisted_lb.users import Key, User

WINDOWS = ("hour", "day")


async def usage_of_key(report: IUsageReport, key: Key) -> dict[str, object]:
    """The usage of one key."""
    [counts] = await report.counts_of([key_subject(key.digest)])
    return {"key_id": key.key_id, **_shown([counts])}


async def usage_of_user(report: IUsageReport, user: User) -> dict[str, object]:
    """The usage of all keys that a user has now: in total, and for each key."""
    found = await report.counts_of([key_subject(key.digest) for key in user.keys])
    of_keys = [
        {"key_id": key.key_id, "label": key.label, **_shown([counts])} for key, counts in zip(user.keys, found)
    ]
    return {"name": user.name, **_shown(found), "keys": of_keys}


def _shown(counts: Iterable[WindowCounts]) -> dict[str, object]:
    """The sums, for each window."""
    sums: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for one in counts:
        for window, numbers in zip(sums, one):
            window.update(numbers)
    return dict(zip(WINDOWS, map(_window, sums)))


def _window(numbers: Mapping[str, int]) -> dict[str, object]:
    refused = {name.removeprefix(REFUSED): n for name, n in sorted(numbers.items()) if name.startswith(REFUSED)}
    return {REQUESTS: numbers.get(REQUESTS, 0), TOKENS: numbers.get(TOKENS, 0), "refused": refused}
