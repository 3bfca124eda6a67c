"""Which protocols may be requested, and which a server may switch to."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.wire.cases.case import get, post
from tests.wire.reading import byte_by_byte, read_request, read_response
from tests.wire.test_forwarding import forwarded, lines
from twisted_lb.wire.forwarding import switching_head
from twisted_lb.wire.head import RequestHead
from twisted_lb.wire.upgrade import NOT_FORWARDED, requested_protocols, switched_to

UPGRADE = frozenset((b"upgrade",))
CONNECTION = b"Connection: Upgrade"


def head_of(data: bytes) -> RequestHead:
    """The head of a request, which is the same whole, byte by byte, and with a tail."""
    heads = []
    for pieces in ([data], byte_by_byte(data), [data + b"GET / HTTP/1.1\r\n"]):
        read = read_request(pieces)
        assert read is not None
        heads.append(read[0])
    assert len({(head.upgrade, head.keep_alive, head.fields) for head in heads}) == 1
    return heads[0]


class RequestedTests(SynchronousTestCase):
    def test_protocols(self) -> None:
        """One or several protocols, with or without versions, in one or several fields, are one list."""
        for values, expected in (
            ([b"websocket"], b"websocket"),
            ([b"IRC/6.9, RTA/x11"], b"IRC/6.9, RTA/x11"),
            ([b"a ,\tb/1"], b"a, b/1"),
            ([b"a", b"b"], b"a, b"),
        ):
            self.assertEqual(requested_protocols(values, UPGRADE), expected)

    def test_not_a_list(self) -> None:
        """A field that is not a list of protocols asks for nothing."""
        for value in (b"", b",", b"a,", b"a,,b", b"a b", b"a/", b"/1", b"a/1/2", b'"a"', b"a;b", b"a\xe4"):
            self.assertEqual(requested_protocols([value], UPGRADE), b"", value)

    def test_nominated(self) -> None:
        """Without `upgrade` in Connection the field is not for this hop, whatever else Connection has."""
        self.assertEqual(requested_protocols([b"websocket"], frozenset((b"keep-alive", b"upgrades"))), b"")

    def test_not_forwarded(self) -> None:
        """Protocols that carry HTTP requests are taken out of the list, in any case and version."""
        for name in NOT_FORWARDED:
            for text in (name, name.upper(), name + b"/2.0", name + b"-14"):
                self.assertEqual(requested_protocols([text], UPGRADE), b"", text)
                self.assertEqual(requested_protocols([b"a, %b, b" % text], UPGRADE), b"a, b", text)
        self.assertEqual(requested_protocols([b"h2cx, xtls"], UPGRADE), b"h2cx, xtls")


class SwitchedTests(SynchronousTestCase):
    def test_requested(self) -> None:
        """A server switches to one or several of the protocols that were requested, in any case."""
        self.assertEqual(switched_to([b"WebSocket"], UPGRADE, b"websocket"), b"WebSocket")
        self.assertEqual(switched_to([b"b/1"], UPGRADE, b"a, b/1"), b"b/1")
        self.assertEqual(switched_to([b"b/1", b"a"], UPGRADE, b"a, b/1"), b"b/1, a")

    def test_not_requested(self) -> None:
        """Any other protocol, version, or none, is not switched to; nor without Connection."""
        for upgrade in ([b"c"], [b"a, c"], [b"a/2"], [b"b"], [b"b/1/1"], [b""], []):
            self.assertEqual(switched_to(upgrade, UPGRADE, b"a, b/1"), b"", upgrade)
        self.assertEqual(switched_to([b"a"], frozenset(), b"a"), b"")
        self.assertEqual(switched_to([b"a"], UPGRADE, b""), b"")


class HeadTests(SynchronousTestCase):
    def test_requested(self) -> None:
        """A request for another protocol is the last one of its connection."""
        head = head_of(get(b"Upgrade: websocket", b"Connection: keep-alive, Upgrade", b"A: b"))
        self.assertEqual((head.upgrade, head.keep_alive, head.fields), (b"websocket", False, b"\r\nA: b"))

    def test_not_requested(self) -> None:
        """Without protocols that may be forwarded, or in HTTP/1.0, it is a request like any other."""
        old = b"GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade, keep-alive\r\n\r\n"
        for data in (get(), get(b"Upgrade: websocket"), get(b"Upgrade: h2c", CONNECTION), get(CONNECTION), old):
            head = head_of(data)
            self.assertEqual((head.upgrade, head.keep_alive), (b"", True))

    def test_forwarded(self) -> None:
        """A new field asks the server, and Connection names it; what belongs to HTTP/2 is not forwarded."""
        both = b"connection: Upgrade, HTTP2-Settings"
        sent = forwarded(get(b"upgrade: h2c, websocket", b"HTTP2-Settings: AAMA", both))
        self.assertEqual((lines(sent, b"upgrade"), lines(sent, b"connection")), ([b"websocket"], [b"Upgrade"]))
        self.assertEqual(lines(sent, b"http2-settings"), [])
        sent = forwarded(get(b"Upgrade: a", CONNECTION, b"TE: trailers"))
        self.assertEqual((lines(sent, b"connection"), lines(sent, b"te")), ([b"Upgrade, TE"], [b"trailers"]))

    def test_with_content(self) -> None:
        """Content is framed as ever."""
        sent = forwarded(post(b"ab", b"Content-Length: 2", b"Upgrade: tcp", CONNECTION))
        self.assertEqual((lines(sent, b"upgrade"), lines(sent, b"content-length")), ([b"tcp"], [b"2"]))

    def test_not_forwarded(self) -> None:
        """What is not requested is removed."""
        for data in (get(b"Upgrade: websocket"), get(b"Upgrade: h2c", CONNECTION), get(b"Upgrade: a b", CONNECTION)):
            self.assertNotIn(b"pgrade", forwarded(data))

    def test_response(self) -> None:
        """A 101 is forwarded with its fields, a new Upgrade and Connection, and without what frames content."""
        data = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade, x-a\r\nX-A: 1\r\n"
            b"Sec-WebSocket-Accept: x\r\nContent-Length: 0\r\nDate: today\r\n\r\n"
        )
        read = read_response([data], b"GET")
        assert read is not None
        self.assertEqual(
            switching_head(read[0], b"WebSocket", b"\r\nX-RateLimit-Limit: 5"),
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\nDate: today\r\nConnection: Upgrade\r\n"
            b"Upgrade: WebSocket\r\nX-RateLimit-Limit: 5\r\n\r\n",
        )
