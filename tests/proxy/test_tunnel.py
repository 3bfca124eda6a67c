"""Requests for another protocol, and the tunnels that they open."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import ADMITTED, KEY, REFUSED, ServerSide
from tests.proxy.test_costs import Prices
from tests.proxy.test_no_cycles import CycleTests
from tests.proxy.transports import BUFFER_BYTES
from tests.proxy.world import Client, World, request, response
from twisted_lb.balancers.registry import make_balancer
from twisted_lb.config.pool import ServerSpec
from twisted_lb.credentials import digest
from twisted_lb.limits.pricing import NO_PRICING, Pricing
from twisted_lb.proxy.open_connections import Use

UPGRADE = (b"Upgrade: websocket", b"Connection: Upgrade")
HANDSHAKE = request("GET", "/socket", *UPGRADE)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def tunnel(
    world: World, handshake: bytes = HANDSHAKE, early: bytes = b"", switched: bytes = SWITCHED
) -> tuple[Client, ServerSide]:
    """A client and its server, after the switch; both have read what was before it."""
    client = world.client()
    client.send(handshake)
    upstream = world.servers[0].last
    upstream.read()
    upstream.send(switched + early)
    head, end, rest = client.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ") and end and rest == early, (head, rest)
    return client, upstream


class HandshakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(upstream_timeout=5.0)

    def test_passed_on(self) -> None:
        """The request is passed on with its Upgrade, and the 101 with that of the server and the limits' fields."""
        client = self.world.client()
        client.send(HANDSHAKE)
        upstream = self.world.server.last
        self.assertIn(b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", upstream.received)
        upstream.send(SWITCHED)
        [answer] = client.responses()
        fields = [answer.field(name) for name in ("upgrade", "connection", "x-ratelimit-remaining")]
        self.assertEqual((answer.status, fields), (101, ["websocket", "Upgrade", "4"]))
        self.assertEqual(self.world.seen, [("s1", 101, "")])

    def test_raw_bytes(self) -> None:
        """After it each side's bytes are the other's, also those that look like HTTP, in pieces as they come."""
        client, upstream = tunnel(self.world)
        for data in (b"\x81\x00", HANDSHAKE, b"0\r\n\r\n"):
            client.send(data)
            self.assertEqual(upstream.read(), data)
            upstream.send(data)
            self.assertEqual(client.read(), data)
        self.assertEqual(len(self.world.buckets.asked), 1)

    def test_bytes_behind_the_response(self) -> None:
        """What a server sends right behind its 101 comes right behind it."""
        tunnel(self.world, early=b"hello")

    def test_bytes_behind_the_request(self) -> None:
        """What a client sends before the 101 reaches the server after it, and not before."""
        client = self.world.client()
        client.send(HANDSHAKE + b"early", b" bird")
        upstream = self.world.server.last
        self.assertTrue(upstream.read().endswith(b"\r\n\r\n"))
        upstream.send(SWITCHED)
        self.assertEqual(upstream.read(), b"early bird")

    def test_many_bytes_behind_the_request(self) -> None:
        """A client that sends on before the 101 is read no further than what pipelined requests have."""
        client = self.world.client()
        client.send(HANDSHAKE + b"x" * 1_000_000)
        self.assertFalse(client.transport.reading)
        self.assertGreater(client.transport.unread, 800_000)
        upstream = self.world.server.last
        upstream.read()
        upstream.send(SWITCHED)
        self.assertEqual(len(upstream.read()), 1_000_000)

    def test_one_token(self) -> None:
        """The handshake takes what a request takes, once, and the tunnel takes nothing."""
        world = World(counts_in_flight=True)
        client, upstream = tunnel(world)
        client.send(b"x" * 100)
        self.assertEqual((world.buckets.costs, world.buckets.released), ([1], []))
        upstream.finish()
        client.finish()
        self.assertEqual(world.buckets.released, [(digest(KEY), 0)])

    def test_costs(self) -> None:
        """The cost that the 101 reports is settled at the end, and a pricing class sees all bytes from the server."""
        prices = Prices()
        prices.before, prices.after = 1, None
        for pricing, seen in ((NO_PRICING, []), (Pricing("prices:Prices", prices), [(b"user1", 101, 5, 10, None)])):
            world = World(pricing=pricing)
            client, upstream = tunnel(world, switched=SWITCHED[:-2] + b"X-Token-Cost: 10\r\n\r\n")
            upstream.send(b"12345")
            self.assertEqual(world.buckets.released, [])
            client.leave()
            self.assertEqual((world.buckets.released, prices.seen[1:]), ([(digest(KEY), 9)], seen))

    def test_refused_before(self) -> None:
        """Without a key or a token it is an ordinary problem, which no server gets to see."""
        for answer, data, status in (
            (REFUSED, HANDSHAKE, 429),
            (ADMITTED, HANDSHAKE.replace(KEY, b"other"), 401),
            ("down", HANDSHAKE, 503),
        ):
            self.world.buckets.answer = answer
            client = self.world.client()
            client.send(data)
            refused = client.response()
            self.assertEqual((refused.status, refused.closes), (status, True))
        self.assertEqual(self.world.dialled, [])

    def test_other_answers(self) -> None:
        """A server that answers otherwise has given an ordinary response, the last one of its connection."""
        for status in (b"200 OK", b"403 Forbidden", b"426 Upgrade Required"):
            client, upstream = self.world.asked(HANDSHAKE)
            upstream.send(response(b"no", b"Upgrade: websocket", b"Connection: Upgrade", status=status))
            answer = client.response()
            self.assertEqual((answer.status, answer.body, answer.closes), (int(status[:3]), b"no", True))
            self.assertIsNone(answer.field("upgrade"))
            self.assertFalse(upstream.ended)

    def test_bytes_behind_a_request_that_is_not_switched(self) -> None:
        """What a client has sent behind it, before the answer or after, is no request: it is dropped."""
        client, upstream = self.world.asked(HANDSHAKE + request("GET", "/smuggled"))
        upstream.send(response(b"no", status=b"403 Forbidden"))
        client.send(request("GET", "/too"))
        self.assertEqual(client.response().body, b"no")
        self.assertEqual((len(self.world.buckets.asked), upstream.read().count(b"GET ")), (1, 1))
        client.finish()
        self.assertTrue(client.ended)

    def test_interim_responses_before(self) -> None:
        """A 103 comes before the 101."""
        client, upstream = self.world.asked(HANDSHAKE)
        upstream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCHED + b"x")
        self.assertTrue(client.received.startswith(b"HTTP/1.1 103 ") and client.received.endswith(b"\r\n\r\nx"))

    def test_wrong_switches(self) -> None:
        """A switch that was not asked for, to something else, or not in the words of HTTP/1.1, is 502."""
        for asked, answer in (
            (request(), SWITCHED),
            (request("GET", "/", b"Upgrade: websocket"), SWITCHED),
            (request("GET", "/", b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMA"),
             SWITCHED.replace(b"websocket", b"h2c")),
            (request("GET", "/", *UPGRADE, version="1.0"), SWITCHED),
            (HANDSHAKE, SWITCHED.replace(b"websocket", b"other")),
            (HANDSHAKE, SWITCHED.replace(b"Upgrade: websocket\r\n", b"")),
            (HANDSHAKE, SWITCHED.replace(b"Connection: Upgrade\r\n", b"")),
            (HANDSHAKE, SWITCHED.replace(b"HTTP/1.1", b"HTTP/1.0")),
        ):
            client, upstream = self.world.asked(asked)
            upstream.send(answer + b"x")
            self.assertEqual((client.response().status, upstream.ended), (502, True), answer)
        self.assertEqual(self.world.in_flight, [0])
        self.assertEqual(len(self.world.buckets.refunded), 8)

    def test_with_content(self) -> None:
        """A request with content is switched when it is whole, and what follows it is the tunnel's."""
        head = request("POST", "/", *UPGRADE, b"Content-Length: 4")
        client, upstream = self.world.asked(head)
        client.send(b"ab", b"cdef")
        self.assertTrue(upstream.read().endswith(b"\r\n\r\nabcd"))
        upstream.send(SWITCHED)
        self.assertEqual(upstream.read(), b"ef")
        client.send(b"g")
        self.assertEqual(upstream.read(), b"g")

    def test_before_the_content(self) -> None:
        """A server that switches before the request is whole is 502: what is content for one is not for the other."""
        client, upstream = self.world.asked(request("POST", "/", *UPGRADE, b"Content-Length: 4"))
        client.send(b"ab")
        upstream.send(SWITCHED)
        answer = client.response()
        self.assertEqual((answer.status, answer.closes, upstream.ended), (502, True, True))

    def test_expectation(self) -> None:
        """RFC 9110 section 7.8: a 100 comes before the 101."""
        head = request("POST", "/", *UPGRADE, b"Content-Length: 2", b"Expect: 100-continue")
        client, upstream = self.world.asked(head)
        upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"ab")
        upstream.send(SWITCHED + b"x")
        self.assertTrue(client.received.endswith(b"\r\n\r\nx"))

    def test_no_answer(self) -> None:
        """A server that does not answer the handshake has the time of any response: 504."""
        client, upstream = self.world.asked(HANDSHAKE)
        self.world.wait(6)
        self.assertEqual((client.response().status, upstream.ended), (504, True))

    def test_retries(self) -> None:
        """It is sent again as any GET is: on a new connection when the kept one was closed, then to the next server."""
        world = World(servers=2)
        client, upstream = world.asked()
        upstream.send(response())
        client.read()
        client.send(HANDSHAKE)
        upstream.finish()
        first = world.servers[0].last
        self.assertIn(b"Upgrade: websocket", first.received)
        first.reset()
        second = world.servers[1].last
        self.assertIn(b"Upgrade: websocket", second.received)
        second.send(SWITCHED + b"x")
        self.assertTrue(client.received.endswith(b"x"))
        self.assertEqual(world.in_flight, [0, 1])

    def test_no_retries(self) -> None:
        """A method that is not idempotent is sent once; and nothing is sent again after the switch."""
        world = World(servers=2)
        client, upstream = world.asked(request("POST", "/", *UPGRADE))
        upstream.reset()
        self.assertEqual(client.response().status, 502)
        client, upstream = tunnel(world)
        upstream.reset()
        self.assertEqual((client.read(), len(world.dialled)), (b"", 2))

    def test_preflight(self) -> None:
        """A preflight, which needs no key, opens no tunnel."""
        client = self.world.client()
        lines = [b"OPTIONS / HTTP/1.1", b"Host: a", b"Origin: b", b"Access-Control-Request-Method: PUT", *UPGRADE]
        client.send(b"\r\n".join([*lines, b"", b""]))
        upstream = self.world.server.last
        self.assertNotIn(b"pgrade", upstream.received)
        upstream.send(SWITCHED)
        self.assertEqual(client.response().status, 502)

    def test_at_the_door(self) -> None:
        """The user API switches to nothing."""
        client = self.world.client()
        client.send(request("GET", "/door", *UPGRADE))
        answer = client.response()
        self.assertEqual((answer.body, client.ended), (b"door", True))
        self.assertNotIn(b"pgrade", self.world.door.calls[0].head)


class PressureTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(send_timeout=1.0, upstream_timeout=1.0)
        self.client, self.upstream = tunnel(self.world)

    def test_both_directions(self) -> None:
        """A side that takes nothing stops the other side's sender, not its own, for as long as it likes."""
        sides = self.client, self.upstream
        for slow, fast in (sides, sides[::-1]):
            slow.transport.stop_taking()
            fast.send(b"x" * 1_000_000)
            self.assertFalse(fast.transport.reading)
            self.assertTrue(slow.transport.reading)
            self.assertLess(len(slow.transport.buffer), 2 * BUFFER_BYTES + 1)
            self.world.wait(60)
            slow.send(b"still here")
            self.assertEqual(fast.read(), b"still here")
            while fast.transport.unread:
                slow.transport.take()
                self.world.settle()
                slow.transport.stop_taking()
            slow.transport.take()
            self.world.settle()
            self.assertEqual(len(slow.read()), 1_000_000)
            self.assertTrue(fast.transport.reading)

    def test_both_stuck(self) -> None:
        """Two sides that only send are held, both, and go on when they take."""
        for side in (self.client, self.upstream):
            side.transport.stop_taking()
        self.client.send(b"x" * 500_000)
        self.upstream.send(b"y" * 500_000)
        for side in (self.client, self.upstream):
            side.transport.take()
        self.world.settle()
        self.assertEqual((len(self.client.read()), len(self.upstream.read())), (500_000, 500_000))

    def test_end_behind_a_slow_reader(self) -> None:
        """What a side has sent before its end reaches the other one in full, however slowly it reads."""
        self.client.stop_taking()
        self.upstream.send(b"x" * 300_000)
        self.upstream.finish()
        while self.upstream.transport.unread:
            self.client.take()
            self.client.stop_taking()
        self.client.take()
        self.world.settle()
        self.assertEqual(len(self.client.read()), 300_000)
        self.assertTrue(self.client.transport.half_closed)


class EndTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(counts_in_flight=True, tunnel_timeout=10.0, upstream_timeout=3.0, lingering_timeout=2.0)
        self.client, self.upstream = tunnel(self.world)

    def assert_over(self) -> None:
        """Nothing is left of the tunnel, nobody is blamed for its end, and its key has its place back, once."""
        self.world.wait(3)
        self.assertTrue(self.client.ended and self.upstream.ended)
        self.assertEqual((self.world.in_flight, self.world.backends[0].tunnels), ([0], 0))
        self.assertEqual(len(self.world.buckets.released), 1)
        self.assertEqual((self.world.seen, self.world.backends[0].failures), ([("s1", 101, "")], 0))
        self.assertEqual(len(self.world.factory.limits.connections), 0)
        self.assertEqual(self.world.factory.server_connections, 0)
        self.assertEqual(len(self.world.factory.limits.context.tunnels), 0)

    def test_half_close(self) -> None:
        """The end of a direction is passed on, and the other direction goes on until it ends as well."""
        self.client.finish()
        self.assertTrue(self.upstream.transport.half_closed)
        self.upstream.send(b"more")
        self.assertEqual(self.client.read(), b"more")
        self.assertEqual((self.client.ended, self.world.in_flight), (False, [1]))
        self.upstream.finish()
        self.assertFalse(self.client.transport.aborted or self.upstream.transport.aborted)
        self.assert_over()

    def test_half_close_by_the_server(self) -> None:
        """The same the other way round."""
        self.upstream.send(b"last")
        self.upstream.finish()
        self.assertEqual((self.client.read(), self.client.transport.half_closed), (b"last", True))
        self.client.send(b"goodbye")
        self.assertEqual(self.upstream.read(), b"goodbye")
        self.client.finish()
        self.assert_over()

    def test_half_closed_before_the_switch(self) -> None:
        """A client that has ended its direction before the 101 has ended it in the tunnel."""
        client = self.world.client()
        client.send(HANDSHAKE + b"all")
        client.finish()
        upstream = self.world.server.last
        upstream.send(SWITCHED)
        self.assertTrue(upstream.received.endswith(b"all") and upstream.transport.half_closed)
        upstream.send(b"answer")
        upstream.finish()
        self.assertTrue(client.received.endswith(b"answer") and client.ended)

    def test_client_dies(self) -> None:
        """A client whose connection is lost ends the server's, after all that it had sent."""
        self.client.send(b"last")
        self.client.leave()
        self.assertTrue(self.upstream.read() == b"last" and self.upstream.ended and not self.upstream.transport.aborted)
        self.assert_over()

    def test_server_dies(self) -> None:
        """A server whose connection is lost ends the client's, after all that it had sent, in order."""
        self.upstream.send(b"last")
        self.upstream.reset()
        self.assertEqual((self.client.read(), self.client.transport.half_closed), (b"last", True))
        self.client.send(b"dropped")
        self.client.finish()
        self.assertFalse(self.client.transport.aborted)
        self.assert_over()

    def test_server_that_takes_nothing_at_the_end(self) -> None:
        """What is left for a server when its client is lost has UPSTREAM_TIMEOUT to leave."""
        self.upstream.transport.stop_taking()
        self.client.send(b"x" * 1000)
        self.client.leave()
        self.assertEqual((self.upstream.ended, self.world.in_flight), (False, [0]))
        self.world.wait(4)
        self.assertTrue(self.upstream.transport.aborted)
        self.assert_over()

    def test_idle(self) -> None:
        """A tunnel without a byte from either side for TUNNEL_TIMEOUT is closed, in order."""
        for side in (self.client, self.upstream):
            self.world.wait(9)
            side.send(b"x")
        self.world.wait(9.5)
        self.assertFalse(self.client.ended or self.upstream.ended or self.client.transport.half_closed)
        self.world.wait(1)
        self.assertTrue(self.upstream.ended and self.client.transport.half_closed)
        self.assertFalse(self.upstream.transport.aborted)
        self.assert_over()

    def test_no_idle_limit(self) -> None:
        """With TUNNEL_TIMEOUT=0 it stays open."""
        world = World(tunnel_timeout=0.0, upstream_timeout=1.0, keepalive_timeout=1.0, upstream_idle_timeout=1.0)
        client, upstream = tunnel(world)
        world.wait(1000)
        client.send(b"x")
        self.assertEqual(upstream.read(), b"x")

    def test_idle_half_closed(self) -> None:
        """A tunnel of which one direction has ended has the same limit."""
        self.client.finish()
        self.world.wait(11)
        self.assert_over()

    def test_of_a_key(self) -> None:
        """All tunnels of a key can be ended at once; those of others go on."""
        other = digest(b"other")
        self.world.buckets.others.add(other)
        theirs, _ = tunnel(self.world, HANDSHAKE.replace(KEY, b"other"))
        second, _ = tunnel(self.world)
        second.stop_taking()
        self.assertEqual(self.world.factory.close_tunnels("nobody's"), 0)
        self.assertEqual(self.world.factory.close_tunnels(digest(KEY)), 2)
        self.world.settle()
        self.assertTrue(self.client.ended and self.upstream.ended and second.ended)
        self.assertFalse(theirs.ended)
        self.assertEqual(self.world.factory.close_tunnels(digest(KEY)), 0)
        self.assertEqual((self.world.in_flight, self.world.buckets.unreleased), ([1], 1))

    def test_counters(self) -> None:
        """Tunnels and bytes are counted, also of those that are over."""
        self.client.send(b"123")
        self.upstream.send(b"12345")
        expected = {"tunnels": 1, "tunnel_bytes client": 3, "tunnel_bytes server": 5}
        for _ in range(2):
            counts = self.world.factory.counts()
            self.assertEqual({name: counts[name] for name in expected}, expected)
            self.client.leave()
        self.assertEqual(self.world.backends[0].tunnels, 0)

    def test_what_raises(self) -> None:
        """When the accounting raises at the end, both connections end all the same."""
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        self.world.buckets.release = fail  # type: ignore[method-assign]
        self.client.leave()
        self.assertTrue(self.upstream.ended)
        self.flushLoggedErrors(ZeroDivisionError)


