"""What several workers say of the same servers, as one list.

Counts are added up.  The state is that of all when they agree; a server that is up for some workers
and down for others is up, and its reason says for how many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# One server, as the admin listener shows it.
Shown = dict[str, Any]

SUMS = ("in_flight", "requests", "failures", "retries")


def combined(reports: Sequence[Iterable[Shown]]) -> list[Shown]:
    """The servers in the order of the first report that has them."""
    by_place: dict[tuple[str, str, bool], list[Shown]] = {}
    for report in reports:
        for server in report:
            # One that was removed may have come back, as another one, before its last exchange was done.
            place = server["name"], server["url"], server["reason"] == "removed"
            by_place.setdefault(place, []).append(server)
    return [_one(views) for views in by_place.values()]


def _one(views: list[Shown]) -> Shown:
    server = dict(views[0])
    for count in SUMS:
        server[count] = sum(view[count] for view in views)
    latencies = [view["latency_ms"] for view in views if view["latency_ms"] is not None]
    server["latency_ms"] = round(sum(latencies) / len(latencies), 3) if latencies else None
    up = [view for view in views if view["state"] == "up"]
    other = next((view for view in views if view["state"] != "up"), None)
    if up and other is not None:
        server["state"] = "up"
        server["reason"] = f"up for {len(up)} of {len(views)} workers; {other['state']} for others: {other['reason']}"
    return server
