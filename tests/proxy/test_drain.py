"""The beginning and the end: which connections are accepted, and how the proxy stops."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import Client, World, request, response


class DrainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def drain(self, seconds: float = 10.0) -> Deferred[None]:
        finished = self.world.factory.drain(seconds)
        self.world.wait(0.5)
        return finished

    def test_nobody_there(self) -> None:
        """Without connections, draining is soon done, and no clock goes on ticking."""
        self.successResultOf(self.drain())
        self.assertEqual(self.world.clock.getDelayedCalls(), [])

    def test_idle_connections(self) -> None:
        """Idle clients are let go at once, in order; so are the idle connections to servers."""
        client, upstream = self.world.asked()
        upstream.send(response())
        new = self.world.client()
        self.successResultOf(self.drain())
        self.world.settle()
        self.assertTrue(client.ended and new.ended and upstream.ended)
        self.assertFalse(client.transport.aborted or new.transport.aborted)

    def test_busy_connection(self) -> None:
        """A response that is awaited is waited for, says that the connection ends, and is the last."""
        client, upstream = self.world.asked()
        finished = self.drain()
        self.assertNoResult(finished)
        self.world.wait(5)
        upstream.send(response(b"hello"))
        answer = client.response()
        self.assertEqual((answer.body, answer.closes, client.ended), (b"hello", True, True))
        self.world.wait(0.5)
        self.successResultOf(finished)
        self.assertEqual(self.world.in_flight, [0])

    def test_response_that_has_begun(self) -> None:
        """A response that began before the draining is finished, and its connection ended."""
        client, upstream = self.world.asked()
        upstream.send(response(b"hello")[:-1])
        finished = self.drain()
        upstream.send(b"o")
        self.assertEqual(client.response().body, b"hello")
        self.world.wait(0.5)
        self.assertTrue(client.ended)
        self.successResultOf(finished)

    def test_request_on_its_way(self) -> None:
        """A request that arrives just as the draining begins is answered."""
        client, upstream = self.world.asked()
        upstream.send(response())
        client.response()
        finished = self.world.factory.drain(10.0)
        client.send(request())
        self.world.wait(1)
        upstream.send(response(b"hello"))
        self.assertEqual((client.response().body, client.ended), (b"hello", True))
        self.world.wait(0.5)
        self.successResultOf(finished)

    def test_head_on_its_way(self) -> None:
        """A request of which a part has arrived when the draining begins is answered when it is whole."""
        client = self.world.client()
        data = request()
        client.send(data[:20])
        self.drain()
        self.assertFalse(client.ended)
        client.send(data[20:])
        self.world.server.last.send(response(b"hello"))
        answer = client.response()
        self.assertEqual((answer.body, answer.closes), (b"hello", True))

    def test_time_up(self) -> None:
        """What is not finished in the time is cut off, on both sides."""
        client, upstream = self.world.asked()
        finished = self.drain(10.0)
        self.world.wait(9)
        self.assertFalse(client.ended)
        self.world.wait(1)
        self.assertTrue(client.ended and client.transport.aborted and upstream.ended)
        self.successResultOf(finished)
        self.assertEqual(self.world.in_flight, [0])

    def test_deadlines_go_on(self) -> None:
        """While draining, and after the last port is closed, deadlines are kept as ever."""
        world = World(upstream_timeout=5.0)
        client, _ = world.asked()
        world.factory.doStop()
        world.factory.drain(60.0)
        world.wait(6)
        self.assertEqual(client.response().status, 504)

    def test_client_that_does_not_take_its_last_response(self) -> None:
        """A client that does not read holds the draining up no longer than its time."""
        client, upstream = self.world.asked()
        client.stop_taking()
        upstream.send(response(b"hello"))
        finished = self.drain(5.0)
        self.assertNoResult(finished)
        self.world.wait(6)
        self.successResultOf(finished)


class RoomTests(SynchronousTestCase):
    def assert_turned_away(self, client: Client, detail: str) -> None:
        answer = client.response()
        self.assertEqual((answer.status, answer.closes, answer.field("retry-after")), (503, True, "1"))
        self.assertIn(detail, answer.detail)
        # It may still be sending.
        self.assertEqual((client.transport.half_closed, client.ended), (True, False))
        client.finish()
        self.assertTrue(client.ended and not client.transport.aborted)

    def busy(self, world: World) -> Client:
        """A client whose request is under way."""
        client = world.client()
        client.send(request())
        return client

    def test_connections(self) -> None:
        """One connection too many is 503 and closed, until another one has ended."""
        world = World(max_connections=2, max_connections_per_address=0)
        first, second = self.busy(world), self.busy(world)
        self.assert_turned_away(world.client(), "too many connections")
        first.leave()
        third = world.client()
        third.send(request())
        self.assertEqual(len(world.dialled), 3)
        self.assertFalse(second.ended)

    def test_connections_of_an_address(self) -> None:
        """An address that has its number of connections gets no more; other addresses do."""
        world = World(max_connections_per_address=1)
        first = self.busy(world)
        self.assert_turned_away(world.client(), "1 connections")
        other = world.client(IPv4Address("TCP", "192.0.2.8", 1))
        self.assertFalse(other.ended)
        first.leave()
        self.assertFalse(world.client().ended)

    def test_turned_away_are_not_counted(self) -> None:
        """Those who are turned away take no room from others."""
        world = World(max_connections=2, max_connections_per_address=0)
        self.busy(world)
        for _ in range(3):
            self.assertFalse(self.busy(world).ended)
            self.assert_turned_away(world.client(), "too many connections")
            next(iter(world.factory.limits.connections)).transport.reset()

    def test_no_limits(self) -> None:
        """0 is no limit."""
        world = World(max_connections=0)
        self.assertFalse(any([world.client().ended for _ in range(100)]))
