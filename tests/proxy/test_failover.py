"""Servers that cannot be reached or do not answer: which one is tried next, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.proxy.scripted import ScriptedConnector, ServerSide
from tests.proxy.world import Client, World, request, response
from twisted_lb.backend import Backend
from twisted_lb.config.pool import Retries
from twisted_lb.interfaces import IBalancer, IRequest
from twisted_lb.network.tls_client import SPEAKS_TLS
from twisted_lb.network.tls_errors import TlsError


class RefusedConnectionTests(SynchronousTestCase):
    def test_next_choice(self) -> None:
        """A server that refuses the connection is passed over for the balancer's next choice, and no token is lost."""
        world = World(servers=3)
        world.servers[0].refuses = world.servers[1].refuses = True
        client = world.client()
        client.send(request("POST", body=b"hello"))
        self.assertEqual(world.dialled, [("127.0.0.1", 9001), ("127.0.0.1", 9002), ("127.0.0.1", 9003)])
        self.assertEqual(world.in_flight, [0, 0, 1])
        self.assertTrue(world.servers[2].last.received.endswith(b"\r\n\r\nhello"))
        world.servers[2].last.send(response(b"three"))
        self.assertEqual(client.response().body, b"three")
        self.assertEqual((len(world.buckets.asked), world.buckets.refunded), (1, []))

    def test_none_left(self) -> None:
        """When every server refuses, the answer is 503, the token comes back, and the connection goes on."""
        world = World(servers=2)
        world.servers[0].refuses = world.servers[1].refuses = True
        client = world.client()
        client.send(request())
        answer = client.response()
        self.assertEqual((answer.status, answer.detail), (503, "No available servers"))
        self.assertEqual((answer.field("retry-after"), answer.closes), ("1", False))
        self.assertEqual((world.in_flight, len(world.buckets.refunded)), ([0, 0], 1))
        world.servers[1].refuses = False
        client.send(request())
        world.servers[1].last.send(response(b"back"))
        self.assertEqual(client.response().body, b"back")

    def test_none_at_all(self) -> None:
        """With no server that may be chosen, the answer is 503 and the token comes back."""
        world = World()
        world.backends[0].up = False
        world.pool.refresh()
        client = world.client()
        client.send(request())
        self.assertEqual((client.response().detail, world.dialled), ("No available servers", []))
        self.assertEqual(len(world.buckets.refunded), 1)

    def test_body_so_far(self) -> None:
        """What a client sends of its body while servers are tried reaches the one that takes the connection."""
        world = World(servers=2)
        for server in world.servers:
            server.waits = True
        client = world.client()
        client.send(request("POST", "/", b"Content-Length: 6") + b"ab", b"cd")
        world.servers[0].refuses = True
        world.servers[0].decide()
        client.send(b"e")
        world.servers[1].decide()
        client.send(b"f")
        self.assertTrue(world.servers[1].last.received.endswith(b"\r\n\r\nabcdef"))

    def test_connect_timeout(self) -> None:
        """A connection has the time to be made that the settings give."""
        world = World(connect_timeout=2.5)
        world.asked()
        self.assertEqual(world.server.timeouts, [2.5])


