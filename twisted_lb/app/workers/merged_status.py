"""Merges the reports of several workers into one.

Counters are summed.  If the workers agree on the state of a server, that is its state; a server that is up for some
workers and down for others is up, with a reason that says for how many.  The store is down if it is down for one
worker.

No sum decreases when a worker ends or is late: its last known counters stay in the sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from twisted_lb.api.status import Report

# One server, as the admin listener shows it.
Shown = dict[str, Any]
# A server's pool, name and URL, and whether it was removed: a removed server may have been added again, as another one,
# before the last exchange of the first has completed.
Place = tuple[str, str, str, bool]

COUNTS = ("requests", "failures", "retries")
SUMS = ("in_flight", "tunnels", *COUNTS)
# Numbers of the store that are not summed.  Each worker is one of the instances, and knows all of them.
LEAST, MOST = {"store_up"}, {"instances"}


class RetiredCounters:
    """The counters of workers that have ended, or do not respond."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._servers: dict[Place, Counter[str]] = {}

    def add(self, report: Report) -> None:
        """Add the last report of a worker."""
        for name, count in report.counts.items():
            if name not in LEAST | MOST:
                self._counts[name] += count  # type: ignore[assignment]
        for server in report.servers:
            counts = self._servers.setdefault(_place(server), Counter())
            counts.update({name: server[name] for name in COUNTS})

    def keep(self, places: Collection[tuple[str, str, str]]) -> None:
        """Drop the servers that are not among these pools, names and URLs: they are no longer shown."""
        self._servers = {place: counts for place, counts in self._servers.items() if place[:3] in places}

    def copy(self) -> RetiredCounters:
        """A copy."""
        other = RetiredCounters()
        other._counts = self._counts.copy()
        other._servers = {place: counts.copy() for place, counts in self._servers.items()}
        return other

    def put_onto(self, report: Report) -> Report:
        """The report with these counters added; servers that it does not contain are not shown."""
        for server in report.servers:
            for name, count in self._servers.get(_place(server), Counter()).items():
                server[name] += count
        counts = dict(report.counts)
        for name, number in self._counts.items():
            counts[name] = counts.get(name, 0) + number
        return report._replace(counts=counts)


def together(reports: Sequence[Report], run: str, ready_before: bool = False) -> Report:
    """The report of all workers from those that have responded; `run` says how many there are.

    `ready_before`: one of the others was ready when it last responded.
    """
    servers = combined([report.servers for report in reports])
    counts = combined_counts([report.counts for report in reports])
    if not reports:
        # Workers that are briefly busy have not changed; those that have just been started cannot serve yet.
        reason = run if ready_before else f"{run}; none has answered yet"
        return Report(ready_before, False, reason, servers, counts)
    ready = any(report.ready for report in reports)
    not_well = [report for report in reports if report.degraded or not report.ready]
    if not ready:
        return Report(False, False, _reason(not_well), servers, counts)
    if not_well:
        return Report(True, True, f"{run}; {_reason(not_well)}", servers, counts)
    return Report(True, False, run, servers, counts)


def _reason(reports: Sequence[Report]) -> str:
    """The distinct reasons."""
    return "; ".join(dict.fromkeys(report.reason for report in reports))


def combined_counts(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The numbers of the store."""
    result: dict[str, float] = {}
    for name in dict.fromkeys(name for one in counts for name in one):
        numbers = [one[name] for one in counts if name in one]
        result[name] = min(numbers) if name in LEAST else max(numbers) if name in MOST else sum(numbers)
    return result


def combined(reports: Sequence[Iterable[Shown]]) -> list[Shown]:
    """The servers in the order of the first report that contains them."""
    by_place: dict[Place, list[Shown]] = {}
    for report in reports:
        for server in report:
            by_place.setdefault(_place(server), []).append(server)
    return [_one(views) for views in by_place.values()]


def _place(server: Shown) -> Place:
    return server["pool"], server["name"], server["url"], server["reason"] == "removed"


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
