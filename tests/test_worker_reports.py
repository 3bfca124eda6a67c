"""What several workers say of the same servers."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.admin import shown_server
from twisted_lb.backend import Backend
from twisted_lb.worker_reports import combined


def view(name: str = "a", **more: Any) -> dict[str, Any]:
    backend = Backend(name, "h", 1)
    for field, value in more.items():
        setattr(backend, field, value)
    return shown_server(backend)


class CombinedTests(SynchronousTestCase):
    def test_counts(self) -> None:
        """Counts are added up, and the latency is the mean of those that have one."""
        first = view(in_flight=1, requests=2, failures=3, retries=4, latency=0.001)
        second = view(in_flight=10, requests=20, failures=30, retries=40, latency=0.003)
        (server,) = combined([[first], [second], [view()]])
        counts = [server[name] for name in ("in_flight", "requests", "failures", "retries", "latency_ms")]
        self.assertEqual(counts, [11, 22, 33, 44, 2.0])
        (server,) = combined([[view()]])
        self.assertIsNone(server["latency_ms"])

    def test_states(self) -> None:
        """Workers that agree have one state; a server that is up for some is up, and it is said for how many."""
        up, down = view(), view(up=False, reason="down: refused")
        for reports, state, reason in (
            ([[up], [up]], "up", "new"),
            ([[down], [down]], "down", "down: refused"),
            ([[down], [up]], "up", "up for 1 of 2 workers; down for others: down: refused"),
        ):
            (server,) = combined(reports)
            self.assertEqual((server["state"], server["reason"]), (state, reason))

    def test_other_fleets(self) -> None:
        """A server that only some workers have is there, after those before it."""
        names = [server["name"] for server in combined([[view("a"), view("b")], [view("b"), view("c")]])]
        self.assertEqual(names, ["a", "b", "c"])
        self.assertEqual(combined([]), [])

    def test_removed_and_back(self) -> None:
        """A server that was removed, and is there again, is two servers while the first one has exchanges."""
        gone = view(weight=0, reason="removed", in_flight=1)
        servers = combined([[view(), gone], [view()]])
        self.assertEqual([(one["state"], one["in_flight"]) for one in servers], [("up", 0), ("draining", 1)])