class RefusedHandshakeTests(SynchronousTestCase):
    """With TLS a server can refuse a connection after the request was sent, without having read it."""

    ALERT = b"\x15\x03\x03\x00\x02\x02\x46"  # protocol_version
    REFUSED = TlsError("tlsv13 alert certificate required")

    def refuse(self, side: ServerSide) -> None:
        """By an alert that the TLS of the connection reports."""
        side.reset(self.REFUSED)

    def alert(self, side: ServerSide) -> None:
        """By an alert on a connection without TLS."""
        side.send(*(self.ALERT[at : at + 1] for at in range(len(self.ALERT))))
        side.finish()

    def alert_and_more(self, side: ServerSide) -> None:
        """The same, so that it is no head in any case."""
        side.send(self.ALERT + b"\r\n\r\n")

    def test_next_choice(self) -> None:
        """It is passed over like one that refuses the connection, whatever the method; and it is at fault."""
        for refuse in (self.refuse, self.alert, self.alert_and_more):
            world = World(servers=2, retries=Retries(attempts=1))
            client = world.client()
            client.send(request("POST", body=b"hello"))
            refuse(world.server.last)
            self.assertTrue(world.servers[1].last.received.endswith(b"\r\n\r\nhello"))
            world.servers[1].last.send(response(b"two"))
            self.assertEqual(client.response().body, b"two")
            self.assertEqual((world.in_flight, world.buckets.refunded), ([0, 0], []))
            (name, status, why), _ = world.seen
            self.assertEqual((name, status), ("s1", 0))
            said = SPEAKS_TLS if refuse != self.refuse else f"the TLS handshake failed: {self.REFUSED.args[0]}"
            self.assertEqual(why, f"it could not be reached: {said}")

    def test_none_left(self) -> None:
        """The answer is 503 without a word of TLS, and the token comes back."""
        for refuse in (self.refuse, self.alert, self.alert_and_more):
            world = World()
            client = world.client()
            client.send(request("POST", body=b"hello"))
            refuse(world.server.last)
            answer = client.response()
            self.assertEqual((answer.status, answer.detail), (503, "No available servers"))
            self.assertEqual((answer.closes, len(world.buckets.refunded)), (False, 1))

    def test_a_body_that_is_not_kept(self) -> None:
        """A request whose content cannot be sent again is answered with 503."""
        world = World(servers=2)
        client = world.client()
        client.send(request("POST", body=b"b" * 200_000)[:-1000])
        self.refuse(world.server.last)
        self.assertEqual(client.response().status, 503)
        self.assertEqual((world.servers[1].connections, len(world.buckets.refunded)), ([], 1))

    def test_a_kept_connection(self) -> None:
        """On one that has carried a request before, an alert is the end of a connection like any other."""
        world = World(servers=2)
        client, side = world.asked()
        side.send(response(b"one"))
        client.read()
        client.send(request("POST", body=b"hello"))
        self.refuse(side)
        self.assertEqual(client.response().status, 502)
        self.assertEqual(world.servers[1].connections, [])


class NameTests(SynchronousTestCase):
    """Servers that are given by name."""

    def setUp(self) -> None:
        self.world = World(hosts=("s1.example", "127.0.0.2"))
        self.names = self.world.names.addresses

    def test_many_that_are_silent(self) -> None:
        """A request that has reached no server for three times CONNECT_TIMEOUT is answered; its token comes back."""
        world = World(servers=9, connect_timeout=1.0)
        for server in world.servers:
            server.waits = server.refuses = True
        client = world.client()
        client.send(request())
        for server in world.servers[:2]:
            world.wait(1.0)
            server.decide()
        self.assertEqual((client.received, len(world.dialled)), (b"", 3))
        world.wait(1.0)
        world.servers[2].decide()
        self.assertEqual((client.response().status, len(world.buckets.refunded)), (503, 1))
        self.assertEqual((len(world.dialled), world.in_flight), (3, [0] * 9))

    def test_hundreds_that_fail_at_once(self) -> None:
        """Any number of servers that fail within the call that connects to them can be passed over."""
        world = World(servers=1000)
        good = world.servers[-1]

        def dial(host: str, port: int, factory: ClientFactory, timeout: float) -> ScriptedConnector:
            if port == good.backend.port:
                return good.dialled(factory, timeout)
            connector = ScriptedConnector()
            factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))  # type: ignore[arg-type]
            return connector

        world.server_pool._dialer.connect = dial
        client = world.client()
        client.send(request())
        good.last.send(response(b"good"))
        self.assertEqual(client.response().body, b"good")

    def test_addresses_in_turn(self) -> None:
        """Each address of a name is tried, once, until one takes the connection."""
        self.names["s1.example"] = ["127.0.0.1", "::1"]
        self.world.server.refuses = True
        client = self.world.client()
        client.send(request())
        self.assertEqual(self.world.dialled, [("::1", 9001), ("127.0.0.1", 9001), ("127.0.0.2", 9002)])
        self.world.servers[1].last.send(response(b"two"))
        self.assertEqual(client.response().body, b"two")

    def test_no_address(self) -> None:
        """A name without an address counts as a server that cannot be reached."""
        client = self.world.client()
        client.send(request())
        self.assertEqual(self.world.dialled, [("127.0.0.2", 9002)])
        self.assertEqual(self.world.in_flight, [0, 1])

    def test_ipv6_literal(self) -> None:
        """An IPv6 address is dialled as it is."""
        world = World(hosts=("::1",))
        world.asked()
        self.assertEqual(world.dialled, [("::1", 9001)])


