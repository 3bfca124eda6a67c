"""One connection to a server: requests out, responses in, one exchange at a time.

Its life: opened by a pool, then in turn *busy* with an exchange and *idle* in the pool, until either
side ends it.  A connection whose server broke the framing, sent more than it announced, or answered
before it had the whole request is never used again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.deadlines import NEVER, Sweeper
from twisted_lb.network.flow_control import BACKLOG, Throttle, TimedTap
from twisted_lb.network.posted import PostedWork
from twisted_lb.network.splice import MIN_BYTES, Splice, splice
from twisted_lb.network.tls_client import SPEAKS_TLS, is_tls_alert, refused_by_alert, tls_text
from twisted_lb.network.transport import io_of
from twisted_lb.own_fields import RESPONSE_FIELDS
from twisted_lb.proxy.reading_progress import ReadingProgress
from twisted_lb.proxy.streams import NO_TRAILERS, IResponseReceiver, IServerStream, ServerFailure
from twisted_lb.proxy.tunnel import Ending, TunnelEnd
from twisted_lb.wire.body import Decoder, LengthDecoder, chunk, decoder, last_chunk
from twisted_lb.wire.errors import ResponseError
from twisted_lb.wire.framing import CHUNKED, UNTIL_CLOSE, response_framing
from twisted_lb.wire.head import (
    MAX_INTERIM_RESPONSES,
    MAX_RESPONSE_HEAD_BYTES,
    ResponseHead,
    nominated,
    read_response_head,
)

SWITCHING_PROTOCOLS: Final = 101


class OwningPool(Protocol):
    """The pool that opened the connection."""

    def release(self, connection: ServerConnection) -> None:
        """The connection is idle now."""

    def forget(self, connection: ServerConnection) -> None:
        """The connection is of no further use."""


def _refuse(detail: str) -> ResponseError:
    return ResponseError(f"The server's body is malformed: {detail}")


@implementer(IProtocol, IServerStream)
class ServerConnection:
    """Speaks HTTP/1.1 to one server."""

    # Not a Protocol, which would add a dictionary to each.
    __slots__ = (
        "transport",
        "_output",
        "tap",
        "throttle",
        "address",
        "preface",
        "preface_sent",
        "retire_at",
        "backend",
        "deadline",
        "used",
        "idle_since",
        "idle_iteration",
        "expecting",
        "timeout",
        "_pool",
        "_sweeper",
        "_posted",
        "_opened",
        "_receiver",
        "_method",
        "_chunking",
        "_sending",
        "_sent_before",
        "_heard",
        "_interims",
        "_buffer",
        "_unread",
        "_head",
        "_framing",
        "_decoder",
        "_splice",
        "_reading",
    )

    transport: Any
    _output: Any
    tap: TimedTap
    throttle: Throttle

    def __init__(
        self,
        backend: Backend,
        home: OwningPool,
        sweeper: Sweeper,
        posted: PostedWork,
        timeout: float,
        opened: Callable[[ServerConnection], None],
    ) -> None:
        """`timeout` is that of IServerStream; `opened` is called once, when it is connected."""
        self.backend = backend
        self.address = ""  # of the server
        # Sent first: the header of the PROXY protocol, which names one client.  Only this client uses it.
        self.preface = b""
        self.preface_sent = False  # it was sent when the connection was opened, before the handshake of TLS
        self.retire_at = NEVER  # on the sweeper's clock; from then on it is not kept for another exchange
        self.deadline = NEVER
        self.used = False  # whether it has carried an exchange before the present one
        self.idle_since = 0.0  # on the sweeper's clock
        self.idle_iteration = 0  # of the data path's reactor, in which it became idle
        self._pool = home
        self._sweeper = sweeper
        self._posted = posted
        self.timeout = timeout
        self._opened: Callable[[ServerConnection], None] | None = opened
        self._receiver: IResponseReceiver | None = None
        self._method = b""
        self._chunking = False  # the request's content goes out in chunks
        self._sending = False  # the request is not whole yet
        self.expecting = False  # the client waits for 100 (Continue) before it sends the content
        self._sent_before = 0  # bytes that the kernel had taken when the present request began
        self._heard = False  # a byte of the response came
        self._interims = 0
        self._buffer = b""
        self._unread = b""  # of a body, received, and posted
        self._head: ResponseHead | None = None
        self._framing = 0
        self._decoder: Decoder | None = None
        self._splice: Splice | None = None
        self._reading: ReadingProgress | None = None  # where the request may wait for the server to read it

    def makeConnection(self, transport: Any) -> None:
        """See IProtocol."""
        self.transport = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        self._output = io_of(self.transport)
        self.tap = TimedTap(self.transport, self._sweeper)
        self.throttle = Throttle(self)
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self.throttle, True)
        self._sweeper.watched.add(self)
        if self.preface and not self.preface_sent:
            self._output.write(self.preface)
        opened, self._opened = self._opened, None
        if opened is not None:
            opened(self)

    # The request

    def begin(
        self,
        receiver: IResponseReceiver,
        method: bytes,
        head: bytes,
        framing: int,
        content: bytes,
        whole: bool,
        trailers: list[bytes],
        expects: bool,
    ) -> None:
        """See IServerStream."""
        self._receiver = receiver
        self._method = method
        self._sending = not whole
        self._heard = False
        self._interims = 0
        self._head = None
        self.expecting = expects
        # While the client is still sending, it is the client's deadline that counts.
        self.deadline = self._sweeper.now + self.timeout if whole or expects else NEVER
        self._sent_before = self._output.sent
        self._chunking = framing == CHUNKED
        self.tap.kept_shut_until = -NEVER
        if framing:
            head += self._framed(content, whole, trailers)
        self._output.write(head)

    def send(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """See IServerStream."""
        if whole:
            self._sending = False
            self._reading = ReadingProgress(self.transport)
            self.deadline = self._sweeper.now + self.timeout
        elif self.expecting:
            self.deadline = NEVER
        self.expecting = False
        data = self._framed(content, whole, trailers)
        if data:
            self._output.write(data)

    def _framed(self, content: bytes, whole: bool, trailers: list[bytes]) -> bytes:
        if not self._chunking:
            return content
        data = chunk(content) if content else b""
        return data + last_chunk(trailers) if whole else data

    def pressure_changed(self, full: bool) -> None:
        """While what was sent of a request waits for the server to read it, its deadline runs."""
        if self._sending:
            self._reading = ReadingProgress(self.transport) if full else None
            self.deadline = self._sweeper.now + self.timeout if full else NEVER

    def rest(self) -> None:
        """The connection is not needed after all, and becomes idle."""
        self._pool.release(self)

    # The response

    def dataReceived(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            # There is no request: this is left over from the last response, or the server sends first.
            self.drop()
            return
        if not self._heard and self._output.sent == self._sent_before:
            # A response before the request was sent: it is left over from the last response.
            detail = "The server sent a response before it had the request."
            self._fail(ServerFailure(502, detail, silent=True, unsent=True))
            return
        self._heard = True
        try:
            if self._head is None:
                self._receive_head(receiver, data)
            else:
                self._receive_body(receiver, data)
        except ResponseError as error:
            if self._head is None and not self.used and is_tls_alert(data):
                self._fail(ServerFailure(502, SPEAKS_TLS, unreached=True))
            else:
                self._fail(ServerFailure(502, error.detail))

    def _receive_head(self, receiver: IResponseReceiver, data: bytes) -> None:
        scanned = len(self._buffer)
        if scanned:
            data = self._buffer + data
            self._buffer = b""
        while True:
            head = read_response_head(data, scanned, MAX_RESPONSE_HEAD_BYTES, RESPONSE_FIELDS)
            if head is None:
                self._buffer = data
                return
            rest = data[head.size :]
            if head.status >= 200:
                break
            if head.status == SWITCHING_PROTOCOLS:
                self._switch(receiver, head, rest)
                return
            self._interims += 1
            if self._interims > MAX_INTERIM_RESPONSES:
                raise ResponseError("The server sent an unexpected interim response.")
            # A head has one deadline for all its bytes, so that sending it slowly does not extend it; a whole
            # interim response is progress.
            if not self._sending:
                self.deadline = self._sweeper.now + self.timeout
            elif self.expecting:
                self.expecting = head.status != 100
                self.deadline = self._sweeper.now + self.timeout if self.expecting else NEVER
            receiver.interim_received(head)
            if self._receiver is not receiver or not rest:
                return
            data = rest
            scanned = 0
        self._head = head
        self._framing = framing = response_framing(head, self._method)
        if len(rest) == framing:
            self._end(b"")
            receiver.response_started(head, framing, rest, True, NO_TRAILERS)
            return
        # Any name is allowed: clients, unlike some servers, do not turn names into variables.
        self._decoder = body = decoder(
            framing, _refuse, nominated(head.notable), True, RESPONSE_FIELDS.forbidden_trailers
        )
        if body.done:
            content, surplus = b"", rest
        else:
            content = body.feed(rest) if rest else b""
            surplus = body.rest
        if body.done:
            self._end(surplus)
        else:
            self.deadline = self._sweeper.now + self.timeout
            if surplus:
                self._post(surplus)
        receiver.response_started(head, framing, content, body.done, body.trailers)
        if framing > MIN_BYTES:
            self._splice_body()

    def _switch(self, receiver: IResponseReceiver, head: ResponseHead, rest: bytes) -> None:
        """RFC 9110 section 7.8: only to a protocol that was requested, in HTTP/1.1, and after the whole request."""
        if self._sending or not head.minor or not receiver.protocols_switched(head, rest):
            raise ResponseError("The server switched to another protocol, which it was not asked for.")

    def switch_protocols(self, early: bytes) -> TunnelEnd:
        """See IServerStream."""
        self._part()
        self._sweeper.watched.discard(self)
        return TunnelEnd(self, self.transport, self.tap, self.throttle, Ending.SERVER_LOST, early)

    def _receive_body(self, receiver: IResponseReceiver, data: bytes) -> None:
        body = self._decoder
        assert body is not None
        content = body.feed(data)
        if body.done:
            self._end(body.rest)
        else:
            self.deadline = self._sweeper.now + self.timeout
            if body.rest:
                self._post(body.rest)
            if not content:
                return
        receiver.response_content_received(content, body.done, body.trailers)
        if self._framing > MIN_BYTES:
            self._splice_body()

    def _splice_body(self) -> None:
        """Have the kernel move the middle of a large body, if both sides allow it."""
        body = self._decoder
        receiver = self._receiver
        if isinstance(body, LengthDecoder) and receiver is not None and self._splice is None and not self.tap.held:
            self._splice = splice(self.transport, receiver.response_sink, body.left, self._spliced)

    def _spliced(self, count: int) -> None:
        body = self._decoder
        receiver = self._receiver
        assert isinstance(body, LengthDecoder) and receiver is not None
        body.left -= count
        self.deadline = self._sweeper.now + self.timeout
        receiver.response_content_spliced(count)

    def _post(self, data: bytes) -> None:
        """Continue a body that comes in tiny chunks after the work of other connections."""
        self._unread = data
        self.tap.hold(BACKLOG)
        self._posted.post(self)

    # Work

    def resume(self) -> None:
        """Continue with the body."""
        data, self._unread = self._unread, b""
        receiver = self._receiver
        if receiver is None or not data:
            return
        try:
            self._receive_body(receiver, data)
        except ResponseError as error:
            self._fail(ServerFailure(502, error.detail))
        if not self._unread:
            self.tap.release(BACKLOG)

    def give_up(self) -> None:
        """End the connection."""
        self.transport.abortConnection()

    def _end(self, surplus: bytes) -> None:
        """The response is whole: detach from the exchange."""
        head = self._head
        assert head is not None
        self._part()
        if surplus or self._sending:
            self.drop()
        elif not head.keep_alive or self._framing == UNTIL_CLOSE:
            self.close()
        else:
            self.used = True
            self._pool.release(self)

    def _part(self) -> None:
        if self._splice is not None:
            self._splice.close()
            self._splice = None
        self._receiver = None
        self._reading = None
        self.expecting = False
        self._head = None
        self._decoder = None
        self._buffer = b""
        if self._unread:
            self._unread = b""
            self.tap.release(BACKLOG)
        self.deadline = NEVER
        self.throttle.disconnect()

    # The end

    def _fail(self, failure: ServerFailure) -> None:
        receiver = self._receiver
        self._part()
        self.drop()
        if receiver is not None:
            receiver.response_failed(failure)

    def tunnel_ended(self, end: TunnelEnd) -> None:
        """See TunnelStream."""
        if end.lost:
            self._pool.forget(self)
        else:
            self.close()

    def deadline_passed(self) -> None:
        if self._receiver is None:
            if self.transport.disconnecting:
                self.drop()
            else:
                self.close()
        elif self.tap.held:
            # It is the client that does not take the response.
            self.deadline = self._sweeper.now + self.timeout
        elif self.tap.kept_shut_within(self.timeout):
            # What the server has sent meanwhile may not be read yet.
            self.deadline = self.tap.kept_shut_until + self.timeout
        elif self._head is None and self._reading is not None and self._reading.next_period():
            # It has not read the whole request yet.
            self.deadline = self._sweeper.now + self.timeout
        else:
            self._fail(ServerFailure(504, "The server did not answer in time."))

    def close(self) -> None:
        """Close the connection normally: what was written last still has time to be sent."""
        self._pool.forget(self)
        self.deadline = self._sweeper.now + self.timeout
        self._sweeper.watched.add(self)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def drop(self) -> None:
        """End the connection at once; its receiver is not called any more."""
        self._part()
        self._pool.forget(self)
        self._sweeper.watched.discard(self)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._pool.forget(self)
        self._sweeper.watched.discard(self)
        receiver = self._receiver
        if receiver is None:
            return
        unreached = self._why_unreached(reason)
        if unreached:
            self._part()
            receiver.response_failed(ServerFailure(502, unreached, unreached=True))
            return
        until_close = self._head is not None and self._framing == UNTIL_CLOSE
        # A server gives up when nothing is read (nginx: send_timeout); what it had sent before that is read first.
        slow = self.tap.kept_shut_within(self.timeout)
        if slow:
            detail = "The server closed the connection: the client was too slow to take the response."
        else:
            what = "it had the whole request" if self._sending else "its response was whole"
            detail = f"The server closed the connection before {what}."
        self._part()
        if until_close and reason is not None and reason.check(ConnectionDone):
            receiver.response_content_received(b"", True, NO_TRAILERS)
        else:
            receiver.response_failed(
                ServerFailure(
                    502,
                    detail,
                    not self._heard,
                    self._output.sent == self._sent_before,
                    True,
                    slow,
                )
            )

    def _why_unreached(self, reason: Failure | None) -> str:
        """Why the connection was never accepted by both sides, with or without TLS; "" if it was."""
        if self.used or self._head is not None or self._interims:
            return ""
        if is_tls_alert(self._buffer):
            return SPEAKS_TLS
        if not self._heard and reason is not None and refused_by_alert(reason.value):
            return f"the TLS handshake failed: {tls_text(reason.value)}"
        return ""

    def __repr__(self) -> str:
        state = "busy" if self._receiver else "idle"
        return f"<ServerConnection to {self.backend.name} {state}{' used' if self.used else ''}>"
