"""Hooks of a route: what they may do with a request and its response, and the effect of their failures."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.reading import Response
from tests.proxy.scripted import KEY, OrderedServices, ServerSide
from tests.proxy.world import Client, World, request, response
from twisted_lb.backend import Backend
from twisted_lb.config.cors import Cors
from twisted_lb.config.pool import Queue
from twisted_lb.cors import CorsPolicy
from twisted_lb.hooks.hooks import Hooks
from twisted_lb.interfaces import HookResponse, IHookRequest, IHookResponse
from twisted_lb.limits.pricing import NO_PRICING
from twisted_lb.pool.pool import Pool
from twisted_lb.proxy.header_rules import AddedField, HeaderRules
from twisted_lb.proxy.route import Route, Split
from twisted_lb.request_record import RequestRecord
from twisted_lb.routing.match import Match
from twisted_lb.routing.table import RouteTable


class Noting:
    """Notes what it is told; `answer` is its result, or raised."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.said: list[str] = []
        self.requests: list[IHookRequest] = []
        self.records: list[RequestRecord] = []

    def request_received(self, request: IHookRequest) -> Any:
        self.said.append("received")
        self.requests.append(request)
        request.state = len(self.requests)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    def server_chosen(self, request: IHookRequest, backend: Backend) -> None:
        self.said.append(f"chosen {backend.name}")

    def response_started(self, request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
        self.said.append(f"started {backend.name} {response.status}")

    def request_finished(self, record: RequestRecord) -> None:
        self.said.append(f"finished {record.status} {record.reason} {record.state}")
        self.records.append(record)


class HookCase(SynchronousTestCase):
    def start(self, hooks: Any, servers: int = 1, **more: Any) -> World:
        self.world = World(servers, counts_in_flight=True, **more)
        self.world.use(self.route(hooks))
        return self.world

    def route(self, hooks: Any, **more: Any) -> Route:
        return Route(self.world.server_pool, NO_PRICING, hooks=Hooks("mine:Hooks", hooks), **more)

    def asked(self, data: bytes | None = None) -> tuple[Client, ServerSide]:
        return self.world.asked(data)

    def answered(self, data: bytes | None = None, method: str = "GET") -> Response:
        """The response that is there at once."""
        client = self.world.client()
        client.send(request() if data is None else data)
        return client.response(method)

    def assert_settled(self, refunded: bool) -> None:
        """All that was taken came back once, as a refund or not, and no server has a request."""
        buckets = self.world.buckets
        self.assertEqual(buckets.unreleased, 0)
        self.assertEqual(len(buckets.refunded), int(refunded))
        self.assertEqual(self.world.in_flight, [0] * len(self.world.backends))


class PhaseTests(HookCase):
    def test_order(self) -> None:
        """The four phases are told, once each, with the same request and its state."""
        hooks = Noting()
        self.start(hooks)
        client, upstream = self.asked()
        self.assertEqual(hooks.said, ["received", "chosen s1"])
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        self.assertEqual(hooks.said[2:], ["started s1 200"])
        upstream.send(b"lf")
        self.assertEqual(hooks.said[3:], ["finished 200 complete 1"])
        self.assertEqual(client.response().body, b"half")
        self.assert_settled(False)

    def test_what_they_see(self) -> None:
        """The user, the target and the fields, but not the key."""
        hooks = Noting()
        self.start(hooks)
        self.asked(request("POST", "/a?b=" + KEY.decode(), b"X-A: 1", b"X-B: " + KEY, body=b"hello"))
        (seen,) = hooks.requests
        self.assertEqual((seen.method, seen.target, seen.consumer), (b"POST", b"/a?b=REDACTED", b"user1"))
        self.assertEqual((seen.client_address, seen.content_length), ("192.0.2.7", 5))
        self.assertEqual([seen.header(name) for name in (b"x-a", b"X-B", b"Authorization")], [b"1", b"REDACTED", None])

    def test_each_server(self) -> None:
        """Each server that is tried is told."""
        hooks = Noting()
        world = self.start(hooks, 2)
        world.servers[0].refuses = True
        client = world.client()
        client.send(request())
        world.servers[1].last.send(response(b"two"))
        self.assertEqual(client.response().body, b"two")
        self.assertEqual(hooks.said[:-1], ["received", "chosen s1", "chosen s2", "started s2 200"])

    def test_refused(self) -> None:
        """A request that the limits refuse is told at its end only."""
        hooks = Noting()
        self.start(hooks)
        self.assertEqual(self.answered(request().replace(KEY, KEY[::-1])).status, 401)
        self.assertEqual(hooks.said, ["finished 401 unauthorized None"])

    def test_missing_methods(self) -> None:
        """Each method may be missing."""
        for name in ("request_received", "server_chosen", "response_started", "request_finished"):
            hooks = Noting()
            only = type("Only", (), {name: getattr(hooks, name)})()
            self.start(only)
            client, upstream = self.asked()
            upstream.send(response(b"hello"))
            self.assertEqual(client.response().body, b"hello")
            self.assertEqual(len(hooks.said), 1, name)

    def test_tunnel(self) -> None:
        """A switch of protocols starts a response, and the end of the tunnel ends the request."""
        hooks = Noting()
        self.start(hooks)
        client, upstream = self.asked(request("GET", "/", b"Upgrade: chat", b"Connection: Upgrade"))
        upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n")
        upstream.finish()
        client.finish()
        self.world.wait(1)
        self.assertEqual(hooks.said[2:], ["started s1 101", "finished 101 complete 1"])

    def test_preflight(self) -> None:
        """CORS preflights have no hooks."""
        hooks = Noting()
        self.start(hooks)
        fields = b"Origin: https://a.test", b"Access-Control-Request-Method: GET"
        data = request("OPTIONS", "/", *fields).replace(b"\r\nAuthorization: " + KEY, b"")
        client, upstream = self.asked(data)
        upstream.send(response())
        self.assertEqual((client.response().status, hooks.said), (200, []))

    def test_shares(self) -> None:
        """With shares, the hooks are those of the pool that is chosen."""
        hooks = Noting()
        self.start(hooks)
        first, second = Route(self.world.server_pool, NO_PRICING), self.route(hooks)
        first.divide(Split([(first, 0), (second, 1)], False))
        self.world.factory.use(RouteTable([(Match(), first)]), None, True)
        _, upstream = self.asked()
        upstream.send(response())
        self.assertEqual(hooks.said[0], "received")

    def test_reload(self) -> None:
        """A request that has begun keeps its hooks; one that comes after the reload has the new ones."""
        old, new = Noting(), Noting()
        self.start(old)
        client, upstream = self.asked()
        self.world.use(self.route(new))
        upstream.send(response(b"one"))
        self.assertEqual(client.response().body, b"one")
        self.assertEqual((len(old.said), new.said), (4, []))
        client.send(request())
        upstream.send(response(b"two"))
        self.assertEqual((len(old.said), len(new.said)), (4, 4))
        self.world.use(Route(self.world.server_pool, NO_PRICING))
        client.send(request())
        upstream.send(response(b"three"))
        self.assertIsNone(self.world.factory.limits.context.records)
        self.assertEqual((len(old.said), len(new.said)), (4, 4))

    def test_reload_without_hooks(self) -> None:
        """A request that has begun keeps its hooks to the end, also when no route has hooks any more."""
        hooks = Noting()
        self.start(hooks)
        _, upstream = self.asked()
        self.world.use(Route(self.world.server_pool, NO_PRICING))
        upstream.send(response())
        self.assertEqual(hooks.said[-1], "finished 200 complete 1")


class ChangeTests(HookCase):
    def exchanged(
        self, hooks: Any, *fields: bytes, answer: tuple[bytes, ...] = (), **rules: Any
    ) -> tuple[bytes, Response]:
        """The head that the server gets, and the response."""
        self.start(hooks)
        self.world.use(self.route(hooks, **rules))
        client, upstream = self.asked(request("GET", "/", *fields))
        upstream.send(response(b"hello", *answer))
        return upstream.received, client.response()

    def test_request(self) -> None:
        """Fields for servers are set, added and removed, also those of this gateway; and rules come before."""

        class Changing:
            def request_received(self, request: IHookRequest) -> None:
                fields = request.fields
                fields.set(b"X-Tenant", b"acme")
                fields.add(b"X-B", b"2")
                fields.remove(b"Cookie")
                fields.remove(b"X-Forwarded-For")
                fields.set(b"Host", b"inner.test")
                fields.set(b"X-Ruled", b"hook")
                assert request.header(b"x-tenant") == b"acme" and request.header(b"cookie") is None
                assert request.header(b"X-B") == b"1, 2"

        rules = HeaderRules([b"X-Ruled"], [AddedField(b"X-Ruled", [(b"rule", b"")])], True)
        sent = b"X-Tenant: evil", b"X_Tenant: evil", b"X-B: 1", b"Cookie: a=b"
        for some in ([], [rules]):
            head, answer = self.exchanged(Changing(), *sent, request_rules=some)
            self.assertEqual(answer.status, 200)
            lines = head.split(b"\r\n")
            for line in (b"X-Tenant: acme", b"X-B: 1", b"X-B: 2", b"Host: inner.test", b"X-Ruled: hook"):
                self.assertEqual(lines.count(line), 1, line)
            for absent in (b"evil", b"Cookie", b"X-Forwarded-For", b"api.example\r\nX", b"X-Ruled: rule"):
                self.assertNotIn(absent, head.partition(b"X-Forwarded-Host")[0])

    def test_balancer(self) -> None:
        """The balancer sees the fields as hooks have changed them."""

        class Changing:
            def request_received(self, request: IHookRequest) -> None:
                request.fields.set(b"X-Tenant", b"acme")

        class Looking(OrderedServices):
            def choices(self, request: Any) -> Any:
                seen.append(request.header(b"x-tenant"))
                return super().choices(request)

        seen: list[Any] = []
        self.start(Changing(), balancer=Looking())
        self.asked()
        self.assertEqual(seen, [b"acme"])

    def test_each_server(self) -> None:
        """Fields may depend on the server, and are those of the last one that was chosen."""

        class Signing:
            def server_chosen(self, request: IHookRequest, backend: Backend) -> None:
                request.fields.set(b"X-Server", backend.name.encode())

        world = self.start(Signing(), 2)
        world.servers[0].refuses = True
        world.client().send(request())
        received = world.servers[1].last.received
        self.assertEqual((received.count(b"X-Server"), received.count(b"X-Server: s2")), (1, 1))

    def test_trailers(self) -> None:
        """A field that is removed does not come as a trailer."""

        class Changing:
            def request_received(self, request: IHookRequest) -> None:
                request.fields.remove(b"X-A")

            def response_started(self, request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
                response.fields.remove(b"X-C")

        self.start(Changing())
        data = request("POST", "/", b"Transfer-Encoding: chunked")
        for pieces in ([data + b"0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"], [data, b"0\r\nX-A: 1\r\nX-B: 2\r\n\r\n"]):
            client = self.world.client()
            client.send(*pieces)
            upstream = self.world.server.last
            received = upstream.read()
            self.assertTrue(received.endswith(b"0\r\nX-B: 2\r\n\r\n"), received)
            upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-C: 1\r\nX-D: 2\r\n\r\n")
            self.assertTrue(client.read().endswith(b"0\r\nX-D: 2\r\n\r\n"))

    def test_response(self) -> None:
        """Fields for the client are set, added and removed, also those of the limits; and rules come before."""

        class Changing:
            def response_started(self, request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
                assert response.header(b"server") == b"nginx" and response.body_bytes == 0
                response.fields.set(b"Server", b"mine")
                response.fields.add(b"Set-Cookie", b"c=d")
                response.fields.remove(b"X-RateLimit-Limit")
                response.fields.set(b"X-Ruled", b"hook")
                assert response.header(b"server") == b"mine"

        rules = HeaderRules([], [AddedField(b"X-Ruled", [(b"rule", b"")])])
        _, answer = self.exchanged(Changing(), answer=(b"Server: nginx", b"Set-Cookie: a=b"), response_rules=[rules])
        self.assertEqual((answer.status, answer.body, answer.field("server")), (200, b"hello", "mine"))
        self.assertEqual(answer.fields["set-cookie"], ["a=b", "c=d"])
        self.assertEqual(answer.field("x-ruled"), "hook")
        self.assertNotIn("x-ratelimit-limit", answer.fields)
        self.assertIn("x-ratelimit-remaining", answer.fields)


class OwnResponseTests(HookCase):
    def test_response(self) -> None:
        """The client gets it, with the fields of the limits and the rules; no server is asked; the token is spent."""
        hooks = Noting(HookResponse(403, [(b"X-Why", b"because"), (b"Content-Type", b"text/plain")], b"no"))
        self.start(hooks)
        self.world.use(self.route(hooks, response_rules=[HeaderRules([], [AddedField(b"X-R", [(b"1", b"")])])]))
        client = self.world.client()
        for _ in range(2):
            client.send(request())
            answer = client.response()
            self.assertEqual((answer.status, answer.body, answer.field("x-why")), (403, b"no", "because"))
            self.assertEqual((answer.field("x-ratelimit-remaining"), answer.field("x-r")), ("4", "1"))
        self.assertEqual(self.world.dialled, [])
        self.assertEqual(hooks.said, ["received", "finished 403 complete 1", "received", "finished 403 complete 2"])
        self.assert_settled(False)

    def test_head(self) -> None:
        """The response to HEAD has no content, but its length."""
        self.start(Noting(HookResponse(200, (), b"hello")))
        answer = self.answered(request("HEAD"), "HEAD")
        self.assertEqual((answer.body, answer.field("content-length")), (b"", "5"))

    def test_not_modified(self) -> None:
        """One without content has no length that it does not have; and the connection goes on."""
        for status, length in ((204, None), (205, "0"), (304, None)):
            hooks = Noting(HookResponse(status))
            self.start(hooks)
            client = self.world.client()
            for _ in range(2):
                client.send(request())
                answer = client.response()
                self.assertEqual((answer.status, answer.fields.get("content-length")), (status, length and [length]))

    def test_cors(self) -> None:
        """With `cors`, the fields of CORS are those of servers.yaml, each once, as in a response of a server."""
        fields = [(b"Access-Control-Allow-Origin", b"*"), (b"Vary", b"Accept"), (b"X-A", b"1")]
        self.start(Noting(HookResponse(403, fields, b"no")))
        self.world.use(self.world.route, CorsPolicy(Cors(allowed_origins=("https://a.test",))))
        for origin, allowed in ((b"https://a.test", ["https://a.test"]), (b"https://b.test", None)):
            answer = self.answered(request("GET", "/", b"Origin: " + origin))
            self.assertEqual(answer.fields.get("access-control-allow-origin"), allowed)
            self.assertEqual((answer.fields["vary"], answer.field("x-a")), (["Accept, Origin"], "1"))

    def test_before_the_content(self) -> None:
        """It does not wait for the content of the request, after which the connection ends."""
        self.start(Noting(HookResponse(403, (), b"no")))
        client = self.world.client()
        client.send(request("POST", "/", b"Content-Length: 100000"))
        answer = client.response()
        self.assertEqual((answer.status, answer.field("connection")), (403, "close"))
        self.assert_settled(False)


class LaterTests(HookCase):
    def later(self, data: bytes | None = None, **settings: Any) -> tuple[Deferred[Any], Client, Noting]:
        """A request whose hooks have not answered yet."""
        answer: Deferred[Any] = Deferred(self.cancelled)
        hooks = Noting(answer)
        self.cancels = 0
        self.start(hooks, **settings)
        client = self.world.client()
        client.send(request() if data is None else data)
        self.assertEqual((client.read(), self.world.dialled), (b"", []))
        return answer, client, hooks

    def cancelled(self, _: object) -> None:
        self.cancels += 1

    def test_server(self) -> None:
        """The request goes on when the Deferred fires."""
        answer, client, _ = self.later()
        answer.callback(None)
        self.world.settle()
        self.world.server.last.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")
        self.assert_settled(False)

    def test_response(self) -> None:
        """Or is answered."""
        answer, client, _ = self.later()
        answer.callback(HookResponse(302, [(b"Location", b"/login")]))
        found = client.response()
        self.assertEqual((found.status, found.field("location")), (302, "/login"))
        self.assert_settled(False)

    def test_coroutine(self) -> None:
        """A coroutine is the same."""
        later: Deferred[Any] = Deferred()

        class Asynchronous:
            async def request_received(self, request: IHookRequest) -> HookResponse:
                request.fields.set(b"X-A", await later)
                return HookResponse(200, (), b"hello")

        self.start(Asynchronous())
        client = self.world.client()
        client.send(request())
        later.callback(b"b")
        self.assertEqual(client.response().body, b"hello")

    def test_fired_already(self) -> None:
        """A Deferred that has its result already."""
        answer: Deferred[Any] = Deferred()
        answer.callback(HookResponse(200, (), b"hello"))
        self.start(Noting(answer))
        self.assertEqual(self.answered().body, b"hello")

    def test_failures(self) -> None:
        """A failure, and a result that is not valid, are 500, and the token is refunded."""
        for result in (ValueError("on purpose"), SystemExit(0), 7):
            answer, client, hooks = self.later()
            if isinstance(result, BaseException):
                answer.errback(result)
            else:
                answer.callback(result)
            found = client.response()
            self.assertEqual((found.status, found.members["detail"]), (500, "The hooks of this route have failed."))
            self.assert_settled(True)
            self.assertEqual(hooks.said[-1], "finished 500 internal_error 1")
        self.assertEqual(len(self.flushLoggedErrors()), 2)

    def test_timeout(self) -> None:
        """After HOOK_TIMEOUT the Deferred is cancelled, the response is 504, and the token is refunded."""
        answer, client, hooks = self.later(hook_timeout=2.0)
        self.world.wait(1.5)
        self.assertEqual(client.read(), b"")
        self.world.wait(1.5)
        found = client.response()
        self.assertEqual((found.status, self.cancels), (504, 1))
        self.assert_settled(True)
        self.assertEqual(hooks.said[-1], "finished 504 hook_timeout 1")
        hooks.answer = None
        client.send(request())
        self.world.server.last.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")

    def test_client_leaves(self) -> None:
        """When the client leaves the Deferred is cancelled, and the token refunded: no server has had the request."""
        for leave in (Client.leave, Client.finish):
            _, client, hooks = self.later()
            leave(client)
            self.world.wait(1)
            self.assertEqual((self.cancels, hooks.said[-1]), (1, "finished 499 client_left 1"))
            self.assert_settled(True)
            self.assertEqual(self.world.dialled, [])

    def test_cannot_be_cancelled(self) -> None:
        """What the function that cancels raises is logged; a result that comes too late is dropped."""

        def stubborn(_: object) -> None:
            raise SystemExit("on purpose")

        answer: Deferred[Any] = Deferred(stubborn)
        self.start(Noting(answer))
        client = self.world.client()
        client.send(request())
        client.leave()
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        answer.callback(HookResponse(200))
        self.assertEqual(self.world.dialled, [])
        self.assert_settled(True)

    def test_content(self) -> None:
        """Meanwhile a bounded part of the content is read, its client is not timed out, and all of it goes on."""
        size = 300_000
        data = request("POST", "/", b"Content-Length: %d" % size)
        answer, client, _ = self.later(data, body_timeout=1.0, hook_timeout=60.0)
        client.send(b"x" * 100_000)
        self.assertTrue(client.transport._paused)
        self.world.wait(10)
        answer.callback(None)
        self.world.settle()
        client.send(b"y" * 200_000)
        upstream = self.world.server.last
        self.assertTrue(upstream.received.endswith(b"\r\n\r\n" + b"x" * 100_000 + b"y" * 200_000))
        upstream.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")

    def test_drain(self) -> None:
        """At the end of the program a request that still waits is cut, and its Deferred cancelled."""
        _, client, _ = self.later(hook_timeout=100.0)
        drained = self.world.factory.drain(1.0)
        self.world.wait(3)
        self.assertEqual(self.successResultOf(drained), 1)
        self.assertEqual((client.ended, self.cancels), (True, 1))


class FailureTests(HookCase):
    def test_request_received(self) -> None:
        """An exception, and a result that is not valid, are 500 with the token back; the connection goes on."""
        for result in (ValueError("secret"), SystemExit(0), KeyboardInterrupt(), GeneratorExit(), 7, HookResponse(1)):
            hooks = Noting(result)
            self.start(hooks)
            client = self.world.client()
            client.send(request())
            answer = client.response()
            self.assertEqual((answer.status, answer.members["detail"]), (500, "The hooks of this route have failed."))
            self.assertEqual((self.world.dialled, hooks.said[-1]), ([], "finished 500 internal_error 1"))
            self.assert_settled(True)
            hooks.answer = None
            client.send(request())
            self.world.server.last.send(response(b"hello"))
            self.assertEqual(client.response().body, b"hello")
        self.assertEqual(len(self.flushLoggedErrors()), 4)

    def test_logged_only(self) -> None:
        """What `server_chosen` and `request_finished` raise takes nothing from the client."""

        class Failing(Noting):
            def server_chosen(self, request: IHookRequest, backend: Backend) -> None:
                raise SystemExit

            def request_finished(self, record: RequestRecord) -> None:
                raise KeyboardInterrupt

        self.start(Failing())
        client, upstream = self.asked()
        upstream.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")
        self.assert_settled(False)
        self.assertEqual(len(self.flushLoggedErrors()), 2)

    def test_response_started(self) -> None:
        """An exception is 500; the server's response is dropped, and the token kept: the server had the request."""

        class Failing(Noting):
            def response_started(self, request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
                if request.target != b"/good":
                    raise SystemExit(0)

        answers = [
            response(b"secret", b"X-A: b"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsec",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nsecret",
        ]
        for data in answers:
            hooks = Failing()
            self.start(hooks)
            client, upstream = self.asked()
            upstream.send(data)
            answer = client.response()
            self.assertEqual(answer.status, 500)
            self.assertNotIn(b"sec", client.received)
            self.assertNotIn("x-a", answer.fields)
            self.assert_settled(False)
            self.assertEqual(hooks.said[-1], "finished 500 internal_error 1")
            self.assertEqual(upstream.ended, data is not answers[0])
            client.send(request("GET", "/good"))
            self.world.server.last.send(response(b"hello"))
            self.assertEqual(client.response().body, b"hello")
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 4)

    def test_invalid_field(self) -> None:
        """A field that is not valid is an exception as well, and nothing of it is sent."""

        class Splitting:
            def response_started(self, request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
                response.fields.set(b"X-A", b"b\r\nX-C: d")

        self.start(Splitting())
        client, upstream = self.asked()
        upstream.send(response(b"hello"))
        self.assertEqual(client.response().status, 500)
        self.assertNotIn(b"X-C", client.received)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_switch(self) -> None:
        """When `response_started` fails for a switch of protocols there is none."""

        class Failing:
            def response_started(self, request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
                raise ValueError

        self.start(Failing())
        client, upstream = self.asked(request("GET", "/", b"Upgrade: chat", b"Connection: Upgrade"))
        upstream.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\nearly")
        self.assertEqual(client.response().status, 500)
        self.assertTrue(upstream.ended)
        self.assert_settled(False)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_no_server(self) -> None:
        """Where there is no server after all, the token is refunded as without hooks."""
        hooks = Noting()
        self.start(hooks)
        self.world.server.refuses = True
        self.assertEqual(self.answered().status, 503)
        self.assert_settled(True)
        self.assertEqual(hooks.said[-1], "finished 503 server_unreachable 1")

    def test_queue(self) -> None:
        """A request that waits for a server is received once."""
        hooks = Noting()
        self.start(hooks, maxconn=1, queue=Queue(10, 5.0))
        _, upstream = self.asked()
        other = self.world.client()
        other.send(request())
        upstream.send(response())
        self.world.settle()
        self.world.server.last.send(response(b"two"))
        self.assertEqual(other.response().body, b"two")
        self.assertEqual(hooks.said.count("received"), 2)


class OtherPoolTests(HookCase):
    def test_without(self) -> None:
        """A route without hooks is not affected by those of others: its requests are plain exchanges."""
        self.start(Noting())
        pool = self.world.factory.add_pool(Pool(OrderedServices(), []), name="other")
        self.assertFalse(Route(pool, NO_PRICING).extended)
        self.assertTrue(self.world.route.extended)
