"""How the program does, as operators are told: one report for readiness, the servers and the metrics.

A report is plain values only, so that a worker can send it to its parent as JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple, Protocol

from twisted_lb.backend import Backend


class Report(NamedTuple):
    """How it is now."""

    ready: bool  # traffic is welcome
    degraded: bool  # it is served, but not as well as it should be
    reason: str  # why, or why not; no passwords
    servers: list[dict[str, Any]]  # as `shown_server`, in the order to show
    counts: Mapping[str, float]  # of the store, by the names of IStoreReport


class Running(Protocol):
    """The running program, as far as an operator may ask it."""

    def report(self) -> Report | Awaitable[Report]:
        """How it does."""

    def users(self, after: str, count: int) -> Awaitable[dict[str, object]]:
        """The first `count` (1 to 200) users after this name, as `shown_page`.  Fails with StoreUnavailable."""


def shown_server(backend: Backend) -> dict[str, Any]:
    """A server as GET /servers shows it: how it is now, and its counts since it was first in the servers file."""
    if not backend.up:
        state, reason = "down", backend.reason
    elif not backend.weight:
        state, reason = "draining", backend.reason if backend.reason == "removed" else "its weight is 0"
    else:
        state, reason = "up", backend.reason
    return {
        "name": backend.name,
        "url": f"http://{backend.authority.decode()}",
        "state": state,
        "reason": reason,
        "weight": backend.weight,
        "effective_weight": round(backend.effective_weight, 3),
        "backup": backend.backup,
        "maxconn": backend.maxconn,
        "in_flight": backend.in_flight,
        "requests": backend.requests,
        "failures": backend.failures,
        "retries": backend.retries,
        "latency_ms": round(backend.latency * 1000, 3) if backend.latency else None,
    }
