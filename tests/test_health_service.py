"""Health, checks and the pool together."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.configuration import only_pool
from tests.network.fakes import dialer
from twisted_lb.app.gateway import pool_of
from twisted_lb.app.health_service import TICK_SECONDS, HealthService

TWO = """
ejection: {consecutive_failures: 1, base_time: 10, minimum_requests: 2}
servers:
- {name: a, url: "http://127.0.0.1:1", slowstart: 10}
- {name: b, url: "http://127.0.0.1:2"}
"""


class HealthServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        spec = only_pool(TWO)
        self.pool = pool_of(spec, self.reactor)
        self.a, self.b = self.pool.backends
        self.health_service = HealthService(self.reactor, self.pool, spec, dialer(self.reactor))
        self.health_service.follow(spec)
        self.told: list[list[str]] = []
        self.patch(self.pool.balancer, "backends_changed", self.tell)
        self.log: list[tuple[LogLevel, str]] = []
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)

    def note(self, event: Any) -> None:
        self.log.append((event["log_level"], formatEvent(event)))

    def tell(self, backends: list[Any]) -> None:
        self.told.append([backend.name for backend in backends])

    def seen(self, backend: Any, status: int, why: str = "") -> None:
        self.health_service.health.request_ended(backend, status, self.reactor.seconds(), why)

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

    def test_fields(self) -> None:
        """An event of the log has what has changed in fields, and a text that is made of them."""
        self.health_service.startService()
        with capturedLogs() as log:
            self.seen(self.a, 0, "connection refused")
            self.seen(self.b, 0, "reset")
            self.wait(11)
        ejected, used, up = log
        row = "1 requests in a row failed, the last one: "
        self.assert_fields(ejected, server="a", state="ejected", seconds=10.0, reason=row + "connection refused")
        rule = "the last healthy server is never ejected"
        self.assert_fields(used, server="b", state="used", reason=row + "reset", rule=rule)
        self.assert_fields(up, server="a", state="up", reason="its ejection of 10 s is over", slowstart=10.0)
        self.assertEqual(
            [formatEvent(event) for event in log],
            [
                f"server a is ejected for 10 s: {row}connection refused",
                f"server b is used although {row}reset; {rule}",
                "server a is up: its ejection of 10 s is over; slow start of 10 s",
            ],
        )

    def assert_fields(self, event: Any, **fields: object) -> None:
        self.assertEqual({name: event.get(name) for name in fields}, fields)

    def test_fields_of_panic(self) -> None:
        """Panic, and its end, are events with the numbers they were decided by."""
        spec = only_pool(TWO + "panic_threshold: 0.9\nhealth_check: {passes: 1, fails: 1}\n")
        self.health_service.follow(spec)
        with capturedLogs() as log:
            self.health_service.health.probe_failed(self.a, 0.0, "status 500")
            self.health_service.health.probe_passed(self.a, 0.0)
        begun, over = [event for event in log if "healthy" in event]
        self.assertEqual((begun["state"], begun["healthy"], begun["total"], begun["threshold"]), ("panic", 1, 2, 0.9))
        self.assertEqual(formatEvent(begun), "panic: 1 of 2 servers healthy, less than 90%; all are used")
        self.assertEqual((over["state"], over["healthy"], over["total"]), ("panic is over", 2, 2))
        self.assertEqual(formatEvent(over), "panic is over: 2 of 2 servers healthy")

    def test_return_and_slow_start(self) -> None:
        """When its time is over the server is back, slowly, and the balancer is told of each new weight."""
        self.health_service.startService()
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
        self.health_service.startService()
        self.health_service.follow(only_pool(TWO + "health_check: {interval: 1s}\n"))
        self.reactor.advance(1)
        self.assertEqual({client[1] for client in self.reactor.tcpClients}, {1, 2})
        self.health_service.follow(only_pool(TWO))
        before = len(self.reactor.tcpClients)
        self.reactor.advance(5)
        self.assertEqual(len(self.reactor.tcpClients), before)

    def test_disabled(self) -> None:
        """A disabled server is not checked; one that drains is."""
        checked = TWO + "health_check: {interval: 1s}\n"
        states = checked.replace(":1\"", ":1\", admin_state: disabled").replace(":2\"", ":2\", admin_state: drain")
        self.health_service.startService()
        self.health_service.follow(only_pool(states))
        self.reactor.advance(5)
        self.assertEqual({client[1] for client in self.reactor.tcpClients}, {2})
        self.health_service.follow(only_pool(checked))
        self.reactor.advance(1)
        self.assertEqual({client[1] for client in self.reactor.tcpClients}, {1, 2})

    def test_balancer_that_fails(self) -> None:
        """A balancer that cannot take the servers is logged, and what health does goes on."""

        def fail(backends: object) -> None:
            raise KeyError

        self.patch(self.pool.balancer, "backends_changed", fail)
        self.seen(self.a, 0, "refused")
        self.assertFalse(self.a.up)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_stop(self) -> None:
        """A stopped health_service has no timer left."""
        self.health_service.follow(only_pool(TWO + "health_check: {interval: 1s}\n"))
        self.health_service.startService()
        self.successResultOf(self.health_service.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ManyServersTests(SynchronousTestCase):
    def test_mass_failure(self) -> None:
        """When hundreds of servers fail at once, the balancer is told of it soon, and not of each by itself."""
        reactor = MemoryReactorClock()
        lines = "".join(f'- {{name: s{number}, url: "http://127.0.0.1:{number + 1}"}}\n' for number in range(300))
        spec = only_pool(f"ejection: {{consecutive_failures: 1, max_share: 1}}\nservers:\n{lines}")
        pool = pool_of(spec, reactor)
        health_service = HealthService(reactor, pool, spec, dialer(reactor))
        health_service.follow(spec)
        told: list[list[str]] = []
        self.patch(pool.balancer, "backends_changed", lambda those: told.append([one.name for one in those]))
        reactor.advance(1)
        told.clear()
        for backend in pool.backends[:200]:
            health_service.health.request_ended(backend, 0, reactor.seconds(), "refused")
        reactor.pump([0.01] * 20)
        self.assertEqual(told, [[backend.name for backend in pool.backends[200:]]])
        health_service.health.request_ended(pool.backends[200], 0, reactor.seconds(), "refused")
        reactor.pump([0.01] * 20)
        self.assertEqual([len(those) for those in told], [100, 99])
        self.assertEqual(reactor.getDelayedCalls(), [])
