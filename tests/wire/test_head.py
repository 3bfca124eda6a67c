"""What a reader of heads remembers, and what it may be asked."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.wire.cases.case import get
from twisted_lb.wire import head as head_module
from twisted_lb.wire.errors import RequestError, ResponseError
from twisted_lb.wire.head import (
    MAX_GOOD_HOSTS,
    HeadLimits,
    read_request_head,
    read_response_head,
    skip_empty_lines,
)

LIMITS = HeadLimits()


class Counting:
    """A pattern that remembers what it was to match in full."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.fullmatch_of = pattern.fullmatch
        self.looked_at: list[bytes] = []

    def fullmatch(self, text: bytes) -> re.Match[bytes] | None:
        self.looked_at.append(text)
        return self.fullmatch_of(text)


class RequestHeads(SynchronousTestCase):
    """`read_request_head` beyond the table of cases."""

    def test_notable(self) -> None:
        """Notable fields are told by lower-case name, their values trimmed and in order; the others are not."""
        head = read_request_head(get(b"vIa:  a ", b"Accept: b", b"Via:c\t", b"Te:"), 0, LIMITS)
        assert head is not None
        self.assertEqual(head.notable, {b"host": [b"a.test"], b"via": [b"a", b"c"], b"te": [b""]})
        self.assertEqual(head.fields, b"\r\nAccept: b")

    def test_names_that_begin_alike(self) -> None:
        """A name that only begins or ends like a notable one is passed on."""
        fields = b"\r\nHosts: a\r\nTea: b\r\nX-Host: c\r\nContent-Length2: d\r\nVi: e"
        head = read_request_head(get(*fields[2:].split(b"\r\n")), 0, LIMITS)
        assert head is not None
        self.assertEqual(head.fields, fields)

    def test_notable_text_in_a_value(self) -> None:
        """A value that looks like a notable field is a value."""
        head = read_request_head(get(b"A: Host: b.test", b"Referer: Content-Length: 5"), 0, LIMITS)
        assert head is not None
        self.assertEqual(head.notable, {b"host": [b"a.test"]})

    def test_size(self) -> None:
        """A head's size is its bytes on the wire, without what follows."""
        head = read_request_head(get() + b"abc", 0, LIMITS)
        assert head is not None
        self.assertEqual(head.size, len(get()))

    def test_tiny_pieces(self) -> None:
        """A line of a head that comes in tiny pieces is looked at once, not with each piece."""
        pattern = Counting(head_module.FIELD_LINE)
        self.patch(head_module, "FIELD_LINE", pattern)
        fields = [b"A%d: b" % number for number in range(90)]
        data = get(*fields)[:-2]
        for end in range(len(data)):
            self.assertIsNone(read_request_head(data[: end + 1], end, LIMITS))
        self.assertEqual(pattern.looked_at, [b"Host: a.test", *fields])

    def test_limits(self) -> None:
        """Each limit is met at its number, and not before."""
        data = get(b"A: b", target=b"/abc")
        self.assertIsNotNone(read_request_head(data, 0, HeadLimits(len(data), 4, 2)))
        for limits, status in (
            (HeadLimits(len(data) - 4, 4, 2), 431),
            (HeadLimits(len(data), 3, 2), 414),
            (HeadLimits(len(data), 4, 1), 431),
        ):
            error = self.assertRaises(RequestError, read_request_head, data, 0, limits)
            self.assertEqual(error.status, status)

    def test_limits_leave_the_next_message_alone(self) -> None:
        """A head that is too large is told so, whatever comes behind it."""
        data = get(b"A: " + b"b" * 33000) + b"\x00\n\r\x01 anything"
        self.assertEqual(self.assertRaises(RequestError, read_request_head, data, 0, LIMITS).status, 431)

    def test_many_hosts(self) -> None:
        """However many hosts are named, a bad one is still refused and a good one accepted."""
        for number in range(MAX_GOOD_HOSTS + 2):
            data = b"GET / HTTP/1.1\r\nHost: h%d.test\r\n\r\n" % number
            self.assertIsNotNone(read_request_head(data, 0, LIMITS))
        self.assertRaises(RequestError, read_request_head, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 0, LIMITS)
        self.assertIsNotNone(read_request_head(get(), 0, LIMITS))

    def test_empty_lines(self) -> None:
        """Only whole empty lines are skipped."""
        for data, left in ((b"\r\n\r\nGET", b"GET"), (b"\r\n\rG", b"\rG"), (b"GET\r\n", b"GET\r\n"), (b"\r\n", b"")):
            self.assertEqual(skip_empty_lines(data, 3), (left, 3 + (len(data) - len(left)) // 2))


class ResponseHeads(SynchronousTestCase):
    """`read_response_head` beyond the table of cases."""

    def test_limit(self) -> None:
        """A head's limit is met at its number, and not before."""
        data = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
        self.assertIsNotNone(read_response_head(data, 0, len(data)))
        self.assertRaises(ResponseError, read_response_head, data, 0, len(data) - 4)

    def test_white_space(self) -> None:
        """White space around the value of a notable field is no part of it, spaces and tabs alike."""
        for value in (b"5", b" \t5", b"5\t", b"5 ", b"\t 5 \t "):
            head = read_response_head(b"HTTP/1.1 200 OK\r\nContent-Length:%b\r\n\r\n" % value, 0, 1000)
            assert head is not None
            self.assertEqual(head.notable, {b"content-length": [b"5"]})

    def test_reason(self) -> None:
        """A reason is kept with its space."""
        head = read_response_head(b"HTTP/1.1 299 So so\r\n\r\n", 0, 1000)
        assert head is not None
        self.assertEqual((head.status, head.reason, head.fields), (299, b" So so", b""))
