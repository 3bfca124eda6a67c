"""The connections to servers: how many are kept and for how long, and how long a server may take."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import World, request, response


class IdleTests(SynchronousTestCase):
    def test_limited_in_number(self) -> None:
        """No more idle connections are kept than the settings allow; those beyond are closed in order."""
        world = World(upstream_idle_connections=2)
        clients = [world.client() for _ in range(4)]
        for client in clients:
            client.send(request())
        self.assertEqual(len(world.server.connections), 4)
        for upstream in world.server.connections:
            upstream.send(response())
        self.assertEqual([upstream.ended for upstream in world.server.connections], [False, False, True, True])
        self.assertFalse(world.server.last.transport.aborted)

    def test_server_that_takes_nothing(self) -> None:
        """A connection that is closed in order is cut when the server takes nothing of what was sent for long."""
        world = World(upstream_timeout=10.0)
        client, upstream = world.asked()
        upstream.send(response())
        upstream.transport.stop_taking()
        client.send(request())
        upstream.send(response(b"early", b"Connection: close"))
        self.assertEqual(len(client.responses()), 2)
        world.wait(9.5)
        self.assertFalse(upstream.ended)
        world.wait(1)
        self.assertTrue(upstream.ended and upstream.transport.aborted)
        self.assertNotIn(upstream, world.factory.sweeper.watched)

    def test_none_kept(self) -> None:
        """With none allowed, each request has a connection of its own."""
        world = World(upstream_idle_connections=0)
        client = world.client()
        for n in range(3):
            client.send(request())
            world.server.last.send(response())
            self.assertTrue(world.server.last.ended)
        self.assertEqual((len(client.responses()), len(world.server.connections)), (3, 3))

    def test_limited_in_time(self) -> None:
        """An idle connection is closed when its time is up, and not before."""
        world = World(upstream_idle_timeout=10.0)
        client, upstream = world.asked()
        upstream.send(response())
        world.wait(10)
        self.assertFalse(upstream.ended)
        world.wait(0.5)
        self.assertTrue(upstream.ended and not upstream.transport.aborted)

    def test_use_renews(self) -> None:
        """Each use of a connection gives it its whole idle time again, and a busy one is not idle."""
        world = World(upstream_idle_timeout=10.0)
        client, upstream = world.asked()
        for _ in range(3):
            world.wait(9)
            upstream.send(response())
            world.wait(9)
            client.send(request())
        self.assertEqual(len(world.server.connections), 1)

    def test_last_used_first(self) -> None:
        """The connection that was used last is used first, so those of a busier time run out."""
        world = World(upstream_idle_timeout=10.0)
        clients = [world.client() for _ in range(3)]
        for client in clients:
            client.send(request())
        one, two, three = world.server.connections
        for upstream in (one, two, three):
            upstream.send(response())
            upstream.read()
        for _ in range(3):
            clients[0].send(request())
            self.assertTrue(three.read().startswith(b"GET / "))
            three.send(response())
            world.wait(4)
        self.assertEqual([one.ended, two.ended, three.ended], [True, True, False])

    def test_of_its_server_only(self) -> None:
        """A connection to one server is never used for another."""
        world = World(servers=2)
        client, upstream = world.asked()
        upstream.send(response(b"one"))
        world.backends[0].weight = 0
        world.pool.refresh()
        client.send(request())
        world.servers[1].last.send(response(b"two"))
        self.assertEqual([answer.body for answer in client.responses()], [b"one", b"two"])


class TimeoutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(upstream_timeout=10.0, min_body_rate=0)

    def assert_504(self) -> None:
        client, upstream = self.client, self.upstream
        answer = client.response()
        self.assertEqual((answer.status, answer.detail), (504, "The server did not answer in time."))
        self.assertTrue(upstream.ended)
        self.assertEqual((self.world.in_flight, len(self.world.buckets.refunded)), ([0], 1))

    def test_silence(self) -> None:
        """A server that says nothing for its time is 504 and a token back, not before, and is dropped."""
        self.client, self.upstream = self.world.asked()
        self.world.wait(10)
        self.assertEqual(self.client.received, b"")
        self.world.wait(0.5)
        self.assert_504()
        self.assertFalse(self.client.ended)

    def test_late_answer(self) -> None:
        """What a server says after its time reaches nobody."""
        self.client, self.upstream = self.world.asked()
        self.world.wait(11)
        self.client.response()
        self.upstream.send(response(b"late"))
        self.assertEqual(self.client.read(), b"")

    def test_dripped_head(self) -> None:
        """A head has one time for all its bytes: dripping it does not help."""
        self.client, self.upstream = self.world.asked()
        for byte in b"HTTP/1.1 200 O":
            self.upstream.send(bytes([byte]))
            self.world.wait(1)
        self.assert_504()

    def test_silence_amid_the_body(self) -> None:
        """A server that stops amid its body is dropped, and the client gets no end of the body."""
        client, upstream = self.world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        self.world.wait(11)
        self.assertTrue(client.ended and upstream.ended)
        self.assertTrue(client.received.endswith(b"1\r\na\r\n"))
        self.assertEqual(self.world.buckets.refunded, [])

    def test_slow_and_steady(self) -> None:
        """A body may take any time as long as something comes."""
        client, upstream = self.world.asked()
        data = response(b"hello")
        upstream.send(data[:-5])
        for byte in b"hello":
            self.world.wait(9)
            upstream.send(bytes([byte]))
        self.assertEqual(client.response().body, b"hello")

    def test_clock_starts_when_the_request_is_whole(self) -> None:
        """While the client is still sending, the server need not answer; once the request is whole, it must."""
        self.client, self.upstream = self.world.asked(request("POST", "/", b"Content-Length: 3"))
        for byte in b"abc":
            self.world.wait(15)
            self.client.send(bytes([byte]))
        self.world.wait(9)
        self.assertEqual(self.client.received, b"")
        self.world.wait(2)
        self.assert_504()

    def test_post_is_not_retried(self) -> None:
        """A server that does not answer a POST in time may have acted on it: no other is asked."""
        world = World(servers=2, upstream_timeout=10.0)
        client = world.client()
        client.send(request("POST", body=b"x"))
        world.wait(11)
        self.assertEqual(client.response().status, 504)
        self.assertEqual(len(world.dialled), 1)
