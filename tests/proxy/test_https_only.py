"""The redirect of plain requests to https, and Strict-Transport-Security in responses over https."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY, REFUSED
from tests.proxy.world import World, request, response
from twisted_lb.config.cors import Cors
from twisted_lb.cors import CorsPolicy

HSTS = "max-age=31536000; includeSubDomains"
LINE = b"Strict-Transport-Security: max-age=31536000; includeSubDomains\r\n"


class RedirectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(http_redirect="https", key_query_parameter="api_key")

    def location(self, data: bytes, **settings: Any) -> str | int:
        """Where one request is sent to, or the status of another answer."""
        client = World(http_redirect="https", key_query_parameter="api_key", **settings).client()
        client.send(data)
        answer = client.response(data.partition(b" ")[0].decode())
        return answer.field("location") if answer.status == 308 else answer.status

    def test_redirected(self) -> None:
        """Every request is sent to https with its target as it came, on a connection that stays, and costs nothing."""
        world = self.world
        client = world.client()
        preflight = (b"Origin: https://a.test", b"Access-Control-Request-Method: PUT")
        for method, target, *fields in (
            ("GET", "/a?b=c&api_key=K%20&d;e"),
            ("HEAD", "//evil.test/..%2f"),
            ("DELETE", "/\\evil.test"),
            ("POST", "/door"),
            ("OPTIONS", "/", *preflight),
        ):
            client.send(request(method, target, *fields))
            answer = client.response(method)
            self.assertEqual((answer.status, answer.field("location")), (308, f"https://api.example{target}"))
            if method == "GET":
                self.assertIn(b'"detail":"This is served over https."', answer.body)
        client.send(b"OPTIONS * HTTP/1.1\r\nHost: api.example:80\r\n\r\n")
        self.assertEqual(client.response("OPTIONS").field("location"), "https://api.example")
        self.assertFalse(client.ended)
        self.assertEqual((world.dialled, world.buckets.asked, world.door.calls), ([], [], []))
        self.assertEqual(world.factory.limits.context.counts.answered[308], 6)

    def test_content(self) -> None:
        """A request with content is redirected, too; a client that is still sending it gets to read that."""
        client = self.world.client()
        client.send(request("POST", "/a", body=b"x"))
        self.assertEqual((client.response().status, client.ended), (308, False))
        for field in (b"Content-Length: 100000", b"Transfer-Encoding: chunked"):
            client = self.world.client()
            client.send(request("PUT", "/a", field, b"Expect: 100-continue"))
            answer = client.response()
            self.assertEqual((answer.status, answer.field("connection")), (308, "close"))

    def test_port(self) -> None:
        """The host is that of the request without its port, and the port that of https unless it is the default."""
        for host, port, location in (
            (b"api.example", 0, "https://api.example/"),
            (b"api.example:8080", 443, "https://api.example/"),
            (b"API.example:", 8443, "https://API.example:8443/"),
            (b"192.0.2.1:80", 8443, "https://192.0.2.1:8443/"),
            (b"[2001:db8::1]:80", 8443, "https://[2001:db8::1]:8443/"),
        ):
            data = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host
            self.assertEqual(self.location(data, https_port=port), location)

    def test_other_hosts(self) -> None:
        """No target and no field but Host leads anywhere else, and a host that no URL has is refused."""
        fields = b"X-Forwarded-Host: evil.test\r\nForwarded: host=evil.test\r\nReferer: http://evil.test/\r\n"
        start = b"GET /@evil.test HTTP/1.1\r\nHost: "
        self.assertEqual(self.location(start + b"a.test\r\n" + fields + b"\r\n"), "https://a.test/@evil.test")
        # RFC 9112 section 3.2.2: the authority of the target is what is asked for.
        absolute = b"GET http://b.test:80?x HTTP/1.1\r\nHost: a.test\r\n\r\n"
        self.assertEqual(self.location(absolute), "https://b.test/?x")
        for host in (b"a.test%2f.evil.test", b"a;b", b"-", b".", b"a.test/", b"u@evil.test", b"a,b", b"[v1.x]", b""):
            self.assertEqual(self.location(start + host + b"\r\n\r\n"), 400, host)
        self.assertEqual(self.location(b"GET / HTTP/1.0\r\n\r\n"), 400)

    def test_malformed(self) -> None:
        """What is no request is not redirected."""
        self.assertEqual(self.location(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400)

    def test_over_https(self) -> None:
        """What comes over https is served."""
        client = self.world.client(tls=True)
        client.send(request())
        self.world.server.last.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")

    def test_proxy_in_front(self) -> None:
        """Of a trusted proxy it is decided for each request whether its client used https; others are not believed."""
        world = World(http_redirect="https", hsts=HSTS, trusted_proxies=("192.0.2.0/24",))
        client = world.client()
        for scheme in (b"https", b"http", b"https"):
            client.send(request("GET", "/", b"X-Forwarded-For: 198.51.100.1", b"X-Forwarded-Proto: " + scheme))
            if scheme == b"https":
                world.server.last.send(response())
            data = client.read()
            self.assertEqual(data.startswith(b"HTTP/1.1 308 "), scheme == b"http")
            self.assertEqual(data.count(LINE), int(scheme == b"https"))
        stranger = world.client(IPv4Address("TCP", "198.51.100.2", 1))
        stranger.send(request("GET", "/", b"X-Forwarded-Proto: https"))
        self.assertEqual(stranger.response().status, 308)

    def test_key_in_the_query(self) -> None:
        """A page of an allowed origin may follow; the key is not in what is kept of the request."""
        policy = CorsPolicy(Cors(allowed_origins=("https://app.test",)))
        self.world.use(self.world.route, policy)
        client = self.world.client()
        client.send(request("GET", "/?api_key=" + KEY.decode(), b"Origin: https://app.test"))
        answer = client.response()
        self.assertEqual(answer.field("access-control-allow-origin"), "https://app.test")
        self.assertEqual(answer.field("location"), "https://api.example/?api_key=" + KEY.decode())


class StrictTransportSecurityTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(hsts=HSTS)

    def answers(self, tls: bool) -> list[bytes]:
        """A server's response, the door's, a refusal, and what answers a malformed request."""
        world = self.world
        client = world.client(tls=tls)
        client.send(request())
        own = b"strict-transport-security:max-age=1", b"A: 1", b"Strict-Transport-Security: x"
        world.server.last.send(response(b"", *own))
        answers = [client.read()]
        client.send(request("GET", "/door"))
        answers.append(client.read())
        client.send(request("OPTIONS", "*", b"Max-Forwards: 0"))
        answers.append(client.read())
        world.buckets.answer = REFUSED
        client.send(request())
        answers.append(client.read())
        client.send(b"nonsense\r\n\r\n")
        answers.append(client.read())
        return answers

    def test_over_https(self) -> None:
        """Each response has the field of this gateway, once, whoever made it; a server's own is removed."""
        for answer in self.answers(tls=True):
            self.assertEqual(answer.count(LINE), 1, answer)
            self.assertEqual(answer.lower().count(b"strict-transport-security"), 1, answer)

    def test_over_http(self) -> None:
        """Over plain HTTP no response has it (RFC 6797 section 7.2), and a server's own is left alone."""
        first, *others = self.answers(tls=False)
        self.assertNotIn(LINE, first)
        self.assertIn(b"\r\nstrict-transport-security:max-age=1\r\nA: 1\r\n", first)
        self.assertNotIn(b"strict-transport", b"".join(others).lower())

    def test_off(self) -> None:
        """Without the setting a server's own field is passed on over https."""
        self.world = World()
        client = self.world.client(tls=True)
        client.send(request())
        self.world.server.last.send(response(b"", b"Strict-Transport-Security: max-age=1"))
        self.assertEqual(client.response().field("strict-transport-security"), "max-age=1")
