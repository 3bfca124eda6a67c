"""Heads as they are passed on: the lines that came, and what an HTTP gateway must add.

RFC 9110 section 7.6 (hop-by-hop fields, Via), RFC 7239 (Forwarded) and the X-Forwarded fields that
servers read in practice.  A client's own X-Forwarded-For, Forwarded and Via are continued, its other
X-Forwarded fields and X-Consumer-Username replaced.
"""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes

from twisted_lb.wire.framing import CHUNKED, Status
from twisted_lb.wire.grammar import CLOSED_QUOTES, CONTENT_LENGTH
from twisted_lb.wire.head import RequestHead, ResponseHead, nominated

VIA_PSEUDONYM = b"twisted_lb"

# Servers that take values for Latin-1 (WSGI, Node) see NEL and NBSP where the UTF-8 of a letter has the bytes 0x85
# and 0xA0: some strip both from the end, and some end a line at the first.  Control bytes are in no name; should one
# be in a store, it would end the line for everybody.
_NEEDS_ENCODING = re.compile(rb"[%\x85\x00-\x1f\x7f]|\xa0\Z")
_ASCII_BUT_PERCENT = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Hop:
    """What this gateway says of one client's connection in each request that it forwards."""

    __slots__ = ("_address", "_node", "_scheme", "_host", "_minor", "_fields", "_consumer", "_username")

    def __init__(self, address: str, scheme: bytes) -> None:
        """`address` is the client's IP address, `scheme` http or https."""
        self._address = address.encode()
        # RFC 7239 section 6: an IPv6 address is bracketed, and so quoted.
        self._node = b'"[%b]"' % self._address if ":" in address else self._address or b"unknown"
        self._scheme = scheme
        self._host: bytes | None = None
        self._minor = 1
        self._fields = b""
        self._consumer = b""
        self._username = b""  # of the consumer, as servers get it

    def request_head(self, head: RequestHead, framing: int, consumer: bytes, authority: bytes) -> bytes:
        """The head that a server gets.

        `consumer` is the user's name in UTF-8, `authority` the server's, for a client that named no host.
        """
        host = head.host or authority
        notable = head.notable
        # What follows depends on host and version only, unless an earlier proxy has spoken.
        if host != self._host or head.minor != self._minor:
            self._host = host
            self._minor = head.minor
            self._fields = self._forwarding_fields(host, {})
        fields = self._fields
        if b"x-forwarded-for" in notable or b"forwarded" in notable or b"via" in notable:
            fields = self._forwarding_fields(host, notable)
        if consumer != self._consumer:
            self._consumer = consumer
            self._username = username_value(consumer)
        more = b""
        if framing == CHUNKED:
            more = b"\r\nTransfer-Encoding: chunked"
        elif b"content-length" in notable:
            more = b"\r\nContent-Length: %d" % framing
        if b"authorization" in notable:
            # A bare value or a Bearer token is the API key (see twisted_lb.api_key) and stays here;
            # credentials of another scheme are for the server, unless Connection says that they are for us.
            scheme, space, _ = notable[b"authorization"][0].partition(b" ")
            if space and scheme.lower() != b"bearer" and b"authorization" not in nominated(notable):
                more += b"\r\nAuthorization: " + notable[b"authorization"][0]
        if b"content-type" in notable:
            more += b"\r\nContent-Type: " + notable[b"content-type"][0]
        # RFC 9110 section 10.1.1: in HTTP/1.0 it means nothing.
        if b"expect" in notable and head.minor:
            more += b"\r\nExpect: 100-continue"
        if b"max-forwards" in notable:
            more += b"\r\nMax-Forwards: " + _hops_left(head.method, notable[b"max-forwards"][0])
        # Chunked trailers are relayed, so the client's word that it takes them is too (RFC 9110 section 10.1.4).
        if b"te" in notable and b"trailers" in _options(notable[b"te"]):
            more += b"\r\nTE: trailers\r\nConnection: TE"
        return b"%b %b HTTP/1.1\r\nHost: %b%b\r\nX-Consumer-Username: %b%b%b\r\n\r\n" % (
            head.method,
            head.target,
            host,
            head.fields,
            self._username,
            fields,
            more,
        )

    def _forwarding_fields(self, host: bytes, notable: dict[bytes, list[bytes]]) -> bytes:
        forwarded_for = b", ".join([*notable.get(b"x-forwarded-for", ()), self._address])
        element = b'for=%b;host="%b";proto=%b' % (self._node, host, self._scheme)
        # What an earlier proxy left open would swallow our element.
        earlier = b", ".join(notable.get(b"forwarded", ()))
        forwarded = b"%b, %b" % (earlier, element) if earlier and CLOSED_QUOTES.fullmatch(earlier) else element
        via = b", ".join([*notable.get(b"via", ()), b"1.%d %b" % (self._minor, VIA_PSEUDONYM)])
        return (
            b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nForwarded: %b\r\nVia: %b"
            % (forwarded_for, self._scheme, host, forwarded, via)
        )


