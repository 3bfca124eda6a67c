"""The connections of operators and probes: small requests without a body, and bounds on whoever holds them.

Heads are read as strictly as clients' are, by the same reader; a request is refused as soon as its head shows that it
is wrong, or that a body is to follow.  The states of a connection:

    reading -> serving -> reading ...      a head, its response; one request in a turn of the reactor
    any -> ending                          what still comes is dropped

Each state has a deadline, so that a connection that does nothing ends, whoever has it.  There are only so many
connections at a time: for one more, the one that has waited longest for a request is ended.
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

from twisted_lb.api.door import ApiDoor
from twisted_lb.interfaces import IReply, IServing
from twisted_lb.problem import CONTENT_TYPE, problem
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.forwarding import own_head
from twisted_lb.wire.framing import request_framing
from twisted_lb.wire.grammar import EMPTY_LINES
from twisted_lb.wire.head import HeadLimits, RequestHead, read_request_head

# Probes and Prometheus send less than 1 KiB.
LIMITS = HeadLimits(head_bytes=16 * 1024)
MAX_EMPTY_LINES = 16  # before a request
# Read ahead of a response: pipelined requests.
MAX_AHEAD_BYTES = 16 * 1024

IDLE_SECONDS = 60.0  # for a request to begin
HEAD_SECONDS = 10.0  # for its whole head, from its first byte
SERVE_SECONDS = 30.0  # for its response to be made
SEND_SECONDS = 30.0  # for the client to take what is buffered for it
# After a refusal, how long and how much a client may still send, so that the answer reaches it before a reset does.
LINGER_SECONDS = 2.0
LINGER_BYTES = 1024 * 1024

# Says why a request is not served here: a status and a detail; None: it is.  It gets the address that the connection
# has come to, or "" when that is no address.
Judge = Callable[[RequestHead, str], tuple[int, str] | None]


def everybody(head: RequestHead, here: str) -> tuple[int, str] | None:
    """Serve whoever comes."""
    return None


class OperatorFactory(Factory):
    """Builds the connections of one listener, and holds their number."""

    noisy = False

    def __init__(self, reactor: Any, resource: IResource, max_connections: int, judge: Judge = everybody) -> None:
        """`resource` is of twisted.web, and its requests are ApiRequests."""
        self.reactor = reactor
        self.door = ApiDoor(resource, frozenset())
        self.judge = judge
        self._max_connections = max_connections
        self._connections: set[OperatorConnection] = set()
        # Those without a request that is being served, the longest waiting first.
        self._idle: dict[OperatorConnection, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        if len(self._connections) >= self._max_connections:
            longest = next(iter(self._idle), None)
            if longest is None:
                return _TurnedAway()
            longest.make_room()
        connection = OperatorConnection(self)
        self._connections.add(connection)
        self.waits(connection)
        return connection

    def waits(self, connection: OperatorConnection) -> None:
        """It has no request."""
        self._idle.pop(connection, None)
        self._idle[connection] = None

    def serves(self, connection: OperatorConnection) -> None:
        """It has one."""
        self._idle.pop(connection, None)

    def lost(self, connection: OperatorConnection) -> None:
        """It is no more."""
        self._connections.discard(connection)
        self._idle.pop(connection, None)


def _own_answer(head: RequestHead | None, status: int, detail: str) -> bytes:
    """A problem, after which the connection ends."""
    body = problem(status, detail)
    fields = b"\r\nServer: twisted_lb\r\nDate: %b\r\nContent-Type: %b\r\nCache-Control: no-store" % (
        datetimeToString(),
        CONTENT_TYPE.encode(),
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields += b"\r\nRetry-After: 1"
    data = own_head(status, HTTPStatus(status).phrase.encode(), fields, len(body), True, 1)
    return data if head is not None and head.method == b"HEAD" else data + body


class _TurnedAway(Protocol):
    """A connection for which there is no room."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(_own_answer(None, 503, "There are too many connections here. Try again later."))
        self.transport.loseConnection()


@implementer(IHalfCloseableProtocol, IPushProducer, IReply)
class OperatorConnection(Protocol):
    """Speaks HTTP/1.1 and HTTP/1.0 to one operator or probe."""

    transport: Any

    def __init__(self, factory: OperatorFactory) -> None:
        self._factory = factory
        self._reactor = factory.reactor
        self._timer: IDelayedCall | None = None
        self._next: IDelayedCall | None = None
        self._buffer = b""
        self._scanned = 0  # bytes of an unfinished head that were looked at
        self._empty_lines = 0  # before the present request
        self._serving: IServing | None = None
        self._busy = False  # a request is being served
        self._full = False  # the client does not take what is written
        self._held = False  # nothing is read: too much is there already
        self._ending = False
        self._dropped = 0  # bytes that came after the end
        self._left = False  # the client sends no more

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self._set_deadline(IDLE_SECONDS)

    # Reading

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.transport.abortConnection()
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
            # RFC 9112 section 2.2: empty lines before a request are no fault.  They prolong nothing.
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
                # The rest of it will never come.
                self._close()
        else:
            self._serve(head)

    def _check(self, head: RequestHead) -> None:
        """Raises RequestError for a request that is not served, before anything but its head is read."""
        if request_framing(head):
            raise RequestError(413, "A request has no body here.")
        refused = self._factory.judge(head, getattr(self.transport.getHost(), "host", ""))
        if refused is not None:
            raise RequestError(*refused)

    def _refuse(self, head: RequestHead | None, status: int, detail: str) -> None:
        """Where the next request would begin is not known, or does not matter."""
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
        """Whoever pipelines waits for the next turn, in which others come first."""
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
        # What is there may be the beginning of a head only.
        if self._held and not self._busy and not self._ending:
            self._held = False
            self.transport.resumeProducing()

    # IPushProducer, of responses

    def pauseProducing(self) -> None:
        """The client does not take its responses: it gets no more of them until it has."""
        self._full = True
        if not self._busy and not self._ending:
            self._set_deadline(SEND_SECONDS)

    def resumeProducing(self) -> None:
        self._full = False
        if not self._busy and not self._ending:
            self._set_deadline(IDLE_SECONDS)
        self._go_on()

    def stopProducing(self) -> None:
        """The connection is lost, and connectionLost is told as well."""

    # The end

    def make_room(self) -> None:
        """End at once, for another connection."""
        self._factory.lost(self)
        self.transport.abortConnection()

    def _close(self) -> None:
        """Send what is written, and end."""
        self._begin_to_end(SEND_SECONDS)
        self.transport.loseConnection()

    def _end_with(self, data: bytes) -> None:
        """Write this, say that nothing more comes, and give the client time to read it (RFC 9112 section 9.6)."""
        self.transport.write(data)
        if self._left:
            self._close()
            return
        self._begin_to_end(LINGER_SECONDS)
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
        """The client sends no more; the responses that it waits for it still gets."""
        self._left = True
        if self._ending:
            self.transport.loseConnection()
        elif not (self._busy or self._full or self._next is not None):
            self._close()

    def writeConnectionLost(self) -> None:
        """The client's kernel has all of the last response."""

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
