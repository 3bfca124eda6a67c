"""Requests that are sent again, and the budget that bounds it."""

from __future__ import annotations

from math import log

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import World, request, response
from twisted_lb.config.pool import Retries
from twisted_lb.pool.retry_budget import WINDOW_SECONDS, RetryBudget


class RetryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(servers=3, upstream_timeout=10.0)
        self.client = self.world.client()

    def served_by(self, number: int) -> None:
        """The answer of this server reaches the client, and everything is counted and clean."""
        self.world.servers[number - 1].last.send(response(b"%d" % number))
        self.assertEqual(self.client.response().body, b"%d" % number)
        self.assertEqual((self.world.in_flight, self.world.buckets.refunded), ([0, 0, 0], []))

    def test_server_dies(self) -> None:
        """A server that dies over an idempotent request costs the client nothing: the next one is asked."""
        self.client.send(request("PUT", body=b"hello"))
        self.world.servers[0].last.reset()
        self.assertTrue(self.world.servers[1].last.received.endswith(b"\r\n\r\nhello"))
        self.served_by(2)
        one, two, _ = self.world.backends
        self.assertEqual((one.requests, one.failures, one.retries), (1, 1, 0))
        self.assertEqual((two.requests, two.failures, two.retries), (1, 0, 1))

    def test_half_a_head(self) -> None:
        """Nothing of a broken head has reached the client, so another server is asked."""
        self.client.send(request())
        self.world.servers[0].last.send(b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n")
        self.served_by(2)

    def test_hang(self) -> None:
        """A server that hangs costs its timeout once."""
        self.client.send(request())
        self.world.wait(11)
        self.served_by(2)

    def test_post(self) -> None:
        """A POST that was sent is not sent again: 502, and the token is given back."""
        self.client.send(request("POST", body=b"hello"))
        self.world.servers[0].last.reset()
        self.assertEqual(self.client.response().status, 502)
        self.assertEqual(len(self.world.buckets.refunded), 1)
        self.assertEqual(len(self.world.dialled), 1)

    def test_answer_has_begun(self) -> None:
        """Once the client has a byte of the response, no other server is asked."""
        self.client.send(request())
        self.world.servers[0].last.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        self.world.servers[0].last.reset()
        self.assertTrue(self.client.ended)
        self.assertEqual(len(self.world.dialled), 1)

    def test_large_body(self) -> None:
        """A body that is too large to keep is not sent again."""
        self.client.send(request("PUT", body=b"x" * 200_000))
        self.world.servers[0].last.reset()
        self.assertEqual(self.client.response().status, 502)
        self.assertEqual(len(self.world.dialled), 1)

    def test_attempts(self) -> None:
        """After the last attempt the client hears of the last failure."""
        self.world = World(servers=3, upstream_timeout=10.0, retries=Retries(2))
        self.client = self.world.client()
        self.client.send(request())
        self.world.servers[0].last.reset()
        self.world.wait(11)
        self.assertEqual(self.client.response().status, 504)
        self.assertEqual((len(self.world.dialled), len(self.world.buckets.refunded)), (2, 1))

    def test_no_server_left(self) -> None:
        """When every server has failed, the answer is that of the last failure, and no server is asked twice."""
        self.client.send(request())
        for server in self.world.servers:
            server.last.reset()
        self.assertEqual(self.client.response().status, 502)
        self.assertEqual([port for _, port in self.world.dialled], [9001, 9002, 9003])

    def test_refused_is_no_retry(self) -> None:
        """A refused connection is neither an attempt nor out of the budget."""
        world = World(servers=5, retries=Retries(1, 0.0, 0.0))
        for server in world.servers[:4]:
            server.refuses = True
        client = world.client()
        client.send(request())
        world.servers[4].last.send(response(b"five"))
        self.assertEqual(client.response().body, b"five")

    def test_seen(self) -> None:
        """Health sees each answer and each failure, with its reason."""
        self.world.servers[0].refuses = True
        self.client.send(request())
        self.world.servers[1].last.reset()
        self.served_by(3)
        self.client.send(request())
        self.world.servers[1].last.send(response(status=b"500 Oops"))
        names = [(name, status) for name, status, _ in self.world.seen]
        self.assertEqual(names[:3], [("s1", 0), ("s2", 0), ("s3", 200)])
        self.assertIn("could not be reached", self.world.seen[0][2])
        self.assertEqual(names[-1], ("s2", 500))

    def test_latency(self) -> None:
        """The latency is that of the slowest answer, and is forgotten slowly."""
        self.client.send(request())
        self.world.wait(2)
        self.served_by(1)
        backend = self.world.backends[0]
        self.assertAlmostEqual(backend.latency, 2.0)
        self.world.wait(10)
        self.client.send(request())
        self.world.servers[0].last.send(response())
        self.assertAlmostEqual(backend.latency, 2.0 * 2.718281828**-1, places=3)


# So many a second are one in the window, as the past fades.
ONE_FREE = log(2) / WINDOW_SECONDS


class BudgetTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def spent(self, budget: RetryBudget, wanted: int = 1000) -> int:
        return sum(budget.spend() for _ in range(wanted))

    def test_reserve(self) -> None:
        """Without traffic the reserve is all there is."""
        self.assertEqual(self.spent(RetryBudget(Retries(3, 0.2, 10 * ONE_FREE), self.clock.seconds)), 10)

    def test_share(self) -> None:
        """Of a hundred requests, twenty may be retried at a share of a fifth."""
        budget = RetryBudget(Retries(3, 0.2, 0.0), self.clock.seconds)
        budget.requests += 100
        self.assertEqual(self.spent(budget), 20)

    def test_past(self) -> None:
        """Past retries count by half after the window, and so does past traffic."""
        budget = RetryBudget(Retries(3, 0.2, 10 * ONE_FREE), self.clock.seconds)
        self.assertEqual(self.spent(budget), 10)
        self.clock.advance(10)
        self.assertEqual(self.spent(budget), 5)
        self.clock.advance(1000)
        self.assertEqual(self.spent(budget), 10)

    def test_storm(self) -> None:
        """While every request fails, what the servers get grows by the share and the reserve, not by the attempts."""
        world = World(servers=3, retries=Retries(3, 0.1, 2 * ONE_FREE))
        for _ in range(100):
            client = world.client()
            client.send(request())
            for server in world.servers:
                for connection in server.connections:
                    if not connection.ended:
                        connection.reset()
        self.assertLessEqual(sum(backend.retries for backend in world.backends), 0.1 * 100 + 2)
        self.assertGreaterEqual(sum(backend.retries for backend in world.backends), 0.1 * 100)