def username_value(name: bytes) -> bytes:
    """A name in UTF-8 as it goes into X-Consumer-Username: as it is, unless a server could cut it.

    Then all of it that is not ASCII is percent-encoded (RFC 3986 section 2.1), and so is `%`, in every name, so that
    two names are never one, and what a percent-decoder makes of any value is the name.
    """
    return quote_from_bytes(name, _ASCII_BUT_PERCENT).encode() if _NEEDS_ENCODING.search(name) else name


def _hops_left(method: bytes, max_forwards: bytes) -> bytes:
    """RFC 9110 section 7.6.2: counted down for OPTIONS (and TRACE, which is not served)."""
    if method == b"OPTIONS" and CONTENT_LENGTH.fullmatch(max_forwards):
        return b"%d" % max(int(max_forwards) - 1, 0)
    return max_forwards


def _options(values: list[bytes]) -> list[bytes]:
    """The members of a comma-separated list, in lower case."""
    return [option.strip(b" \t") for option in b",".join(values).lower().split(b",")]


def response_head(
    head: ResponseHead, framing: int, client_minor: int, own_fields: bytes, close: bool, date: bytes
) -> bytes:
    """The head that a client gets.

    `own_fields` are field lines, each with a CRLF before it; `close` tells the client that the
    connection ends with this response; `date` is used where the server gave none (RFC 9110
    section 6.6.1).  A body of unknown length is to be sent chunked to HTTP/1.1.
    """
    notable = head.notable
    dates = notable.get(b"date")
    more = b"\r\nDate: " + (dates[0] if dates else date)
    if framing < 0:
        if client_minor:
            more += b"\r\nTransfer-Encoding: chunked"
    # RFC 9110 section 8.6: a 204 has no Content-Length; elsewhere it stays, also where no body follows.
    elif b"content-length" in notable and head.status != Status.NO_CONTENT:
        more += b"\r\nContent-Length: " + notable[b"content-length"][0]
    if b"trailer" in notable:
        # What is taken out of the trailers is not announced either.
        announced = [name for name in _options(notable[b"trailer"]) if name not in (b"", b"x-token-cost")]
        if announced:
            more += b"\r\nTrailer: " + b", ".join(announced)
    if close:
        more += b"\r\nConnection: close"
    elif not client_minor:
        more += b"\r\nConnection: keep-alive"
    return b"HTTP/1.1 %d%b%b%b%b\r\n\r\n" % (head.status, head.reason or b" ", head.fields, more, own_fields)


def interim_head(head: ResponseHead) -> bytes:
    """A 1xx response as passed on (RFC 9110 section 15.2)."""
    return b"HTTP/1.1 %d%b%b\r\n\r\n" % (head.status, head.reason or b" ", head.fields)


def own_head(status: int, reason: bytes, fields: bytes, length: int, close: bool, client_minor: int) -> bytes:
    """The head of a response that is made here, with a body of `length` bytes."""
    connection = b"\r\nConnection: close" if close else b"" if client_minor else b"\r\nConnection: keep-alive"
    return b"HTTP/1.1 %d %b\r\nContent-Length: %d%b%b\r\n\r\n" % (status, reason, length, fields, connection)