class RoomTests(SynchronousTestCase):
    def test_maxconn(self) -> None:
        """A tunnel is one of a server's `maxconn` requests until it ends."""
        world = World(maxconn=1)
        client, upstream = tunnel(world)
        waiting = world.client()
        waiting.send(request())
        self.assertEqual((len(world.dialled), waiting.received), (1, b""))
        upstream.finish()
        client.finish()
        world.server.last.send(response(b"my turn"))
        self.assertEqual(waiting.response().body, b"my turn")

    def test_not_idle(self) -> None:
        """A tunnel is never closed to make room for another connection, however idle."""
        world = World(max_connections=1)
        client, _ = tunnel(world)
        world.wait(100)
        self.assertIs(client.transport.protocol._stream.use(), Use.BUSY)  # type: ignore[union-attr]
        self.assertEqual(world.client().response().status, 503)
        self.assertFalse(client.ended)

    def test_removed_server(self) -> None:
        """A tunnel goes on when its server is ejected, or removed from the pool."""
        world = World(servers=2)
        client, upstream = tunnel(world)
        world.pool.change(world.balancer, [ServerSpec("s2", "http://127.0.0.1:9002", "127.0.0.1", 9002)])
        client.send(b"x")
        self.assertEqual(upstream.read(), b"x")
        self.assertEqual([backend.tunnels for backend in world.pool.leaving], [1])
        upstream.finish()
        client.finish()
        self.assertEqual(world.in_flight, [0, 0])

    def test_drain(self) -> None:
        """While draining a tunnel goes on; it is cut when the time is up."""
        world = World(counts_in_flight=True)
        client, upstream = tunnel(world)
        finished = world.factory.drain(10.0)
        world.wait(9)
        client.send(b"x")
        self.assertEqual((upstream.read(), client.ended), (b"x", False))
        self.assertNoResult(finished)
        world.wait(1.5)
        self.assertTrue(client.ended and upstream.ended)
        self.assertEqual(self.successResultOf(finished), 1)
        self.assertEqual((world.in_flight, world.buckets.unreleased), ([0], 0))

    def test_drained_by_its_end(self) -> None:
        """The drain is over when the last tunnel is."""
        world = World()
        client, upstream = tunnel(world)
        finished = world.factory.drain(10.0)
        world.wait(1)
        upstream.finish()
        client.finish()
        world.wait(0.5)
        self.assertEqual(self.successResultOf(finished), 0)


class TunnelCycleTests(CycleTests):
    def test_whatever_its_end(self) -> None:
        """Nothing of a tunnel is left to the garbage collector, whoever ends it."""
        for end in ("client", "server", "both", "idle", "key"):
            world = World(balancer=make_balancer("round_robin"), tunnel_timeout=1.0)
            client, upstream = tunnel(world)
            if end in ("client", "both"):
                client.finish()
            if end in ("server", "both"):
                upstream.finish()
            if end == "idle":
                world.wait(2)
            if end == "key":
                world.factory.close_tunnels(digest(KEY))
            world.wait(2)
            self.assertLessEqual(self.alive(), self.before, end)
