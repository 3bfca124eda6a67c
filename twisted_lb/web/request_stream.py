"""The client's side of an exchange over a request of twisted.web.

twisted.web receives all of a request's content, in memory or in a temporary file, before it calls a resource.  The
content is sent to the server as fast as the server reads it.  The response is streamed to the client, and the server's
connection is not read while the client does not read.  Trailers of a response are dropped: twisted.web does not support
them.
"""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.web.http import Request
from twisted.web.http_headers import Headers
from zope.interface import implementer

from twisted_lb.credentials import PARAMETER
from twisted_lb.deadlines import NEVER
from twisted_lb.limits.client_networks import network_of, plain_address
from twisted_lb.network.flow_control import Tap, Throttle
from twisted_lb.network.peer import UNIX_ADDRESS, PeerInfo, TlsInfo, header_for_server
from twisted_lb.network.trusted_proxies import TrustedProxy
from twisted_lb.proxy.connection_limits import ConnectionLimits
from twisted_lb.proxy.dispatch import (
    OnRoute,
    check_request,
    exchange_on_route,
    is_keyless_preflight,
    preflight_on_route,
)
from twisted_lb.proxy.request_ids import trace_id, without_id
from twisted_lb.proxy.streams import NO_TRAILERS, IClientStream
from twisted_lb.proxy.tunnel import TunnelEnd
from twisted_lb.request_record import BAD_REQUEST, CLIENT_TIMEOUT, INTERNAL_ERROR, RequestRecord, record_of_malformed
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.forwarding import ForwardedFields
from twisted_lb.wire.head import RequestHead, ResponseHead, read_request_head
from twisted_lb.wire.problem import CONTENT_TYPE, problem
from twisted_lb.wire.query import take_parameter

PIECE_BYTES = 64 * 1024
LAST_CHUNK = b"0\r\n\r\n"
# Fields that twisted.web has handled: it has read and decoded the content, and has answered the expectation.
_NOT_FORWARDED = frozenset((b"content-length", b"transfer-encoding", b"expect"))


class _Content:
    """A request's content, read from twisted.web's file while the server takes it; the transport of its Tap."""

    disconnecting = False

    def __init__(self, file: Any, size: int, later: Callable[..., IDelayedCall]) -> None:
        self.size = size
        self.exchange: OnRoute | None = None
        self._file = file
        self._left = size
        self._later = later
        self._call: IDelayedCall | None = None
        self._paused = False

    def start(self, exchange: OnRoute) -> None:
        """Begin the exchange with the first piece."""
        self.exchange = exchange
        piece = self._read()
        exchange.start(piece, not self._left, NO_TRAILERS)
        self._go_on()

    def _read(self) -> bytes:
        piece: bytes = self._file.read(min(PIECE_BYTES, self._left))
        self._left -= len(piece)
        return piece

    def _go_on(self) -> None:
        if self._left and self._call is None and not self._paused and self.exchange is not None:
            # In the next iteration, for fairness, and so that a fast server does not cause deep recursion.
            self._call = self._later(0, self._next)

    def _next(self) -> None:
        self._call = None
        if self.exchange is not None and not self._paused:
            piece = self._read()
            self.exchange.content_received(piece, not self._left, NO_TRAILERS)
            self._go_on()

    def stop(self) -> None:
        """The exchange is over, or needs no more content."""
        self.exchange = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._go_on()


def peer_of(request: Request) -> PeerInfo:
    """The other end of a request's connection."""
    there = request.getClientAddress()
    address = plain_address(getattr(there, "host", None) or UNIX_ADDRESS)
    tls = TlsInfo() if request.isSecure() else None
    port = getattr(there, "port", 0)
    return PeerInfo(address, network_of(address), b"http" if tls is None else b"https", tls, port)


def _head_bytes(first_line: bytes, headers: Headers) -> int:
    """The size of a head in HTTP/1.1."""
    lines = [len(name) + len(value) + 4 for name, values in headers.getAllRawHeaders() for value in values]
    return len(first_line) + sum(lines) + 2


