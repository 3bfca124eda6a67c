"""What servers send."""

from __future__ import annotations

from tests.wire.cases.case import BAD_GATEWAY, UNFINISHED, Case, Response, response

EMPTY = b"Content-Length: 0"
CODED = b"Transfer-Encoding: chunked"


def status(line: bytes) -> bytes:
    """A response with this status line and no content."""
    return line + b"\r\nContent-Length: 0\r\n\r\n"


LINES = [
    Case("the simplest response is read", "9112 4", status(b"HTTP/1.1 200 OK"), Response()),
    Case("a reason may be empty", "9112 4", status(b"HTTP/1.1 200 "), Response()),
    Case("a reason may be missing with its space", "9112 4", status(b"HTTP/1.1 200"), Response()),
    Case("a reason may hold any text", "9112 4", status(b"HTTP/1.1 404 Nicht gefunden: \xe4\t!"), Response(404)),
    Case("HTTP/1.0 does not persist", "9112 9.3", status(b"HTTP/1.0 200 OK"), Response(keep_alive=False)),
    Case("HTTP/1.0 persists with keep-alive", "9112 9.3",
         b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", Response()),
    Case("a status of no known class is passed on", "9110 15", status(b"HTTP/1.1 799 Odd"), Response(799)),
    Case("HTTP/2 is refused", "9112 4", status(b"HTTP/2.0 200 OK"), BAD_GATEWAY),
    Case("HTTP/1.2 is refused", "9112 4", status(b"HTTP/1.2 200 OK"), BAD_GATEWAY),
    Case("a lower-case http is refused", "9112 4", status(b"http/1.1 200 OK"), BAD_GATEWAY),
    Case("another protocol is refused in a response", "9112 4", status(b"ICY 200 OK"), BAD_GATEWAY),
    Case("no status line is refused", "9112 4", b"hello\r\n\r\n", BAD_GATEWAY),
    Case("an HTTP/0.9 response is refused", "9112 4", b"<html>", BAD_GATEWAY),
    Case("an empty line before a status line is refused", "9112 4", b"\r\n" + status(b"HTTP/1.1 200 OK"), BAD_GATEWAY),
    Case("a status has three digits", "9112 4", status(b"HTTP/1.1 20 OK"), BAD_GATEWAY),
    Case("a status has no fourth digit", "9112 4", status(b"HTTP/1.1 2000 OK"), BAD_GATEWAY),
    Case("a status begins with no zero", "9112 4", status(b"HTTP/1.1 099 OK"), BAD_GATEWAY),
    Case("a status has no sign", "9112 4", status(b"HTTP/1.1 +20 OK"), BAD_GATEWAY),
    Case("one space precedes the status", "9112 4", status(b"HTTP/1.1  200 OK"), BAD_GATEWAY),
    Case("a tab does not precede the status", "9112 4", status(b"HTTP/1.1\t200 OK"), BAD_GATEWAY),
    Case("a reason holds no control bytes", "9112 4", status(b"HTTP/1.1 200 O\x00K"), BAD_GATEWAY),
    Case("a bare LF does not end a status line", "9112 2.2",
         b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", BAD_GATEWAY),
    Case("bare LFs make no response", "9112 2.2", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", BAD_GATEWAY),
    Case("a bare CR is refused in a status line", "9112 2.2", status(b"HTTP/1.1 200 O\rK"), BAD_GATEWAY),
    Case("a piece of a status line is unfinished", "9112 4", b"HTTP/1.", UNFINISHED),
    Case("a status line alone is unfinished", "9112 4", b"HTTP/1.1 200 OK\r\n", UNFINISHED),
    Case("a huge head is refused", "6585 5", response(b"", b"A: " + b"b" * 70000, EMPTY), BAD_GATEWAY),
    Case("an endless head is refused", "6585 5", b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000, BAD_GATEWAY),
]

FIELDS = [
    Case("fields of a response are passed on in order", "9110 5.3", response(b"", b"B: 1", b"Set-Cookie: a=b",
         b"Set-Cookie: c=d", EMPTY), Response(fields=b"\r\nB: 1\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d")),
    Case("hop-by-hop fields of a response go no further", "9110 7.6.1",
         response(b"", b"Keep-Alive: timeout=5", b"Upgrade: h2c", b"Proxy-Authenticate: Basic", b"A: b", EMPTY),
         Response(fields=b"\r\nA: b")),
    Case("what a server's Connection names goes no further", "9110 7.6.1",
         response(b"", b"Connection: close, A", b"A: 1", b"B: 2", EMPTY),
         Response(fields=b"\r\nB: 2", keep_alive=False)),
    Case("a server's Connection is a list of tokens", "9110 7.6.1",
         response(b"", b"Connection: a b", EMPTY), BAD_GATEWAY),
    Case("a server's rate-limit fields give way to ours", "9110 7.6", response(b"", b"X-RateLimit-Limit: 1",
         b'RateLimit: "a";r=1', b"A: b", EMPTY), Response(fields=b"\r\nA: b")),
    Case("an underscore is no harm in a response", "9110 5.1", response(b"", b"A_b: c", EMPTY),
         Response(fields=b"\r\nA_b: c")),
    Case("a folded field of a response is refused", "9112 5.2", response(b"", b"A: b", b" c", EMPTY), BAD_GATEWAY),
    Case("no space precedes a colon in a response", "9112 5.1", response(b"", b"Content-Length : 0"), BAD_GATEWAY),
    Case("a line of a response has a colon", "9112 5", response(b"", b"A", EMPTY), BAD_GATEWAY),
    Case("a NUL is refused in a response", "9110 5.5", response(b"", b"A: \x00", EMPTY), BAD_GATEWAY),
    Case("a bare LF is refused in a response", "9112 2.2", response(b"", b"A: b\nB: c", EMPTY), BAD_GATEWAY),
    Case("a bare CR is refused in a response", "9112 2.2", response(b"", b"A: b\rB: c", EMPTY), BAD_GATEWAY),
]

FRAMING = [
    Case("a length frames a response", "9112 6.3",
         response(b"abcde", b"Content-Length: 5"), Response(content=b"abcde")),
    Case("chunks frame a response", "9112 6.3", response(b"5\r\nabcde\r\n0\r\nA: b\r\n\r\n", CODED),
         Response(content=b"abcde", trailers=[b"A: b"])),
    Case("a response's trailers have any name but one that could be a field that frames or authenticates", "9110 6.5.1",
         response(b"0\r\nX_Sum: 1\r\nx.sum~: 2\r\nContent_Length: 5\r\nSet.Cookie: a\r\n\r\n", CODED),
         Response(trailers=[b"X_Sum: 1", b"x.sum~: 2"])),
    Case("without framing the connection's end ends a response", "9112 6.3", response(b"abcde"),
         Response(content=b"abcde", until_close=True)),
    Case("a response to HEAD has no content", "9112 6.3", response(b"", b"Content-Length: 5"), Response(), b"HEAD"),
    Case("a chunked response to HEAD has no content", "9112 6.3", response(b"", CODED), Response(), b"HEAD"),
    Case("a response to HEAD needs no framing", "9112 6.3", response(b""), Response(), b"HEAD"),
    Case("204 has no content", "9112 6.3", b"HTTP/1.1 204 No Content\r\n\r\n", Response(204)),
    Case("204 has no content, whatever it declares", "9112 6.3",
         b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
         Response(204)),
    Case("304 has no content, whatever it declares", "9112 6.3",
         b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Response(304)),
    Case("103 has no content", "9112 6.3", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
         Response(103, fields=b"\r\nLink: a")),
    Case("a response cut short is unfinished", "9112 8", response(b"abcd", b"Content-Length: 5"), UNFINISHED),
    Case("a chunked response cut short is unfinished", "9112 8", response(b"5\r\nabcde\r\n", CODED), UNFINISHED),
    Case("both framings of a response are refused", "9112 6.3", response(b"0\r\n\r\n", EMPTY, CODED), BAD_GATEWAY),
    Case("both framings are refused where no content follows", "9112 6.3", response(b"", EMPTY, CODED), BAD_GATEWAY,
         b"HEAD"),
    Case("two lengths of a response are refused", "9112 6.3", response(b"abcde", b"Content-Length: 5",
         b"Content-Length: 6"), BAD_GATEWAY),
    Case("two equal lengths of a response are refused", "9112 6.3", response(b"abcde", b"Content-Length: 5",
         b"Content-Length: 5"), BAD_GATEWAY),
    Case("a list of lengths is refused", "9112 6.3", response(b"abcde", b"Content-Length: 5, 5"), BAD_GATEWAY),
    Case("a length with a sign is refused", "9110 8.6", response(b"abcde", b"Content-Length: +5"), BAD_GATEWAY),
    Case("an empty length is refused", "9110 8.6", response(b"abcde", b"Content-Length:"), BAD_GATEWAY),
    Case("a bad length is refused where no content follows", "9112 6.3",
         b"HTTP/1.1 204 No\r\nContent-Length: x\r\n\r\n",
         BAD_GATEWAY),
    Case("a chunked HTTP/1.0 response is refused", "9112 6.1",
         b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD_GATEWAY),
    Case("a compressed chunked response is refused", "9112 6.1",
         response(b"0\r\n\r\n", b"Transfer-Encoding: gzip, chunked"),
         BAD_GATEWAY),
    Case("an identity response is refused", "9112 7", response(b"abc", b"Transfer-Encoding: identity"), BAD_GATEWAY),
    Case("a response chunked twice is refused", "9112 6.1", response(b"0\r\n\r\n", CODED, CODED), BAD_GATEWAY),
    Case("a bad chunk size of a response is refused", "9112 7.1",
         response(b"x\r\nabcde\r\n0\r\n\r\n", CODED), BAD_GATEWAY),
    Case("a chunk of a response ends with CRLF", "9112 7.1", response(b"5\r\nabcdef\r\n0\r\n\r\n", CODED), BAD_GATEWAY),
    Case("a bare LF is refused in a chunked response", "9112 7.1", response(b"5\nabcde\n0\n\n", CODED), BAD_GATEWAY),
]

CASES = LINES + FIELDS + FRAMING
