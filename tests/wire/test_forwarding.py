"""Heads as they are forwarded, and heads generated here."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.wire.cases.case import get, post
from tests.wire.reading import read_request, read_response
from twisted_lb.credentials import KeyPlaces
from twisted_lb.network.address_ranges import AddressRanges
from twisted_lb.network.peer import PeerInfo
from twisted_lb.network.trusted_proxies import TrustedProxy
from twisted_lb.own_fields import MAX_CONSUMER_LINES, consumer_line, username_value
from twisted_lb.wire.forwarding import ForwardedFields, interim_head, own_head, response_head

ADDED = (
    b"X-Consumer-Username: ann\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.test\r\n"
    b"X-Forwarded-Port: 80\r\nX-Real-IP: 192.0.2.1\r\n"
    b'Forwarded: for=192.0.2.1;host="a.test";proto=http\r\nVia: 1.1 twisted_lb\r\n'
)
DATE = b"Mon, 23 Nov 2026 21:15:43 GMT"


def forwarded(data: bytes, hop: ForwardedFields | None = None) -> bytes:
    """The head that a server gets for this request, once its key was taken out."""
    read = read_request([data])
    assert read is not None
    head, body = read
    KeyPlaces().take(head.notable)
    hop = hop or ForwardedFields("192.0.2.1", b"http")
    return hop.request_head(head, body.framing, consumer_line(b"ann"), b"server:9001")


def forwarded_from_proxy(data: bytes) -> bytes:
    """The same if a trusted proxy has sent it."""
    proxy = TrustedProxy(PeerInfo("192.0.2.1", "192.0.2.1"), AddressRanges(("192.0.2.1/32", "10.0.0.0/8")))
    read = read_request([data])
    assert read is not None
    return forwarded(data, proxy.client_of(read[0].notable)[1])


def lines(head: bytes, name: bytes) -> list[bytes]:
    """The values of the fields of this name."""
    fields = [line.partition(b":") for line in head.split(b"\r\n")]
    return [value.strip() for field, _, value in fields if field.lower() == name]


# Letters whose UTF-8 ends in, or has, what Latin-1 has for white space, and what escapes are made of.
_letters = st.sampled_from("a% 2C3A0\xe0\xc5\u0445\u0420\ua820\xe9\u4e85\U0001f605\U0001f680")
_names = st.text(_letters, min_size=1).filter(lambda name: name == name.strip())


def as_latin1(name: str) -> list[str]:
    """What a server reads that takes a value for Latin-1, splits lines where it thinks they end, and strips."""
    return [line.strip() for line in username_value(name.encode()).decode("latin-1").splitlines()]


class ConsumerTests(SynchronousTestCase):
    """X-Consumer-Username."""

    def test_values(self) -> None:
        """A name goes as it is, in UTF-8, unless a server could cut it, or it has a percent sign."""
        for name, value in (
            ("user1", b"user1"),
            ("Ann Lee", b"Ann Lee"),
            ("Zo\xeb", b"Zo\xc3\xab"),
            ("\u0420\u043e\u043c\u0430\u043d", b"\xd0\xa0\xd0\xbe\xd0\xbc\xd0\xb0\xd0\xbd"),
            ("Voil\xe0", b"Voil%C3%A0"),
            ("\xe0 la Zo\xeb", b"\xc3\xa0 la Zo\xc3\xab"),
            ("\xc5sa Zo\xeb", b"%C3%85sa Zo%C3%AB"),
            ("\u0447\u0435\u0445", b"%D1%87%D0%B5%D1%85"),
            ("50%", b"50%25"),
            ("Voil%C3%A0", b"Voil%25C3%25A0"),
            ("a+b/c?d;e=f,g\"h", b"a+b/c?d;e=f,g\"h"),
            ("a\r\nX-Evil: 1", b"a%0D%0AX-Evil: 1"),
        ):
            self.assertEqual(username_value(name.encode()), value)
            self.assertEqual(unquote(value.decode()), name)

    @settings(derandomize=True, database=None, max_examples=1000)
    @given(_names, _names)
    def test_two_users(self, one: str, other: str) -> None:
        """Two names are two, and each of one line, also for a server that reads Latin-1, splits and strips."""
        self.assertEqual(len(as_latin1(one)), 1)
        self.assertEqual(as_latin1(one) == as_latin1(other), one == other)
        # And whoever decodes has the name.
        self.assertEqual(unquote(as_latin1(one)[0].encode("latin-1").decode()), one)

    def test_one_connection(self) -> None:
        """Each request of a connection tells its own user, and that of nobody tells none."""
        hop = ForwardedFields("192.0.2.1", b"http")
        read = read_request([get()])
        assert read is not None
        names = (b"ann", b"ann"), (b"\xc3\xa0", b"%C3%A0"), (b"", b""), (b"ann", b"ann"), (b"", b"")
        for name, value in names:
            head = hop.request_head(read[0], 0, consumer_line(name), b"server:9001")
            self.assertEqual(lines(head, b"x-consumer-username"), [value] if value else [])


    def test_remembered_lines(self) -> None:
        """The lines of a bounded number of users are remembered, and forgotten ones are made again."""
        for n in range(2 * MAX_CONSUMER_LINES):
            self.assertEqual(consumer_line(b"u%d" % n), b"\r\nX-Consumer-Username: u%d" % n)
        self.assertEqual((consumer_line(b"u0"), consumer_line(b"")), (b"\r\nX-Consumer-Username: u0", b""))


class RequestHeads(SynchronousTestCase):
    """What a server gets."""

    def test_plain(self) -> None:
        """A plain request keeps its line, Host and fields, and gets what a gateway adds."""
        self.assertEqual(
            forwarded(get(b"Authorization: key", b"Accept: */*", target=b"/b?c")),
            b"GET /b?c HTTP/1.1\r\nHost: a.test\r\nAccept: */*\r\n" + ADDED + b"\r\n",
        )

    def test_twice(self) -> None:
        """The second request of a client's connection gets the same as the first."""
        hop = ForwardedFields("192.0.2.1", b"http")
        self.assertEqual(forwarded(get(), hop), forwarded(get(), hop))

    def test_hosts_alternate(self) -> None:
        """What is said of one request's host is not said of the next one's."""
        hop = ForwardedFields("192.0.2.1", b"http")
        for target, host in ((b"/", b"a.test"), (b"http://b.test/", b"b.test"), (b"/", b"a.test")):
            head = forwarded(get(target=target), hop)
            self.assertEqual(lines(head, b"host"), [host])
            self.assertEqual(lines(head, b"x-forwarded-host"), [host])
            self.assertEqual(lines(head, b"forwarded"), [b'for=192.0.2.1;host="%b";proto=http' % host])

    def test_versions_alternate(self) -> None:
        """Via tells the version of each request."""
        hop = ForwardedFields("192.0.2.1", b"http")
        for version in (b"1.1", b"1.0", b"1.1"):
            head = forwarded(b"GET / HTTP/%b\r\nHost: a.test\r\n\r\n" % version, hop)
            self.assertEqual(lines(head, b"via"), [version + b" twisted_lb"])
            self.assertEqual(head[:16], b"GET / HTTP/1.1\r\n")

    def test_proxies_before(self) -> None:
        """What a trusted proxy has said of its client is continued, and the next request does not inherit that."""
        sent = b"X-Forwarded-For: 198.51.100.7, 10.0.0.1", b"Forwarded: for=198.51.100.7", b"Via: 1.0 x"
        head = forwarded_from_proxy(get(*sent))
        self.assertEqual(lines(head, b"x-forwarded-for"), [b"198.51.100.7, 10.0.0.1, 192.0.2.1"])
        self.assertEqual(lines(head, b"forwarded"), [b'for=198.51.100.7, for=192.0.2.1;host="a.test";proto=http'])
        self.assertEqual(lines(head, b"via"), [b"1.0 x, 1.1 twisted_lb"])
        self.assertEqual(lines(head, b"x-real-ip"), [b"198.51.100.7"])
        self.assertEqual(lines(forwarded_from_proxy(get()), b"x-forwarded-for"), [b"192.0.2.1, 192.0.2.1"])

    def test_client_before(self) -> None:
        """The same from anyone else is replaced; Via, which names nobody's address, is continued."""
        sent = b"X-Forwarded-For: 198.51.100.7", b"x-forwarded-for: a", b"Forwarded: for=198.51.100.7", b"Via: 1.0 x"
        head = forwarded(get(*sent, b"X-Forwarded-Port: 1", b"X-Real-IP: 198.51.100.7"))
        self.assertEqual(
            head,
            b"GET / HTTP/1.1\r\nHost: a.test\r\n"
            + ADDED.replace(b"Via: ", b"Via: 1.0 x, ")
            + b"\r\n",
        )

    def test_one_list(self) -> None:
        """Servers that read one of the two lists only are told the same, whichever a trusted proxy has sent."""
        head = forwarded_from_proxy(get(b"X-Forwarded-For: 2001:db8::7", b"X-Forwarded-Proto: https"))
        self.assertEqual(
            lines(head, b"forwarded"),
            [b'for="[2001:db8::7]";host="a.test";proto=https, for=192.0.2.1;host="a.test";proto=http'],
        )
        head = forwarded_from_proxy(get(b'Forwarded: for="[2001:db8::7]:80";proto=https;host=b.test'))
        self.assertEqual(lines(head, b"x-forwarded-for"), [b"2001:db8::7, 192.0.2.1"])
        for name, value in ((b"proto", b"https"), (b"host", b"b.test"), (b"port", b"443")):
            self.assertEqual(lines(head, b"x-forwarded-" + name), [value])

    def test_port(self) -> None:
        """X-Forwarded-Port is the one that the client has asked for: in the host, or that of the scheme."""
        for host, scheme, port in (
            (b"a.test", b"http", b"80"),
            (b"a.test", b"https", b"443"),
            (b"a.test:8443", b"https", b"8443"),
            (b"[2001:db8::1]", b"https", b"443"),
            (b"[2001:db8::1]:080", b"http", b"80"),
            (b"a.test:", b"http", b"80"),
            (b"a.test:99999", b"http", b"80"),
        ):
            head = forwarded(get().replace(b"a.test", host), ForwardedFields("192.0.2.1", scheme))
            self.assertEqual(lines(head, b"x-forwarded-port"), [port], host)

    def test_open_quote(self) -> None:
        """A Forwarded that leaves a quote open does not swallow ours."""
        for value in (b'for="a', b'for="a\\"', b'for="a";by="', b'"'):
            self.assertEqual(
                lines(forwarded_from_proxy(get(b"Forwarded: " + value)), b"forwarded"),
                [b'for=192.0.2.1;host="a.test";proto=http, for=192.0.2.1;host="a.test";proto=http'],
            )

    def test_closed_quote(self) -> None:
        """A Forwarded with closed quotes is continued."""
        head = forwarded_from_proxy(get(b'Forwarded: for="[2001:db8::1]:80";by="a\\"b"'))
        self.assertEqual(
            lines(head, b"forwarded"),
            [b'for="[2001:db8::1]:80";by="a\\"b", for=192.0.2.1;host="a.test";proto=http'],
        )

    def test_ipv6(self) -> None:
        """An IPv6 client is bracketed and quoted in Forwarded, and bare in X-Forwarded-For (RFC 7239 section 6)."""
        head = forwarded(get(), ForwardedFields("2001:db8::1", b"https"))
        self.assertEqual(lines(head, b"x-forwarded-for"), [b"2001:db8::1"])
        self.assertEqual(lines(head, b"forwarded"), [b'for="[2001:db8::1]";host="a.test";proto=https'])
        self.assertEqual(lines(head, b"x-forwarded-proto"), [b"https"])

    def test_no_address(self) -> None:
        """A client without an address, as on a Unix socket, is unknown."""
        self.assertEqual(
            lines(forwarded(get(), ForwardedFields("", b"http")), b"forwarded"),
            [b'for=unknown;host="a.test";proto=http'],
        )

    def test_claims_of_the_client(self) -> None:
        """A client's own claims about its scheme, host and name are replaced."""
        head = forwarded(get(b"X-Forwarded-Proto: https", b"X-Forwarded-Host: b", b"X-Consumer-Username: root"))
        self.assertEqual(lines(head, b"x-forwarded-proto"), [b"http"])
        self.assertEqual(lines(head, b"x-forwarded-host"), [b"a.test"])
        self.assertEqual(lines(head, b"x-consumer-username"), [b"ann"])

    def test_claims_with_underscores(self) -> None:
        """A claim that an application server would read as ours is dropped."""
        head = forwarded(get(b"X_Consumer_Username: root", b"X-Forwarded_For: ::1"))
        self.assertNotIn(b"_Username", head)
        self.assertNotIn(b"_For", head)

    def test_keys(self) -> None:
        """No API key goes further, whichever way it came."""
        for line in (
            b"Authorization: k3y",
            b"Authorization: Bearer k3y",
            b"authorization: bearer k3y",
            b"X-API-Key: k3y",
            b"apikey: k3y",
        ):
            self.assertNotIn(b"k3y", forwarded(get(line)))

    def test_other_credentials(self) -> None:
        """Credentials of another scheme are the server's."""
        head = forwarded(get(b"Authorization: Basic YTpi", b"X-API-Key: k3y"))
        self.assertEqual(lines(head, b"authorization"), [b"Basic YTpi"])

    def test_applications_token(self) -> None:
        """Beside a key that was issued, a token of the application's own goes on as it is."""
        key = b"0f8fad5b-d9cb-469f-a165-70867728950e"
        for value in (b"Bearer eyJh.e30.c2ln", b"bearer  a", b"eyJh.e30.c2ln"):
            head = forwarded(get(b"Authorization: " + value, b"X-API-Key: " + key))
            self.assertEqual(lines(head, b"authorization"), [value])
            self.assertNotIn(key, head)

    def test_no_host(self) -> None:
        """A request of HTTP/1.0 without Host goes to the server's own."""
        head = forwarded(b"GET / HTTP/1.0\r\n\r\n")
        self.assertEqual(lines(head, b"host"), [b"server:9001"])
        self.assertEqual(lines(head, b"x-forwarded-host"), [b"server:9001"])

    def test_asterisk(self) -> None:
        """OPTIONS for the server itself stays that."""
        self.assertTrue(forwarded(b"OPTIONS http://b.test HTTP/1.1\r\nHost: a.test\r\n\r\n").startswith(
            b"OPTIONS * HTTP/1.1\r\nHost: b.test\r\n"))

    def test_length(self) -> None:
        """A length is passed on as a plain number; no length is invented."""
        self.assertEqual(lines(forwarded(post(b"abcde", b"Content-Length: 005")), b"content-length"), [b"5"])
        self.assertEqual(lines(forwarded(post(b"", b"Content-Length: 0")), b"content-length"), [b"0"])
        self.assertEqual(lines(forwarded(post(b"")), b"content-length"), [])

    def test_chunked(self) -> None:
        """A chunked request stays chunked, and has no length."""
        head = forwarded(post(b"0\r\n\r\n", b"Transfer-Encoding: Chunked"))
        self.assertEqual(lines(head, b"transfer-encoding"), [b"chunked"])
        self.assertEqual(lines(head, b"content-length"), [])

    def test_content_type(self) -> None:
        """Content-Type is passed on once."""
        self.assertEqual(lines(forwarded(get(b"Content-Type: a/b ")), b"content-type"), [b"a/b"])

    def test_nominated(self) -> None:
        """What Connection names is dropped, also where this gateway reads it; but what frames and routes stays."""
        head = forwarded(
            post(
                b"ab",
                b"Connection: Content-Type, X-Forwarded-For, Forwarded, Via, Content-Length, Host",
                b"Connection: Max-Forwards, Expect",
                b"Content-Type: a/b",
                b"X-Forwarded-For: 10.0.0.1",
                b"Forwarded: for=10.0.0.1",
                b"Via: 1.0 x",
                b"Content-Length: 2",
                b"Max-Forwards: 3",
                b"Expect: 100-continue",
            )
        )
        self.assertEqual(
            head, b"POST / HTTP/1.1\r\nHost: a.test\r\n" + ADDED + b"Content-Length: 2\r\n\r\n",
        )

    def test_nominated_credentials(self) -> None:
        """Credentials of another scheme that Connection names do not go on; a key there is still to be found."""
        self.assertEqual(lines(forwarded(get(b"Authorization: Basic eA==", b"Connection: close")), b"authorization"),
                         [b"Basic eA=="])
        for value in (b"Basic eA==", b"Bearer k", b"k"):
            fields = b"Authorization: " + value, b"Connection: authorization, close"
            self.assertEqual(lines(forwarded(get(*fields)), b"authorization"), [])
            read = read_request([get(*fields)])
            assert read is not None
            self.assertEqual(read[0].notable[b"authorization"], [value])

    def test_trailers(self) -> None:
        """The client's word that it takes trailers is passed on, and no other transfer coding (RFC 9110 10.1.4)."""
        for value in (b"trailers", b"Trailers", b"gzip;q=0.5, trailers"):
            head = forwarded(get(b"TE: " + value, b"Connection: TE"))
            self.assertEqual(lines(head, b"te"), [b"trailers"])
            self.assertEqual(lines(head, b"connection"), [b"TE"])
        head = forwarded(get(b"TE: gzip", b"Connection: TE"))
        self.assertEqual(lines(head, b"te") + lines(head, b"connection"), [])

    def test_expectation(self) -> None:
        """100-continue is passed on from HTTP/1.1, and means nothing in HTTP/1.0 (RFC 9110 section 10.1.1)."""
        expecting = post(b"ab", b"Content-Length: 2", b"Expect: 100-Continue")
        self.assertEqual(lines(forwarded(expecting), b"expect"), [b"100-continue"])
        self.assertEqual(lines(forwarded(expecting.replace(b"HTTP/1.1", b"HTTP/1.0")), b"expect"), [])

    def test_max_forwards(self) -> None:
        """Max-Forwards counts down for OPTIONS, and stays as it is for other methods (RFC 9110 section 7.6.2)."""
        for value, left in ((b"5", b"4"), (b"1", b"0"), (b"0", b"0"), (b"many", b"many"), (b"9" * 5000, b"9" * 5000)):
            head = forwarded(b"OPTIONS / HTTP/1.1\r\nHost: a.test\r\nMax-Forwards: %b\r\n\r\n" % value)
            self.assertEqual(lines(head, b"max-forwards"), [left])
        self.assertEqual(lines(forwarded(get(b"Max-Forwards: 5")), b"max-forwards"), [b"5"])


