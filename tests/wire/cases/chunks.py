"""Chunked bodies of requests."""

from __future__ import annotations

from tests.wire.cases.case import BAD, UNFINISHED, Case, Request, chunked

END = b"0\r\n\r\n"


def content(data: bytes, trailers: list[bytes] | None = None) -> Request:
    """What comes of a chunked body of this content."""
    return Request(b"POST", content=data, trailers=trailers or [])


SIZES = [
    Case("a chunk is content", "9112 7.1", chunked(b"5\r\nabcde\r\n" + END), content(b"abcde")),
    Case("chunks are joined", "9112 7.1", chunked(b"2\r\nab\r\n3\r\ncde\r\n" + END), content(b"abcde")),
    Case("a size is hexadecimal, in either case", "9112 7.1", chunked(b"a\r\n0123456789\r\nB\r\n0123456789a\r\n" + END),
         content(b"01234567890123456789a")),
    Case("leading zeros of a size change nothing", "9112 7.1",
         chunked(b"005\r\nabcde\r\n000\r\n\r\n"), content(b"abcde")),
    Case("content may hold CRLF and a last chunk", "9112 7.1", chunked(b"7\r\n\r\n0\r\n\r\n\r\n" + END),
         content(b"\r\n0\r\n\r\n")),
    Case("a chunk that is not whole is unfinished", "9112 8", chunked(b"5\r\nabcd"), UNFINISHED),
    Case("a body without its last chunk is unfinished", "9112 8", chunked(b"5\r\nabcde\r\n"), UNFINISHED),
    Case("a last chunk without its CRLF is unfinished", "9112 8", chunked(b"0\r\n"), UNFINISHED),
    Case("a last chunk without its last LF is unfinished", "9112 8", chunked(b"0\r\n\r"), UNFINISHED),
    Case("a size without its line end is unfinished", "9112 8", chunked(b"5"), UNFINISHED),
    Case("a size is not empty", "9112 7.1", chunked(b"\r\nabcde\r\n" + END), BAD),
    Case("a size is not missing before an extension", "9112 7.1", chunked(b";a\r\nabcde\r\n" + END), BAD),
    Case("a size is hexadecimal", "9112 7.1", chunked(b"g\r\nabcde\r\n" + END), BAD),
    Case("a size has no 0x", "9112 7.1", chunked(b"0x5\r\nabcde\r\n" + END), BAD),
    Case("a size has no plus", "9112 7.1", chunked(b"+5\r\nabcde\r\n" + END), BAD),
    Case("a size has no minus", "9112 7.1", chunked(b"-5\r\nabcde\r\n" + END), BAD),
    Case("a size has no underscore", "9112 7.1", chunked(b"0_5\r\nabcde\r\n" + END), BAD),
    Case("no space precedes a size", "9112 7.1", chunked(b" 5\r\nabcde\r\n" + END), BAD),
    Case("no space follows a size", "9112 7.1", chunked(b"5 \r\nabcde\r\n" + END), BAD),
    Case("no space follows the last size", "9112 7.1", chunked(b"5\r\nabcde\r\n0 \r\n\r\n"), BAD),
    Case("no NUL follows a size", "9112 7.1", chunked(b"5\x00\r\nabcde\r\n" + END), BAD),
    Case("a size is no list", "9112 7.1", chunked(b"5,5\r\nabcde\r\n" + END), BAD),
    Case("a size of 64 bits is refused", "9112 7.1", chunked(b"ffffffffffffffff\r\nabcde\r\n" + END), BAD),
    Case("a size does not wrap around to 5", "9112 7.1", chunked(b"10000000000000005\r\nabcde\r\n" + END), BAD),
    Case("a size has at most 15 digits, zeros included", "9112 7.1", chunked(b"0" * 15 + b"5\r\nabcde\r\n" + END), BAD),
    Case("a bare LF does not end a size", "9112 7.1", chunked(b"5\nabcde\r\n" + END), BAD),
    Case("a bare CR does not end a size", "9112 7.1", chunked(b"5\rabcde\r\n" + END), BAD),
    Case("CR CR LF does not end a size", "9112 7.1", chunked(b"5\r\r\nabcde\r\n" + END), BAD),
    Case("a chunk longer than its size is refused", "9112 7.1", chunked(b"5\r\nabcdef\r\n" + END), BAD),
    Case("a chunk shorter than its size is refused", "9112 7.1", chunked(b"5\r\nabc\r\n" + END), BAD),
    Case("a chunk ends with CRLF", "9112 7.1", chunked(b"5\r\nabcde" + END), BAD),
    Case("a bare LF does not end a chunk", "9112 7.1", chunked(b"5\r\nabcde\n" + END), BAD),
    Case("a bare CR does not end a chunk", "9112 7.1", chunked(b"5\r\nabcde\r" + END), BAD),
    Case("an empty line between chunks is refused", "9112 7.1", chunked(b"5\r\nabcde\r\n\r\n" + END), BAD),
    Case("a bare LF does not end the body", "9112 7.1", chunked(b"0\r\n\n"), BAD),
    Case("an endless size line is refused", "9112 7.1", chunked(b"0" * 5000), BAD),
]

