"""CORS at the proxy: preflights without a key, and the CORS fields of responses."""

from __future__ import annotations

from inspect import isdatadescriptor
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.reading import Response
from tests.proxy.scripted import KEY, OF_ADDRESS, REFUSED
from tests.proxy.world import Client, World, request, response
from twisted_lb.config.cors import Cors
from twisted_lb.cors import CorsPolicy
from twisted_lb.credentials import digest
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.preflight import MAX_OF_A_NETWORK, MAX_PREFLIGHTS

APP = b"https://app.test"
ORIGIN = b"Origin: " + APP
ASKS = ORIGIN, b"Access-Control-Request-Method: PUT", b"Access-Control-Request-Headers: authorization"


def options(*fields: bytes, target: bytes = b"/a?b", version: bytes = b"1.1") -> bytes:
    return b"\r\n".join([b"OPTIONS %b HTTP/%b" % (target, version), b"Host: api.example", *fields, b"", b""])


def allow(world: World, **more: Any) -> None:
    """servers.yaml says `cors: {allowed_origins: ...}` from now on."""
    policy = CorsPolicy(Cors(**{"allowed_origins": (APP.decode(),), **more}))
    world.use(world.route, policy)


class PassedTests(SynchronousTestCase):
    """cors: pass"""

    def setUp(self) -> None:
        self.world = World(known_keys=KnownKeys(10))

    def test_passed(self) -> None:
        """A preflight goes to a server as it came, of nobody, and its answer comes back as it is; nobody pays."""
        client, upstream = self.world.asked(options(*ASKS, b"A: 1"))
        received = upstream.received
        self.assertTrue(received.startswith(b"OPTIONS /a?b HTTP/1.1\r\nHost: api.example\r\n%b\r\nA: 1\r\n" % (
            b"\r\n".join(ASKS))))
        self.assertNotIn(b"x-consumer", received.lower())
        self.assertNotIn(b"REDACTED", received)
        self.assertIn(b"\r\nX-Forwarded-For: 192.0.2.7\r\n", received)
        own = b"Access-Control-Allow-Origin: *", b"Vary: Origin", b"X-Token-Cost: 5"
        upstream.send(response(b"", *own, status=b"204 No Content"))
        answer = client.response("OPTIONS")
        self.assertEqual((answer.status, answer.field("access-control-allow-origin")), (204, "*"))
        self.assertFalse([name for name in answer.fields if "ratelimit" in name])
        buckets = self.world.buckets
        self.assertEqual((buckets.asked, buckets.addresses, buckets.released), ([], [], []))
        client.send(request())
        self.world.settle()
        upstream.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")
        self.assertEqual(len(self.world.factory.limits.preflights), 0)

    def test_none(self) -> None:
        """What is no preflight, or has credentials, is a request like others: charged, and 401 without a key."""
        for fields in (
            (),
            (ORIGIN,),
            ASKS[1:],
            (*ASKS, b"Authorization: Basic eA=="),
            (*ASKS, b"X-API-Key:"),
            (*ASKS, b"X-HTTP-Method-Override: DELETE"),
        ):
            client = self.world.client()
            client.send(options(*fields))
            self.assertEqual(client.response().status, 401, fields)
        client = self.world.client()
        client.send(options(*ASKS, b"Content-Length: 1") + b"x")
        self.assertEqual(client.response().status, 401)
        client = self.world.client()
        client.send(options(*ASKS).replace(b"OPTIONS", b"GET"))
        self.assertEqual(client.response().status, 401)
        self.assertEqual(len(self.world.buckets.addresses), 8)
        self.assertEqual(self.world.dialled, [])

    def test_with_key(self) -> None:
        """With a key an OPTIONS request is the user's."""
        for line in (b"Authorization: " + KEY, b"apikey: " + KEY):
            client = self.world.client()
            client.send(options(*ASKS, line))
            self.assertIn(b"\r\nX-Consumer-Username: user1\r\n", self.world.server.last.received)
        self.assertEqual(self.world.buckets.asked, [digest(KEY)] * 2)

    def test_key_in_the_target(self) -> None:
        """A browser asks for the whole URL: a key in its query is taken out, shown to nobody, and not charged."""
        self.world = World(key_query_parameter="api_key")
        target = b"/a?api_key=%b&x" % KEY
        _, upstream = self.world.asked(options(*ASKS, b"Referer: http://app.test/?k=" + KEY, target=target))
        self.assertTrue(upstream.received.startswith(b"OPTIONS /a?x HTTP/1.1\r\n"))
        self.assertNotIn(KEY, upstream.received)
        self.assertNotIn(b"onsumer", upstream.received)
        self.assertEqual(self.world.buckets.asked, [])
        client = self.world.client()
        client.send(options(*ASKS, target=target + b"&api_key=other"))
        self.assertEqual(client.response("OPTIONS").status, 400)
        allow(self.world)
        client = self.world.client()
        client.send(options(*ASKS, target=target))
        self.assertEqual(client.response("OPTIONS").status, 204)
        self.assertEqual(len(self.world.factory.limits.preflights), 1)

    def test_several_users_of_a_connection(self) -> None:
        """A preflight after a user's request on one connection names nobody, and the user's next one the user."""
        client, upstream = self.world.asked()
        upstream.read()
        upstream.send(response())
        for data, named in ((options(*ASKS), False), (request(), True), (options(*ASKS), False)):
            client.send(data)
            self.world.settle()
            self.assertEqual(b"X-Consumer-Username: user1" in upstream.read(), named)
            upstream.send(response())

    def test_user_api(self) -> None:
        """A preflight for the user API is the API's, and no server hears of it."""
        self.world.client().send(options(*ASKS, target=b"/door"))
        self.assertEqual((len(self.world.door.calls), self.world.dialled), (1, []))

    def test_bound_of_a_network(self) -> None:
        """A network has a bounded number under way; one more is 503 and not charged, and other networks have room."""
        held = [self.ask() for _ in range(MAX_OF_A_NETWORK)]
        answer = self.ask().response("OPTIONS")
        self.assertEqual((answer.status, answer.field("retry-after"), answer.closes), (503, "1", False))
        self.assertEqual(len(self.world.server.connections), MAX_OF_A_NETWORK)
        other = self.ask(IPv4Address("TCP", "192.0.2.8", 1))
        self.assertEqual(len(self.world.server.connections), MAX_OF_A_NETWORK + 1)
        # A user is not in their way, nor they in the user's.
        self.world.client().send(request())
        self.assertEqual(len(self.world.server.connections), MAX_OF_A_NETWORK + 2)
        self.world.server.connections[0].send(response())
        self.assertEqual(held[0].response("OPTIONS").status, 200)
        again = self.ask()
        self.assertEqual(again.received, b"")
        for client in (*held[1:], other, again):
            client.leave()
        self.assertEqual(len(self.world.factory.limits.preflights), 0)
        self.assertEqual(self.world.factory.limits.preflights._networks, {})
        self.assertEqual(self.world.buckets.addresses, [])

    def ask(self, address: IPv4Address = IPv4Address("TCP", "192.0.2.7", 1)) -> Client:
        client = self.world.client(address)
        client.send(options(*ASKS))
        return client

    def test_bound_of_all(self) -> None:
        """All together have at most a number, and at most a quarter of what the servers can have."""
        for maxconn, servers, most in ((0, 1, MAX_PREFLIGHTS), (8, 2, 4), (9, 1, 2), (1, 1, 1), (1, 9, 2)):
            self.world = World(servers=servers, maxconn=maxconn)
            for number in range(most + 3):
                self.ask(IPv4Address("TCP", f"10.0.{number % 200}.{number // 200}", 1))
            self.assertEqual(sum(self.world.in_flight), most, (maxconn, servers))
            self.assertEqual(len(self.world.factory.limits.preflights), most)

    def test_no_blame(self) -> None:
        """A stranger's requests eject no server, are sent once, and cost no retry that users could need."""
        for answer in (response(status=b"500 Oh"), b"not HTTP at all\r\n\r\n"):
            client, upstream = self.world.asked(options(*ASKS))
            upstream.send(answer)
            self.assertIn(client.response("OPTIONS").status, (500, 502))
        self.assertEqual(self.world.seen, [])
        self.assertEqual(sum(len(side.received.split(b"OPTIONS")) - 1 for side in self.world.server.connections), 2)

    def test_next_server(self) -> None:
        """One that cannot be reached is passed over."""
        self.world = World(servers=2)
        self.world.server.refuses = True
        client = self.world.client()
        client.send(options(*ASKS))
        self.world.servers[1].last.send(response())
        self.assertEqual(client.response("OPTIONS").status, 200)
        self.assertEqual(self.world.in_flight, [0, 0])

    def test_client_leaves(self) -> None:
        """A client that leaves takes its preflight with it, whether it waits or has begun."""
        self.world = World(maxconn=1)
        user = self.world.client()
        user.send(request())
        client = self.ask()
        self.assertEqual(len(self.world.server_pool.queue), 1)
        client.leave()
        self.assertEqual((len(self.world.server_pool.queue), len(self.world.factory.limits.preflights)), (0, 0))

    def test_one_user_in_the_queue(self) -> None:
        """Those of all networks take turns as one user: a user does not wait for each of them."""
        self.world = World(maxconn=8)
        for _ in range(8):
            self.world.client().send(request())
        for last in (2, 3):
            self.ask(IPv4Address("TCP", f"192.0.2.{last}", 1))
        self.world.client().send(request())
        connections = list(self.world.server.connections)
        for upstream in connections[:2]:
            upstream.send(response())
        preflights = sum(one.received.count(b"OPTIONS /") for one in connections)
        self.assertEqual((preflights, len(self.world.server_pool.queue)), (1, 1))

    def test_timeout_of_the_route(self) -> None:
        """The timeout of the route replaces that of the settings, as for other requests."""
        self.world = World(upstream_timeout=60.0)
        self.world.use_routes("pool: p, path: /, timeout: 5s")
        client, upstream = self.world.asked(options(*ASKS))
        self.world.wait(4)
        self.assertFalse(client.received)
        self.world.wait(3)
        self.assertEqual(client.response("OPTIONS").status, 504)

    def test_posted(self) -> None:
        """What follows a preflight on its connection waits for its turn, like what follows other free requests."""
        client, upstream = self.world.asked(options(*ASKS))
        upstream.read()
        upstream.transport.deliver(response())
        client.transport.deliver(request())
        self.assertEqual((upstream.read(), len(self.world.factory.data_path.posted)), (b"", 1))
        self.world.settle()
        self.assertIn(b"GET / HTTP/1.1", upstream.read())


