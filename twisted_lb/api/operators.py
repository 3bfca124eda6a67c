"""The connections of operators and probes: small requests without a body, with limits and timeouts.

Heads are parsed as strictly as those of clients, by the same parser.  A request is rejected as soon as its head is
known to be invalid, or to announce a body.  The states of a connection:

    reading -> serving -> reading ...      a head, its response; one request per iteration of the reactor
    any -> ending                          further input is discarded

Each state has a timeout.  The number of connections is limited: at the limit, the longest idle one is closed for a new
one.
"""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource
from zope.interface import implementer

from twisted_lb.api.bridge import ApiDoor
from twisted_lb.interfaces import IReply, IServing
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.forwarding import own_head
from twisted_lb.wire.framing import request_framing
from twisted_lb.wire.grammar import EMPTY_LINES
from twisted_lb.wire.head import HeadLimits, RequestHead, read_request_head
from twisted_lb.wire.problem import CONTENT_TYPE, problem

# Probes and Prometheus send less than 1 KiB.
LIMITS = HeadLimits(head_bytes=16 * 1024)
MAX_EMPTY_LINES = 16  # before a request
# Maximum of pipelined input that is read before a response.
MAX_AHEAD_BYTES = 16 * 1024

IDLE_SECONDS = 60.0  # for a request to begin
HEAD_SECONDS = 10.0  # for its complete head, from the first byte
SERVE_SECONDS = 30.0  # for its response to be created
SEND_SECONDS = 30.0  # for the client to read what is buffered for it
# After a rejection, how long a client may still send in total, and without a pause: its input is discarded, so that it
# receives the response before a reset.
LINGERING_SECONDS = 30.0
LINGERING_PAUSE_SECONDS = 5.0
MAX_TURNED_AWAY = 64  # rejected connections that linger, in addition to the others

# Returns why a request is rejected, as a status and a detail, or None.  It gets the local address of the connection, or
# "" if there is none.
Judge = Callable[[RequestHead, str], tuple[int, str] | None]


def everybody(head: RequestHead, here: str) -> tuple[int, str] | None:
    """Serve all requests."""
    return None


