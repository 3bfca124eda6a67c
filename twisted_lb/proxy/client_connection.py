"""A client's connection: requests in, one at a time and in order; responses out.

It is the stream of HTTP/1.1 to the client (IClientStream).  Its states, each with the method that takes what was read:

    HEAD -> BODY -> RESPONSE -> HEAD ...      a request, its body, the rest of its response
    RESPONSE -> TUNNEL -> CLOSING             the protocol was switched: `TunnelEnd` has the connection
    any -> CLOSING                            what still arrives is dropped

A request that is answered here and not by a server is cheap for its client.  So what follows it on its connection, what
comes first on a new one, and the rest of a body that comes in tiny chunks is posted (see `posted`), and does not delay
clients whose last request was served by a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.deadlines import NEVER
from twisted_lb.network.flow_control import BACKLOG, NOT_NOW, Tap, Throttle
from twisted_lb.network.peer import (
    UNIX_ADDRESS,
    PeerInfo,
    forwarded_of,
    header_for_server,
    peer_info,
    twisted_address,
)
from twisted_lb.network.transport import close_now, io_of, settled, unread
from twisted_lb.network.trusted_proxies import TrustedProxy
from twisted_lb.own_fields import RESPONSE_FIELDS
from twisted_lb.proxy.admission import RETRY_SOON
from twisted_lb.proxy.connection_limits import ConnectionLimits
from twisted_lb.proxy.dispatch import OnRoute, check_content, dispatch
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.local_request import LocalExchange
from twisted_lb.proxy.local_response import problem_response
from twisted_lb.proxy.open_connections import Use
from twisted_lb.proxy.progress import BodyProgress
from twisted_lb.proxy.reading_progress import ReadingProgress
from twisted_lb.proxy.request_ids import trace_id, without_id
from twisted_lb.proxy.streams import IClientStream
from twisted_lb.proxy.tunnel import Ending, TunnelEnd
from twisted_lb.request_record import (
    BAD_REQUEST,
    CLIENT_LEFT,
    CLIENT_TIMEOUT,
    COMPLETE,
    INTERNAL_ERROR,
    NO_ROOM,
    SHUTDOWN,
    RequestRecord,
    record_of_malformed,
)
from twisted_lb.wire.body import Decoder, chunk, decoder, last_chunk
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.forwarding import ForwardedFields, interim_head, response_head, switching_head
from twisted_lb.wire.framing import request_framing
from twisted_lb.wire.head import RequestHead, ResponseHead, nominated, read_request_head, skip_empty_lines
from twisted_lb.wire.hsts import without_own
from twisted_lb.wire.proxy_protocol import ProxyHeader

# What is read ahead while a response is pending: pipelined requests.
MAX_BACKLOG_BYTES: Final = 64 * 1024

# The states.
HEAD, BODY, RESPONSE, CLOSING, TUNNEL = range(5)
_STATES: Final = ("HEAD", "BODY", "RESPONSE", "CLOSING", "TUNNEL")

_log = BoundedLog(Logger(__name__))


def _refuse(detail: str) -> RequestError:
    return RequestError(400, detail)


@implementer(IProtocol, IHalfCloseableProtocol, IClientStream)
class ClientConnection:
    """Speaks HTTP/1.1 and HTTP/1.0 to one client."""

    # Not a Protocol, which would add a dictionary to each of many idle connections.
    __slots__ = (
        "transport",
        "_output",
        "peer",
        "_forwarded",
        "tap",
        "throttle",
        "network",
        "deadline",
        "half_closed",
        "_announced",
        "_proxy",
        "record",
        "request_id",
        "_limits",
        "_sweeper",
        "_settings",
        "_buffer",
        "_scanned",
        "_empty_lines",
        "_state",
        "_advancing",
        "_head",
        "_exchange",
        "_decoder",
        "_progress",
        "_requests",
        "_reading",
        "_posted",
        "_answered_here",
        "_refusals",
        "_all_read",
        "_responding",
        "_chunking",
        "_until_close",
        "_close_after",
    )

    transport: Any
    _output: Any
    peer: PeerInfo  # of the present request; between requests, of the connection
    tap: Tap
    throttle: Throttle

    def __init__(self, limits: ConnectionLimits, announced: ProxyHeader | None = None) -> None:
        """`announced`: the header of the PROXY protocol that the connection began with."""
        self.network = ""  # that the connection is counted for; see `network_counted`
        self._announced = announced
        self._proxy: TrustedProxy | None = None  # None: the connection is a client's own
        self._forwarded: ForwardedFields | None = None  # of the proxy's present request, see `forwarded`
        self.deadline = NEVER
        self.record: RequestRecord | None = None  # of the present request
        self.request_id = b""  # of the last request, where requests get ids
        self._limits = limits
        self._sweeper = limits.context.sweeper
        self._settings = limits.settings
        self._buffer = b""
        self._scanned = 0  # bytes of an unfinished head that were looked at
        self._empty_lines = 0  # before it
        self._state = HEAD
        self._advancing = False
        self._head: RequestHead | None = None
        self._exchange: OnRoute | LocalExchange | None = None
        self._decoder: Decoder | None = None
        self._progress: BodyProgress | None = None  # of a body that is being read
        self._requests = 0
        self._reading: ReadingProgress | None = None  # since the client was first waited for to read a response
        self._posted = False  # what is in the buffer waits for its turn
        self._answered_here = True  # the last request was not served by a server; or there was none yet
        self._refusals = 0  # in a row
        self.half_closed = False  # the client sends no more
        self._all_read = False  # and what it has sent was read
        self._responding = False  # a server's response has begun
        self._chunking = False  # its content goes out in chunks
        self._until_close = False  # only the end of the connection ends it
        self._close_after = False  # it has announced the end of the connection, or ends with it

    def makeConnection(self, transport: Any) -> None:
        """See IProtocol."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        transport = self.transport
        self._output = io_of(transport)
        self.tap = Tap(transport)
        self.throttle = Throttle(self)
        limits = self._limits
        self.peer = peer = peer_info(transport, self._announced)
        trusted = limits.trusted_proxies
        if trusted is not None and trusted.contain(peer.address):
            self._proxy = TrustedProxy(peer, trusted)
            self.network = limits.network_counted(peer.address)
        else:
            self.network = peer.network
        if peer.address != UNIX_ADDRESS:
            transport.setTcpNoDelay(True)
        transport.registerProducer(self.throttle, True)
        limits.connections.add(self)
        self._sweeper.watched.add(self)
        self.deadline = self._sweeper.now + self._settings.head_timeout

    # Reading

    def dataReceived(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._posted:
            # What was read before is not processed yet.
            self.tap.hold(BACKLOG)
        elif self._answered_here and self._state == HEAD:
            self._post()
        elif not self._advancing:
            self._advance()

    def _post(self) -> None:
        """Continue with the buffer after the work of other connections."""
        self._posted = True
        self._limits.context.posted.post(self)

    # Work

    def resume(self) -> None:
        """Continue with the buffer."""
        self._posted = False
        self._advance()
        if self._all_read and not self._posted:
            self._all_received()

    def give_up(self) -> None:
        """End the connection."""
        self.transport.abortConnection()

    def _advance(self) -> None:
        """Process what was read, as far as the state allows; a loop, since exchanges may end at once."""
        self._advancing = True
        try:
            while self._buffer and not self._posted and self._step():
                pass
        except RequestError as error:
            self._request_refused(error)
        finally:
            self._advancing = False
        if self.tap.held and not self._posted and self._state != RESPONSE:
            # All that was read has been processed.
            self.tap.release(BACKLOG)

    def _step(self) -> bool:
        """Process some of the buffer; return whether the rest of it can be processed now."""
        state = self._state
        if state == HEAD:
            return self._read_head()
        if state == BODY:
            return self._read_body()
        if state == CLOSING:
            self._buffer = b""
        elif len(self._buffer) > MAX_BACKLOG_BYTES:
            # The next request waits for the response to this one.
            self.tap.hold(BACKLOG)
        return False

    def _read_head(self) -> bool:
        data = self._buffer
        if data[:2] == b"\r\n":
            data, self._empty_lines = skip_empty_lines(data, self._empty_lines)
            self._buffer = data
            self._scanned = 0
            if not data:
                return False
        proxy = self._proxy
        if proxy is not None:
            # What is not a request cannot be attributed to a client of the proxy.
            self.peer = proxy.peer
            self._forwarded = None
        head = read_request_head(data, self._scanned, self._limits.head_limits)
        if head is None:
            # A lone CR may become an empty line, which must not extend the deadline.
            if not self._scanned and data != b"\r":
                self.deadline = self._sweeper.now + self._settings.head_timeout
                self._limits.connections.moved_on(self)
            self._scanned = len(data)
            if self._all_read:
                # The rest of it will never come.
                self._close()
            return False
        self._scanned = self._empty_lines = 0
        self._head = head
        if proxy is not None:
            self.peer, self._forwarded = proxy.client_of(head.notable)
        self._requests += 1
        context = self._limits.context
        if context.ids is not None:
            self.request_id = context.ids.identify(head.notable)
        if context.records is not None:
            self._begin_record(head)
        framing = request_framing(head)
        self._buffer = rest = data[head.size :]
        exchange = dispatch(self._limits, self, head, framing)
        self._answered_here = exchange.free
        self._exchange = exchange
        if not framing:
            self._await_response()
            exchange.start(b"", True, [])
            return True
        self._progress = BodyProgress()
        self._state = BODY
        self.deadline = self._sweeper.now + self._settings.body_timeout
        limits = self._limits.head_limits
        self._decoder = body = decoder(
            framing, _refuse, nominated(head.notable), limits.any_name, limits.table.forbidden_trailers
        )
        content = body.feed(rest) if rest else b""
        self._content_received(body, content)
        exchange.start(content, body.done, body.trailers)
        if self._all_read and self._state == BODY and not self._posted:
            # The rest of it will never come.
            self.transport.loseConnection()
        return True

    def _begin_record(self, head: RequestHead) -> None:
        context = self._limits.context
        self.record = record = RequestRecord(self.peer, context.seconds())
        record.method = head.method
        record.target = head.target
        record.host = head.host
        record.minor = head.minor
        record.bytes_in = head.size
        if self.request_id:
            record.request_id = self.request_id
            record.trace_id = trace_id(head.notable)
        if context.records is not None and context.records.wants_fields:
            record.fields = head.fields

    def _begin_unread(self) -> None:
        """What is in the buffer will be answered, although it is not a whole or valid request."""
        if self._head is not None:
            return
        proxy = self._proxy
        if proxy is not None:
            # It is not known whose it is; the last request may have been another client's.
            self.peer = proxy.peer
            self._forwarded = None
        context = self._limits.context
        if context.ids is not None:
            self.request_id = context.ids.new()
        if context.records is not None:
            self.record = record_of_malformed(self.peer, context.seconds(), self._buffer)
            self.record.request_id = self.request_id

    def _record_finished(self) -> None:
        """The present request is over, or was not a request."""
        record, self.record = self.record, None
        if record is not None:
            self._limits.context.request_finished(record)

    def _read_body(self) -> bool:
        body = self._decoder
        exchange = self._exchange
        assert body is not None and exchange is not None
        content = body.feed(self._buffer)
        self._content_received(body, content)
        exchange.content_received(content, body.done, body.trailers)
        return True

    def _content_received(self, body: Decoder, content: bytes) -> None:
        """Count the content of a request body, check its limit, and notice its end."""
        progress = self._progress
        assert progress is not None
        progress.received += len(content)
        progress.chunks = body.chunks
        if self.record is not None:
            self.record.bytes_in += len(content)
        exchange = self._exchange
        if isinstance(exchange, Exchange):
            check_content(exchange, progress.received)
        self._buffer = body.rest
        if body.done:
            self._await_response()
            self._decoder = self._progress = None
        elif body.rest:
            self._post()

    def _await_response(self) -> None:
        self._state = RESPONSE
        # A client that has not read an earlier response gets no more time by sending another request.
        if self.throttle.full:
            self._await_reading()
        else:
            self.deadline = self._sweeper.now + self._settings.half_close_timeout if self.half_closed else NEVER

    # IClientStream

    def interim(self, head: ResponseHead) -> None:
        """See IClientStream."""
        if head.status == 100:
            # Now it is the client that has to send.
            self.request_resumed()
        # RFC 9110 section 15.2: not to HTTP/1.0.
        if self._head is not None and self._head.minor:
            self._replace_own(head)
            data = interim_head(head)
            if self.record is not None:
                self.record.bytes_out += len(data)
            self._output.write(data)

    def respond(self, head: ResponseHead, framing: int, fields: bytes, content: bytes) -> None:
        """See IClientStream."""
        request = self._head
        assert request is not None
        minor = request.minor
        # To HTTP/1.0, only the end of the connection ends a body of unknown length.
        self._chunking = chunking = framing < 0 and minor == 1
        self._until_close = until_close = framing < 0 and not minor
        self._close_after = close = until_close or self._decoder is not None or self.closing()
        if self.request_id or self._limits.hsts:
            fields += self._replace_own(head)
        data = response_head(head, framing, minor, fields, close, self._sweeper.date, RESPONSE_FIELDS.consumed)
        if content:
            data += chunk(content) if chunking else content
        record = self.record
        if record is not None:
            record.status = head.status
            record.bytes_out += len(data)
            record.content_out = len(content)
        self._responding = True
        self._output.write(data)

    def _replace_own(self, head: ResponseHead) -> bytes:
        """Remove from a server's head the fields that this gateway sends itself; return their lines."""
        fields = self._limits.fields_for(self.peer)
        if fields:
            head.fields = without_own(head.fields)
        if self.request_id:
            head.fields = without_id(head.fields)
            fields += b"\r\nX-Request-ID: " + self.request_id
        return fields

    @property
    def content_sink(self) -> Any:
        """See IClientStream."""
        return None if self._chunking else self.transport

    def write(self, content: bytes) -> None:
        """See IClientStream."""
        data = chunk(content) if self._chunking else content
        record = self.record
        if record is not None:
            record.bytes_out += len(data)
            record.content_out += len(content)
        self._output.write(data)

    def finish(self, trailers: list[bytes]) -> None:
        """See IClientStream."""
        if self._chunking:
            data = last_chunk(trailers)
            if self.record is not None:
                self.record.bytes_out += len(data)
            self._output.write(data)
        self.exchange_done(self._close_after)

    def reject(self, status: int, detail: str, fields: bytes = b"", members: Mapping[str, object] = {}) -> None:
        """See IClientStream.  A connection whose request is not whole ends with it."""
        record = self.record
        if record is not None and record.reason == COMPLETE and status >= 400:
            record.reason = BAD_REQUEST
        self._answered_here = True
        close = self.answered(status) or self._decoder is not None or self.closing()
        self._write_problem(status, detail, fields, members, close)
        self.exchange_done(close)

    def reset(self) -> None:
        """See IClientStream."""
        self._exchange = None
        self._record_finished()
        if self._until_close:
            # The client would take a normal end of the connection for the end of the body.
            self._cut()
        else:
            self._close()

    def failed(self, exchange: object) -> None:
        """See IClientStream."""
        if self.record is not None:
            self.record.reason = INTERNAL_ERROR
        try:
            if self._exchange is exchange and not self._responding:
                self.reject(500, "An internal error occurred and was logged.")
                return
        except BaseException:
            _log.failure("answer", "A client could not be answered; its connection is cut")
        other, self._exchange = self._exchange, None
        if other is not None and other is not exchange:
            other.abandon()
        self._record_finished()
        self._cut()

    def switch_protocols(self, head: ResponseHead, protocols: bytes, fields: bytes) -> TunnelEnd:
        """See IClientStream."""
        fields += self._replace_own(head)
        data = switching_head(head, protocols, fields)
        record = self.record
        if record is not None:
            record.status = head.status
            record.bytes_out += len(data)
        self._output.write(data)
        early, self._buffer = self._buffer, b""
        self._state = TUNNEL
        self._responding = True
        self._head = None
        self.deadline = NEVER
        self._sweeper.watched.discard(self)
        loss = Ending.CLIENT_LOST
        return TunnelEnd(self, self.transport, self.tap, self.throttle, loss, early, self._all_read)

    def tunnel_ended(self, end: TunnelEnd) -> None:
        """See TunnelStream."""
        self._exchange = None
        if self.record is not None:
            self.record.bytes_in += end.received
        self._record_finished()
        if end.lost:
            self._limits.connections.remove(self)
            return
        self._all_read = end.all_read
        self._sweeper.watched.add(self)
        self._linger()

    @property
    def forwarded(self) -> ForwardedFields:
        """See IClientStream."""
        if self._forwarded is not None:
            return self._forwarded
        peer = self.peer
        return forwarded_of(peer.address, peer.scheme, peer.tls)

    def request_resumed(self) -> None:
        """See IClientStream."""
        if self._state == BODY:
            self.deadline = self._sweeper.now + self._settings.body_timeout

    def proxy_header(self, version: int) -> bytes:
        """See IClientStream."""
        return header_for_server(self.peer, self.transport, version)

    # For requests that are served here

    def client_address(self) -> IAddress:
        """See LocalClient."""
        if self._proxy is None and self._announced is None:
            address: IAddress = self.transport.getPeer()
            return address
        return twisted_address(self.peer)

    def closing(self) -> bool:
        """Whether this connection ends after the response that is about to begin."""
        head = self._head
        return (
            head is None
            or not head.keep_alive
            or (self._all_read and not self._buffer)
            or self._limits.draining
            or self._requests >= self._settings.keepalive_requests
        )

    def answered(self, status: int) -> bool:
        """Count an answer that is made here; return whether the connection ends, after too many refusals."""
        self._refusals = self._refusals + 1 if 400 <= status < 500 else 0
        # A trusted proxy sends the requests of many clients: refusals of one must not end the connection for others.
        return self._refusals >= self._settings.max_refusals > 0 and self._proxy is None

    def _write_problem(
        self, status: int, detail: str, fields: bytes, members: Mapping[str, object], close: bool
    ) -> None:
        context = self._limits.context
        context.counts.answered[status] += 1
        cors = context.cors
        if cors is not None:
            # If the head was refused, there is only what was read of it.
            fields += cors.fields(self._head.fields if self._head is not None else self._buffer)
        fields += self._limits.fields_for(self.peer)
        request_id = self.request_id
        data = problem_response(self._head, status, detail, fields, members, close, self._sweeper.date, request_id)
        record = self.record
        if record is not None:
            record.status = status
            record.detail = detail
            record.responded(data)
        self._output.write(data)

    def exchange_done(self, close: bool) -> None:
        """The response is written: continue with the next request, or end the connection."""
        self._exchange = None
        self._record_finished()
        self._head = None
        self._responding = False
        if self._decoder is not None or (close and (self._buffer or unread(self.transport))):
            # The response came before the request was whole, or the client has sent more than that.
            self._linger()
        elif close:
            self._close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Continue with the next request, but not while responses wait for the client to read them."""
        if self.throttle.full:
            self._state = RESPONSE
            self._await_reading()
        elif self._all_read and not self._buffer:
            self._close()
        else:
            self._state = HEAD
            self._reading = None
            self.deadline = self._sweeper.now + self._settings.keepalive_timeout
            self._limits.connections.moved_on(self)
            self.tap.release(NOT_NOW if self._buffer else BACKLOG | NOT_NOW)
            if not self._answered_here:
                self._refusals = 0
                if self._buffer and not self._advancing:
                    self._advance()
            elif self._buffer:
                self._post()

    def pressure_changed(self, full: bool) -> None:
        """While what was written waits for the client to read it, its deadline runs."""
        if self._state != RESPONSE:
            return
        if full:
            self._await_reading()
        elif self._exchange is not None:
            self.deadline = NEVER
        else:
            self._go_on()

    def _await_reading(self) -> None:
        """The client has to read what was written."""
        self._reading = ReadingProgress(self.transport)
        self.deadline = self._sweeper.now + self._settings.send_timeout

    # The end

    def _request_refused(self, error: RequestError) -> None:
        """What was read is not a valid request; where the next one would begin is unknown."""
        exchange, self._exchange = self._exchange, None
        self._begin_unread()
        if self.record is not None:
            self.record.reason = CLIENT_TIMEOUT if error.status == 408 else BAD_REQUEST
            self.record.detail = error.detail
        if exchange is not None:
            exchange.abandon()
        if self._responding:
            self._record_finished()
            self._cut()
        else:
            self._write_problem(error.status, error.detail, b"", {}, True)
            self._record_finished()
            self._linger()

    def _end_reading(self) -> None:
        """Read no further requests, and keep nothing of the last one."""
        self._state = CLOSING
        self._head = None
        self._responding = False
        self._decoder = None
        self._buffer = b""
        self._progress = None

    def _cut(self) -> None:
        """End the connection with a reset."""
        self._end_reading()
        self.transport.abortConnection()

    def _close(self) -> None:
        self._end_reading()
        self._await_reading()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _linger(self) -> None:
        """The last response is written; a client that is still sending must still be able to read it."""
        if self._all_read:
            self._close()
            return
        self._end_reading()
        self._limits.connections.remove(self)
        self._sweeper.watched.discard(self)
        self.throttle.disconnect()
        self.transport.unregisterProducer()
        self._limits.lingering.begin(self.transport)

    def deadline_passed(self) -> None:
        if self._state == HEAD and self._posted:
            # It is not the client that is slow.
            self.deadline = self._sweeper.now + self._settings.head_timeout
        elif self._state == HEAD and not self._buffer:
            self._close()
        elif self._state == BODY and self._body_progressed():
            self.deadline = self._sweeper.now + self._settings.body_timeout
        elif self._state in (HEAD, BODY):
            self._request_refused(RequestError(408, "The request was not received in time."))
        elif self.half_closed and not self.throttle.full and self._responding:
            # Further writes will show whether the client is still there.
            self.deadline = NEVER
        elif (self.throttle.full or self._state == CLOSING) and self._client_reads():
            self.deadline = self._sweeper.now + self._settings.send_timeout
        else:
            if self.record is not None:
                self.record.reason = CLIENT_LEFT if self.half_closed and not self.throttle.full else CLIENT_TIMEOUT
            self.transport.abortConnection()

    def _client_reads(self) -> bool:
        """Whether the client has read enough since the deadline was set.  If so, another period begins."""
        settings = self._settings
        return self._reading is not None and self._reading.next_period(settings.min_body_rate * settings.send_timeout)

    def _body_progressed(self) -> bool:
        """Whether the client has sent enough since the deadline was set, or had to wait before it could send.

        If so, another period begins.
        """
        seconds = self._settings.body_timeout
        progress = self._progress
        if progress is None or not progress.in_sensible_chunks(seconds):
            return False
        kept_from_it = self.tap.held or self._waits() or self._expects()
        if not kept_from_it and not progress.enough(seconds, self._settings.min_body_rate):
            return False
        progress.next_period()
        return True

    # What is called when there is no room for another connection

    def use(self) -> Use:
        """See OpenConnection."""
        if self._state in (RESPONSE, TUNNEL):
            return Use.BUSY
        if self._state == BODY and self._exchange is not None and not self._exchange.free:
            return Use.BUSY
        # Unread bytes may be a whole request; if one has begun already, they need not be checked.
        unread = self._state == HEAD and not self._buffer
        return Use.IDLE if not self.tap.held and not self._posted and settled(self.transport, unread) else Use.UNSETTLED

    def make_room(self, lingers: bool) -> None:
        """See OpenConnection.  A client that has begun a request gets a response."""
        exchange, self._exchange = self._exchange, None
        if self._buffer:
            self._begin_unread()
        if self.record is not None:
            self.record.reason = NO_ROOM
        if exchange is not None:
            exchange.abandon()
        if self._buffer or exchange is not None:
            self._write_problem(503, "There are too many connections. Try again later.", RETRY_SOON, {}, True)
            self._record_finished()
            if lingers:
                self._linger()
                return
        self._end_reading()
        self._limits.connections.remove(self)
        self.deadline = self._sweeper.now + self._settings.send_timeout
        self.transport.unregisterProducer()
        close_now(self.transport)

    def drain(self) -> None:
        """End the connection as soon as it has no exchange."""
        if self._exchange is None and self._state == HEAD and not self._buffer:
            self._close()

    def readConnectionEnding(self) -> None:
        """The client sends no more, and what it has sent is not read yet, since it has to wait for something."""
        self.half_closed = True
        self._client_left()

    def readConnectionLost(self) -> None:
        """The client sends no more, and all that it has sent was read; it still gets the response it waits for."""
        self.half_closed = self._all_read = True
        if not self._posted:
            self._all_received()

    def _all_received(self) -> None:
        """All that the client has sent was looked at."""
        if self._decoder is not None or (self._exchange is None and self._state != RESPONSE):
            self.transport.loseConnection()
        else:
            self._client_left()

    def _client_left(self) -> None:
        """The client sends no more.  Most such clients have disconnected, but only a write would show it."""
        if self._waits():
            # It loses only its place in the queue, and a client that has disconnected must not delay others.
            self.transport.loseConnection()
        elif self._state == RESPONSE and not self.throttle.full:
            self.deadline = self._sweeper.now + self._settings.half_close_timeout

    def _waits(self) -> bool:
        return self._exchange is not None and self._exchange.waits

    def _expects(self) -> bool:
        return self._exchange is not None and self._exchange.expecting

    def writeConnectionLost(self) -> None:
        """Our direction ends with the connection, or when another protocol has it."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._limits.connections.remove(self)
        self._sweeper.watched.discard(self)
        # It may still be posted.
        self._buffer = b""
        exchange, self._exchange = self._exchange, None
        record = self.record
        if record is not None and record.reason == COMPLETE:
            aborted = reason.check(ConnectionAborted) is not None
            record.reason = SHUTDOWN if aborted and self._limits.draining else CLIENT_LEFT
        if exchange is not None:
            exchange.abandon()
        self._record_finished()

    def __repr__(self) -> str:
        return f"<ClientConnection {self.peer.address} {_STATES[self._state]} {self._exchange!r}>"
