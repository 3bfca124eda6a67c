"""Merging what several workers report about the same servers and the same store."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.api.status import Report, shown_server
from twisted_lb.app.workers.merged_status import RetiredCounters, combined, combined_counts, together
from twisted_lb.backend import Backend


def view(name: str = "a", **more: Any) -> dict[str, Any]:
    backend = Backend(name, "h", 1)
    for field, value in more.items():
        setattr(backend, field, value)
    return shown_server(backend, "default")


class CombinedTests(SynchronousTestCase):
    def test_no_answer(self) -> None:
        """Workers that are busy are as they were when they answered last; those that start are not ready."""
        self.assertEqual(together([], "n of m run", True)[:3], (True, False, "n of m run"))
        self.assertEqual(together([], "n of m run", False)[:3], (False, False, "n of m run; none has answered yet"))

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

    def test_other_pools(self) -> None:
        """A server that only some workers have is there, after those before it."""
        names = [server["name"] for server in combined([[view("a"), view("b")], [view("b"), view("c")]])]
        self.assertEqual(names, ["a", "b", "c"])
        self.assertEqual(combined([]), [])

    def test_removed_and_back(self) -> None:
        """A server that was removed, and is there again, is two servers while the first one has exchanges."""
        gone = view(weight=0, reason="removed", in_flight=1)
        servers = combined([[view(), gone], [view()]])
        self.assertEqual([(one["state"], one["in_flight"]) for one in servers], [("up", 0), ("draining", 1)])


def report(ready: bool = True, degraded: bool = False, reason: str = "serving", **counts: float) -> Report:
    return Report(ready, degraded, reason, [], counts)


class TogetherTests(SynchronousTestCase):
    def said(self, *reports: Report) -> tuple[bool, bool, str]:
        return together(reports, "n of m run")[:3]

    def test_readiness(self) -> None:
        """Together they are ready when one is, degraded when one is not at its best, and the reasons are told."""
        well, away = report(), report(True, True, "Redis is away")
        denying, other = report(False, False, "Redis is away"), report(False, False, "no server is available")
        self.assertEqual(self.said(well, well), (True, False, "n of m run"))
        self.assertEqual(self.said(well, away), (True, True, "n of m run; Redis is away"))
        self.assertEqual(self.said(away, away), (True, True, "n of m run; Redis is away"))
        self.assertEqual(self.said(well, denying), (True, True, "n of m run; Redis is away"))
        self.assertEqual(self.said(denying, denying, other), (False, False, "Redis is away; no server is available"))

    def test_counts(self) -> None:
        """Counts are added up; the store is away when it is for one; the instances are not added."""
        first = {"store_up": 1.0, "takes": 3.0, "instances": 4.0}
        second = {"store_up": 0.0, "takes": 4.0, "instances": 5.0, "store_outages": 1.0}
        expected = {"store_up": 0.0, "takes": 7.0, "instances": 5.0, "store_outages": 1.0}
        self.assertEqual(combined_counts([first, second]), expected)
        self.assertEqual(combined_counts([]), {})


class FormerTests(SynchronousTestCase):
    def test_counts_stay(self) -> None:
        """What a worker that is gone had counted stays in the sums; what it had at the time does not."""
        retired_counters = RetiredCounters()
        gone = report(takes=5, store_up=1, instances=2)._replace(servers=[view(requests=7, in_flight=3, failures=1)])
        retired_counters.add(gone)
        retired_counters.add(gone)
        live = report(takes=1, store_up=1, instances=1)._replace(servers=[view(requests=1), view("b")])
        found = retired_counters.put_onto(live)
        self.assertEqual(found.counts, {"takes": 11, "store_up": 1, "instances": 1})
        counts = [(one["name"], one["requests"], one["failures"], one["in_flight"]) for one in found.servers]
        self.assertEqual(counts, [("a", 15, 2, 0), ("b", 0, 0, 0)])

    def test_copy(self) -> None:
        """A copy goes its own way."""
        retired_counters = RetiredCounters()
        retired_counters.add(report(takes=5))
        retired_counters.copy().add(report(takes=5)._replace(servers=[view(requests=7)]))
        self.assertEqual(retired_counters.put_onto(report()).counts, {"takes": 5})


class ForgottenTests(SynchronousTestCase):
    def test_servers_that_are_gone(self) -> None:
        """What is kept of ended workers is of servers that there still are: others would be kept for ever."""
        retired_counters = RetiredCounters()
        retired_counters.add(report()._replace(servers=[view("a", requests=1), view("b", requests=2)]))
        retired_counters.keep([("default", "b", "http://h:1"), ("default", "c", "http://h:1")])
        put = retired_counters.put_onto(report()._replace(servers=[view("a"), view("b")]))
        self.assertEqual([server["requests"] for server in put.servers], [0, 2])
