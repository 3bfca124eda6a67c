"""Fields that pools and routes set, add and remove."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.reading import Response
from tests.proxy.scripted import KEY
from tests.proxy.world import World, request, response
from twisted_lb.app.pools_in_process import new_pool_route
from twisted_lb.config.header_rules import VALUES
from twisted_lb.config.servers_file import read_gateway

POOL = "  p: {servers: [{url: 'http://a'}], request_headers: {%s}, response_headers: {%s}}\n"


class HeaderRuleTests(SynchronousTestCase):
    def exchange(
        self, route: str, *fields: bytes, answer: tuple[bytes, ...] = (), target: str = "/a/b?c=d", **settings: object
    ) -> tuple[list[bytes], Response]:
        """The lines that the server gets, and the response."""
        world = World(**settings)  # type: ignore[arg-type]
        world.use_routes(f"pool: p, {route}")
        client, upstream = world.asked(request("GET", target, *fields))
        upstream.send(response(b"hello", *answer))
        head, _, rest = upstream.received.partition(b"\r\n\r\n")
        self.assertEqual(rest, b"")
        return head.split(b"\r\n"), client.response()

    def test_requests(self) -> None:
        """A field is removed, replaced, or added to those that are there, whatever the case of its name."""
        rules = "request_headers: {set: {X-A: new, X-New: '1'}, add: {X-B: more, X-C: [x, y]}, remove: [cookie, X-D]}"
        sent = b"x-a: old", b"X-A: older", b"X-B: first", b"Cookie: a=b", b"x-d: 1", b"X-Cookie: c", b"X-Dd: d"
        lines, _ = self.exchange(rules, *sent)
        kept = [line for line in lines if line.lower().startswith((b"x-a:", b"x-new:", b"x-b:", b"x-c:", b"x-d"))]
        expected = [b"X-B: first", b"X-Dd: d", b"X-A: new", b"X-New: 1", b"X-B: more", b"X-C: x", b"X-C: y"]
        self.assertEqual(kept, expected)
        self.assertNotIn(b"Cookie: a=b", lines)
        self.assertIn(b"X-Cookie: c", lines)

    def test_fields_of_this_gateway(self) -> None:
        """What this gateway tells servers can be replaced and removed as well, and so can Host and Authorization."""
        rules = (
            "request_headers: {set: {Host: 'inner.test', Authorization: 'Bearer s3cret', Via: mine},"
            " remove: [X-Consumer-Username, X-Forwarded-For, Forwarded]}"
        )
        lines, _ = self.exchange(rules)
        self.assertEqual([line for line in lines if line.lower().startswith(b"host:")], [b"Host: inner.test"])
        self.assertIn(b"Authorization: Bearer s3cret", lines)
        self.assertEqual([line for line in lines if line.startswith(b"Via")], [b"Via: mine"])
        self.assertEqual([line for line in lines if line.startswith((b"X-Consumer", b"X-Forwarded-For", b"Forw"))], [])
        self.assertNotIn(KEY, b"\r\n".join(lines))

    def test_responses(self) -> None:
        """The same for responses of servers."""
        rules = "response_headers: {set: {Cache-Control: no-store}, add: {X-B: more}, remove: server}"
        answer = (b"Server: nginx", b"cache-control: public", b"X-B: first", b"Content-Type: text/plain")
        _, found = self.exchange(rules, answer=answer)
        self.assertEqual((found.fields.get("server"), found.field("cache-control")), (None, "no-store"))
        self.assertEqual((found.fields["x-b"], found.field("content-type")), (["first", "more"], "text/plain"))
        self.assertEqual((found.body, found.field("x-ratelimit-limit")), (b"hello", "5"))

    def test_values(self) -> None:
        """What is known of the request may be in a value; a field with an empty value is not sent."""
        pairs = ", ".join(f"X-{name}: '{{{name}}}'" for name in VALUES)
        rules = f"request_headers: {{set: {{{pairs}}}}}, response_headers: {{set: {{X-All: '<{{path}}> {{{{x}}}}'}}}}"
        lines, found = self.exchange(f"name: r1, {rules}", b"X-Request-ID: mine", request_id="id")
        values = dict(line[2:].split(b": ", 1) for line in lines if line.startswith(b"X-") and b": " in line)
        expected = {
            b"client_address": b"192.0.2.7",
            b"host": b"api.example",
            b"method": b"GET",
            b"path": b"/a/b",
            b"pool": b"default",
            b"query": b"?c=d",
            b"request_id": b"mine",
            b"route": b"r1",
            b"scheme": b"http",
            b"server": b"s1",
            b"user": b"user1",
        }
        self.assertEqual({name: values.get(name) for name in expected}, expected)
        self.assertEqual(set(expected), {name.encode() for name in VALUES})
        self.assertEqual(found.field("x-all"), "</a/b> {x}")
        lines, _ = self.exchange("request_headers: {set: {X-Q: '{query}'}}", b"X-Q: client's", target="/")
        self.assertEqual([line for line in lines if line.startswith(b"X-Q")], [])

    def test_no_key(self) -> None:
        """A key that a client has put into the path is in no value."""
        lines, _ = self.exchange("request_headers: {set: {X-Path: '{path}'}}", target="/" + KEY.decode())
        self.assertIn(b"X-Path: /REDACTED", lines)

    def test_key_as_host(self) -> None:
        """Nor one that is a part of the host."""
        lines, _ = self.exchange("request_headers: {set: {X-Host: '{host}'}}", target=f"http://{KEY.decode()}.test/")
        self.assertIn(b"X-Host: REDACTED.test", lines)
        self.assertNotIn(KEY, b"\r\n".join(lines))

    def test_trailers(self) -> None:
        """Fields that are removed or replaced are not trailers either, of requests and of responses."""
        rules = "pool: p, {}_headers: {{set: {{X-Tenant: ours}}, remove: X-Secret}}"
        head = request("POST", "/", b"Transfer-Encoding: chunked")
        trailers = b"0\r\nx-tenant: theirs\r\nX-Secret: s\r\nX_Tenant: folded\r\nX-Other: o\r\n\r\n"
        for pieces in ((head + b"1\r\na\r\n" + trailers,), (head + b"1\r\na\r\n", trailers)):
            world = World(unusual_field_names="pass")
            world.use_routes(rules.format("request"))
            client = world.client()
            client.send(*pieces)
            received = world.server.last.received
            self.assertTrue(received.endswith(b"0\r\nX-Other: o\r\n\r\n"), received)
            self.assertIn(b"\r\nX-Tenant: ours\r\n", received)
        world = World()
        world.use_routes(rules.format("response"))
        client, upstream = world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + trailers)
        answer = client.response()
        self.assertEqual((answer.field("x-tenant"), answer.trailers), ("ours", [b"X_Tenant: folded", b"X-Other: o"]))

    def test_names_that_servers_fold_together(self) -> None:
        """What servers cannot tell from a field that is removed or replaced is removed too."""
        sent = b"X_Tenant: a", b"X.Tenant: b", b"x_secret: c", b"X-Secret2: d", b"XTenant: e"
        rules = "request_headers: {set: {X-Tenant: ours}, remove: X-Secret}"
        lines, _ = self.exchange(rules, *sent, unusual_field_names="pass")
        found = [line for line in lines if b"tenant" in line.lower() or b"secret" in line.lower()]
        self.assertEqual(found, [b"X-Secret2: d", b"XTenant: e", b"X-Tenant: ours"])

    def test_host(self) -> None:
        """A request has a Host, also if its value is empty."""
        lines, _ = self.exchange("request_headers: {set: {Host: '{query}'}}", target="/")
        self.assertEqual([line for line in lines if line.lower().startswith(b"host")], [b"Host: "])

    def test_interim_responses(self) -> None:
        """What is removed or replaced is not in an interim response; what is added is in the final one."""
        world = World()
        world.use_routes("pool: p, response_headers: {set: {X-A: ours}, remove: Server}")
        client, upstream = world.asked()
        upstream.send(b"HTTP/1.1 103 Early Hints\r\nServer: s\r\nX-A: theirs\r\nLink: <a>\r\n\r\n" + response())
        interim, final = client.responses()
        self.assertEqual((list(interim.fields), final.field("x-a")), (["link"], "ours"))

    def test_fields_of_limits(self) -> None:
        """Responses of servers and of routes have the fields of limits but those that are removed or replaced."""
        rules = "response_headers: {set: {X-RateLimit-Limit: '9'}, remove: [RateLimit, RateLimit-Policy]}"
        world = World()
        world.use_routes(f"path: /ok, respond: {{body: ok}}, {rules}", f"pool: p, {rules}")
        client, upstream = world.asked()
        upstream.send(response())
        client.send(request("GET", "/ok"))
        for answer in client.responses():
            self.assertEqual((answer.fields["x-ratelimit-limit"], "ratelimit" in answer.fields), (["9"], False))
            self.assertIn("x-ratelimit-remaining", answer.fields)

    def test_answers_of_routes(self) -> None:
        """Routes that answer themselves have rules for responses."""
        world = World()
        world.use_routes("respond: {body: ok}, response_headers: {set: {X-A: '{user}', Content-Type: text/html}}")
        client = world.client()
        client.send(request())
        answer = client.response()
        self.assertEqual((answer.field("x-a"), answer.field("content-type")), ("user1", "text/html"))

    def test_switch_of_protocols(self) -> None:
        """The response of a server that switches to another protocol is one."""
        world = World()
        world.use_routes("pool: p, response_headers: {set: {X-A: new}, remove: Server}")
        client, upstream = world.asked(request("GET", "/", b"Upgrade: websocket", b"Connection: Upgrade"))
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nServer: x\r\n\r\n"
        upstream.send(head)
        self.assertIn(b"\r\nX-A: new\r\n", client.received)
        self.assertNotIn(b"Server: x", client.received)

    def test_pool_before_route(self) -> None:
        """The rules of a pool come first, then those of the route."""
        world = World()
        text = "pools:\n" + POOL % ("set: {X-A: pool, X-B: pool}", "add: {X-C: pool}")
        text += "routes: [{pool: p, request_headers: {set: {X-A: route}}, response_headers: {remove: X-C}}]\n"
        spec = read_gateway(text, "x.yaml")
        route = new_pool_route(spec.routes[0], world.server_pool, pool_spec=spec.pools[0])
        world.use(route)
        client, upstream = world.asked()
        self.assertIn(b"\r\nX-B: pool\r\nX-A: route\r\n\r\n", upstream.received)
        upstream.send(response())
        self.assertNotIn("x-c", client.response().fields)
