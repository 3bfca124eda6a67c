"""Copies of requests for a mirror: what its servers get, and that nothing of it reaches the client."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.proxy.scripted import KEY, OrderedServices, ScriptedServer, ServerSide
from tests.proxy.world import Client, World, request, response
from twisted_lb import BUILD
from twisted_lb.backend import Backend
from twisted_lb.build_info import COMPILED_BUILD
from twisted_lb.config.pool import Retries
from twisted_lb.hooks.hooks import Hooks
from twisted_lb.interfaces import HookResponse, IHookRequest
from twisted_lb.limits.pricing import NO_PRICING
from twisted_lb.pool.pool import Pool
from twisted_lb.proxy.header_rules import AddedField, HeaderRules
from twisted_lb.proxy.mirrored_request import (
    MAX_COPIES,
    MAX_DROPPED_BYTES,
    MAX_WAITING_BYTES,
    RESPONSE_TIMEOUTS,
)
from twisted_lb.proxy.route import Mirror, Route
from twisted_lb.proxy.server_connection import ServerConnection


class MirrorCase(SynchronousTestCase):
    def start(
        self, balancer: Any = None, percent: float = 100.0, route: Any = {}, copy: Any = {}, **more: Any
    ) -> World:
        """A world with the server s1 and the mirror m1."""
        self.world = world = World(counts_in_flight=True, **more)
        self.backend = Backend("m1", "127.0.0.1", 9101)
        self.mirror = ScriptedServer(self.backend, world.clock)
        world.servers.append(self.mirror)
        self.seen: list[tuple[int, str]] = []
        self.pool = world.factory.add_pool(
            Pool(balancer or OrderedServices(), [self.backend]),
            lambda backend, status, now, why, fault: self.seen.append((status, fault.value)),
            name="shadow",
        )
        self.use(percent, route, copy)
        return world

    def use(self, percent: float = 100.0, route: Any = {}, copy: Any = {}) -> None:
        to_pool = Route(self.world.server_pool, NO_PRICING, **route)
        to_pool.copy_to(Mirror(Route(self.pool, NO_PRICING, **copy), percent, Random(1)))
        self.world.use(to_pool)

    def asked(self, data: bytes | None = None) -> tuple[Client, ServerSide, ServerSide]:
        """A request at the server and at the mirror."""
        client, upstream = self.world.asked(data)
        self.world.settle()
        return client, upstream, self.mirror.last

    def assert_served(self, client: Client, upstream: ServerSide) -> None:
        """The client gets the response of the server, whole, and its connection goes on."""
        upstream.send(response(b"hello"))
        answer = client.response()
        self.assertEqual((answer.status, answer.body), (200, b"hello"))
        self.assertFalse(client.ended)
        self.assertEqual((self.world.buckets.unreleased, self.world.buckets.refunded), (0, []))

    def outcomes(self) -> dict[str, int]:
        return dict(self.world.factory.limits.context.counts.copies)

    def assert_over(self, **outcomes: int) -> None:
        """No copy is in flight, and so many have ended so."""
        self.assertEqual(self.outcomes(), outcomes)
        self.assertEqual((self.backend.in_flight, len(self.pool.copies)), (0, 0))


class CopyTests(MirrorCase):
    def test_head(self) -> None:
        """The mirror gets what the server gets, and a field that says that it is a copy."""
        self.start()
        client, upstream, mirror = self.asked(request("GET", "/a?b", b"X-A: 1", b"X-Mirrored-From: evil"))
        received = mirror.received
        self.assertIn(b"\r\nX-Mirrored-From: default\r\n", received)
        self.assertEqual(received.replace(b"\r\nX-Mirrored-From: default", b""), upstream.received)
        self.assertNotIn(b"evil", upstream.received)
        self.assertIn(b"\r\nX-Consumer-Username: user1\r\n", received)
        mirror.send(response(b"other", status=b"500 No"))
        self.assert_served(client, upstream)
        self.assert_over(mirrored=1)
        self.assertEqual(self.seen, [(500, "nobody")])
        self.assertEqual((self.backend.requests, self.world.backends[0].requests), (1, 1))

    def test_key(self) -> None:
        """The mirror does not get the key either."""
        self.start()
        _, _, mirror = self.asked(request("GET", "/?a=" + KEY.decode(), b"Cookie: k=" + KEY))
        self.assertIn(b"k=REDACTED", mirror.received)
        self.assertNotIn(KEY, mirror.received)

    def test_rules(self) -> None:
        """The head is as the rules of the mirror and its pool want it, and not those of the server's pool."""
        own = HeaderRules([b"X-B"], [AddedField(b"Authorization", [(b"secret of the pool", b"")])], True)
        parts = [(b"", b"pool"), (b" ", b"server"), (b" ", b"path")]
        others = HeaderRules([b"X-A"], [AddedField(b"X-C", parts)], True)
        self.start(route={"request_rules": [own]}, copy={"request_rules": [others]})
        _, upstream, mirror = self.asked(request("GET", "/p", b"X-A: 1", b"X-B: 2"))
        self.assertIn(b"secret of the pool", upstream.received)
        self.assertNotIn(b"secret", mirror.received)
        self.assertIn(b"\r\nX-B: 2\r\n", mirror.received)
        self.assertNotIn(b"X-A", mirror.received)
        self.assertIn(b"\r\nX-C: shadow m1 /p\r\n", mirror.received)

    def test_hooks(self) -> None:
        """What hooks change is changed in the copy; what they answer is not copied."""

        class Changing:
            def request_received(self, request: IHookRequest) -> Any:
                request.fields.set(b"X-A", b"new")
                return HookResponse(403) if request.target == b"/no" else None

        self.start(route={"hooks": Hooks("mine:Hooks", Changing())})
        _, _, mirror = self.asked(request("GET", "/", b"X-A: old"))
        self.assertIn(b"\r\nX-A: new\r\n", mirror.received)
        client = self.world.client()
        client.send(request("GET", "/no"))
        self.assertEqual((client.response().status, len(self.mirror.connections)), (403, 1))

    def test_connection_is_kept(self) -> None:
        """Copies use the connections of their pool."""
        self.start()
        client, upstream, mirror = self.asked()
        for _ in range(3):
            mirror.read()
            mirror.send(response(b"other"))
            self.assert_served(client, upstream)
            client.send(request())
            self.world.settle()
            self.assertTrue(mirror.read().startswith(b"GET / "))
        self.assertEqual(len(self.mirror.connections), 1)

    def test_percent(self) -> None:
        """Only this share of the requests is copied."""
        for percent, least, most in ((0.0, 0, 0), (25.0, 30, 70), (100.0, 200, 200)):
            self.start(percent=percent)
            client, upstream = self.world.asked()
            for _ in range(199):
                upstream.send(response())
                if self.mirror.connections:
                    self.mirror.last.send(response())
                client.send(request())
            self.assertTrue(least <= self.backend.requests <= most, self.backend.requests)

    def test_not_upgrades(self) -> None:
        """Requests for another protocol are not copied."""
        self.start()
        self.world.asked(request("GET", "/", b"Upgrade: chat", b"Connection: Upgrade"))
        self.assertEqual((self.mirror.connections, self.outcomes()), ([], {}))

    def test_switch(self) -> None:
        """A mirror that switches to another protocol nevertheless has failed."""
        self.start()
        client, upstream, mirror = self.asked()
        mirror.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\nhello")
        self.assertTrue(mirror.ended)
        self.assert_served(client, upstream)
        self.assert_over(failed=1)

    def test_interim(self) -> None:
        """Interim responses of the mirror are dropped."""
        self.start()
        client, upstream, mirror = self.asked()
        mirror.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response())
        self.assert_served(client, upstream)
        self.assertNotIn(b"103", client.received)
        self.assert_over(mirrored=1)

    def test_retries(self) -> None:
        """A request that is sent twice is copied once."""
        self.start(retries=Retries(3, 1.0, 10.0))
        client, upstream, mirror = self.asked()
        mirror.send(response())
        upstream.send(response())
        client.read()
        client.send(request())
        self.world.settle()
        mirror.send(response())
        upstream.reset()
        self.world.settle()
        self.assert_served(client, self.world.server.last)
        self.assert_over(mirrored=2)

    def test_balancer(self) -> None:
        """The balancer of the mirror is told as with other requests."""

        class Telling(OrderedServices):
            said: list[str] = []

            def server_chosen(self, request: Any, backend: Backend) -> None:
                self.said.append(f"chosen {backend.in_flight}")

            def response_started(self, request: Any, backend: Backend, response: Any) -> None:
                self.said.append(f"started {response.status}")

            def request_finished(self, request: Any, backend: Backend) -> None:
                self.said.append(f"finished {request.target.decode()} {backend.in_flight}")

        balancer = Telling()
        self.start(balancer)
        client, upstream, mirror = self.asked()
        self.assert_served(client, upstream)
        mirror.send(response())
        self.assertEqual(balancer.said, ["chosen 1", "started 200", "finished / 0"])


