"""One connection to a server: requests out, responses in, one exchange at a time.

Its life: opened by a pool, then in turn *busy* with an exchange and *idle* in the pool, until either
side ends it.  A connection whose server broke the framing, said more than it announced, or answered
before it had the whole request is never idle again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.python.failure import Failure

from twisted_lb.backend import Backend
from twisted_lb.proxy.deadlines import NEVER, Sweeper
from twisted_lb.proxy.posted import PostedWork
from twisted_lb.proxy.relay import BACKLOG, Tap, Throttle
from twisted_lb.wire.body import Decoder, decoder
from twisted_lb.wire.errors import ResponseError
from twisted_lb.wire.framing import UNTIL_CLOSE, response_framing
from twisted_lb.wire.head import (
    MAX_INTERIM_RESPONSES,
    MAX_RESPONSE_HEAD_BYTES,
    ResponseHead,
    nominated,
    read_response_head,
)

NO_TRAILERS: list[bytes] = []


class UpstreamFailure(Exception):
    """A server did not answer as it should."""

    def __init__(self, status: int, detail: str, silent: bool = False, unsent: bool = False) -> None:
        """`status` is for the client; `silent`: not one byte came back; `unsent`: the kernel had not taken one."""
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.silent = silent
        self.unsent = unsent


class Asking(Protocol):
    """Who has the connection while it is busy."""

    def interim_received(self, head: ResponseHead) -> None:
        """A 1xx response; the final one follows."""

    def response_begun(
        self, head: ResponseHead, framing: int, content: bytes, done: bool, trailers: list[bytes]
    ) -> None:
        """The final response's head and the content that came with it.  When done, the connection is no longer ours."""

    def response_went_on(self, content: bytes, done: bool, trailers: list[bytes]) -> None:
        """More content."""

    def upstream_failed(self, failure: UpstreamFailure) -> None:
        """There will be no (further) response; the connection is no longer ours."""