class NobodysFailureTests(SynchronousTestCase):
    """What a client can bring about at will is no failure of a server."""

    def test_slow_upload(self) -> None:
        """A server that closes before it has the whole request is 502, and not taken for dead."""
        for end in ("finish", "reset"):
            world = World()
            client, upstream = world.asked(request("POST", "/", b"Content-Length: 100") + b"slow")
            getattr(upstream, end)()
            self.assertEqual(client.response().status, 502)
            self.assertEqual((world.seen, world.backends[0].failures, len(world.buckets.refunded)), ([], 0, 1))

    def test_early_error(self) -> None:
        """An early answer says nothing of the server, whatever its status."""
        world = World()
        client, upstream = world.asked(request("POST", "/", b"Content-Length: 100") + b"slow")
        upstream.send(response(b"no", status=b"500 Oops"))
        self.assertEqual((client.response().status, world.seen), (500, []))

    def test_kept_connection(self) -> None:
        """A request that may not be sent twice, and meets a kept connection that the server has closed, is 502 only."""
        world = World()
        client, upstream = world.asked()
        upstream.send(response())
        client.response()
        client.send(request("POST", "/", body=b"x"))
        upstream.finish()
        self.assertEqual(client.response().status, 502)
        self.assertEqual([status for _, status, _ in world.seen], [200])
        self.assertEqual(world.backends[0].failures, 0)

    def test_whole_request(self) -> None:
        """A server that closes when it has the whole request has died."""
        world = World()
        client, upstream = world.asked(request("POST", "/", body=b"x"))
        upstream.finish()
        self.assertEqual(client.response().status, 502)
        self.assertEqual([status for _, status, _ in world.seen], [0])