class ResponseHeads(SynchronousTestCase):
    """What a client gets."""

    def sent(
        self, data: bytes, minor: int = 1, close: bool = False, method: bytes = b"GET", own: bytes = b""
    ) -> bytes:
        """The head that a client gets for this response of a server."""
        read = read_response([data], method)
        assert read is not None
        head, body = read
        return response_head(head, body.framing, minor, own, close, DATE)

    def test_length(self) -> None:
        """A response of known length keeps its length, status, reason and fields."""
        self.assertEqual(
            self.sent(b"HTTP/1.1 404 No such thing\r\nServer: x\r\nContent-Length: 2\r\n\r\nab"),
            b"HTTP/1.1 404 No such thing\r\nServer: x\r\nDate: %b\r\nContent-Length: 2\r\n\r\n" % DATE,
        )

    def test_date(self) -> None:
        """A server's Date stays, and stays one."""
        head = self.sent(b"HTTP/1.1 200 OK\r\nDate: then\r\nDate: now\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(lines(head, b"date"), [b"then"])

    def test_nominated_date(self) -> None:
        """A Date that the server's Connection names is replaced."""
        head = self.sent(b"HTTP/1.1 200 OK\r\nConnection: date\r\nDate: then\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(lines(head, b"date"), [DATE])

    def test_unknown_length(self) -> None:
        """A body of unknown length is chunked to HTTP/1.1, and ended by the connection's end to HTTP/1.0."""
        for data in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
            head = self.sent(data)
            self.assertEqual(lines(head, b"transfer-encoding"), [b"chunked"])
            self.assertEqual(lines(head, b"content-length"), [])
            head = self.sent(data, minor=0, close=True)
            self.assertEqual(lines(head, b"transfer-encoding"), [])
            self.assertEqual(lines(head, b"connection"), [b"close"])

    def test_no_content(self) -> None:
        """204 has no Content-Length and no Transfer-Encoding (RFC 9110 section 8.6)."""
        for field in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
            head = self.sent(b"HTTP/1.1 204 No Content\r\n%b\r\n\r\n" % field)
            self.assertEqual(lines(head, b"content-length") + lines(head, b"transfer-encoding"), [])

    def test_not_modified(self) -> None:
        """304 keeps the length of what it does not send (RFC 9110 section 8.6)."""
        head = self.sent(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n")
        self.assertEqual(lines(head, b"content-length"), [b"5"])

    def test_head(self) -> None:
        """A response to HEAD keeps its length, and gets none where the server named none."""
        self.assertEqual(
            lines(self.sent(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", method=b"HEAD"), b"content-length"), [b"5"]
        )
        head = self.sent(b"HTTP/1.1 200 OK\r\n\r\n", method=b"HEAD")
        self.assertEqual(lines(head, b"content-length") + lines(head, b"transfer-encoding"), [])

    def test_connection(self) -> None:
        """Connection says close where the connection ends, keep-alive to HTTP/1.0 where it does not, else nothing."""
        data = b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nKeep-Alive: timeout=9\r\nContent-Length: 0\r\n\r\n"
        self.assertEqual(lines(self.sent(data), b"connection"), [])
        self.assertEqual(lines(self.sent(data, close=True), b"connection"), [b"close"])
        self.assertEqual(lines(self.sent(data, minor=0), b"connection"), [b"keep-alive"])
        self.assertEqual(lines(self.sent(data, minor=0, close=True), b"connection"), [b"close"])

    def test_own_fields(self) -> None:
        """Our own rate-limit fields replace the server's."""
        head = self.sent(
            b"HTTP/1.1 200 OK\r\nX-RateLimit-Limit: 1\r\nContent-Length: 0\r\n\r\n", own=b"\r\nX-RateLimit-Limit: 5"
        )
        self.assertEqual(lines(head, b"x-ratelimit-limit"), [b"5"])

    def test_missing_reason(self) -> None:
        """A status line keeps its space where the server left the reason out (RFC 9112 section 4)."""
        self.assertTrue(self.sent(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 200 \r\n"))

    def test_version(self) -> None:
        """The version is ours, not the server's (RFC 9110 section 2.5)."""
        self.assertTrue(self.sent(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n"))

    def test_interim(self) -> None:
        """An interim response keeps its fields, and gets none."""
        read = read_response([b"HTTP/1.1 103 Early Hints\r\nLink: a\r\nConnection: x\r\nX: y\r\n\r\n"], b"GET")
        assert read is not None
        self.assertEqual(interim_head(read[0]), b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")

    def test_own_head(self) -> None:
        """A response made here has a length and the fields that it was given."""
        self.assertEqual(
            own_head(400, b"Bad Request", b"\r\nA: b", 5, True, 1),
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\nA: b\r\nConnection: close\r\n\r\n",
        )
        self.assertNotIn(b"Connection", own_head(200, b"OK", b"", 5, False, 1))
        self.assertEqual(lines(own_head(200, b"OK", b"", 5, False, 0), b"connection"), [b"keep-alive"])
