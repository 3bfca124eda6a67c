"""Heads as they are forwarded: the received field lines, and the fields that an HTTP gateway must add.

RFC 9110 section 7.6 (hop-by-hop fields, Via), RFC 7239 (Forwarded), and the X-Forwarded fields and X-Real-IP, which
servers use in practice.  This gateway appends to Via, and replaces the values that a client sends in the others.  Only
those that a trusted proxy sends about its client are passed on (`Received`), followed by this hop.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final, NamedTuple

from twisted_lb.wire.fields import REQUEST_ID, TRACEPARENT, TRACESTATE
from twisted_lb.wire.framing import CHUNKED, NO_CONTENT
from twisted_lb.wire.grammar import CLOSED_QUOTES, CONTENT_LENGTH
from twisted_lb.wire.head import RequestHead, ResponseHead, nominated

VIA_PSEUDONYM: Final = b"twisted_lb"
NO_VIA: Final[list[bytes]] = []


class Received(NamedTuple):
    """What a trusted proxy has stated about its client, in a request that it forwarded."""

    address: str  # of the client
    scheme: bytes  # used by the client
    host: bytes = b""  # requested by the client; empty: that of the request
    port: bytes = b""  # requested by the client; empty: see `requested_port`
    forwarded_for: bytes = b""  # X-Forwarded-For as received
    forwarded: bytes = b""  # Forwarded as received


class ForwardedFields:
    """The fields about one client's connection in each request that this gateway forwards.

    With `received`, the connection is that of a trusted proxy, and the fields are about the client of one request.
    """

    __slots__ = ("_address", "_node", "_scheme", "_own_lines", "_received", "_host", "_minor", "_fields")

    def __init__(self, address: str, scheme: bytes, own_lines: bytes = b"", received: Received | None = None) -> None:
        """`address` is the IP address of the other end, or "unix:"; `scheme` is b"http" or b"https".

        `own_lines` are further field lines about the client, each with a CRLF before it.
        """
        self._address = address.encode()
        self._node = _node(address)
        self._scheme = scheme
        self._own_lines = own_lines
        self._received = received
        self._host: bytes | None = None
        self._minor = 1
        self._fields = b""

    def request_head(self, head: RequestHead, framing: int, own_fields: bytes, authority: bytes) -> bytes:
        """The head to send to a server.

        `own_fields` are field lines to add, each preceded by CRLF; `authority` is that of the server, used if the
        client sent no host.
        """
        host = head.host or authority
        notable = head.notable
        # The fields depend on host and version only, unless an earlier proxy has added its own Via.
        if host != self._host or head.minor != self._minor:
            self._host = host
            self._minor = head.minor
            self._fields = self._forwarding_fields(host, head.minor, NO_VIA)
        fields = self._fields
        if b"via" in notable:
            fields = self._forwarding_fields(host, head.minor, notable[b"via"])
        more = b""
        if framing == CHUNKED:
            more = b"\r\nTransfer-Encoding: chunked"
        elif b"content-length" in notable:
            more = b"\r\nContent-Length: %d" % framing
        # A key was removed from it; the rest is for the server, unless Connection restricts it to this hop.
        if b"authorization" in notable and b"authorization" not in nominated(notable):
            more += b"\r\nAuthorization: " + notable[b"authorization"][0]
        if b"content-type" in notable:
            more += b"\r\nContent-Type: " + notable[b"content-type"][0]
        # RFC 9110 section 10.1.1: it is ignored in HTTP/1.0.
        if b"expect" in notable and head.minor:
            more += b"\r\nExpect: 100-continue"
        if b"max-forwards" in notable:
            more += b"\r\nMax-Forwards: " + _hops_left(head.method, notable[b"max-forwards"][0])
        if REQUEST_ID in notable:
            more += _identity(notable)
        # Trailers are relayed, so the client's statement that it accepts them is too (RFC 9110 section 10.1.4).
        te = b"te" in notable and b"trailers" in _options(notable[b"te"])
        if head.upgrade:
            more += b"\r\nUpgrade: %b" % head.upgrade
            more += b"\r\nTE: trailers\r\nConnection: Upgrade, TE" if te else b"\r\nConnection: Upgrade"
        elif te:
            more += b"\r\nTE: trailers\r\nConnection: TE"
        return b"%b %b HTTP/1.1\r\nHost: %b%b%b%b%b\r\n\r\n" % (
            head.method,
            head.target,
            host,
            head.fields,
            own_fields,
            fields,
            more,
        )

    def value(self, name: bytes, head: RequestHead) -> bytes | None:
        """The value that servers get in the field `name`, one of ABOUT_THE_CLIENT, or None."""
        for line in self._forwarding_fields(head.host, head.minor, NO_VIA).split(b"\r\n")[1:]:
            field, _, value = line.partition(b": ")
            if field.lower() == name:
                return value
        return None

    def _forwarding_fields(self, host: bytes, minor: int, earlier_via: list[bytes]) -> bytes:
        forwarded_for = client = self._address
        element = forwarded = b'for=%b;host="%b";proto=%b' % (self._node, host, self._scheme)
        requested, scheme, port = host, self._scheme, b""
        received = self._received
        if received is not None:
            client, scheme, port = received.address.encode(), received.scheme, received.port
            requested = received.host or host
            # The two lists agree: a server may read only one of them.
            forwarded_for = b"%b, %b" % (received.forwarded_for or client, forwarded_for)
            earlier = received.forwarded
            # Our element would become part of a quoted-string that an earlier proxy has not closed.
            if not earlier or not CLOSED_QUOTES.fullmatch(earlier):
                earlier = b'for=%b;host="%b";proto=%b' % (_node(received.address), requested, scheme)
            forwarded = b"%b, %b" % (earlier, element)
        port = port or requested_port(requested, scheme)
        real_ip = b"" if client in (b"", b"unix:") else b"\r\nX-Real-IP: " + client
        via = b", ".join([*earlier_via, b"1.%d %b" % (minor, VIA_PSEUDONYM)])
        return (
            b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Port: %b%b"
            b"\r\nForwarded: %b\r\nVia: %b%b"
            % (forwarded_for, scheme, requested, port, real_ip, forwarded, via, self._own_lines)
        )


def _node(address: str) -> bytes:
    """The address in the form of RFC 7239 section 6: IPv6 is in brackets, and therefore quoted."""
    if address in ("", "unix:"):
        return b"unknown"
    return b'"[%b]"' % address.encode() if ":" in address else address.encode()


def _identity(notable: dict[bytes, list[bytes]]) -> bytes:
    """The lines of the request's id and its trace context."""
    lines = b"\r\nX-Request-ID: " + notable[REQUEST_ID][0]
    if TRACEPARENT in notable:
        lines += b"\r\ntraceparent: " + notable[TRACEPARENT][0]
        if TRACESTATE in notable:
            lines += b"\r\ntracestate: " + b",".join(notable[TRACESTATE])
    return lines