class KeptConnectionTests(SynchronousTestCase):
    """A connection that has served before may be dead by now."""

    def setUp(self) -> None:
        self.world = World()
        self.client, self.upstream = self.world.asked()
        self.upstream.send(response(b"first"))
        self.client.response()

    def assert_served(self, client: Client, n: int) -> None:
        """The server's n-th connection has got the request, and its answer goes through."""
        self.assertEqual(len(self.world.server.connections), n)
        self.world.server.last.send(response(b"alive"))
        self.assertEqual(client.response().body, b"alive")
        self.assertEqual((len(self.world.buckets.refunded), self.world.in_flight), (0, [0]))

    def test_known_to_be_dead(self) -> None:
        """A connection that the server has closed while idle is not used again, for any method."""
        self.upstream.finish()
        self.client.send(request("POST", body=b"hello"))
        self.assert_served(self.client, 2)

    def test_found_stale(self) -> None:
        """A connection whose end waits to be read is found out before anything is sent on it, for any method."""
        self.world.wait(1)
        self.upstream.transport.finish(noticed=False)
        self.upstream.read()
        self.client.send(request("POST", body=b"hello"))
        self.assertEqual(self.upstream.read(), b"")
        self.assertTrue(self.upstream.ended)
        self.assert_served(self.client, 2)

    def test_found_talking(self) -> None:
        """A connection on which the server has spoken unasked is found out, and nobody gets what it said."""
        self.world.wait(1)
        self.upstream.transport.arrive(response(b"poison"))
        self.client.send(request())
        self.assertTrue(self.upstream.ended)
        self.assert_served(self.client, 2)

    def test_dies_under_an_idempotent_request(self) -> None:
        """An idempotent request on a kept connection that ends without a byte is sent once more, on a new one."""
        for n, method in enumerate(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"), 2):
            self.client.send(request(method, body=b"hello"))
            self.world.server.last.finish()
            self.assertEqual(len(self.world.server.connections), n)
            self.assertTrue(self.world.server.last.received.startswith(method.encode()))
            self.assertTrue(self.world.server.last.received.endswith(b"\r\n\r\nhello"))
            self.assertEqual(self.world.in_flight, [1])
            self.world.server.last.send(response())
            self.assertEqual(self.client.response(method).status, 200)
        self.assertEqual(self.world.buckets.refunded, [])

    def test_reset_under_an_idempotent_request(self) -> None:
        """It makes no difference how the kept connection ends."""
        self.client.send(request())
        self.upstream.reset()
        self.assert_served(self.client, 2)

    def test_only_once(self) -> None:
        """The second connection is the last: when it ends without a byte too, the answer is 502."""
        self.client.send(request())
        self.upstream.finish()
        self.world.server.last.finish()
        self.assertEqual(self.client.response().status, 502)
        self.assertEqual((len(self.world.server.connections), len(self.world.buckets.refunded)), (2, 1))

    def test_not_for_post(self) -> None:
        """A POST that was sent is not sent again: the server may have acted on it; 502, and the token comes back."""
        self.client.send(request("POST", body=b"hello"))
        self.upstream.finish()
        self.assertEqual(self.client.response().status, 502)
        self.assertEqual((len(self.world.server.connections), len(self.world.buckets.refunded)), (1, 1))
        self.assertEqual(self.world.in_flight, [0])

    def test_not_after_a_byte(self) -> None:
        """A request to which a byte of an answer has come is not sent again."""
        self.client.send(request())
        self.upstream.send(b"H")
        self.upstream.finish()
        self.assertEqual(self.client.response().status, 502)
        self.assertEqual(len(self.world.server.connections), 1)

    def test_not_on_a_new_connection(self) -> None:
        """A request on a new connection that ends without a byte is not sent again: that is the server's way."""
        self.upstream.finish()
        self.client.send(request())
        self.world.server.last.finish()
        self.assertEqual((self.client.response().status, len(self.world.server.connections)), (502, 2))

    def test_body_still_coming(self) -> None:
        """A request of which a part was sent is sent once more from its beginning, and goes on."""
        self.client.send(request("PUT", "/", b"Content-Length: 6") + b"ab", b"cd")
        self.upstream.finish()
        self.client.send(b"ef")
        self.assertTrue(self.world.server.last.received.endswith(b"\r\n\r\nabcdef"))
        self.assert_served(self.client, 2)

    def test_body_too_large_to_keep(self) -> None:
        """A request of which more was sent than is kept is not sent again."""
        self.client.send(request("PUT", "/", b"Content-Length: 200000"), b"x" * 150_000)
        self.upstream.finish()
        self.assertEqual((self.client.response().status, len(self.world.server.connections)), (502, 1))

    def test_large_body_kept_while_connecting(self) -> None:
        """A body that filled what is kept before there was a connection is sent whole, and not sent again."""
        self.world.buckets.later = True
        self.client.send(request("PUT", "/", b"Content-Length: 66000"), *[b"x" * 1000] * 66)
        self.world.buckets.answer_now()
        self.world.settle()
        self.assertTrue(self.upstream.received.endswith(b"\r\n\r\n" + b"x" * 66_000))
        self.upstream.finish()
        self.assertEqual((self.client.response().status, len(self.world.server.connections)), (502, 1))

    def test_client_leaves_meanwhile(self) -> None:
        """A client that leaves while its request is to be sent once more is counted out."""
        self.world.server.waits = True
        self.client.send(request())
        self.upstream.finish()
        self.client.leave()
        self.world.server.decide()
        self.assertEqual((self.world.in_flight, self.world.server.last.received), ([0], b""))

    def test_refused_meanwhile(self) -> None:
        """When the new connection is refused, the next choice is asked."""
        world = World(servers=2)
        client, upstream = world.asked()
        upstream.send(response())
        client.response()
        world.server.refuses = True
        client.send(request())
        upstream.finish()
        self.assertEqual(world.in_flight, [0, 1])
        world.servers[1].last.send(response(b"two"))
        self.assertEqual(client.response().body, b"two")


@implementer(IBalancer)
class Stumbling:
    """Raises at the point that the test names, or chooses what is no server of the pool."""

    def __init__(self, where: str) -> None:
        self._where = where

    def backends_changed(self, backends: list[Backend]) -> None:
        self._backends = backends

    def choices(self, request: IRequest) -> Iterator[Backend]:
        if self._where == "choices":
            raise ZeroDivisionError
        return self._iterate()

    def _iterate(self) -> Iterator[Backend]:
        if self._where == "first":
            raise ZeroDivisionError
        if self._where == "stranger":
            yield Backend("nobody's", "127.0.0.1", 1)
        yield self._backends[0]
        raise ZeroDivisionError


class BrokenBalancerTests(SynchronousTestCase):
    def test_raises(self) -> None:
        """A balancer that raises, or names no server of the pool, is 500 and a token back, and is logged."""
        for where in ("choices", "first", "second", "stranger"):
            world = World(balancer=Stumbling(where))
            world.server.refuses = True
            client = world.client()
            client.send(request())
            answer = client.response()
            self.assertEqual((answer.status, answer.detail), (500, "The balancer failed to choose a server."), where)
            self.assertEqual((len(world.buckets.refunded), world.in_flight), (1, [0]))
            self.assertEqual(len(self.flushLoggedErrors()), 1)
            self.assertFalse(client.ended)
