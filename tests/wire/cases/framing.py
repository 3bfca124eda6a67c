"""Where a request's body ends."""

from __future__ import annotations

from tests.wire.cases.case import BAD, UNFINISHED, Case, Refused, Request, get, post


def length(value: bytes) -> bytes:
    """A request with this Content-Length."""
    return post(b"abcde", b"Content-Length:" + value)


def coding(value: bytes) -> bytes:
    """A request with this Transfer-Encoding."""
    return post(b"0\r\n\r\n", b"Transfer-Encoding:" + value)


LENGTHS = [
    Case("a Content-Length frames a body", "9112 6.2", length(b" 5"), Request(b"POST", content=b"abcde")),
    Case("a GET may have a body", "9110 9.3.1", b"GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nab",
         Request(content=b"ab")),
    Case("an HTTP/1.0 request may have a body", "9112 6.2",
         b"POST / HTTP/1.0\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nab",
         Request(b"POST", content=b"ab", minor=0, keep_alive=False)),
    Case("no framing is no body", "9112 6.3", post(b""), Request(b"POST")),
    Case("a Content-Length of 0 is no body", "9112 6.2", post(b"", b"Content-Length: 0"), Request(b"POST")),
    Case("leading zeros change nothing", "9110 8.6", length(b" 0005"), Request(b"POST", content=b"abcde")),
    Case("white space around a Content-Length is no part of it", "9110 5.6.3", length(b" \t5 \t"),
         Request(b"POST", content=b"abcde")),
    Case("a body that is not whole is unfinished", "9112 8", length(b" 6"), UNFINISHED),
    Case("a body may hold what looks like a request", "9112 6.3",
         post(get(target=b"/smuggled"), b"Content-Length: %d" % len(get(target=b"/smuggled"))),
         Request(b"POST", content=get(target=b"/smuggled"))),
    Case("a Content-Length is not empty", "9110 8.6", length(b" "), BAD),
    Case("a Content-Length has no plus", "9110 8.6", length(b" +5"), BAD),
    Case("a Content-Length has no minus", "9110 8.6", length(b" -5"), BAD),
    Case("a Content-Length is not hexadecimal", "9110 8.6", length(b" 0x5"), BAD),
    Case("a Content-Length has no underscore", "9110 8.6", length(b" 5_0"), BAD),
    Case("a Content-Length has no fraction", "9110 8.6", length(b" 5.0"), BAD),
    Case("a Content-Length has no exponent", "9110 8.6", length(b" 5e0"), BAD),
    Case("a Content-Length has no space within", "9110 8.6", length(b" 5 0"), BAD),
    Case("a Content-Length has no other digits", "9110 8.6", length(b" \xd9\xa5"), BAD),
    Case("a Content-Length has no quotes", "9110 8.6", length(b' "5"'), BAD),
    Case("a Content-Length is no list", "9112 6.3", length(b" 5, 5"), BAD),
    Case("a Content-Length has at most 18 digits", "9110 8.6", length(b" 9999999999999999999"), BAD),
    Case("two Content-Lengths are refused", "9112 6.3",
         post(b"abcde", b"Content-Length: 5", b"Content-Length: 6"), BAD),
    Case("two equal Content-Lengths are refused", "9112 6.3",
         post(b"abcde", b"Content-Length: 5", b"content-length: 5"), BAD),
    Case("two Content-Lengths are refused before the head is whole", "9112 6.3",
         get(b"Content-Length: 5", b"Content-Length: 6")[:-2], BAD),
    Case("a bare CR hides no Content-Length", "9112 2.2", post(b"abcde", b"A: b\rContent-Length: 5"), BAD),
]

CODINGS = [
    Case("chunked frames a body", "9112 6.1", coding(b" chunked"), Request(b"POST")),
    Case("a coding is not case-sensitive", "9112 7", coding(b" Chunked"), Request(b"POST")),
    Case("white space around a coding is no part of it", "9110 5.6.3", coding(b"\t chunked\t "), Request(b"POST")),
    Case("both framings are refused", "9112 6.3",
         post(b"0\r\n\r\n", b"Content-Length: 5", b"Transfer-Encoding: chunked"), BAD),
    Case("both framings are refused in the other order", "9112 6.3",
         post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Content-Length: 5"), BAD),
    Case("both framings are refused with no length", "9112 6.3",
         post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Content-Length: 0"), BAD),
    Case("an unknown coding and a length are refused", "9112 6.3",
         post(b"abcde", b"Transfer-Encoding: gzip", b"Content-Length: 5"), BAD),
    Case("HTTP/1.0 has no codings", "9112 6.1",
         b"POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    Case("HTTP/1.0 has no codings, kept alive or not", "9112 6.1",
         b"POST / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         BAD),
    Case("a compressed body is not implemented", "9112 6.1", coding(b" gzip, chunked"), Refused(501)),
    Case("an unknown coding is not implemented", "9112 6.1", coding(b" brew"), Refused(501)),
    Case("identity is not implemented", "9112 7", coding(b" identity"), Refused(501)),
    Case("xchunked is not chunked", "9112 7", coding(b" xchunked"), Refused(501)),
    Case("chunked twice is refused", "9112 6.1", coding(b" chunked, chunked"), BAD),
    Case("chunked is the last coding", "9112 6.3", coding(b" chunked, gzip"), BAD),
    Case("chunked in two fields is refused", "9112 6.1",
         post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), BAD),
    Case("chunked before another field is refused", "9112 6.3",
         post(b"0\r\n\r\n", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), BAD),
    Case("a coding is not empty", "9112 6.1", coding(b" "), BAD),
    Case("a coding has no empty member", "9112 6.1", coding(b" ,chunked"), BAD),
    Case("a coding has no quotes", "9112 6.1", coding(b' "chunked"'), BAD),
    Case("a coding has no vertical tab before it", "9110 5.5", coding(b" \x0bchunked"), BAD),
    Case("a coding has no NUL behind it", "9110 5.5", coding(b" chunked\x00"), BAD),
    Case("chunked has no parameter", "9112 7.1", coding(b" chunked;q=1"), BAD),
    Case("chunked and another word are no coding", "9112 7", coding(b" chunked x"), BAD),
    Case("a coding has no space before its colon", "9112 5.1", post(b"0\r\n\r\n", b"Transfer-Encoding : chunked"), BAD),
    Case("a coding has no byte above 0x7f", "9112 7", coding(b" chunke\xe4"), BAD),
]

CASES = LENGTHS + CODINGS
