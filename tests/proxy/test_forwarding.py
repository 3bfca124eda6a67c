"""What a server gets and what a client gets, byte for byte."""

from __future__ import annotations

from twisted.internet.address import IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY, OrderedServices, ServerSide
from tests.proxy.world import World, request, response
from twisted_lb.balancers.registry import make_balancer


class ForwardingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World()

    def test_request(self) -> None:
        """A server gets the client's fields as they came, in order, and then what this gateway says."""
        client = self.world.client()
        client.send(
            b"POST /foo?x=%201&y HTTP/1.1\r\nHost: api.example:8080\r\naccept:  */*\r\nauthorization: "
            + KEY
            + b"\r\nX-Odd:\tvalue \r\nContent-Type: text/plain\r\nContent-Length: 5\r\nCookie: a=1\r\n\r\nhello"
        )
        self.assertEqual(
            self.world.server.last.received,
            b"POST /foo?x=%201&y HTTP/1.1\r\nHost: api.example:8080\r\naccept:  */*\r\nX-Odd:\tvalue \r\n"
            b"Cookie: a=1\r\nX-Consumer-Username: user1\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n"
            b"X-Forwarded-Host: api.example:8080\r\nX-Forwarded-Port: 8080\r\nX-Real-IP: 192.0.2.7\r\n"
            b'Forwarded: for=192.0.2.7;host="api.example:8080";proto=http\r\nVia: 1.1 twisted_lb\r\n'
            b"Content-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
        )

    def test_response(self) -> None:
        """A client gets the server's fields as they came, in order, and then date, length and limits."""
        client, upstream = self.world.asked()
        upstream.send(
            b"HTTP/1.1 201 Made it\r\nServer: s\r\nDate: Mon, 23 Nov 2026 20:53:38 GMT\r\nX-Odd:  v \r\n"
            b"Keep-Alive: timeout=5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello"
        )
        self.assertEqual(
            client.received,
            b"HTTP/1.1 201 Made it\r\nServer: s\r\nX-Odd:  v \r\nDate: Mon, 23 Nov 2026 20:53:38 GMT\r\n"
            b"Content-Length: 5\r\nX-RateLimit-Limit: 5\r\nX-RateLimit-Remaining: 4\r\nX-RateLimit-Reset: 1\r\n"
            b'RateLimit-Policy: "default";q=5;w=5\r\nRateLimit: "default";r=4;t=1\r\n\r\nhello',
        )

    def test_one_write_each(self) -> None:
        """A request with its body, and a response with its body, go out in one write each."""
        client, upstream = self.world.asked(request("POST", body=b"hello"))
        upstream.send(response(b"world"))
        self.assertEqual([len(upstream.transport.writes), len(client.transport.writes)], [1, 1])

    def test_no_delay(self) -> None:
        """Neither side waits for more bytes before it sends small ones."""
        client, upstream = self.world.asked()
        self.assertTrue(client.transport.no_delay)
        self.assertTrue(upstream.transport.no_delay)

    def test_date(self) -> None:
        """A response without a date gets one, of the form that RFC 9110 prefers."""
        client, upstream = self.world.asked()
        upstream.send(response())
        self.assertRegex(client.response().field("date") or "", r"^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$")

    def test_head_in_pieces(self) -> None:
        """A head may come byte by byte, in both directions."""
        client = self.world.client()
        client.send(*(bytes([byte]) for byte in request("GET", "/slow")))
        upstream = self.world.server.last
        self.assertTrue(upstream.received.startswith(b"GET /slow HTTP/1.1\r\n"))
        upstream.send(*(bytes([byte]) for byte in response(b"hello")))
        self.assertEqual(client.response().body, b"hello")

    def test_empty_lines(self) -> None:
        """Empty lines before a request, whole or in pieces, are passed over."""
        client = self.world.client()
        client.send(b"\r\n", b"\r", b"\n\r\n" + request("GET", "/after"))
        self.assertTrue(self.world.server.last.received.startswith(b"GET /after "))

    def test_absolute_target(self) -> None:
        """A target with an authority is brought into origin-form, and its authority is the host."""
        client = self.world.client()
        client.send(request("GET", "http://other.example/x?y"))
        self.assertTrue(self.world.server.last.received.startswith(b"GET /x?y HTTP/1.1\r\nHost: other.example\r\n"))

    def test_server_named_for_hostless(self) -> None:
        """An HTTP/1.0 client that names no host is forwarded with the server's own."""
        client = self.world.client()
        client.send(b"GET / HTTP/1.0\r\nAuthorization: " + KEY + b"\r\n\r\n")
        self.assertTrue(self.world.server.last.received.startswith(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:9001\r\n"))
        self.assertIn(b"\r\nVia: 1.0 twisted_lb\r\n", self.world.server.last.received)

    def test_ipv6_client(self) -> None:
        """The address of an IPv6 client is passed on, bracketed where the grammar asks for it."""
        client = self.world.client(IPv6Address("TCP", "2001:db8::7", 50_000))
        client.send(request())
        self.assertIn(b"\r\nX-Forwarded-For: 2001:db8::7\r\n", self.world.server.last.received)
        self.assertIn(b'\r\nForwarded: for="[2001:db8::7]";', self.world.server.last.received)

    def test_ipv4_client_of_an_ipv6_listener(self) -> None:
        """A client of IPv4 has the same address on a listener for both families, and one network with itself."""
        for address in ("::ffff:192.0.2.7", "::ffff:c000:207", "::192.0.2.7"):
            world = World(max_connections_per_address=2)
            first = world.client(IPv6Address("TCP", address, 50_000))
            first.send(request())
            received = world.server.last.received
            self.assertIn(b"\r\nX-Forwarded-For: 192.0.2.7\r\n", received)
            self.assertIn(b"\r\nForwarded: for=192.0.2.7;host=", received)
            assert isinstance(world.balancer, OrderedServices)
            self.assertEqual(world.balancer.requests[0].client_address, "192.0.2.7")
            world.client().send(request())
            third = world.client(IPv6Address("TCP", address, 50_001))
            self.assertEqual(third.response().status, 503)


class BalancersViewTests(SynchronousTestCase):
    def test_request(self) -> None:
        """A balancer can ask for the method, target, user, address and any field of the request."""
        world = World()
        world.asked(request("PUT", "/t?q", b"X-Session:  abc ", b"Content-Type: text/plain", body=b""))
        assert isinstance(world.balancer, OrderedServices)
        [seen] = world.balancer.requests
        self.assertEqual(
            (seen.method, seen.target, seen.consumer, seen.client_address), (b"PUT", b"/t?q", b"user1", "192.0.2.7")
        )
        self.assertEqual(seen.header(b"x-session"), b"abc")
        self.assertEqual(seen.header(b"HOST"), b"api.example")
        self.assertEqual(seen.header(b"content-type"), b"text/plain")
        self.assertIsNone(seen.header(b"X-Other"))

    def test_several_fields(self) -> None:
        """Several fields of one name are one list to a balancer, those of Cookie one cookie string; the server gets
        them as they came."""
        world = World()
        sent = b"Cookie: a=1", b"X-Tenant: t1", b"cookie:  lb=2 ", b"X-Tenant:", b"COOKIE: c=3", b"x-tenant: t2, t3"
        sent += b"X-Forwarded-For: 10.0.0.1", b"Accept: a/b", b"X-Forwarded-For: 10.0.0.2", b"X-Tenants: no"
        _, upstream = world.asked(request("GET", "/", *sent))
        assert isinstance(world.balancer, OrderedServices)
        [seen] = world.balancer.requests
        self.assertEqual(seen.header(b"Cookie"), b"a=1; lb=2; c=3")
        self.assertEqual(seen.header(b"x-tenant"), b"t1, , t2, t3")
        self.assertEqual(seen.header(b"X-Forwarded-For"), b"192.0.2.7")
        self.assertEqual(seen.header(b"accept"), b"a/b")
        self.assertEqual(seen.header(b"x-tenants"), b"no")
        self.assertIsNone(seen.header(b"x-tenan"))
        self.assertIn(b"\r\n" + b"\r\n".join(sent[:6]) + b"\r\n", upstream.received)

    def test_cookies_choose(self) -> None:
        """The cookie counts in whichever Cookie field it is, for sticky and for hash."""
        sticky = make_balancer("sticky", {"secret": "a secret of the tests"})
        hashed = make_balancer("hash", {"by": "cookie", "cookie": "id"})
        for balancer, name in ((sticky, b"lb"), (hashed, b"id")):
            world = World(servers=8, balancer=balancer)
            values = [b"user7"]
            if balancer is sticky:
                client = world.client()
                client.send(request())
                self.serving(world).send(response())
                values = [client.response().field("set-cookie").partition(";")[0].partition("=")[2].encode()]
            chosen = []
            for cookies in ((b"Cookie: %b=%b; x=1",), (b"Cookie: x=1", b"Cookie: y=2", b"Cookie: %b=%b")):
                lines = [line % (name, values[0]) if b"%b" in line else line for line in cookies]
                client = world.client()
                client.send(request("GET", "/", *lines))
                side = self.serving(world)
                side.send(response())
                self.assertIsNone(client.response().field("set-cookie"))
                chosen.append(side.transport.getPeer().port)
            self.assertEqual(len(set(chosen)), 1, name)

    def serving(self, world: World) -> ServerSide:
        """The server's connection that has the request that is under way."""
        [side] = [server.last for server in world.servers if server.backend.in_flight]
        return side