class Home(Protocol):
    """The pool that opened the connection."""

    def release(self, connection: UpstreamConnection) -> None:
        """The connection is idle now."""

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection is of no further use."""


def _refuse(detail: str) -> ResponseError:
    return ResponseError(f"The server's body is malformed: {detail}")


class UpstreamConnection(TwistedProtocol):
    """Speaks HTTP/1.1 to one server."""

    transport: Any
    tap: Tap
    throttle: Throttle

    def __init__(
        self,
        backend: Backend,
        home: Home,
        sweeper: Sweeper,
        posted: PostedWork,
        timeout: float,
        opened: Callable[[UpstreamConnection], None],
    ) -> None:
        """`timeout`: seconds to the first byte of a response, and between bytes; `opened` is called once, connected."""
        self.backend = backend
        self.deadline = NEVER
        self.used = False  # whether it has carried an exchange before the present one
        self.idle_since = 0.0  # on the sweeper's clock
        self.idle_turn = 0  # the poller's turn in which it became idle
        self._home = home
        self._sweeper = sweeper
        self._posted = posted
        self._timeout = timeout
        self._opened: Callable[[UpstreamConnection], None] | None = opened
        self._asking: Asking | None = None
        self._method = b""
        self._sending = False  # the request is not whole yet
        self._sent_before = 0  # bytes that the kernel had taken when the present request began
        self._heard = False  # a byte of the response came
        self._interims = 0
        self._buffer = b""
        self._unread = b""  # of a body, received, and posted
        self._head: ResponseHead | None = None
        self._framing = 0
        self._decoder: Decoder | None = None

    def connectionMade(self) -> None:
        self.tap = Tap(self.transport)
        self.throttle = Throttle(self)
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self.throttle, True)
        self._sweeper.watched.add(self)
        opened, self._opened = self._opened, None
        if opened is not None:
            opened(self)

    # The request

    def begin(self, asking: Asking, method: bytes, data: bytes, whole: bool) -> None:
        """Send a request, or as much of it as there is; the answers go to `asking`."""
        self._asking = asking
        self._method = method
        self._sending = not whole
        self._heard = False
        self._interims = 0
        self._head = None
        # While the client is still sending, it is the client's deadline that counts.
        self.deadline = self._sweeper.now + self._timeout if whole else NEVER
        self._sent_before = self.transport.sent
        self.transport.write(data)

    def send(self, data: bytes, whole: bool) -> None:
        """Go on with the request."""
        if whole:
            self._sending = False
            self.deadline = self._sweeper.now + self._timeout
        if data:
            self.transport.write(data)

    def pressure_changed(self, full: bool) -> None:
        """While the server takes nothing more of a request, its deadline runs."""
        if self._sending:
            self.deadline = self._sweeper.now + self._timeout if full else NEVER

    def rest(self) -> None:
        """Whoever opened the connection does not need it any more."""
        self._home.release(self)

    # The response

    def dataReceived(self, data: bytes) -> None:
        asking = self._asking
        if asking is None:
            # Nobody asked: what the last response left over, or a server that talks to itself.
            self.drop()
            return
        if not self._heard and self.transport.sent == self._sent_before:
            # An answer before the question: what the last response left over.
            self._fail(UpstreamFailure(502, "The server spoke out of turn.", silent=True, unsent=True))
            return
        self._heard = True
        try:
            if self._head is None:
                self._receive_head(asking, data)
            else:
                self._receive_body(asking, data)
        except ResponseError as error:
            self._fail(UpstreamFailure(502, error.detail))

    def _receive_head(self, asking: Asking, data: bytes) -> None:
        scanned = len(self._buffer)
        if scanned:
            data = self._buffer + data
            self._buffer = b""
        while True:
            head = read_response_head(data, scanned, MAX_RESPONSE_HEAD_BYTES)
            if head is None:
                self._buffer = data
                return
            rest = data[head.size :]
            if head.status >= 200:
                break
            self._interims += 1
            # Upgrade is never passed on, so nobody asked for another protocol.
            if head.status == 101 or self._interims > MAX_INTERIM_RESPONSES:
                raise ResponseError("The server sent an interim response that nobody asked for.")
            # A head has one deadline for all its bytes, so that it cannot be dripped; a whole
            # interim response is progress.
            if not self._sending:
                self.deadline = self._sweeper.now + self._timeout
            asking.interim_received(head)
            if self._asking is not asking or not rest:
                return
            data = rest
            scanned = 0
        self._head = head
        self._framing = framing = response_framing(head, self._method)
        if len(rest) == framing:
            self._end(b"")
            asking.response_begun(head, framing, rest, True, NO_TRAILERS)
            return
        # A client makes no variables of the names.
        self._decoder = body = decoder(framing, _refuse, nominated(head.notable), any_name=True)
        if body.done:
            content, surplus = b"", rest
        else:
            content = body.feed(rest) if rest else b""
            surplus = body.rest
        if body.done:
            self._end(surplus)
        else:
            self.deadline = self._sweeper.now + self._timeout
            if surplus:
                self._post(surplus)
        asking.response_begun(head, framing, content, body.done, body.trailers)

    def _receive_body(self, asking: Asking, data: bytes) -> None:
        body = self._decoder
        assert body is not None
        content = body.feed(data)
        if body.done:
            self._end(body.rest)
        else:
            self.deadline = self._sweeper.now + self._timeout
            if body.rest:
                self._post(body.rest)
            if not content:
                return
        asking.response_went_on(content, body.done, body.trailers)

    def _post(self, data: bytes) -> None:
        """A body that comes in tiny chunks goes on when others have had their turn."""
        self._unread = data
        self.tap.hold(BACKLOG)
        self._posted.post(self)

    # Work

    def resume(self) -> None:
        """Go on with the body."""
        data, self._unread = self._unread, b""
        asking = self._asking
        if asking is None or not data:
            return
        try:
            self._receive_body(asking, data)
        except ResponseError as error:
            self._fail(UpstreamFailure(502, error.detail))
        if not self._unread:
            self.tap.release(BACKLOG)

    def give_up(self) -> None:
        """End the connection."""
        self.transport.abortConnection()

    def _end(self, surplus: bytes) -> None:
        """The response is whole: part from the exchange."""
        head = self._head
        assert head is not None
        self._part()
        if surplus or self._sending:
            self.drop()
        elif not head.keep_alive or self._framing == UNTIL_CLOSE:
            self.close()
        else:
            self.used = True
            self._home.release(self)

    def _part(self) -> None:
        self._asking = None
        self._head = None
        self._decoder = None
        self._buffer = b""
        if self._unread:
            self._unread = b""
            self.tap.release(BACKLOG)
        self.deadline = NEVER
        self.throttle.disconnect()

    # The end

    def _fail(self, failure: UpstreamFailure) -> None:
        asking = self._asking
        self._part()
        self.drop()
        if asking is not None:
            asking.upstream_failed(failure)

    def deadline_passed(self) -> None:
        if self._asking is None:
            self.close()
        elif self.tap.held:
            # It is the client that does not take the response.
            self.deadline = self._sweeper.now + self._timeout
        else:
            self._fail(UpstreamFailure(504, "The server did not answer in time."))

    def close(self) -> None:
        """End the connection in order."""
        self._home.forget(self)
        self._sweeper.watched.discard(self)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def drop(self) -> None:
        """End the connection at once; whoever has it hears no more of it."""
        self._part()
        self._home.forget(self)
        self._sweeper.watched.discard(self)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._home.forget(self)
        self._sweeper.watched.discard(self)
        asking = self._asking
        if asking is None:
            return
        until_close = self._head is not None and self._framing == UNTIL_CLOSE
        self._part()
        if until_close and reason is not None and reason.check(ConnectionDone):
            asking.response_went_on(b"", True, NO_TRAILERS)
        else:
            asking.upstream_failed(
                UpstreamFailure(
                    502,
                    "The server closed the connection before its response was whole.",
                    not self._heard,
                    self.transport.sent == self._sent_before,
                )
            )

    def __repr__(self) -> str:
        state = "busy" if self._asking else "idle"
        return f"<UpstreamConnection to {self.backend.name} {state}{' used' if self.used else ''}>"