@implementer(IClientStream)
class RequestStream:
    """One request of twisted.web, and its response."""

    half_closed = False  # twisted.web does not report it

    def __init__(self, request: Request, limits: ConnectionLimits, reactor: Any, ended: Callable[[Any], None]) -> None:
        """`ended` is called once with the stream, when the request is over."""
        self.peer = peer_of(request)
        self.forwarded = ForwardedFields(self.peer.address, self.peer.scheme)
        self.deadline = NEVER
        self._request = request
        self._limits = limits
        self._ended = ended
        content: Any = request.content
        content.seek(0, 2)
        size = content.tell()
        content.seek(0)
        self._content = _Content(content, size, reactor.callLater)
        self.tap = Tap(self._content)
        self.throttle = Throttle(self)
        context = limits.context
        self.request_id = b"" if context.ids is None else context.ids.new()
        self.record = None if context.records is None else self._new_record(context.seconds())
        self._head: RequestHead | None = None
        self._exchange: OnRoute | None = None
        self._responding = False
        self._over = False

    def start(self, target: bytes) -> None:
        """Send the request to a server, with this target (RFC 9112 section 3.2.1) in place of its own."""
        request = self._request
        limits = self._limits
        limits.context.sweeper.watched.add(self)
        request.notifyFinish().addBoth(self._request_ended)
        request.registerProducer(self.throttle, True)
        try:
            head = self._head = self._read_head(target)
            trusted = limits.trusted_proxies
            if trusted is not None and trusted.contain(self.peer.address):
                self.peer, self.forwarded = TrustedProxy(self.peer, trusted).client_of(head.notable)
            if limits.context.ids is not None:
                self.request_id = limits.context.ids.identify(head.notable)
            if self.record is not None:
                self._begin_record(self.record, head)
            framing = self._content.size
            try:
                check_request(limits, head)
            finally:
                if PARAMETER in head.notable:
                    # The access log of twisted.web shows it.
                    request.uri = take_parameter(request.uri, limits.key_parameter)[0]
            exchange = self._exchange_for(head, framing)
        except RequestError as error:
            if self.record is not None:
                self.record.reason = BAD_REQUEST
            self.reject(error.status, error.detail)
            return
        if exchange is not None:
            self._exchange = exchange
            self._content.start(exchange)

    def _exchange_for(self, head: RequestHead, framing: int) -> OnRoute | None:
        """What serves the request; None for a preflight, which is answered here.  Raises RequestError."""
        limits = self._limits
        context = limits.context
        if head.method == b"OPTIONS" and is_keyless_preflight(limits, head, framing):
            if context.cors is not None:
                self._answer(204, context.cors.preflight(head), None)
                return None
            return preflight_on_route(limits, self, head)
        return exchange_on_route(context, self, head, framing)

    def _new_record(self, now: float) -> RequestRecord:
        """The record, with what is known before the head is validated, which may fail."""
        request = self._request
        # As the client has sent it.
        first_line = b"%b %b %b\r\n" % (request.method, request.uri, request.clientproto)
        record = record_of_malformed(self.peer, now, first_line)
        record.minor = 0 if request.clientproto == b"HTTP/1.0" else 1
        record.bytes_in = _head_bytes(first_line, request.requestHeaders) + self._content.size
        record.request_id = self.request_id
        return record

    def _begin_record(self, record: RequestRecord, head: RequestHead) -> None:
        record.peer = self.peer
        record.method = head.method
        record.target = self._request.uri
        record.host = head.host
        record.request_id = self.request_id
        record.trace_id = trace_id(head.notable)
        records = self._limits.context.records
        if records is not None and records.wants_fields:
            record.fields = head.fields

    def _read_head(self, target: bytes) -> RequestHead:
        """The head in the form of the data path, validated by the same rules.  Raises RequestError."""
        request = self._request
        lines = [b"%b %b HTTP/1.1" % (request.method, target)]
        has_length = False
        for name, values in request.requestHeaders.getAllRawHeaders():
            lower = name.lower()
            has_length = has_length or lower in (b"content-length", b"transfer-encoding")
            if lower not in _NOT_FORWARDED:
                lines += [b"%b: %b" % (name, value) for value in values]
        if not request.requestHeaders.hasHeader(b"host"):
            lines.append(b"Host: " + (request.getRequestHostname() or b"localhost"))
        if has_length or self._content.size:
            lines.append(b"Content-Length: %d" % self._content.size)
        head = read_request_head(b"\r\n".join([*lines, b"", b""]), 0, self._limits.head_limits)
        if head is None:
            raise RequestError(400, "The request is not valid HTTP/1.1.")
        # twisted.web would read what follows as requests.
        head.upgrade = b""
        return head

    # IClientStream

    content_sink = None  # twisted.web writes it

    def interim(self, head: ResponseHead) -> None:
        """See IClientStream.  Dropped: twisted.web sends no interim response but 100 Continue, which it has sent."""

    def respond(self, head: ResponseHead, framing: int, fields: bytes, content: bytes) -> None:
        """See IClientStream."""
        length = head.notable.get(b"content-length")
        self._begin(head.status, head.reason[1:], head.fields + fields, length[0] if length else None)
        dates = head.notable.get(b"date")
        if dates:
            self._request.responseHeaders.setRawHeaders(b"Date", dates[:1])
        self.write(content)

    def _begin(self, status: int, reason: bytes, fields: bytes, length: bytes | None) -> None:
        request = self._request
        if self.record is not None:
            self.record.status = status
        self._responding = True
        request.setResponseCode(status, reason or None)
        headers = request.responseHeaders
        # Twisted's own value discloses its version; a server's value is in `fields`.
        headers.removeHeader(b"Server")
        headers.removeHeader(b"Content-Type")
        if self.request_id:
            fields = without_id(fields) + b"\r\nX-Request-ID: " + self.request_id
        for line in fields.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if colon:
                headers.addRawHeader(name, value.strip(b" \t"))
        if length is not None and status != HTTPStatus.NO_CONTENT:
            headers.setRawHeaders(b"Content-Length", [length])

    def write(self, content: bytes) -> None:
        """See IClientStream."""
        request, record = self._request, self.record
        first, sent_before = not request.startedWriting, request.sentLength
        # Even if empty, so that the head is sent.
        request.write(content)
        if record is None:
            return
        if first and request.startedWriting:
            # With the fields that twisted.web adds.
            status_line = b"%b %d %b\r\n" % (request.clientproto, request.code, request.code_message)
            record.bytes_out += _head_bytes(status_line, request.responseHeaders)
        # Not the content of a response to HEAD.
        sent = request.sentLength - sent_before
        record.content_out += sent
        record.bytes_out += sent
        if sent and request.chunked:
            record.bytes_out += len(b"%x\r\n\r\n" % sent)

    def finish(self, trailers: list[bytes]) -> None:
        """See IClientStream."""
        if self.record is not None and self._request.chunked:
            self.record.bytes_out += len(LAST_CHUNK)
        if self._end():
            self._request.unregisterProducer()
            self._request.finish()

    def reject(self, status: int, detail: str, fields: bytes = b"", members: Mapping[str, object] = {}) -> None:
        """See IClientStream."""
        context = self._limits.context
        context.counts.answered[status] += 1
        if self.record is not None:
            self.record.detail = detail
        cors = context.cors
        if cors is not None:
            fields += cors.fields(self._head.fields if self._head is not None else b"")
        fields += b"\r\nContent-Type: " + CONTENT_TYPE.encode()
        if self.request_id:
            members = {**members, "request_id": self.request_id.decode("ascii")}
        self._answer(status, fields, problem(status, detail, **members))

    def _answer(self, status: int, fields: bytes, body: bytes | None) -> None:
        """A complete response generated here."""
        length = None if body is None else b"%d" % len(body)
        self._begin(status, HTTPStatus(status).phrase.encode(), fields, length)
        self.write(body or b"")
        self.finish(NO_TRAILERS)

    def switch_protocols(self, head: ResponseHead, protocols: bytes, fields: bytes) -> TunnelEnd:
        """See IClientStream.  Not called: its requests do not ask for another protocol."""
        raise RuntimeError("a request of twisted.web cannot be switched to another protocol")

    def reset(self) -> None:
        """See IClientStream.  A reset distinguishes a truncated response from a complete one, also in HTTP/1.0."""
        if self._end():
            channel = self._request.channel
            abort = getattr(channel, "abortConnection", None) or getattr(channel.transport, "abortConnection", None)
            (abort or channel.loseConnection)()

    def failed(self, exchange: object) -> None:
        """See IClientStream."""
        if self.record is not None:
            self.record.reason = INTERNAL_ERROR
        if self._responding:
            self.reset()
        elif not self._over:
            self.reject(500, "An internal error occurred and was logged.")

    def request_resumed(self) -> None:
        """See IClientStream.  The request was received completely."""

    def proxy_header(self, version: int) -> bytes:
        """See IClientStream."""
        return header_for_server(self.peer, self._request, version)

    # Deadlines

    def pressure_changed(self, full: bool) -> None:
        """While the client does not read the response, its timeout runs."""
        context = self._limits.context
        self.deadline = context.sweeper.now + self._limits.settings.send_timeout if full else NEVER

    def deadline_passed(self) -> None:
        """The client does not read its response."""
        if self.record is not None:
            self.record.reason = CLIENT_TIMEOUT
        self.abort()

    def give_up(self) -> None:
        """End the connection."""
        self.abort()

    # The end

    def abort(self) -> None:
        """Abort the request and its connection."""
        exchange = self._exchange
        if exchange is not None and not self._over:
            exchange.abandon()
        self.reset()

    def _request_ended(self, _: object) -> None:
        """The response was written, or the client has disconnected before that."""
        exchange = self._exchange
        if exchange is not None and not self._over:
            exchange.abandon()
        self._end()

    def _end(self) -> bool:
        """End the request; return whether it had not ended before."""
        if self._over:
            return False
        self._over = True
        self._exchange = None
        self._content.stop()
        self.throttle.disconnect()
        self._limits.context.sweeper.watched.discard(self)
        self._ended(self)
        record, self.record = self.record, None
        if record is not None:
            self._limits.context.request_finished(record)
        return True
