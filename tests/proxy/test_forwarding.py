"""What a server gets and what a client gets, byte for byte."""

from __future__ import annotations

from twisted.internet.address import IPv6Address
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY, InOrder
from tests.proxy.world import World, request, response


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
            b"X-Forwarded-Host: api.example:8080\r\n"
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


class BalancersViewTests(SynchronousTestCase):
    def test_request(self) -> None:
        """A balancer can ask for the method, target, user, address and any field of the request."""
        world = World()
        world.asked(request("PUT", "/t?q", b"X-Session:  abc ", b"Content-Type: text/plain", body=b""))
        assert isinstance(world.balancer, InOrder)
        [seen] = world.balancer.requests
        self.assertEqual(
            (seen.method, seen.target, seen.consumer, seen.client_address), (b"PUT", b"/t?q", b"user1", "192.0.2.7")
        )
        self.assertEqual(seen.header(b"x-session"), b"abc")
        self.assertEqual(seen.header(b"HOST"), b"api.example")
        self.assertEqual(seen.header(b"content-type"), b"text/plain")
        self.assertIsNone(seen.header(b"X-Other"))
