"""Health, checks and fleet in step."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.caretaker import TICK_SECONDS, Caretaker
from twisted_lb.config import read_fleet
from twisted_lb.reload import fleet_of

TWO = """
ejection: {consecutive_failures: 1, base_time: 10, minimum_requests: 2}
servers:
- {name: a, url: "http://127.0.0.1:1", slowstart: 10}
- {name: b, url: "http://127.0.0.1:2"}
"""


class CaretakerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        spec = read_fleet(TWO, "x.yaml")
        self.fleet = fleet_of(spec, self.reactor)
        self.a, self.b = self.fleet.backends
        self.caretaker = Caretaker(self.reactor, self.fleet, spec)
        self.told: list[list[str]] = []
        self.patch(self.fleet.balancer, "backends_changed", self.tell)
        self.log: list[tuple[LogLevel, str]] = []
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)

    def note(self, event: Any) -> None:
        self.log.append((event["log_level"], event.get("text", "")))

    def tell(self, backends: list[Any]) -> None:
        self.told.append([backend.name for backend in backends])

    def seen(self, backend: Any, status: int, why: str = "") -> None:
        self.caretaker.seen(backend, status, self.reactor.seconds(), why)

    def wait(self, seconds: float) -> None:
        self.reactor.pump([TICK_SECONDS] * int(seconds / TICK_SECONDS))

    def test_change_of_state(self) -> None:
        """A server that goes down is one line with the reason, and the balancer is told within the call."""
        self.seen(self.a, 0, "connection refused")
        self.assertEqual(self.told, [["b"]])
        ((level, text),) = self.log
        self.assertEqual(level, LogLevel.warn)
        self.assertIn("server a is ejected for 10 s", text)
        self.assertIn("connection refused", text)

    def test_return_and_slow_start(self) -> None:
        """When its time is over the server is back, slowly, and the balancer is told of each new weight."""
        self.caretaker.startService()
        self.seen(self.a, 0, "refused")
        self.wait(11)
        self.assertEqual(self.told[:2], [["b"], ["a", "b"]])
        self.assertTrue(0 < self.a.ramp < 1)
        before = len(self.told)
        self.wait(10)
        self.assertEqual((self.a.ramp, self.b.ramp), (1.0, 1.0))
        self.assertGreater(len(self.told), before + 5)

    def test_answers_that_report_errors(self) -> None:
        """Answers of 500 count for the share of failures and not as failures in a row; those of 404 for neither."""
        for status in (404, 404, 500):
            self.seen(self.a, status)
            self.assertTrue(self.a.up)
        self.seen(self.a, 500)
        self.assertFalse(self.a.up)

    def test_checks_follow_the_file(self) -> None:
        """A check that the file now asks for is made, and one that it asks for no more is not."""
        self.caretaker.startService()
        self.caretaker.follow(read_fleet(TWO + "health_check: {interval: 1s}\n", "x.yaml"))
        self.reactor.advance(1)
        self.assertEqual({client[1] for client in self.reactor.tcpClients}, {1, 2})
        self.caretaker.follow(read_fleet(TWO, "x.yaml"))
        before = len(self.reactor.tcpClients)
        self.reactor.advance(5)
        self.assertEqual(len(self.reactor.tcpClients), before)

    def test_balancer_that_fails(self) -> None:
        """A balancer that cannot take the servers is logged, and what health does goes on."""

        def fail(backends: object) -> None:
            raise KeyError

        self.patch(self.fleet.balancer, "backends_changed", fail)
        self.seen(self.a, 0, "refused")
        self.assertFalse(self.a.up)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_stop(self) -> None:
        """A stopped caretaker has no timer left."""
        self.caretaker.follow(read_fleet(TWO + "health_check: {interval: 1s}\n", "x.yaml"))
        self.caretaker.startService()
        self.successResultOf(self.caretaker.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
