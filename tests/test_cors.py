"""What each origin is allowed, and the CORS fields of responses."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.cors import Cors
from twisted_lb.cors import EXPOSED, CorsPolicy, is_preflight
from twisted_lb.wire.head import HeadLimits, RequestHead, ResponseHead, read_request_head, read_response_head

APP = b"https://app.example.com"


def policy(*origins: str, **more: Any) -> CorsPolicy:
    return CorsPolicy(Cors(origins or (APP.decode(),), **more))


def asked(*lines: bytes, method: bytes = b"OPTIONS") -> RequestHead:
    data = b"\r\n".join([method + b" / HTTP/1.1", b"Host: a", *lines, b"", b""])
    head = read_request_head(data, 0, HeadLimits(any_name=True))
    assert head is not None
    return head


def answered(*lines: bytes) -> ResponseHead:
    head = read_response_head(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]), 0, 1 << 16)
    assert head is not None
    return head


def fields(lines: bytes) -> dict[str, str]:
    """Field lines by their lower-case names, each of which is there once."""
    pairs = [line.split(": ", 1) for line in lines.decode().split("\r\n")[1:]]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), lines
    return {name.lower(): value for name, value in pairs}


def preflight(of: CorsPolicy, origin: bytes = APP, method: bytes = b"GET", *headers: bytes) -> dict[str, str]:
    more = [b"access-control-request-headers:" + value for value in headers]
    return fields(of.preflight(asked(b"Origin: " + origin, b"Access-Control-Request-Method: " + method, *more)))

# As servers may spell them that make variables of the names.
OVERRIDES = (b"X-HTTP-Method: PUT", b"X_HTTP_Method_Override: PUT", b"X.Method.Override: PUT", b"x'http~method: PUT")


class OriginTests(SynchronousTestCase):
    def test_origins(self) -> None:
        """An origin is allowed as it is written, or by its pattern, and no other is, however like it."""
        of = policy("https://a.test", "https://*.b.test", "http://localhost:*", "http://*.c.test:*", "null", "app://x")
        for origin in (
            b"https://a.test",
            b"https://x.b.test",
            b"https://x.y-z.b.test",
            b"http://localhost",
            b"http://localhost:3000",
            b"http://x.c.test:81",
            b"null",
            b"app://x",
        ):
            allowed = fields(of.fields(b"\r\nOrigin: " + origin))
            self.assertEqual(allowed["access-control-allow-origin"].encode(), origin)
            self.assertEqual(allowed["vary"], "Origin")
        for origin in (
            b"",
            b"http://a.test",
            b"https://a.test:8443",
            b"https://a.test/",
            b"https://A.test",
            b"https://a.test.evil.test",
            b"https://evil.test/https://a.test",
            b"https://evila.test",
            b"https://a.test, https://a.test",
            b"https://b.test",
            b"https://.b.test",
            b"https://evilb.test",
            b"https://x.b.test.evil.test",
            b"https://evil.test/.b.test",
            b"https://evil.test#.b.test",
            b"https://evil.test:1.b.test",
            b"https://user@x.b.test",
            b"https://x..b.test",
            b"https://xxb.test",
            b"https://" + b"x." * 300 + b"b.test",
            b"http://localhost:",
            b"http://localhost:x",
            b"http://localhost.evil.test:80",
            b"NULL",
            b"*",
        ):
            self.assertEqual(of.fields(b"\r\nOrigin: " + origin), b"\r\nVary: Origin", origin)
        self.assertEqual(of.fields(b"\r\nOrigin: null\r\nOrigin: null"), b"\r\nVary: Origin")
        self.assertEqual(of.fields(b"\r\nX-Origin: null"), b"\r\nVary: Origin")

    def test_any_origin(self) -> None:
        """With `*` every origin may read what needs no cookies, and is not repeated."""
        for origin in (b"https://a.test", b"null", b"whatever"):
            self.assertEqual(fields(policy("*").fields(b"\r\nOrigin: " + origin))["access-control-allow-origin"], "*")
        self.assertEqual(policy("*").fields(b"\r\nHost: a"), b"\r\nVary: Origin")

    def test_what_can_be_read(self) -> None:
        """A page can read the limits and Retry-After always, and what the operator names besides, each once."""
        allowed = fields(policy(exposed_headers=("X-Sum", "retry-after")).fields(b"\r\norigin:" + APP))
        self.assertEqual(allowed["access-control-expose-headers"], ", ".join([*EXPOSED, "X-Sum"]))
        self.assertNotIn("access-control-allow-credentials", allowed)
        allowed = fields(policy(allow_credentials=True).fields(b"\r\nOrigin: " + APP))
        self.assertEqual(allowed["access-control-allow-credentials"], "true")

    def test_unread_request(self) -> None:
        """Of what came before a refusal only a whole line of the head counts."""
        of = policy()
        head = b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: " + APP
        self.assertIn(APP, of.fields(head + b"\r\nBad Line"))
        for data in (b"", APP, b"GET / HTTP/1.1\nOrigin: " + APP, b"POST / HTTP/1.1\r\n\r\n\r\nOrigin: " + APP):
            self.assertEqual(of.fields(data), b"\r\nVary: Origin")


class PreflightTests(SynchronousTestCase):
    def test_is_preflight(self) -> None:
        """An origin and a method make one, credentials, content and another method to do in truth do not."""
        origin, method = b"Origin: a", b"access-control-request-METHOD: PUT"
        self.assertTrue(is_preflight(asked(origin, method, b"Access-Control-Request-Headers: x"), 0))
        self.assertFalse(is_preflight(asked(origin, method), 1))
        self.assertFalse(is_preflight(asked(origin, method, b"Transfer-Encoding: chunked"), -1))
        for more in (b"Authorization: Basic eA==", b"x-http-method-override: DELETE", *OVERRIDES):
            self.assertFalse(is_preflight(asked(origin, method, more), 0), more)
        for lines in ((origin,), (method,), ()):
            self.assertFalse(is_preflight(asked(*lines), 0), lines)
        for lines in ((origin, b"Access-Control-Request-Method:"), (b"Origin:", method), (origin, origin, method)):
            self.assertFalse(is_preflight(asked(*lines), 0), lines)

    def test_defaults(self) -> None:
        """An allowed origin may send what its page asks for, Authorization among it, and need not ask again soon."""
        answer = preflight(policy(), APP, b"PUT", b"authorization, content-type", b"x-a")
        self.assertEqual(
            answer,
            {
                "access-control-allow-origin": APP.decode(),
                "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
                "access-control-allow-headers": "authorization, content-type, x-a",
                "access-control-max-age": "600",
                "vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
            },
        )
        self.assertNotIn("access-control-allow-headers", preflight(policy()))

    def test_lists(self) -> None:
        """What is listed is allowed; the methods of forms are in any case."""
        of = policy(allowed_methods=("PUT", "patch"), allowed_headers=("X-A", "Authorization"), max_age=0.0)
        for method in (b"PUT", b"patch", b"GET", b"HEAD", b"POST"):
            answer = preflight(of, APP, method, b"x-a,AUTHORIZATION")
            self.assertEqual(answer["access-control-allow-methods"], "PUT, patch")
            self.assertEqual(answer["access-control-allow-headers"], "X-A, Authorization")
            self.assertEqual(answer["access-control-max-age"], "0")
        self.assertIn("access-control-allow-origin", preflight(of, APP, b"PUT"))

    def test_any_method(self) -> None:
        """`*` allows the method that is asked for by its name, which counts with credentials too."""
        answer = preflight(policy(allowed_methods=("*",), allow_credentials=True), APP, b"PROPFIND", b"x-a")
        self.assertEqual(answer["access-control-allow-methods"], "PROPFIND")
        self.assertEqual(answer["access-control-allow-headers"], "x-a")
        self.assertEqual(answer["access-control-allow-credentials"], "true")

    def test_refused(self) -> None:
        """What is not allowed gets nothing that allows anything, and tells no list."""
        of = policy(allowed_methods=("PUT",), allowed_headers=("x-a",))
        for origin, method, *headers in (
            (b"https://b.test", b"PUT"),
            (APP, b"DELETE"),
            (APP, b"put"),
            (APP, b"PUT", b"x-b"),
            (APP, b"PUT", b"x-a, x-b"),
            (APP, b"PUT", b"x-a", b"x-b"),
            (APP, b"PUT", b"x-a x-b"),
            (APP, b"GET, PUT"),
            (APP, b"PUT;"),
        ):
            self.assertEqual(list(preflight(of, origin, method, *headers)), ["vary"], (origin, method, headers))
        self.assertEqual(list(preflight(policy("*"), APP, b"PUT", b'a, "b')), ["vary"])


class AnswerTests(SynchronousTestCase):
    def of_server(self, *lines: bytes, origin: bytes = APP) -> tuple[bytes, bytes]:
        """The server's lines that are left, and what is said in place of the others."""
        answer = answered(*lines)
        said = policy().on_answer(asked(b"Origin: " + origin, method=b"GET"), answer)
        return answer.fields, said

    def test_plain(self) -> None:
        """A server's lines stay as they came, and ours are beside them."""
        left, said = self.of_server(b"A: 1", b"X-Vary: a", b"b:2")
        self.assertEqual(left, b"\r\nA: 1\r\nX-Vary: a\r\nb:2")
        self.assertEqual(fields(said)["access-control-allow-origin"], APP.decode())

    def test_servers_own(self) -> None:
        """A server's own CORS fields are replaced, for an origin that is allowed and for one that is not."""
        own = b"Access-Control-Allow-Origin: *", b"access-control-expose-headers: X", b"Access-Control-Max-Age: 1"
        for origin in (APP, b"https://b.test"):
            left, said = self.of_server(b"A: 1", *own, b"B: 2", origin=origin)
            self.assertEqual(left, b"\r\nA: 1\r\nB: 2")
            self.assertEqual(fields(said).get("access-control-allow-origin"), APP.decode() if origin == APP else None)
            self.assertEqual(fields(said)["vary"], "Origin")

    def test_vary(self) -> None:
        """Vary is one field with Origin in it once, or the `*` that the server says."""
        for lines, vary in (
            ((b"Vary: Accept-Encoding",), "Accept-Encoding, Origin"),
            ((b"vary: Accept , Cookie", b"Vary:x"), "Accept, Cookie, x, Origin"),
            ((b"Vary: Accept, origin",), "Accept, origin"),
            ((b"Vary: *",), "*"),
            ((b"Vary: a", b"Vary: *"), "*"),
            ((b"Vary:",), "Origin"),
            ((b"Vary: ,a,,",), "a, Origin"),
        ):
            left, said = self.of_server(b"A: 1", *lines)
            self.assertEqual((left, fields(said)["vary"]), (b"\r\nA: 1", vary), lines)
