"""One complete response: the reader of the health checks, compared with that of the data path."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from tests.wire.cases import RESPONSE_CASES
from tests.wire.cases.case import Refused, Response
from tests.wire.reading import byte_by_byte
from twisted_lb.wire.errors import ResponseError
from twisted_lb.wire.head import MAX_INTERIM_RESPONSES, MAX_RESPONSE_HEAD_BYTES
from twisted_lb.wire.response import ResponseReader

ENOUGH = 4096
LINK = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def read(pieces: Iterable[bytes], method: bytes = b"GET", enough: int = 1 << 40) -> ResponseReader:
    """Feed these; what comes after the response is not read.  Raises ResponseError."""
    reader = ResponseReader(method, enough)
    for piece in pieces:
        if reader.done:
            break
        reader.feed(piece)
    return reader


class CaseTests(SynchronousTestCase):
    def test_as_the_data_path(self) -> None:
        """Each response of the tables is whole, unfinished or refused as it is on the data path, in any pieces."""
        for case in RESPONSE_CASES:
            for pieces in ([case.data], byte_by_byte(case.data)):
                expected = case.expected
                if isinstance(expected, Refused) or (isinstance(expected, Response) and expected.status == 101):
                    self.assertRaises(ResponseError, read, pieces, case.method)
                    continue
                reader = read(pieces, case.method)
                if not isinstance(expected, Response) or expected.status < 200:
                    self.assertFalse(reader.done, case.claim)
                    continue
                self.assertEqual(reader.status, expected.status, case.claim)
                self.assertEqual(reader.done, not expected.until_close, case.claim)
                self.assertTrue(reader.connection_ended(), case.claim)

    def test_a_connection_that_ends_early(self) -> None:
        """At the end of the connection only a response that nothing else ends is whole."""
        for data in (b"", b"HTTP/1.1 200 OK\r\n", OK[:-1], CHUNKED + b"2\r\nok\r\n", LINK):
            reader = read([data] if data else [])
            self.assertFalse(reader.connection_ended(), data)

    def test_enough(self) -> None:
        """A longer response is whole with as much content as is waited for, and not a byte before."""
        for head in (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"):
            reader = read([head, b"x" * (ENOUGH - 1)], enough=ENOUGH)
            self.assertFalse(reader.done)
            reader.feed(b"x")
            self.assertTrue(reader.done)
        self.assertTrue(read([CHUNKED, b"1\r\nx\r\n" * ENOUGH], enough=ENOUGH).done)


class BoundTests(SynchronousTestCase):
    def refused_after(self, begin: bytes, piece: bytes, most: int) -> str:
        """Feed `piece` for ever; what it is refused with.  Fails where `most` bytes are read before that."""
        reader = ResponseReader(b"GET", ENOUGH)
        fed = 0
        with self.assertRaises(ResponseError) as raised:
            reader.feed(begin)
            while fed < most:
                reader.feed(piece)
                fed += len(piece)
        return raised.exception.detail

    def test_endless(self) -> None:
        """What has no end is refused as soon as its bound is passed, in large pieces and in small ones."""
        line = b"HTTP/1.1 200 OK\r\n"
        head = f"The server's response head is longer than {MAX_RESPONSE_HEAD_BYTES} bytes."
        body = "The server's body is malformed: "
        cases = [
            (line, b"X-A: b\r\n", MAX_RESPONSE_HEAD_BYTES, head),
            (line + b"X: ", b"aaaa", MAX_RESPONSE_HEAD_BYTES, head),
            (b"HTTP/1.1 200 ", b"OKOK", MAX_RESPONSE_HEAD_BYTES, head),
            (LINK * 3 + line, b"X: y\r\n", MAX_RESPONSE_HEAD_BYTES, head),
            (CHUNKED + b"1", b";a=b", 4096, f"{body}A chunk-size line is too long."),
            (CHUNKED, b"1;" + b"a" * 4000 + b"\r\nx\r\n", 5 * 4007, f"{body}The chunk extensions are too long."),
            (CHUNKED + b"0\r\n", b"A: b\r\n", 16 * 1024, f"{body}The trailer section is too long."),
        ]
        for begin, piece, bound, detail in cases:
            for times in (1, 64 * 1024 // len(piece)):
                found = self.refused_after(begin, piece * times, bound + 2 * times * len(piece))
                self.assertEqual(found, detail, begin)

    def test_interim_responses(self) -> None:
        """So many interim responses are passed over, and one more is refused, however they come."""
        self.assertTrue(read([LINK * MAX_INTERIM_RESPONSES + OK]).done)
        for pieces in ([LINK * (MAX_INTERIM_RESPONSES + 1)], [LINK] * (MAX_INTERIM_RESPONSES + 1), [LINK * 10_000]):
            self.assertRaises(ResponseError, read, pieces)

    def test_another_protocol(self) -> None:
        """A switch of protocols, which nobody asked for, is refused."""
        self.assertRaises(ResponseError, read, [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"])
