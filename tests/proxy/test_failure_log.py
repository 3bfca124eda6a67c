"""Failed requests in the log."""

from __future__ import annotations

from typing import Any

from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import World, request, response
from twisted_lb.proxy.failure_log import SUMMARY_SECONDS


class FailureLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self.observe)
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)
        self.world = World()

    def observe(self, event: Any) -> None:
        if event.get("log_namespace") == "twisted_lb.proxy.failure_log":
            self.lines.append(formatEvent(event))

    def told(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def requests_fail(self, times: int) -> None:
        for _ in range(times):
            client = self.world.client()
            client.send(request("POST", "/", body=b"x"))
            assert client.received

    def test_refused(self) -> None:
        """The first refused connection is told at once, the others within seconds as a number, and then nothing."""
        self.world.server.refuses = True
        self.requests_fail(10)
        self.assertEqual(self.told(), ["A request to s1 failed: it could not be reached: connection refused"])
        self.world.wait(SUMMARY_SECONDS + 1)
        self.assertEqual(
            self.told(), ["9 more requests to s1 failed in 5 s: it could not be reached: connection refused"]
        )
        self.world.wait(60)
        self.assertEqual(self.told(), [])
        self.requests_fail(1)
        self.assertEqual(len(self.told()), 1)
        self.world.wait(SUMMARY_SECONDS + 1)
        self.assertEqual(self.told(), [])

    def test_each_cause(self) -> None:
        """502 and 504 of each cause, and 503 without any server, have a line of their own."""
        client, upstream = self.world.asked()
        upstream.send(b"nonsense\r\n\r\n")
        client, upstream = self.world.asked()
        self.world.wait(31)
        self.world.backends[0].up = False
        self.world.pool.refresh()
        self.world.client().send(request())
        self.assertEqual(
            [line.partition(": ")[2] for line in self.told()],
            [
                "The server's response head is malformed.",
                "The server did not answer in time.",
                "No available servers",
            ],
        )

    def test_full(self) -> None:
        """Requests that find no room in time are told too."""
        world = World(maxconn=1)
        world.asked()
        for _ in range(3):
            world.client().send(request())
        world.wait(6)
        self.assertEqual(self.told()[0], "A request could not be served: all servers have as many requests as they may")

    def test_success(self) -> None:
        """A request that is served, and one of a client that leaves, leave no line."""
        client, upstream = self.world.asked()
        upstream.send(response())
        client, _ = self.world.asked()
        client.leave()
        self.world.wait(10)
        self.assertEqual(self.told(), [])


class CountsTests(SynchronousTestCase):
    def test_connections_that_fail(self) -> None:
        """A connection that cannot be made counts as a request and as a failure."""
        world = World()
        world.server.refuses = True
        world.client().send(request())
        self.assertEqual((world.backends[0].requests, world.backends[0].failures), (1, 1))

    def test_admitted_and_refused(self) -> None:
        """Requests that pass, and those that limits or this gateway refuse, are told apart."""
        world = World(rate_per_sec=0.0)
        for _ in range(3):
            world.client().send(request())
        world.client().send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        world.client().send(b"GET  / HTTP/1.1\r\n\r\n")
        self.assertEqual(
            {name: count for name, count in world.factory.counts().items() if not name.startswith("tunnel")},
            {"admitted": 0, "refused default": 3, "answered 429": 3, "answered 401": 1, "answered 400": 1},
        )
