"""Lingering close: a client that is still sending gets its last response, within bounds."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import Client, World, request, response
from twisted_lb.proxy.lingering import MAX_READS, READ_SECONDS

NO_KEY = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n"
PIECE = b"x" * 60_000


class LingeringTests(SynchronousTestCase):
    def refused(self, world: World) -> Client:
        """A client that goes on sending after its 401."""
        client = world.client()
        client.send(NO_KEY)
        self.assertEqual(client.response().status, 401)
        return client

    def test_any_number_of_bytes(self) -> None:
        """A client may send all of a large body after its answer; it is read, and none of it is kept."""
        world = World()
        client = self.refused(world)
        for _ in range(800):
            client.send(PIECE)
            world.clock.advance(READ_SECONDS)
        self.assertEqual((client.transport.unread, client.ended), (0, False))
        client.finish()
        self.assertTrue(client.ended and not client.transport.aborted)

    def test_at_leisure(self) -> None:
        """Of clients that send without an end a few are read at a time, in turn."""
        world = World()
        clients = [self.refused(world) for _ in range(20)]
        for client in clients:
            client.transport.deliver(b"x" * 5_000_000)
        first = [client.transport.unread for client in clients]
        self.assertTrue(all(first))
        for turns in (1, 2, 3):
            world.clock.advance(READ_SECONDS)
            read = [before > client.transport.unread for before, client in zip(first, clients)]
            self.assertEqual(sum(read), min(turns * MAX_READS, 20))
        for client in clients:
            client.leave()
        world.wait(1)
        self.assertEqual(len(world.factory.limits.lingering), 0)

    def test_pause(self) -> None:
        """Without a byte for LINGERING_TIMEOUT the connection is closed; each byte gives the client as long again."""
        world = World(lingering_timeout=2.0)
        client = self.refused(world)
        for _ in range(5):
            world.wait(1.5)
            client.send(b"x")
        self.assertFalse(client.ended)
        world.wait(3)
        self.assertTrue(client.ended and not client.transport.aborted)

    def test_in_all(self) -> None:
        """A client that goes on and on is closed after LINGERING_TIME."""
        world = World(lingering_time=10.0)
        client = self.refused(world)
        for second in range(9):
            world.wait(1)
            client.send(PIECE)
        self.assertFalse(client.ended)
        world.wait(1)
        client.send(PIECE)
        world.wait(1)
        self.assertTrue(client.ended)

    def test_number(self) -> None:
        """For one more than LINGERING_CONNECTIONS the one that lingers longest is closed."""
        world = World(lingering_connections=3)
        clients = [self.refused(world) for _ in range(5)]
        world.settle()
        self.assertEqual([client.ended for client in clients], [True, True, False, False, False])
        self.assertEqual(len(world.factory.limits.lingering), 3)

    def test_off(self) -> None:
        """With LINGERING_TIME=0 or LINGERING_CONNECTIONS=0 the connection is closed at once, in order."""
        for off in ({"lingering_time": 0.0}, {"lingering_connections": 0}):
            world = World(**off)
            client = self.refused(world)
            self.assertTrue(client.ended and not client.transport.aborted)
            self.assertEqual(len(world.factory.limits.lingering), 0)

    def test_off_and_a_client_that_takes_nothing(self) -> None:
        """A response that its client does not take has SEND_TIMEOUT also where nobody lingers."""
        world = World(lingering_time=0.0, send_timeout=5.0)
        client = world.client()
        client.stop_taking()
        client.send(NO_KEY)
        world.wait(4)
        self.assertFalse(client.ended)
        world.wait(2)
        self.assertTrue(client.ended and client.transport.aborted)

    def test_slow_client(self) -> None:
        """A client that reads the response slowly, but steadily, is not cut while it reads."""
        world = World(send_timeout=5.0)
        client, upstream = world.asked(request("POST", "/", b"Content-Length: 50000000"))
        client.stop_taking()
        upstream.send(response(b"x" * 60_000, status=b"403 Forbidden"))
        for _ in range(10):
            world.wait(4)
            client.transport.take_some(600)
        self.assertFalse(client.ended)
        world.wait(11)
        self.assertTrue(client.ended and client.transport.aborted)

    def test_held_reading(self) -> None:
        """What had kept the client from being read, a server that takes nothing for one, is over with the answer."""
        world = World()
        client, upstream = world.asked(request("POST", "/", b"Content-Length: 50000000"))
        upstream.transport.stop_taking()
        client.send(*[PIECE] * 10)
        self.assertGreater(client.transport.unread, 0)
        upstream.send(response(b"enough", status=b"403 Forbidden"))
        self.assertEqual(client.response().status, 403)
        client.send(*[PIECE] * 10)
        self.assertEqual((client.transport.unread, client.ended), (0, False))

    def test_more_than_the_last_request(self) -> None:
        """Bytes behind the last request of a connection, read or not, do not reset it under its response."""
        for read in (True, False):
            world = World()
            client, upstream = world.asked(request("GET", "/", b"Connection: close"))
            if read:
                client.send(b"more")
            else:
                client.transport.arrive(b"more")
            upstream.send(response(b"last"))
            self.assertEqual(client.response().body, b"last")
            self.assertEqual((client.transport.half_closed, client.ended), (True, False))
            client.finish()
            self.assertTrue(client.ended and not client.transport.aborted)

    def test_client_that_has_ended(self) -> None:
        """Nobody lingers for a client that has said that it sends no more."""
        world = World()
        client = world.client()
        client.transport.arrive(b"GET  / HTTP/1.1\r\n\r\n")
        client.finish()
        world.settle()
        self.assertIn(b" 400 ", client.received)
        self.assertTrue(client.ended and not client.transport.aborted)

    def test_stop(self) -> None:
        """When the program stops, lingering clients have LINGERING_TIMEOUT, or the time to drain."""
        for seconds in (60.0, 2.0):
            world = World(lingering_timeout=5.0)
            client = self.refused(world)
            finished = world.factory.drain(seconds)
            for _ in range(4):
                world.wait(0.5)
                client.send(b"x")
            self.assertEqual(client.ended, seconds == 2.0)
            for _ in range(8):
                world.wait(0.5)
                client.send(b"x")
            self.assertTrue(client.ended)
            self.successResultOf(finished)

    def test_lost(self) -> None:
        """A client that leaves while it lingers is forgotten."""
        world = World()
        self.refused(world).leave()
        self.assertEqual(len(world.factory.limits.lingering), 0)
        self.assertFalse([one for one in world.factory.sweeper.watched if "Lingering" in repr(one)])
