"""The record of each request: how it ended, and that there is one for each, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import ADMITTED, KEY, REFUSED
from tests.proxy.world import Client, World, request, response
from twisted_lb.config.pool import Queue
from twisted_lb.credentials import digest
from twisted_lb.hooks.hooks import Hooks
from twisted_lb.interfaces import MICROTOKENS, Taken
from twisted_lb.limits.pricing import NO_PRICING
from twisted_lb.proxy.route import Route
from twisted_lb.request_record import (
    BAD_REQUEST,
    CLIENT_LEFT,
    CLIENT_TIMEOUT,
    COMPLETE,
    FORBIDDEN,
    HOOK_TIMEOUT,
    INTERNAL_ERROR,
    KEY_REFUSED,
    LIMITED,
    MAINTENANCE,
    NO_ROOM,
    NO_ROUTE,
    NO_SERVER,
    REASONS,
    SERVER_CLOSED,
    SERVER_MALFORMED,
    SERVER_TIMEOUT,
    SERVER_UNREACHABLE,
    SERVERS_FULL,
    SHUTDOWN,
    STORE_UNAVAILABLE,
    TUNNEL_CUT,
    TUNNEL_IDLE,
    UNAUTHORIZED,
    RequestRecord,
)
from twisted_lb.users import KEY_DISABLED


def recorded(world: World, wants_fields: bool = False) -> list[RequestRecord]:
    """The records of the world, as they come."""
    records: list[RequestRecord] = []
    world.factory.subscribe(records.append, wants_fields)
    return records


def unkeyed(method: str = "GET", target: str = "/", *fields: bytes) -> bytes:
    return request(method, target, *fields).replace(b"\r\nAuthorization: " + KEY, b"")


class End(NamedTuple):
    """A way for a request to end: what happens, and what its record says."""

    act: Callable[[World, Client], None]
    status: int
    reason: str
    cost: int = 0
    attempts: int = 0
    settings: dict[str, Any] = {}


def asked(world: World, client: Client, data: bytes = b"") -> None:
    client.send(data or request())


def answered(world: World, client: Client) -> None:
    asked(world, client)
    world.server.last.send(response(b"done"))


def cut(world: World, client: Client) -> None:
    asked(world, client)
    world.server.last.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    world.server.last.finish()


def silent(world: World, client: Client) -> None:
    asked(world, client)
    world.wait(2)


def silent_half_way(world: World, client: Client) -> None:
    asked(world, client)
    world.server.last.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    world.wait(2)


def closed(world: World, client: Client) -> None:
    asked(world, client, request("POST", body=b"x"))
    world.server.last.finish()


def malformed(world: World, client: Client) -> None:
    asked(world, client)
    world.server.last.send(b"HTTP/1.1 200 OK\r\nbad line\r\n\r\n")


def refused_connection(world: World, client: Client) -> None:
    world.server.refuses = True
    asked(world, client)


def left(world: World, client: Client) -> None:
    asked(world, client)
    client.leave()


def left_half_way(world: World, client: Client) -> None:
    asked(world, client)
    world.server.last.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    client.leave()


def stopped_sending(world: World, client: Client) -> None:
    asked(world, client)
    client.finish()
    world.wait(2)


def stopped_taking(world: World, client: Client) -> None:
    asked(world, client)
    client.stop_taking()
    world.server.last.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 200_000)
    world.wait(2)


def dripped_head(world: World, client: Client) -> None:
    client.send(b"GET / HT")
    world.wait(2)


def dripped_body(world: World, client: Client) -> None:
    client.send(request("POST", "/", b"Content-Length: 9"))
    world.wait(2)


def limited(world: World, client: Client) -> None:
    world.buckets.answer = REFUSED
    asked(world, client)


def disabled(world: World, client: Client) -> None:
    world.buckets.answer = Taken(False, b"user1", 0, 0.0, 0, KEY_DISABLED)
    asked(world, client)


def unavailable(world: World, client: Client) -> None:
    world.buckets.answer = "down"
    asked(world, client)


def unknown(world: World, client: Client) -> None:
    world.buckets.forgets = True
    asked(world, client)


def without_key(world: World, client: Client) -> None:
    client.send(unkeyed())


def two_keys(world: World, client: Client) -> None:
    client.send(request("GET", "/", b"apikey: other"))


def none_up(world: World, client: Client) -> None:
    world.backends[0].up = False
    world.pool.balancer.backends_changed([])
    asked(world, client)


def full(world: World, client: Client) -> None:
    world.backends[0].maxconn = world.backends[0].in_flight = 1
    asked(world, client)


def raising(world: World, client: Client) -> None:
    world.pool.balancer = object()  # type: ignore[assignment]
    asked(world, client)


def door(world: World, client: Client) -> None:
    client.send(request("GET", "/door"))


def door_too_long(world: World, client: Client) -> None:
    client.send(request("POST", "/door", b"Content-Length: 5000"))


def preflight(world: World, client: Client) -> None:
    client.send(unkeyed("OPTIONS", "/", b"Origin: http://a", b"Access-Control-Request-Method: GET"))
    world.server.last.send(response())


def no_more_forwards(world: World, client: Client) -> None:
    client.send(unkeyed("OPTIONS", "/", b"Max-Forwards: 0"))


def drained(world: World, client: Client) -> None:
    asked(world, client)
    world.factory.drain(1)
    world.wait(2)


def switched(world: World, client: Client) -> None:
    asked(world, client, request("GET", "/", b"Upgrade: chat", b"Connection: Upgrade"))
    world.server.last.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\nhello")
    client.send(b"hi")


def tunnel_whole(world: World, client: Client) -> None:
    switched(world, client)
    client.finish()
    world.server.last.finish()


def tunnel_left(world: World, client: Client) -> None:
    switched(world, client)
    client.leave()


def tunnel_lost(world: World, client: Client) -> None:
    switched(world, client)
    world.server.last.reset()


def tunnel_idle(world: World, client: Client) -> None:
    switched(world, client)
    world.wait(2)


def tunnel_cut(world: World, client: Client) -> None:
    switched(world, client)
    world.factory.close_tunnels(digest(KEY))


def on_route(route: str) -> Callable[[World, Client], None]:
    def act(world: World, client: Client) -> None:
        world.use_routes(route)
        client.send(request())

    return act


class Waiting:
    def request_received(self, request: object) -> Deferred[None]:
        return Deferred()


def waiting_for_hooks(world: World, client: Client) -> None:
    world.use(Route(world.server_pool, NO_PRICING, hooks=Hooks("test", Waiting())))
    client.send(request())
    world.wait(2)


ENDS = {
    "a whole response": End(answered, 200, COMPLETE, 1, 1),
    "the server closes half-way": End(cut, 200, SERVER_CLOSED, 1, 1),
    "the server stops half-way": End(silent_half_way, 200, SERVER_TIMEOUT, 1, 1, {"upstream_timeout": 1.0}),
    "the server is silent": End(silent, 504, SERVER_TIMEOUT, 0, 1, {"upstream_timeout": 1.0}),
    "the server closes": End(closed, 502, SERVER_CLOSED, 0, 1),
    "the server is malformed": End(malformed, 502, SERVER_MALFORMED, 0, 1),
    "no connection": End(refused_connection, 503, SERVER_UNREACHABLE, 0, 1),
    "no server": End(none_up, 503, NO_SERVER),
    "full servers": End(full, 503, SERVERS_FULL, 0, 0, {"queue": Queue(0)}),
    "the balancer raises": End(raising, 500, INTERNAL_ERROR),
    "the client leaves": End(left, 499, CLIENT_LEFT, 1, 1),
    "the client leaves half-way": End(left_half_way, 200, CLIENT_LEFT, 1, 1),
    "the client sends no more": End(stopped_sending, 499, CLIENT_LEFT, 1, 1),
    "the client takes nothing": End(stopped_taking, 200, CLIENT_TIMEOUT, 1, 1, {"send_timeout": 1.0}),
    "a slow head": End(dripped_head, 408, CLIENT_TIMEOUT, settings={"head_timeout": 1.0}),
    "a slow body": End(dripped_body, 408, CLIENT_TIMEOUT, 1, 1, {"body_timeout": 1.0}),
    "no key": End(without_key, 401, UNAUTHORIZED),
    "nobody's key": End(unknown, 401, UNAUTHORIZED),
    "two keys": End(two_keys, 400, BAD_REQUEST),
    "a disabled key": End(disabled, 403, KEY_REFUSED),
    "no tokens": End(limited, 429, LIMITED),
    "no store": End(unavailable, 503, STORE_UNAVAILABLE),
    "two lengths": End(lambda w, c: c.send(unkeyed("GET", "/", *[b"Content-Length: 1"] * 2)), 400, BAD_REQUEST),
    "another protocol": End(lambda w, c: c.send(b"\x16\x03\x01\r\n"), 400, BAD_REQUEST),
    "TRACE": End(lambda w, c: c.send(request("TRACE")), 501, BAD_REQUEST),
    "no route": End(on_route("pool: p, path: /x"), 404, NO_ROUTE),
    "an address that is denied": End(on_route("pool: p, deny: 192.0.2.0/24"), 403, FORBIDDEN),
    "maintenance": End(on_route("pool: p, maintenance: true"), 503, MAINTENANCE),
    "a response of the route": End(on_route("respond: {body: ok}"), 200, COMPLETE, 1),
    "the door": End(door, 200, COMPLETE),
    "too much for the door": End(door_too_long, 413, BAD_REQUEST),
    "a redirect": End(without_key, 308, COMPLETE, settings={"http_redirect": "https"}),
    "a preflight": End(preflight, 200, COMPLETE, 0, 1),
    "Max-Forwards": End(no_more_forwards, 200, COMPLETE),
    "a tunnel": End(tunnel_whole, 101, COMPLETE, 1, 1),
    "a tunnel that the client leaves": End(tunnel_left, 101, CLIENT_LEFT, 1, 1),
    "a tunnel that the server leaves": End(tunnel_lost, 101, SERVER_CLOSED, 1, 1),
    "a tunnel without a byte": End(tunnel_idle, 101, TUNNEL_IDLE, 1, 1, {"tunnel_timeout": 1.0}),
    "a tunnel that is cut": End(tunnel_cut, 101, TUNNEL_CUT, 1, 1),
    "hooks that do not answer": End(waiting_for_hooks, 504, HOOK_TIMEOUT, settings={"hook_timeout": 1.0}),
    "shutdown": End(drained, 0, SHUTDOWN, 1, 1),
}


class EndTests(SynchronousTestCase):
    def test_ends(self) -> None:
        """Each way for a request to end makes one record, which says how, and what the request has cost."""
        for name, end in ENDS.items():
            world = World(**end.settings)
            records = recorded(world)
            end.act(world, world.client())
            world.wait(1)
            with self.subTest(name):
                said = [(one.status, one.reason, one.cost, one.attempts) for one in records]
                self.assertEqual(said, [(end.status, end.reason, end.cost, end.attempts)], name)
        self.flushLoggedErrors()

    def test_all_reasons(self) -> None:
        """Every reason is one that a request can have."""
        self.assertEqual({end.reason for end in ENDS.values()} | {NO_ROOM}, set(REASONS))

    def test_off(self) -> None:
        """Without a subscriber there is no record."""
        world = World()
        client, upstream = world.asked()
        self.assertIsNone(client.transport.protocol.record)  # type: ignore[union-attr]
        upstream.send(response())
        self.assertEqual(client.response().status, 200)

    def test_raising_subscriber(self) -> None:
        """A subscriber that raises takes nothing from the client, nor from the other subscribers."""
        world = World()

        def broken(record: RequestRecord) -> None:
            raise SystemExit(record)

        world.factory.subscribe(broken)
        records = recorded(world)
        client = world.client()
        answered(world, client)
        self.assertEqual((client.response().status, len(records)), (200, 1))
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)


class ConnectionTests(SynchronousTestCase):
    def test_pipelined(self) -> None:
        """Each of several requests on a connection has a record of its own, in order."""
        world = World()
        records = recorded(world)
        client = world.client()
        client.send(request("GET", "/1") + request("GET", "/door") + request("POST", "/2", body=b"abc"))
        world.server.last.send(response(b"one"))
        world.settle()
        world.server.last.send(response(b"two"))
        self.assertEqual([one.target for one in records], [b"/1", b"/door", b"/2"])
        self.assertEqual(records[2].bytes_in - len(request("POST", "/2", body=b"abc")), 0)

    def test_tunnel(self) -> None:
        """The record of a request whose server switches protocols comes at the end, with all its bytes."""
        world = World()
        records = recorded(world)
        client = world.client()
        switched(world, client)
        world.wait(5)
        self.assertEqual(records, [])
        client.leave()
        [one] = records
        asked_bytes = len(request("GET", "/", b"Upgrade: chat", b"Connection: Upgrade"))
        self.assertEqual((one.bytes_in, one.content_out), (asked_bytes + len(b"hi"), len(b"hello")))
        self.assertGreaterEqual(one.ended_at - one.started_at, 5)

    def test_no_room(self) -> None:
        """A connection that is refused is recorded, though no request was read; so is one that makes room."""
        world = World(max_connections=1)
        records = recorded(world)
        asked(world, world.client())
        world.client()
        self.assertEqual([(one.status, one.reason, one.method) for one in records], [(503, NO_ROOM, b"")])
        world = World(max_connections=1)
        records = recorded(world)
        world.client().send(b"GET /half HTTP/1.1\r\nHost")
        world.client()
        self.assertEqual([(one.status, one.reason, one.target) for one in records], [(503, NO_ROOM, b"/half")])

    def test_idle(self) -> None:
        """A connection that ends without a request, or after one, makes no record."""
        world = World(keepalive_timeout=1.0)
        records = recorded(world)
        world.client().leave()
        answered(world, world.client())
        world.wait(3)
        self.assertEqual(len(records), 1)


class FactTests(SynchronousTestCase):
    def test_facts(self) -> None:
        """Who asked for what, what came back, and how long each part took."""
        world = World()
        records = recorded(world)
        world.server.waits = True
        client = world.client()
        client.send(request("GET", "/a?b=c"))
        world.wait(1)
        world.server.decide()
        world.wait(2)
        world.server.last.send(b"HTTP/1.1 201 Made\r\nContent-Length: 8\r\n\r\n")
        world.wait(3)
        world.server.last.send(b"contents")
        (one,) = records
        self.assertEqual((one.peer.address, one.method, one.target), ("192.0.2.7", b"GET", b"/a?b=c"))
        self.assertEqual((one.host, one.minor), (b"api.example", 1))
        self.assertEqual((one.user, one.pool, one.server, one.attempts), (b"user1", "default", "s1", 1))
        self.assertEqual((one.status, one.bytes_in), (201, len(request("GET", "/a?b=c"))))
        self.assertEqual((one.bytes_out, one.content_out), (len(client.received), 8))
        self.assertEqual((one.cost, one.level, one.limit), (1, ADMITTED.level, ""))
        times = one.connect_seconds, one.first_byte_at - one.sent_at, one.ended_at - one.started_at
        self.assertEqual(times, (1, 2, 6))

    def test_chunks(self) -> None:
        """Bytes of content are counted without the framing of chunks, and those written with it."""
        world = World()
        records = recorded(world)
        client = world.client()
        client.send(request("POST", "/", b"Transfer-Encoding: chunked"), b"3\r\nabc\r\n0\r\n\r\n")
        world.server.last.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nxy\r\n", b"0\r\n\r\n")
        (one,) = records
        self.assertEqual(one.bytes_in, len(request("POST", "/", b"Transfer-Encoding: chunked")) + 3)
        self.assertEqual((one.bytes_out, one.content_out), (len(client.received), 2))

    def test_retries(self) -> None:
        """The server is the last one that was tried; attempts count those that could not be reached as well."""
        world = World(2)
        records = recorded(world)
        world.servers[0].refuses = True
        world.client().send(request())
        world.servers[1].last.send(response())
        self.assertEqual((records[0].server, records[0].attempts, records[0].status), ("s2", 2, 200))

    def test_reported_cost(self) -> None:
        """What a server reports as the cost is what the record has, and the level follows it."""
        world = World()
        records = recorded(world)
        asked(world, world.client())
        world.server.last.send(response(b"", b"X-Token-Cost: 3"))
        self.assertEqual((records[0].cost, records[0].level), (3, ADMITTED.level - 2 * MICROTOKENS))

    def test_settled_at_nothing(self) -> None:
        """A request that costs nothing in the end leaves the level as if it had not been; a refund is counted once."""
        world = World()
        records = recorded(world)
        asked(world, world.client())
        world.server.last.send(response(b"", b"X-Token-Cost: 0"))
        self.assertEqual((records[0].cost, records[0].level), (0, ADMITTED.level + MICROTOKENS))
        world.backends[0].up = False
        world.pool.refresh()
        world.client().send(request())
        self.assertEqual((records[1].cost, records[1].level), (0, ADMITTED.level + MICROTOKENS))

    def test_wait(self) -> None:
        """The time that a request waits for tokens, and for a server, is its wait."""
        world = World(rate_per_sec=1.0)
        records = recorded(world)
        client = world.client()
        client.send(request("GET", "/", b"Prefer: wait=5"))
        world.wait(1.5)
        world.server.last.send(response())
        self.assertEqual(records[0].reason, COMPLETE)
        self.assertTrue(1.0 <= records[0].wait <= 1.5, records[0].wait)
        world = World(maxconn=1)
        records = recorded(world)
        world.asked()
        asked(world, world.client())
        world.wait(2)
        world.server.last.send(response())
        world.server.last.send(response())
        self.assertEqual([one.wait for one in records], [0, 2])

    def test_limit(self) -> None:
        """The limit that refused, and its level, are in the record; a refused request costs nothing."""
        world = World()
        records = recorded(world)
        world.buckets.answer = Taken(False, b"user1", 5, 1.0, -MICROTOKENS, "global")
        asked(world, world.client())
        (one,) = records
        self.assertEqual((one.limit, one.level, one.cost, one.user), ("global", -MICROTOKENS, 0, b"user1"))


class KeyTests(SynchronousTestCase):
    """No record has a key, wherever the client has put it."""

    OTHER = "0b8a1d3e-5c6f-4a7b-8c9d-0e1f2a3b4c5d"

    def target(self, data: bytes, **settings: Any) -> str:
        world = World(**settings)
        records = recorded(world, wants_fields=True)
        client = world.client()
        client.send(data)
        if world.server.connections:
            world.server.last.send(response())
        (one,) = records
        text = one.target + one.host + one.fields + one.detail.encode()
        self.assertNotIn(KEY, text)
        self.assertNotIn(self.OTHER.encode(), text)
        return one.target.decode()

    def test_own_key(self) -> None:
        """The request's own key is masked everywhere."""
        key = KEY.decode()
        data = request("GET", f"/{key}?a={key}", b"Referer: http://a/?k=" + KEY)
        self.assertEqual(self.target(data), "/REDACTED?a=REDACTED")
        self.assertEqual(self.target(request("GET", f"http://{key}.test/a")), "/a")

    def test_parameter(self) -> None:
        """So is what the configured parameter holds, which servers do not see at all; its name stays."""
        for name in ("secret", "%73ecret"):
            data = unkeyed("GET", f"/a?b=1&{name}={KEY.decode()}&c=2")
            self.assertEqual(self.target(data, key_query_parameter="secret"), f"/a?b=1&{name}=REDACTED&c=2")

    def test_wrong_place(self) -> None:
        """A key in a parameter of a usual name is masked, and without a user, all that looks like a key."""
        self.assertEqual(self.target(request("GET", f"/?x&API-KEY={self.OTHER}")), "/?x&API-KEY=REDACTED")
        referer = f"Referer: http://a/?token={self.OTHER}".encode()
        self.assertEqual(self.target(request("GET", "/?order=1", referer)), "/?order=1")
        self.assertEqual(self.target(unkeyed("GET", f"/{self.OTHER}?order={self.OTHER}")), "/REDACTED?order=REDACTED")
        self.assertEqual(self.target(unkeyed("GET", f"/door?a={self.OTHER}")), "/door?a=REDACTED")
        self.assertEqual(self.target(unkeyed("GET", f"http://{self.OTHER}.test/a")), "/a")
        self.assertEqual(self.target(f"GET /?a={self.OTHER} HTTP/1.1\r\nHost:\r\n\r\n".encode()), "/?a=REDACTED")

    def test_text_that_is_no_key(self) -> None:
        """A short text that somebody sends as a key does not make the record unreadable; a long one is masked."""
        for text, expected in (("e", "/the/secret?e"), ("x" * 16, "/REDACTED?e")):
            world = World()
            records = recorded(world, wants_fields=True)
            target = "/the/secret?e" if text == "e" else f"/{text}?e"
            world.client().send(unkeyed("GET", target, b"Authorization: " + text.encode(), b"Referer: here"))
            self.assertEqual((records[0].status, records[0].target), (401, expected.encode()))
            self.assertIn(b"Referer: here", records[0].fields)

    def test_text_that_is_no_request(self) -> None:
        """Of what is no request, nothing but a method and a target of a known form is in the record."""
        for data, expected in (
            (b"GET /a\x01 HTTP/1.1\r\n\r\n", (b"GET", b"/a")),
            (b"GET http://a/b HTTP/9.9\r\nHost: a\r\n\r\n", (b"GET", b"http://a/b")),
            (b"password secret\x01\r\n\r\n", (b"", b"")),
            (b'{"a": "secret"}\r\n\r\n', (b"", b"")),
            (b"a=b secret HTTP/1.1\r\nHost: a\r\n\r\n", (b"", b"")),
        ):
            world = World()
            records = recorded(world)
            world.client().send(data)
            self.assertEqual((records[0].method, records[0].target), expected, data)

    def test_key_id(self) -> None:
        """A valid key has an id, which is not a part of it; a text that is nobody's key has none."""
        world = World()
        records = recorded(world)
        answered(world, world.client())
        unknown(world, world.client())
        self.assertEqual([len(one.key_id) for one in records], [20, 0])
        self.assertNotIn(records[0].key_id.encode(), KEY)