EXTENSIONS = [
    Case("an extension is read over", "9112 7.1.1", chunked(b"5;a\r\nabcde\r\n0;b=c\r\n\r\n"), content(b"abcde")),
    Case("an extension may be a quoted-string", "9112 7.1.1", chunked(b'5;a="b; \\" c"\r\nabcde\r\n' + END),
         content(b"abcde")),
    Case("white space may be within extensions", "9112 7.1.1", chunked(b"5 ; a = b;c\r\nabcde\r\n" + END),
         content(b"abcde")),
    Case("an extension has a name", "9112 7.1.1", chunked(b"5;\r\nabcde\r\n" + END), BAD),
    Case("an extension's value is not empty", "9112 7.1.1", chunked(b"5;a=\r\nabcde\r\n" + END), BAD),
    Case("a quoted-string is closed", "9112 7.1.1", chunked(b'5;a="b\r\nabcde\r\n' + END), BAD),
    Case("a bare LF does not end an extension", "9112 7.1.1", chunked(b"5;a\nabcde\r\n" + END), BAD),
    Case("a bare CR does not end an extension", "9112 7.1.1", chunked(b"5;a\rabcde\r\n" + END), BAD),
    Case("a bare LF does not hide in a quoted-string", "9112 7.1.1", chunked(b'5;a="\n"\r\nabcde\r\n' + END), BAD),
    Case("a NUL does not hide in an extension", "9112 7.1.1", chunked(b"5;a\x00\r\nabcde\r\n" + END), BAD),
    Case("a long extension is refused", "9112 7.1.1", chunked(b"5;" + b"a" * 5000 + b"\r\nabcde\r\n" + END), BAD),
    Case("extensions that are long together are refused", "9112 7.1.1",
         chunked((b"1;" + b"a" * 4000 + b"\r\nb\r\n") * 5 + END), BAD),
]

TRAILERS = [
    Case("trailers are passed on", "9112 7.1.2",
         chunked(b"0\r\nA: b\r\nc:d \r\n\r\n"), content(b"", [b"A: b", b"c:d "])),
    Case("a framing trailer is dropped", "9110 6.5.1", chunked(b"0\r\nA: b\r\nContent-Length: 5\r\n\r\n"),
         content(b"", [b"A: b"])),
    Case("a coding trailer is dropped", "9110 6.5.1",
         chunked(b"0\r\ntransfer-encoding: chunked\r\n\r\n"), content(b"")),
    Case("a routing trailer is dropped", "9110 6.5.1", chunked(b"0\r\nHost: b.test\r\n\r\n"), content(b"")),
    Case("a key in a trailer is dropped", "9110 6.5.1",
         chunked(b"0\r\nAuthorization: a\r\nX-API-Key: b\r\nApikey: c\r\n\r\n"), content(b"")),
    Case("a consumer in a trailer is dropped", "9110 6.5.1", chunked(b"0\r\nX-Consumer-Username: root\r\n\r\n"),
         content(b"")),
    Case("an address in a trailer is dropped", "9110 6.5.1",
         chunked(b"0\r\nX-Forwarded-For: ::1\r\nForwarded: for=a\r\nVia: 1.1 a\r\n\r\n"), content(b"")),
    Case("a content trailer is dropped", "9110 6.5.1",
         chunked(b"0\r\nContent-Type: a/b\r\nContent-Encoding: gzip\r\nContent-Range: bytes 0-1/2\r\n\r\n"),
         content(b"")),
    Case("a hop-by-hop trailer is dropped", "9110 7.6.1",
         chunked(b"0\r\nConnection: close\r\nKeep-Alive: a\r\nUpgrade: b\r\nTE: c\r\nTrailer: d\r\n\r\n"),
         content(b"")),
    Case("a trailer with an underscore is dropped", "9110 5.1",
         chunked(b"0\r\nContent_Length: 5\r\n\r\n"), content(b"")),
    Case("a trailer whose name has other characters than letters, digits and hyphens is dropped", "9110 6.5.1",
         chunked(b"0\r\nX.Checksum: 1\r\nA-1: b\r\n'x: 2\r\nX~: 3\r\n\r\n"), content(b"", [b"A-1: b"])),
    Case("no space precedes a trailer's colon", "9112 5.1", chunked(b"0\r\nA : b\r\n\r\n"), BAD),
    Case("a folded trailer is refused", "9112 5.2", chunked(b"0\r\nA: b\r\n c\r\n\r\n"), BAD),
    Case("a trailer has a colon", "9112 5", chunked(b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n"), BAD),
    Case("a bare LF does not end a trailer", "9112 2.2", chunked(b"0\r\nA: b\n\r\n"), BAD),
    Case("a bare CR does not end a trailer", "9112 2.2", chunked(b"0\r\nA: b\rB: c\r\n\r\n"), BAD),
    Case("a NUL is refused in a trailer", "9110 5.5", chunked(b"0\r\nA: \x00\r\n\r\n"), BAD),
    Case("a trailer section that is not whole is unfinished", "9112 7.1.2", chunked(b"0\r\nA: b\r\n"), UNFINISHED),
    Case("an endless trailer section is refused", "9112 7.1.2", chunked(b"0\r\n" + b"A: b\r\n" * 3000), BAD),
    Case("a long trailer section is refused", "9112 7.1.2", chunked(b"0\r\n" + b"A: b\r\n" * 3000 + b"\r\n"), BAD),
]

CASES = SIZES + EXTENSIONS + TRAILERS