class AnsweredTests(SynchronousTestCase):
    """cors: {allowed_origins: [https://app.test]}"""

    def setUp(self) -> None:
        self.world = World(known_keys=KnownKeys(10))
        allow(self.world)

    def answer(self, data: bytes, method: str = "GET") -> Response:
        client = self.world.client()
        client.send(data)
        return client.response(method)

    def assert_readable(self, answer: Response, status: int) -> None:
        """A page of the origin may read this answer, its limits among it."""
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.field("access-control-allow-origin"), APP.decode())
        self.assertIn("Retry-After", str(answer.field("access-control-expose-headers")))
        self.assertIn("Origin", str(answer.field("vary")))

    def test_preflight(self) -> None:
        """A preflight is answered here: 204 without content, for any path and `*`, and nobody is asked or charged."""
        for target in (b"/a", b"/door", b"*", b"/door/x?y"):
            for version in (b"1.1", b"1.0"):
                answer = self.answer(options(*ASKS, target=target, version=version), "OPTIONS")
                self.assertEqual((answer.status, answer.body), (204, b""))
                self.assertEqual(answer.field("access-control-allow-origin"), APP.decode())
                self.assertEqual(answer.field("access-control-allow-headers"), "authorization")
                self.assertIsNone(answer.field("content-length"))
                self.assertIsNotNone(answer.field("date"))
        buckets = self.world.buckets
        self.assertEqual((buckets.asked, buckets.addresses, self.world.dialled), ([], [], []))
        self.assertEqual(self.world.door.calls, [])

    def test_refused_preflight(self) -> None:
        """Another origin gets an answer that allows nothing; it is not charged, and its connection goes on."""
        client = self.world.client()
        for _ in range(200):
            client.send(options(b"Origin: https://other.test", *ASKS[1:]))
        answers = client.responses(*["OPTIONS"] * 200)
        self.assertEqual({answer.status for answer in answers}, {204})
        self.assertFalse([name for answer in answers for name in answer.fields if name.startswith("access-control")])
        self.assertEqual(self.world.buckets.addresses, [])

    def test_pipelined(self) -> None:
        """A preflight and the request after it, in one piece, are answered in order."""
        client = self.world.client()
        client.send(options(*ASKS) + request("GET", "/", ORIGIN))
        self.world.settle()
        self.world.server.last.send(response(b"hello"))
        first, second = client.responses("OPTIONS", "GET")
        self.assertEqual((first.status, second.body), (204, b"hello"))

    def test_servers_answer(self) -> None:
        """The server's own CORS fields give way to ours, whatever the status; limits stay."""
        for status in (b"200 OK", b"404 Not Found", b"500 Oh"):
            client, upstream = self.world.asked(request("GET", "/", ORIGIN))
            upstream.send(response(b"x", b"Access-Control-Allow-Origin: *", b"Vary: Accept", b"A: 1", status=status))
            answer = client.response()
            self.assert_readable(answer, int(status[:3]))
            self.assertEqual((answer.field("vary"), answer.field("a")), ("Accept, Origin", "1"))
            self.assertEqual(answer.field("x-ratelimit-limit"), "5")
        client, upstream = self.world.asked(request())
        upstream.send(response(b"x", b"Access-Control-Allow-Origin: *"))
        answer = client.response()
        self.assertEqual((answer.field("vary"), answer.field("access-control-allow-origin")), ("Origin", None))

    def test_our_answers(self) -> None:
        """Each answer that is made here can be read: 400, 401, 413, 414, 429, 431, 501, 502, 503, 504."""
        self.world = World(known_keys=KnownKeys(10), max_body_bytes=10, max_target_bytes=80, max_header_fields=9)
        allow(self.world)
        line = b"GET / HTTP/1.1\r\nHost: a\r\n" + ORIGIN + b"\r\n"
        self.assert_readable(self.answer(line + b"\r\n"), 401)
        self.assert_readable(self.answer(line + b"Authorization: nobody\r\n\r\n"), 401)
        self.assert_readable(self.answer(request("GET", "/", ORIGIN, b"X-API-Key: x")), 400)
        self.assert_readable(self.answer(request("POST", "/", ORIGIN, body=b"x" * 11)), 413)
        self.assert_readable(self.answer(request("TRACE", "/", ORIGIN)), 501)
        self.assert_readable(self.answer(request("POST", "/", ORIGIN, b"Transfer-Encoding: chunked") + b"zz\r\n"), 400)
        # Heads that are refused while they are read.
        self.assert_readable(self.answer(line + b"Bad Line\r\n\r\n"), 400)
        self.assert_readable(self.answer(line + b"A: 1\r\n" * 10), 431)
        self.assert_readable(self.answer(request("GET", "/" + "x" * 90, ORIGIN)), 414)
        self.world.buckets.answer = REFUSED
        answer = self.answer(request("GET", "/", ORIGIN))
        self.assert_readable(answer, 429)
        self.assertEqual(answer.field("retry-after"), "1")
        self.world.buckets.of_address = OF_ADDRESS._replace(admitted=False, level=0)
        self.assert_readable(self.answer(line + b"\r\n"), 429)
        self.world.buckets.answer = "The store is away."
        self.assert_readable(self.answer(request("GET", "/", ORIGIN)), 503)

    def test_servers_that_fail(self) -> None:
        """502, 503 and 504 can be read."""
        client, upstream = self.world.asked(request("POST", "/", ORIGIN))
        upstream.send(b"nonsense\r\n\r\n")
        self.assert_readable(client.response(), 502)
        client, upstream = self.world.asked(request("POST", "/", ORIGIN))
        self.world.wait(31)
        self.assert_readable(client.response(), 504)
        self.world.server.refuses = True
        self.assert_readable(self.answer(request("GET", "/", ORIGIN)), 503)

    def test_late_head(self) -> None:
        """A head that does not come to its end is answered so that the page learns why."""
        client = self.world.client()
        client.send(b"GET / HTTP/1.1\r\n" + ORIGIN + b"\r\nHo")
        self.world.wait(11)
        self.assert_readable(client.response(), 408)

    def test_user_api(self) -> None:
        """The user API's answers can be read, also the last of a connection, and without Origin caches are told."""
        self.assert_readable(self.answer(request("GET", "/door", ORIGIN)), 200)
        answer = self.answer(request("GET", "/door", ORIGIN, b"Connection: close"))
        self.assert_readable(answer, 200)
        answer = self.answer(request("GET", "/door"))
        self.assertEqual((answer.field("vary"), answer.field("access-control-allow-origin")), ("Origin", None))
        self.assert_readable(self.answer(request("POST", "/door", ORIGIN, body=b"x" * 1001)), 413)

    def test_changed(self) -> None:
        """Another configuration counts for answers from then on, also to what is under way."""
        client, upstream = self.world.asked(request("GET", "/", ORIGIN))
        allow(self.world, allowed_origins=("https://other.test",))
        upstream.send(response())
        self.assertIsNone(client.response().field("access-control-allow-origin"))
        self.world.use(self.world.route)
        client, upstream = self.world.asked(options(*ASKS))
        upstream.send(response(b"", b"Access-Control-Allow-Origin: theirs"))
        self.assertEqual(client.response("OPTIONS").field("access-control-allow-origin"), "theirs")

    def test_passing_since_a_change(self) -> None:
        """A policy from the start that was taken back leaves no trace in what passes."""
        world = World()
        allow(world)
        world.use(world.route)
        client, upstream = world.asked(request("GET", "/", ORIGIN))
        upstream.send(response(b"", b"Access-Control-Allow-Origin: theirs", b"Vary: x"))
        answer = client.response()
        self.assertEqual((answer.field("access-control-allow-origin"), answer.field("vary")), ("theirs", "x"))


class ContextTests(SynchronousTestCase):
    def test_copied(self) -> None:
        """A copy of the context has the same parts, whatever parts there are."""
        context = World(known_keys=KnownKeys(10)).factory.limits.context
        other = context.copied()
        # Compiled, it has no __slots__.
        names = [name for name, one in vars(ProxyContext).items() if isdatadescriptor(one) and name[0] != "_"]
        self.assertIn("records", names)
        for name in names:
            self.assertIs(getattr(other, name), getattr(context, name), name)