class OperatorFactory(Factory):
    """Builds the connections of one listener, and limits their number."""

    noisy = False

    def __init__(self, reactor: Any, resource: IResource, max_connections: int, judge: Judge = everybody) -> None:
        """`resource` is a twisted.web resource for ApiRequests."""
        self.reactor = reactor
        self.door = ApiDoor(resource, lambda path: False)
        self.judge = judge
        self._max_connections = max_connections
        self._connections: set[OperatorConnection] = set()
        # Connections without a request that is being served, the longest idle first.
        self._idle: dict[OperatorConnection, None] = {}
        self.turned_away = 0  # rejected connections that have not ended yet

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        if len(self._connections) >= self._max_connections:
            longest = next(iter(self._idle), None)
            if longest is None:
                return _RejectedConnection(self)
            longest.make_room()
        connection = OperatorConnection(self)
        self._connections.add(connection)
        self.waits(connection)
        return connection

    def waits(self, connection: OperatorConnection) -> None:
        """The connection is idle."""
        self._idle.pop(connection, None)
        self._idle[connection] = None

    def serves(self, connection: OperatorConnection) -> None:
        """The connection has a request."""
        self._idle.pop(connection, None)

    def lost(self, connection: OperatorConnection) -> None:
        """The connection is lost."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)


def _own_answer(head: RequestHead | None, status: int, detail: str) -> bytes:
    """A problem document, after which the connection is closed."""
    body = problem(status, detail)
    fields = b"\r\nServer: twisted_lb\r\nDate: %b\r\nContent-Type: %b\r\nCache-Control: no-store" % (
        datetimeToString(),
        CONTENT_TYPE.encode(),
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields += b"\r\nRetry-After: 1"
    data = own_head(status, HTTPStatus(status).phrase.encode(), fields, len(body), True, 1)
    return data if head is not None and head.method == b"HEAD" else data + body


@implementer(IHalfCloseableProtocol)
class _RejectedConnection(Protocol):
    """A connection above the limit.  Its input is discarded."""

    transport: Any

    def __init__(self, factory: OperatorFactory) -> None:
        self._factory = factory
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._factory.turned_away += 1
        self.transport.write(_own_answer(None, 503, "There are too many connections here. Try again later."))
        if self._factory.turned_away > MAX_TURNED_AWAY:
            self.transport.loseConnection()
            return
        self.transport.loseWriteConnection()
        self._timer = self._factory.reactor.callLater(LINGERING_PAUSE_SECONDS, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The response was sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._factory.turned_away -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@implementer(IHalfCloseableProtocol, IPushProducer, IReply)
class OperatorConnection(Protocol):
    """An HTTP/1.1 or HTTP/1.0 connection of one operator or probe."""

    transport: Any
    request_id = b""  # see IReply; the requests of operators have none

    def __init__(self, factory: OperatorFactory) -> None:
        self._factory = factory
        self._reactor = factory.reactor
        self._timer: IDelayedCall | None = None
        self._next: IDelayedCall | None = None
        self._buffer = b""
        self._scanned = 0  # bytes of an incomplete head that were scanned
        self._empty_lines = 0  # before the present request
        self._serving: IServing | None = None
        self._busy = False  # a request is being served
        self._full = False  # the client does not read what is written
        self._held = False  # reading is paused: the buffer is full
        self._ending = False
        self._lingers_until = 0.0  # after a rejection
        self._left = False  # the client has closed its sending side

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self._set_deadline(IDLE_SECONDS)

    # Reading

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            # An orderly closed connection is not read any more: this one was rejected.
            left = self._lingers_until - self._reactor.seconds()
            self._set_deadline(max(0.0, min(left, LINGERING_PAUSE_SECONDS)))
            return
        self._buffer += data
        if self._busy or self._full or self._next is not None:
            if len(self._buffer) > MAX_AHEAD_BYTES and not self._held:
                self._held = True
                self.transport.pauseProducing()
        else:
            self._read()

    def _read(self) -> None:
        head = None
        try:
            # RFC 9112 section 2.2: empty lines before a request are ignored.  They do not extend timeouts.
            if empty := EMPTY_LINES.match(self._buffer):
                self._buffer, self._scanned = self._buffer[empty.end() :], 0
                self._empty_lines += empty.end() // 2
                if self._empty_lines > MAX_EMPTY_LINES:
                    raise RequestError(400, f"There are more than {MAX_EMPTY_LINES} empty lines before the request.")
            if not self._buffer:
                if self._left:
                    self._close()
                return
            head = read_request_head(self._buffer, self._scanned, LIMITS)
            if head is not None:
                self._check(head)
        except RequestError as error:
            self._refuse(head, error.status, error.detail)
            return
        if head is None:
            if not self._scanned:
                self._set_deadline(HEAD_SECONDS)
            self._scanned = len(self._buffer)
            if self._left:
                # The rest of it will not be sent.
                self._close()
        else:
            self._serve(head)

    def _check(self, head: RequestHead) -> None:
        """Raises RequestError for a request that is rejected, before anything but its head is read."""
        if request_framing(head):
            raise RequestError(413, "Requests must not have a body here.")
        refused = self._factory.judge(head, getattr(self.transport.getHost(), "host", ""))
        if refused is not None:
            raise RequestError(*refused)

    def _refuse(self, head: RequestHead | None, status: int, detail: str) -> None:
        """Reject, and close: the start of the next request is unknown or irrelevant."""
        self._end_with(_own_answer(head, status, detail))

    # The request and its response

    def _serve(self, head: RequestHead) -> None:
        self._buffer, self._scanned = self._buffer[head.size :], 0
        self._empty_lines = 0
        self._busy = True
        self._factory.serves(self)
        self._set_deadline(SERVE_SECONDS)
        lines = [b"%b %b HTTP/1.%d\r\nHost: %b%b" % (head.method, head.target, head.minor, head.host, head.fields)]
        lines += [b"Authorization: " + value for value in head.notable.get(b"authorization", ())]
        if not head.keep_alive:
            lines.append(b"Connection: close")
        lines += [b"Content-Length: 0", b"", b""]
        serving = self._factory.door.serve(b"\r\n".join(lines), b"", self.transport.getPeer(), self)
        if self._busy:
            self._serving = serving

    # IReply

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def finished(self, close: bool) -> None:
        self._busy = False
        self._serving = None
        if close or (self._left and not self._buffer):
            self._close()
            return
        self._factory.waits(self)
        self._set_deadline(SEND_SECONDS if self._full else IDLE_SECONDS)
        self._go_on()

    def _go_on(self) -> None:
        """A pipelined request is served in the next iteration, after those of other connections."""
        if self._full or self._busy or self._ending or self._next is not None:
            return
        if self._left and not self._buffer:
            self._close()
        elif self._buffer:
            self._next = self._reactor.callLater(0, self._read_next)
        elif self._held:
            self._held = False
            self.transport.resumeProducing()

    def _read_next(self) -> None:
        self._next = None
        self._read()
        # The buffer may contain only the beginning of a head.
        if self._held and not self._busy and not self._ending:
            self._held = False
            self.transport.resumeProducing()

    # IPushProducer, of responses

    def pauseProducing(self) -> None:
        """The client does not read its responses: no more are sent until it does."""
        self._full = True
        if not self._busy and not self._ending:
            self._set_deadline(SEND_SECONDS)

    def resumeProducing(self) -> None:
        self._full = False
        if not self._busy and not self._ending:
            self._set_deadline(IDLE_SECONDS)
        self._go_on()

    def stopProducing(self) -> None:
        """The connection is lost; connectionLost is called as well."""

    # The end

    def make_room(self) -> None:
        """Close immediately, for another connection."""
        self._factory.lost(self)
        self.transport.abortConnection()

    def _close(self) -> None:
        """Send buffered data, and close."""
        self._begin_to_end(SEND_SECONDS)
        self.transport.loseConnection()

    def _end_with(self, data: bytes) -> None:
        """Write `data`, close the sending side, and give the client time to read it (RFC 9112 section 9.6)."""
        self.transport.write(data)
        if self._left:
            self._close()
            return
        self._lingers_until = self._reactor.seconds() + LINGERING_SECONDS
        self._begin_to_end(LINGERING_PAUSE_SECONDS)
        if self._held:
            self._held = False
            self.transport.resumeProducing()
        self.transport.loseWriteConnection()

    def _begin_to_end(self, seconds: float) -> None:
        self._ending = True
        self._buffer = b""
        self._factory.waits(self)
        self._set_deadline(seconds)
        self.transport.unregisterProducer()

    def _set_deadline(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._reactor.callLater(seconds, self._deadline_passed)
        else:
            self._timer.reset(seconds)

    def _deadline_passed(self) -> None:
        self._timer = None
        if self._ending or self._busy or self._full:
            self.transport.abortConnection()
        elif self._buffer:
            self._refuse(None, 408, "The request was not received in time.")
        else:
            self._close()

    def readConnectionLost(self) -> None:
        """The client has closed its sending side; it still gets its responses."""
        self._left = True
        if self._ending:
            self.transport.loseConnection()
        elif not (self._busy or self._full or self._next is not None):
            self._close()

    def writeConnectionLost(self) -> None:
        """The client's kernel has acknowledged the last response."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._factory.lost(self)
        self._ending = True
        for call in (self._timer, self._next):
            if call is not None:
                call.cancel()
        self._timer = self._next = None
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.abandon()
