"""The connections of operators and probes: small requests, with limits and timeouts.

Heads are parsed as strictly as those of clients, by the same parser.  A request is rejected as soon as its head is
found to be invalid, or to announce a body where none is expected.  The states of a connection:

    reading -> serving -> reading ...      a request, its response; one request per iteration of the reactor
    any -> ending                          further input is discarded

Each state has a timeout.  The number of connections is limited: at the limit, the longest idle one is closed for a new
one.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.operator_body import OperatorBody, check_size
from twisted_lb.api.rejected_connection import LINGERING_PAUSE_SECONDS, RejectedConnection, own_answer
from twisted_lb.interfaces import IReply
from twisted_lb.proxy.local_request import CONTINUE
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.framing import request_framing
from twisted_lb.wire.grammar import EMPTY_LINES
from twisted_lb.wire.head import HeadLimits, RequestHead, read_request_head

# Probes and Prometheus send less than 1 KiB.
LIMITS = HeadLimits(head_bytes=16 * 1024)
MAX_EMPTY_LINES = 16  # before a request
# How much pipelined input is buffered while a request is served.
MAX_AHEAD_BYTES = 16 * 1024

IDLE_SECONDS = 60.0  # for a request to begin
HEAD_SECONDS = 10.0  # for its complete head, from the first byte
BODY_SECONDS = 10.0  # and for its body
SERVE_SECONDS = 30.0  # for its response to be created, and for each part of a long one
SEND_SECONDS = 30.0  # for the client to read what is buffered for it
# After a rejection, how long in total a client may go on sending; its input is discarded.
LINGERING_SECONDS = 30.0

# Returns why a request is rejected, as a status and a detail, or None.  It gets the local address of the connection, or
# "" if there is none.
Judge = Callable[[RequestHead, str], tuple[int, str] | None]


def everybody(head: RequestHead, here: str) -> tuple[int, str] | None:
    """Serve all requests."""
    return None


# Returns how many bytes the body of a request may have; 0: there must be none.
Bound = Callable[[RequestHead], int]
# Called when a request is rejected before it is served, with its head, the status, the detail and the client's address.
Rejected = Callable[[RequestHead, int, str, str], object]


def no_body(head: RequestHead) -> int:
    """No request has a body."""
    return 0


def unheard(head: RequestHead, status: int, detail: str, client: str) -> None:
    """Rejected requests are not recorded."""


class OperatorFactory(Factory):
    """Builds the connections of one listener, and limits their number."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        resource: IResource,
        max_connections: int,
        judge: Judge = everybody,
        body_bound: Bound = no_body,
        rejected: Rejected = unheard,
    ) -> None:
        """`resource` is a twisted.web resource for ApiRequests."""
        self.reactor = reactor
        self.door = ApiDoor(resource, lambda path: False)
        self.judge = judge
        self.body_bound = body_bound
        self.rejected = rejected
        self._max_connections = max_connections
        self._connections: set[OperatorConnection] = set()
        # Connections without a request that is being served, the longest idle first.
        self._idle: dict[OperatorConnection, None] = {}
        self.turned_away = 0  # rejected connections that have not ended yet

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        if len(self._connections) >= self._max_connections:
            longest = next(iter(self._idle), None)
            if longest is None:
                return RejectedConnection(self)
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
        self._body: OperatorBody | None = None  # of the request that is being received
        self._serving: Any = None  # an IServing that can be paused
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
            # The request was rejected: after an orderly close, nothing more is read.
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
        if self._body is not None:
            self._read_body(self._body)
            return
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
            framing = request_framing(head)
            self._buffer, self._scanned = self._buffer[head.size :], 0
            if framing:
                self._set_deadline(BODY_SECONDS)
                self._body = OperatorBody(head, framing, self._factory.body_bound(head))
                if head.minor and b"expect" in head.notable:
                    self.transport.write(CONTINUE)
                self._read_body(self._body)
            else:
                self._serve(head, b"")

    def _read_body(self, body: OperatorBody) -> None:
        try:
            self._buffer = body.feed(self._buffer)
        except RequestError as error:
            self._refuse(body.head, error.status, error.detail)
            return
        if body.complete:
            self._body = None
            self._serve(body.head, b"".join(body.content))
        elif self._left:
            # The rest of it will not be sent.
            self._close()

    def _check(self, head: RequestHead) -> None:
        """Raises RequestError if the request is rejected because of its head, before its body is read."""
        framing = request_framing(head)
        if framing:
            bound = self._factory.body_bound(head)
            if not bound:
                raise RequestError(413, "Requests must not have a body here.")
            check_size(framing, bound)
        refused = self._factory.judge(head, getattr(self.transport.getHost(), "host", ""))
        if refused is not None:
            raise RequestError(*refused)

    def _refuse(self, head: RequestHead | None, status: int, detail: str) -> None:
        """Reject the request, and close the connection: where the next request begins may be unknown."""
        if head is not None:
            self._factory.rejected(head, status, detail, getattr(self.transport.getPeer(), "host", ""))
        self._end_with(own_answer(head, status, detail))

    # The request and its response

    def _serve(self, head: RequestHead, body: bytes) -> None:
        self._empty_lines = 0
        self._busy = True
        self._factory.serves(self)
        self._set_deadline(SERVE_SECONDS)
        lines = [b"%b %b HTTP/1.%d\r\nHost: %b%b" % (head.method, head.target, head.minor, head.host, head.fields)]
        lines += [b"Authorization: " + value for value in head.notable.get(b"authorization", ())]
        if not head.keep_alive:
            lines.append(b"Connection: close")
        lines += [b"Content-Length: %d" % len(body), b"", b""]
        serving = self._factory.door.serve(b"\r\n".join(lines), body, self.transport.getPeer(), self)
        if self._busy:
            self._serving = serving
            if self._full:
                self._serving.pauseProducing()

    # IReply

    def write(self, data: bytes) -> None:
        # Set first: the write may call pauseProducing.
        self._set_deadline(SERVE_SECONDS)
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
        """Serve a pipelined request in the next iteration, after those of other connections."""
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
        """The client does not read what was sent: send no more until it does."""
        self._full = True
        if self._serving is not None:
            self._serving.pauseProducing()
        if not self._busy and not self._ending:
            self._set_deadline(SEND_SECONDS)

    def resumeProducing(self) -> None:
        self._full = False
        if self._serving is not None:
            self._serving.resumeProducing()
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
        elif self._buffer or self._body is not None:
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