def requested_port(authority: bytes, scheme: bytes) -> bytes:
    """The port in an authority, or that of the scheme."""
    port = authority.rpartition(b":")[2]
    if b":" in authority and port.isdigit() and 0 < int(port) <= 65535:
        return b"%d" % int(port)
    return b"443" if scheme == b"https" else b"80"


def _hops_left(method: bytes, max_forwards: bytes) -> bytes:
    """RFC 9110 section 7.6.2: decremented for OPTIONS (and TRACE, which is not served)."""
    if method == b"OPTIONS" and CONTENT_LENGTH.fullmatch(max_forwards):
        return b"%d" % max(int(max_forwards) - 1, 0)
    return max_forwards


def _options(values: list[bytes]) -> list[bytes]:
    """The members of a comma-separated list, in lower case."""
    return [option.strip(b" \t") for option in b",".join(values).lower().split(b",")]


def response_head(
    head: ResponseHead,
    framing: int,
    client_minor: int,
    own_fields: bytes,
    close: bool,
    date: bytes,
    consumed: Set[bytes] = frozenset(),
) -> bytes:
    """The head to send to a client.

    `own_fields` are field lines, each preceded by CRLF; `close` announces that the connection will be closed after this
    response; `date` is used if the server sent none (RFC 9110 section 6.6.1); `consumed` are the names of trailers that
    are removed, and therefore not announced.  A body of unknown length must be sent chunked to an HTTP/1.1 client.
    """
    notable = head.notable
    dates = notable.get(b"date")
    more = b"\r\nDate: " + (dates[0] if dates else date)
    if framing < 0:
        if client_minor:
            more += b"\r\nTransfer-Encoding: chunked"
    # RFC 9110 section 8.6: a 204 has no Content-Length; any other response keeps it, even without a body.
    elif b"content-length" in notable and head.status != NO_CONTENT:
        more += b"\r\nContent-Length: " + notable[b"content-length"][0]
    if b"trailer" in notable:
        # Trailers that are removed are not announced either.
        announced = [name for name in _options(notable[b"trailer"]) if name and name not in consumed]
        if announced:
            more += b"\r\nTrailer: " + b", ".join(announced)
    if close:
        more += b"\r\nConnection: close"
    elif not client_minor:
        more += b"\r\nConnection: keep-alive"
    return b"HTTP/1.1 %d%b%b%b%b\r\n\r\n" % (head.status, head.reason or b" ", head.fields, more, own_fields)


def interim_head(head: ResponseHead) -> bytes:
    """A 1xx response as it is forwarded (RFC 9110 section 15.2)."""
    return b"HTTP/1.1 %d%b%b\r\n\r\n" % (head.status, head.reason or b" ", head.fields)


def switching_head(head: ResponseHead, protocols: bytes, own_fields: bytes) -> bytes:
    """A 101 response as it is forwarded (RFC 9110 section 15.2.2).

    `protocols` is a result of `switched_to`; `own_fields` are field lines, each preceded by CRLF.
    """
    date = b"".join([b"\r\nDate: " + value for value in head.notable.get(b"date", ())[:1]])
    reason = head.reason or b" "
    return b"HTTP/1.1 %d%b%b%b\r\nConnection: Upgrade\r\nUpgrade: %b%b\r\n\r\n" % (
        head.status,
        reason,
        head.fields,
        date,
        protocols,
        own_fields,
    )


def own_head(status: int, reason: bytes, fields: bytes, length: int, close: bool, client_minor: int) -> bytes:
    """The head of a response generated by this gateway, with a body of `length` bytes."""
    connection = b"\r\nConnection: close" if close else b"" if client_minor else b"\r\nConnection: keep-alive"
    return b"HTTP/1.1 %d %b\r\nContent-Length: %d%b%b\r\n\r\n" % (status, reason, length, fields, connection)
