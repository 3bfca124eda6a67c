"""The limits in the answer of GET /explain, with their levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted_lb.interfaces import KEY, MICROTOKENS


def with_levels(
    limits: list[dict[str, Any]], found: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """What is shown to operators; `found` is the answer of `Running.levels`, None while the store is unavailable."""
    levels = {} if found is None else found["levels"]
    account = None if found is None else found["key"]
    shown = []
    for limit in limits:
        bucket = limit["bucket"]
        one = {name: value for name, value in limit.items() if name != "bucket"}
        if limit["name"] == KEY and account is not None:
            one.update(account)
        elif bucket in levels:
            one["level"] = levels[bucket] / MICROTOKENS
        shown.append(one)
    return shown