class ContentTests(MirrorCase):
    def copies(self, *pieces: bytes) -> tuple[bytes, bytes]:
        """What the server and the mirror get when these pieces come."""
        self.start()
        client = self.world.client()
        client.send(*pieces)
        self.world.settle()
        upstream, mirror = self.world.server.last, self.mirror.last
        sent, copied = upstream.received, mirror.received
        mirror.send(response())
        self.assert_served(client, upstream)
        self.assert_over(mirrored=1)
        return sent.partition(b"\r\n\r\n")[2], copied.partition(b"\r\n\r\n")[2]

    def test_length(self) -> None:
        """The content is the same, whatever its pieces, and however long."""
        for size in (1, 1000, 65_537, 300_000):
            content = bytes(range(256)) * (size // 256 + 1)
            content = content[:size]
            head = request("POST", "/", b"Content-Length: %d" % size)
            cuts = [head + content[:7], content[7:]]
            for pieces in ([head + content], [head, content], [head, content[:1], content[1:]], cuts):
                sent, copied = self.copies(*[piece for piece in pieces if piece])
                self.assertEqual(sent, content)
                self.assertEqual(copied, content)

    def test_chunked(self) -> None:
        """Chunks, with the same trailers, but those that may not be trailers."""
        head = request("POST", "/", b"Transfer-Encoding: chunked")
        body = [b"3\r\nabc\r\n", b"5\r\ndefgh\r\n", b"0\r\nX-T: 1\r\nX-K: " + KEY + b"\r\n\r\n"]
        for pieces in ([head + b"".join(body)], [head, *body], [head + body[0], *body[1:]]):
            sent, copied = self.copies(*pieces)
            self.assertEqual(sent, copied)
            self.assertTrue(sent.endswith(b"0\r\nX-T: 1\r\nX-K: REDACTED\r\n\r\n"), sent)

    def test_rules_for_trailers(self) -> None:
        """The trailers are as the rules of the mirror and its pool want them, and not those of the server's pool."""
        own, others = HeaderRules([b"X-A"], [], True), HeaderRules([b"X-B"], [], True)
        head = request("POST", "/", b"Transfer-Encoding: chunked")
        end = b"0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"
        for pieces in ([head + end], [head, end]):
            self.start(route={"request_rules": [own]}, copy={"request_rules": [others]})
            client = self.world.client()
            for piece in pieces:
                client.send(piece)
                self.world.settle()
            self.assertTrue(self.world.server.last.received.endswith(b"\r\n0\r\nX-B: 2\r\n\r\n"))
            self.assertTrue(self.mirror.last.received.endswith(b"\r\n0\r\nX-A: 1\r\n\r\n"))

    def test_expectation(self) -> None:
        """The mirror is not asked whether it wants the content; it gets it when the server has asked for it."""
        self.start()
        client = self.world.client()
        client.send(request("POST", "/", b"Expect: 100-continue", b"Content-Length: 5"))
        self.world.settle()
        upstream, mirror = self.world.server.last, self.mirror.last
        self.assertIn(b"\r\nExpect: 100-continue\r\n", upstream.received)
        self.assertNotIn(b"Expect", mirror.received)
        upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.read()
        client.send(b"hello")
        self.assertTrue(mirror.received.endswith(b"\r\n\r\nhello"))
        mirror.send(response())
        self.assert_served(client, upstream)
        self.assert_over(mirrored=1)

    def test_slow_mirror(self) -> None:
        """A mirror that takes nothing does not slow the client, and is given up when too much waits for it."""
        self.start()
        size = 2_000_000
        client = self.world.client()
        client.send(request("POST", "/", b"Content-Length: %d" % size))
        self.world.settle()
        upstream, mirror = self.world.server.last, self.mirror.last
        mirror.transport.stop_taking()
        piece = b"x" * 10_000
        for number in range(size // len(piece)):
            self.assertFalse(client.transport._paused)
            client.send(piece)
            if number * len(piece) > 2 * MAX_WAITING_BYTES:
                self.assertTrue(mirror.ended)
        self.assertTrue(upstream.received.endswith(b"\r\n\r\n" + b"x" * size))
        self.assert_served(client, upstream)
        self.assert_over(abandoned=1)

    def test_slow_connection(self) -> None:
        """The same while the mirror has not taken the connection; what it had been sent by then would be in order."""
        for size, outcome in ((50_000, "mirrored"), (500_000, "abandoned")):
            self.start()
            self.mirror.waits = True
            client = self.world.client()
            client.send(request("POST", "/", b"Content-Length: %d" % size))
            for _ in range(10):
                client.send(b"x" * (size // 10))
            self.assertFalse(client.transport._paused)
            self.mirror.decide()
            if outcome == "mirrored":
                self.assertTrue(self.mirror.last.received.endswith(b"\r\n\r\n" + b"x" * size))
                self.mirror.last.send(response())
            elif self.mirror.connections:
                self.assertEqual(self.mirror.last.received, b"")
            self.assert_served(client, self.world.server.last)
            self.assert_over(**{outcome: 1})

    def test_client_leaves(self) -> None:
        """When the client leaves before its request is whole, the copy ends too; after that, it goes on."""
        for sent, outcome in ((3, "abandoned"), (5, "mirrored")):
            self.start()
            client = self.world.client()
            client.send(request("POST", "/", b"Content-Length: 5") + b"hello"[:sent])
            self.world.settle()
            client.leave()
            mirror = self.mirror.last
            self.assertEqual(mirror.ended, outcome == "abandoned")
            if not mirror.ended:
                mirror.send(response())
            self.assert_over(**{outcome: 1})

    def test_early_response(self) -> None:
        """When the server answers before it has all of the request, the copy ends as well."""
        self.start()
        client = self.world.client()
        client.send(request("POST", "/", b"Content-Length: 5"))
        self.world.settle()
        self.world.server.last.send(response(b"early", status=b"413 Too Much"))
        self.assertEqual(client.response().status, 413)
        self.assertTrue(self.mirror.last.ended)
        self.assert_over(abandoned=1)

    def test_early_response_of_the_mirror(self) -> None:
        """When the mirror does, the server gets all of it nevertheless."""
        self.start()
        client = self.world.client()
        client.send(request("POST", "/", b"Content-Length: 5"))
        self.world.settle()
        self.mirror.last.send(response(b"early", status=b"413 Too Much"))
        self.assert_over(abandoned=1)
        client.send(b"hello")
        self.assertTrue(self.world.server.last.received.endswith(b"hello"))
        self.assert_served(client, self.world.server.last)


class FaultTests(MirrorCase):
    def test_down(self) -> None:
        """A mirror that refuses connections."""
        self.start()
        self.mirror.refuses = True
        client, upstream = self.world.asked()
        self.world.settle()
        self.assert_over(failed=1)
        self.assertEqual(self.seen, [(0, "refused")])
        self.assertEqual((self.backend.requests, self.backend.failures), (1, 1))
        self.assert_served(client, upstream)
        self.assertEqual(self.world.seen, [("s1", 200, "")])

    def test_no_server(self) -> None:
        """A mirror without a server that is up, or with full ones only."""
        self.start()
        self.backend.up = False
        self.pool.servers.refresh()
        self.assert_served(*self.world.asked())
        self.assert_over(failed=1)
        self.start()
        self.backend.maxconn = 1
        client, upstream, mirror = self.asked()
        self.assert_served(client, upstream)
        self.assert_served(*self.world.asked()[:2])
        mirror.send(response())
        self.assert_over(failed=1, mirrored=1)

    def test_maintenance(self) -> None:
        """A pool in maintenance gets no copies."""
        self.start()
        self.pool.maintenance = 60.0
        self.assert_served(*self.world.asked())
        self.assert_over()

    def test_hangs(self) -> None:
        """A mirror that does not answer is cut after the timeout of the route."""
        self.start(copy={"timeout": 2.0})
        client, upstream, mirror = self.asked()
        self.assert_served(client, upstream)
        self.world.wait(1.5)
        self.assertFalse(mirror.ended)
        self.world.wait(1.5)
        self.assertTrue(mirror.ended)
        self.assert_over(failed=1)
        self.assertEqual(self.seen, [(0, "failed")])

    def test_cuts(self) -> None:
        """A mirror that closes the connection, before or within its response."""
        for begun in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"):
            for reset in (ServerSide.reset, ServerSide.finish):
                self.start()
                client, upstream, mirror = self.asked()
                if begun:
                    mirror.send(begun)
                reset(mirror)
                self.assert_served(client, upstream)
                self.assert_over(failed=1)

    def test_malformed(self) -> None:
        """A mirror that does not speak HTTP."""
        self.start()
        client, upstream, mirror = self.asked()
        mirror.send(b"\x15\x03\x01\r\n\r\n")
        self.assert_served(client, upstream)
        self.assert_over(failed=1)

    def test_floods(self) -> None:
        """Of a long response a part is read, and then the connection is closed."""
        self.start()
        client, upstream, mirror = self.asked()
        mirror.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(MAX_DROPPED_BYTES // 65536 + 2):
            if not mirror.ended:
                mirror.send(b"x" * 65536)
        self.assertTrue(mirror.ended)
        self.assert_served(client, upstream)
        self.assert_over(mirrored=1)

    def test_drips(self) -> None:
        """A response that has no end has a time in all."""
        self.start(copy={"timeout": 2.0})
        client, upstream, mirror = self.asked()
        self.assert_served(client, upstream)
        mirror.send(b"HTTP/1.1 200 OK\r\n\r\n")
        for second in range(2 * RESPONSE_TIMEOUTS + 3):
            self.assertEqual(mirror.ended, second > 2 * RESPONSE_TIMEOUTS, second)
            if not mirror.ended:
                mirror.send(b"x")
            self.world.wait(1)
        self.assert_over(mirrored=1)

    def test_too_many(self) -> None:
        """There is a bounded number of copies in flight; requests beyond that are served."""
        self.start()
        for _ in range(MAX_COPIES + 3):
            client, upstream = self.world.asked()
            self.assert_served(client, upstream)
        self.assertEqual((self.backend.in_flight, self.outcomes()), (MAX_COPIES, {"abandoned": 3}))
        for connection in self.mirror.connections:
            connection.send(response())
        self.assert_over(abandoned=3, mirrored=MAX_COPIES)

    def test_the_request_fails(self) -> None:
        """When the request fails here while it is sent, there is no copy of it."""
        if BUILD == COMPILED_BUILD:
            raise SkipTest("Methods of compiled classes cannot be replaced.")
        self.start()
        begin, calls = ServerConnection.begin, []

        def failing(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == 1:
                raise ZeroDivisionError
            begin(*arguments)

        self.patch(ServerConnection, "begin", failing)
        client = self.world.client()
        client.send(request("POST", "/", b"Content-Length: 5") + b"he")
        self.world.settle()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(client.response().status, 500)
        self.assert_over()

    def test_balancer_fails(self) -> None:
        """A balancer that raises, or yields without end, or what is no server of the pool."""
        backend = Backend("x", "127.0.0.1", 1)

        class Raising(OrderedServices):
            def choices(self, request: Any) -> Any:
                raise SystemExit("on purpose")

        class Endless(OrderedServices):
            def choices(self, request: Any) -> Any:
                full = Backend("full", "127.0.0.1", 1, maxconn=1)
                full.in_flight = 1
                while True:
                    yield full

        class Foreign(OrderedServices):
            def choices(self, request: Any) -> Any:
                return iter([backend])

        for kind in (Raising, Endless, Foreign):
            self.start(kind())
            self.assert_served(*self.world.asked())
            self.assert_over(failed=1)
        self.flushLoggedErrors()

    def test_stop(self) -> None:
        """At the end of the program nobody waits for copies: they are cut."""
        for waits in (False, True):
            self.start()
            self.mirror.waits = waits
            client, upstream = self.world.asked()
            self.world.settle()
            self.assert_served(client, upstream)
            drained = self.world.factory.drain(10.0)
            self.world.wait(1)
            self.assertEqual(self.successResultOf(drained), 0)
            self.assert_over(abandoned=1)
            if waits:
                self.mirror.decide()
                self.assertTrue(all(not one.received for one in self.mirror.connections))
            else:
                self.assertTrue(self.mirror.last.ended)

    def test_reload(self) -> None:
        """A copy goes on when its route has no mirror any more; later requests are not copied."""
        self.start()
        client, upstream, mirror = self.asked()
        self.world.use(Route(self.world.server_pool, NO_PRICING))
        self.assert_served(client, upstream)
        client.send(request())
        self.assert_served(client, upstream)
        self.assertFalse(self.pool.idle)
        mirror.send(response())
        self.assert_over(mirrored=1)
        self.assertTrue(self.pool.idle)
