"""The state of the program for operators: one report for readiness, the servers and the metrics.

A report contains plain values only, so that a worker can send it to its parent as JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from twisted_lb.backend import Backend
from twisted_lb.config.pool import DISABLED, READY
from twisted_lb.pool.pool import REMOVED
from twisted_lb.wire.head import RequestHead

# The first word of names in `Report.counts` that end with the name of a file.
CERTIFICATE_EXPIRY = "certificate_expiry"


class Report(NamedTuple):
    """The present state."""

    ready: bool  # for traffic
    degraded: bool  # requests are served, but with restrictions
    reason: str  # why it is not ready, or degraded; contains no passwords
    servers: list[dict[str, Any]]  # as `shown_server`, in the order to show
    counts: Mapping[str, float]  # of this process, its store (IStoreReport), logs, reloads and certificates


class Running(Protocol):
    """The running program, as operators see it."""

    def report(self) -> Report | Awaitable[Report]:
        """The present state."""

    def choices(self, asked: Mapping[str, Any]) -> dict[str, Any] | Awaitable[dict[str, Any]]:
        """Which servers a request would be sent to; see `app.explain_servers`."""


    def levels(self, digest: str, buckets: list[list[Any]]) -> Awaitable[dict[str, Any]]:
        """Look up the levels of buckets; nothing is taken.  Fails with StoreUnavailable.

        `buckets` are lists of a key, a capacity and a rate; `digest` is that of an API key, or "".  The result has:

        - `levels`: the microtokens of the buckets, by their keys;
        - `key`: for an API key that may be used, its `user`; `capacity`, `rate_per_sec` and `level` (in tokens) of the
          user's bucket; and the same for the key's own bucket in `own`, for the shadow policy in `shadow`, and for the
          quota in `quota`, where there are such.  None for all other keys;
        - `refused`: why the API key must not be used, one of users.REFUSALS.  "" for an unknown key, and for one that
          may be used.
        """


async def report_of(running: Running) -> Report:
    """The present state, whether `running` returns it at once or later."""
    report = running.report()
    return await report if isinstance(report, Awaitable) else report


class Explaining(Protocol):
    """Knows the routes and their limits."""

    def explain(self, head: RequestHead, client: str, digest: str = "") -> dict[str, Any]:
        """How a request with this head would be handled; `client` is an address, or "" for any.

        `digest` is that of its API key, or "".  The `limits` have no levels yet.
        """

    def question(self, head: RequestHead, client: str, user: str, pools: Sequence[str]) -> dict[str, Any]:
        """The argument of `Running.choices` for the same request, sent by this user."""


class WithCounts:
    """A running program, with additional counters.  See Running."""

    def __init__(self, running: Running, counts: Callable[[], Mapping[str, float]]) -> None:
        self._running = running
        self._counts = counts

    async def report(self) -> Report:
        """See Running."""
        report = await report_of(self._running)
        return report._replace(counts={**report.counts, **self._counts()})

    def choices(self, asked: Mapping[str, Any]) -> dict[str, Any] | Awaitable[dict[str, Any]]:
        """See Running."""
        return self._running.choices(asked)

    def levels(self, digest: str, buckets: list[list[Any]]) -> Awaitable[dict[str, Any]]:
        """See Running."""
        return self._running.levels(digest, buckets)


def shown_removed(backend: Backend, pool: str) -> dict[str, Any]:
    """A server that was removed from this pool, as GET /servers shows it."""
    return {**shown_server(backend, pool), "state": "draining", "reason": REMOVED}


def shown_server(backend: Backend, pool: str) -> dict[str, Any]:
    """A server as GET /servers shows it: its state, and its counters since it was added to the servers file."""
    if backend.admin_state == DISABLED and backend.reason != REMOVED:
        state, reason = "disabled", "an operator has disabled it"
    elif not backend.up:
        state, reason = "down", backend.reason
    elif backend.reason == REMOVED:
        state, reason = "draining", REMOVED
    elif backend.admin_state != READY:
        state, reason = "draining", "an operator drains it"
    elif not backend.weight:
        state, reason = "draining", "its weight is 0"
    else:
        state, reason = "up", backend.reason
    return {
        "name": backend.name,
        "pool": pool,
        "url": backend.url,
        "state": state,
        "reason": reason,
        "admin_state": backend.admin_state,
        "weight": backend.weight,
        "effective_weight": round(backend.effective_weight, 3),
        "backup": backend.backup,
        "maxconn": backend.maxconn,
        "in_flight": backend.in_flight,
        "tunnels": backend.tunnels,
        "requests": backend.requests,
        "failures": backend.failures,
        "retries": backend.retries,
        "latency_ms": round(backend.latency * 1000, 3) if backend.latency else None,
    }
