"""A client's connection: requests in, one at a time and in order; responses out.

The states are methods that take what was read, chosen at the transition (`self._step`):

    _read_head -> _read_body -> _wait -> _read_head ...      a request, its body, its response
    any -> _discard                                          closing: what still comes is dropped

A request that is answered here and not by a server costs its client nothing.  So what follows it on its connection,
and what comes first on a new one, is posted (see `posted`), and so is the rest of a body that comes in tiny chunks: a
client whose last request was served by a server does not wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.limits.addresses import network_of
from twisted_lb.proxy.admission import RETRY_SOON
from twisted_lb.proxy.deadlines import NEVER
from twisted_lb.proxy.dispatch import dispatch
from twisted_lb.proxy.doorstep import Doorstep
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.local_response import problem_response
from twisted_lb.proxy.open_connections import Use
from twisted_lb.proxy.progress import BodyProgress
from twisted_lb.proxy.relay import BACKLOG, NOT_NOW, Tap, Throttle
from twisted_lb.proxy.transport import close_now, settled
from twisted_lb.proxy.visit import Visit
from twisted_lb.wire.body import Decoder, decoder
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.forwarding import Hop
from twisted_lb.wire.framing import request_framing
from twisted_lb.wire.head import RequestHead, nominated, read_request_head, skip_empty_lines

# Read ahead of a response: pipelined requests.
MAX_BACKLOG_BYTES = 64 * 1024
# After the last response, how long and how much a client may still send before it is cut off, so
# that the response reaches it before a reset does (RFC 9112 section 9.6).
LINGER_SECONDS = 2.0
LINGER_BYTES = 1024 * 1024


_log = BoundedLog(Logger())


def _refuse(detail: str) -> RequestError:
    return RequestError(400, detail)


@implementer(IHalfCloseableProtocol)
class DownstreamConnection(Protocol):
    """Speaks HTTP/1.1 and HTTP/1.0 to one client."""

    transport: Any
    tap: Tap
    throttle: Throttle
    hop: Hop

    def __init__(self, doorstep: Doorstep) -> None:
        self.address = self.network = ""
        self.deadline = NEVER
        self._doorstep = doorstep
        self._sweeper = doorstep.shared.sweeper
        self._settings = doorstep.settings
        self._buffer = b""
        self._scanned = 0  # bytes of an unfinished head that were looked at
        self._empty_lines = 0  # before it
        self._step = self._read_head
        self._advancing = False
        self._head: RequestHead | None = None
        self._exchange: Exchange | Visit | None = None
        self._decoder: Decoder | None = None
        self._progress = BodyProgress()
        self._requests = 0
        self._posted = False  # what is in the buffer waits for its turn
        self._answered_here = True  # no server has answered the last request; there was none yet
        self._refusals = 0  # in a row
        self.left = False  # the client sends no more
        self._all_read = False  # and what it has sent was read

    def connectionMade(self) -> None:
        transport = self.transport
        self.tap = Tap(transport)
        self.throttle = Throttle(self)
        peer = transport.getPeer()
        self.address = getattr(peer, "host", "")
        self.network = network_of(self.address)
        self.hop = Hop(self.address, b"https" if getattr(transport, "TLS", False) else b"http")
        if self.address:
            transport.setTcpNoDelay(True)
        transport.registerProducer(self.throttle, True)
        self._doorstep.connections.add(self)
        self._sweeper.watched.add(self)
        self.deadline = self._sweeper.now + self._settings.head_timeout

    # Reading

    def dataReceived(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._posted:
            # There is enough to do.
            self.tap.hold(BACKLOG)
        elif self._answered_here and self._step == self._read_head:
            self._post()
        elif not self._advancing:
            self._advance()

    def _post(self) -> None:
        """Go on with the buffer when others have had their turn."""
        self._posted = True
        self._doorstep.shared.posted.post(self)

    # Work

    def resume(self) -> None:
        """Go on with the buffer."""
        self._posted = False
        self._advance()
        if self._all_read and not self._posted:
            self._all_received()

    def give_up(self) -> None:
        """End the connection."""
        self.transport.abortConnection()

    def _advance(self) -> None:
        """Use what was read, as far as the state goes; exchanges that end at once make no recursion."""
        self._advancing = True
        try:
            while self._buffer and not self._posted and self._step():
                pass
        except RequestError as error:
            self._request_refused(error)
        finally:
            self._advancing = False
        if self.tap.held and not self._posted and self._step != self._wait:
            # All there is has been used.
            self.tap.release(BACKLOG)

    def _read_head(self) -> bool:
        data = self._buffer
        if data[:2] == b"\r\n":
            data, self._empty_lines = skip_empty_lines(data, self._empty_lines)
            self._buffer = data
            self._scanned = 0
            if not data:
                return False
        head = read_request_head(data, self._scanned, self._doorstep.head_limits)
        if head is None:
            # A lone CR may become an empty line, which must not prolong anything.
            if not self._scanned and data != b"\r":
                self.deadline = self._sweeper.now + self._settings.head_timeout
                self._doorstep.connections.moved_on(self)
            self._scanned = len(data)
            if self._all_read:
                # The rest of it will never come.
                self._close()
            return False
        self._scanned = self._empty_lines = 0
        self._head = head
        self._requests += 1
        framing = request_framing(head)
        self._buffer = rest = data[head.size :]
        exchange = dispatch(self._doorstep, self, head, framing)
        self._answered_here = isinstance(exchange, Visit)
        self._exchange = exchange
        if not framing:
            self._await_response()
            exchange.start(b"", True, [])
            return True
        self._progress.start()
        self._step = self._read_body
        self.deadline = self._sweeper.now + self._settings.body_timeout
        self._decoder = body = decoder(framing, _refuse, nominated(head.notable), self._doorstep.head_limits.any_name)
        content = body.feed(rest) if rest else b""
        self._content_received(body, content)
        exchange.start(content, body.done, body.trailers)
        if self._all_read and self._step == self._read_body and not self._posted:
            # The rest of it will never come.
            self.transport.loseConnection()
        return True

    def _read_body(self) -> bool:
        body = self._decoder
        exchange = self._exchange
        assert body is not None and exchange is not None
        content = body.feed(self._buffer)
        self._content_received(body, content)
        exchange.request_went_on(content, body.done, body.trailers)
        return True

    def _content_received(self, body: Decoder, content: bytes) -> None:
        """Keep the books of a request body: its limit and its end."""
        progress = self._progress
        progress.received += len(content)
        progress.chunks = body.chunks
        limit = self._settings.max_body_bytes
        if limit and progress.received > limit:
            raise RequestError(413, f"A request body has at most {limit} bytes.")
        self._buffer = body.rest
        if body.done:
            self._await_response()
            self._decoder = None
        elif body.rest:
            self._post()

    def _await_response(self) -> None:
        self._step = self._wait
        # A client that has not taken an earlier answer does not win time by asking again.
        if self.throttle.full:
            self.deadline = self._sweeper.now + self._settings.send_timeout
        else:
            self.deadline = self._sweeper.now + self._settings.half_close_timeout if self.left else NEVER

    def _wait(self) -> bool:
        """The next request waits for the response to this one."""
        if len(self._buffer) > MAX_BACKLOG_BYTES:
            self.tap.hold(BACKLOG)
        return False

    def _discard(self) -> bool:
        self._progress.received += len(self._buffer)
        self._buffer = b""
        if self._progress.received > LINGER_BYTES:
            self.transport.abortConnection()
        return False

    # What an exchange asks of us

    def closing(self) -> bool:
        """Whether this connection ends after the response that is about to begin."""
        head = self._head
        return (
            head is None
            or not head.keep_alive
            or (self._all_read and not self._buffer)
            or self._doorstep.draining
            or self._requests >= self._settings.keepalive_requests
        )

    def answer(self, status: int, detail: str, fields: bytes = b"", members: Mapping[str, object] = {}) -> None:
        """Answer the present request with a problem; a connection whose request is not whole ends with it."""
        self._answered_here = True
        close = self.answered(status) or self._decoder is not None or self.closing()
        self._write_problem(status, detail, fields, members, close)
        self.exchange_done(close)

    def answered(self, status: int) -> bool:
        """The present request is answered here; whether this was one refusal too many, and the connection ends."""
        self._refusals = self._refusals + 1 if 400 <= status < 500 else 0
        return self._refusals >= self._settings.max_refusals > 0

    def _write_problem(
        self, status: int, detail: str, fields: bytes, members: Mapping[str, object], close: bool
    ) -> None:
        data = problem_response(self._head, status, detail, fields, members, close, self._sweeper.date)
        self.transport.write(data)

    def exchange_done(self, close: bool) -> None:
        """The response is written: on to the next request, or to the end."""
        self._exchange = None
        self._head = None
        if self._decoder is not None:
            # The response came before the request was whole.
            self._linger()
        elif close and self._buffer and not self._all_read:
            # More of what this client goes on sending would reset the connection under its response.
            self._linger()
        elif close:
            self._close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """To the next request, once the client takes its answers: those that it leaves lying must not grow."""
        if self.throttle.full:
            self._step = self._wait
            self.deadline = self._sweeper.now + self._settings.send_timeout
        elif self._all_read and not self._buffer:
            self._close()
        else:
            self._step = self._read_head
            self.deadline = self._sweeper.now + self._settings.keepalive_timeout
            self._doorstep.connections.moved_on(self)
            self.tap.release(NOT_NOW if self._buffer else BACKLOG | NOT_NOW)
            if not self._answered_here:
                self._refusals = 0
                if self._buffer and not self._advancing:
                    self._advance()
            elif self._buffer:
                self._post()

    def exchange_broke(self, exchange: object, replied: bool) -> None:
        """The exchange ended because something raised: answer 500, or cut where a response has begun."""
        try:
            if self._exchange is exchange and not replied:
                self.answer(500, "Something went wrong here, and it is in the log.")
                return
        except BaseException:
            _log.failure("answer", "A client could not be answered; its connection is cut")
        other, self._exchange = self._exchange, None
        if other is not None and other is not exchange:
            other.abandon()
        self._end_reading()
        self.transport.abortConnection()

    def cut(self, reset: bool) -> None:
        """The response cannot be completed: end the connection so that the client can tell."""
        self._exchange = None
        if reset:
            self._end_reading()
            self.transport.abortConnection()
        else:
            self._close()

    def pressure_changed(self, full: bool) -> None:
        """While the client takes nothing more of a response, its deadline runs."""
        if self._step != self._wait:
            return
        if full or self._exchange is not None:
            self.deadline = self._sweeper.now + self._settings.send_timeout if full else NEVER
        else:
            self._go_on()

    # The end

    def _request_refused(self, error: RequestError) -> None:
        """What was read is no request; where the next one would begin cannot be known."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
        if exchange is None or not isinstance(exchange, Exchange) or not exchange.replied:
            self._write_problem(error.status, error.detail, b"", {}, True)
            self._linger()
        else:
            self.cut(True)

    def _end_reading(self) -> None:
        """Nothing that still comes is a request, and nothing is kept of the last one."""
        self._step = self._discard
        self._head = None
        self._decoder = None
        self._buffer = b""
        self._progress.start()

    def _close(self) -> None:
        self._end_reading()
        self.deadline = self._sweeper.now + self._settings.send_timeout
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _linger(self) -> None:
        """Say that nothing more comes, and give the client time to read it."""
        self._end_reading()
        self._doorstep.connections.moved_on(self)
        self.deadline = self._sweeper.now + self._settings.send_timeout
        self.throttle.disconnect()
        self.tap.release(BACKLOG | NOT_NOW)
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()

    def deadline_passed(self) -> None:
        if self._step == self._read_head and not self._buffer:
            self._close()
        elif self._step == self._read_body and self._body_progressed():
            self._progress.next_period()
            self.deadline = self._sweeper.now + self._settings.body_timeout
        elif self._step in (self._read_head, self._read_body):
            self._request_refused(RequestError(408, "The request was not received in time."))
        elif self.left and not self.throttle.full and isinstance(self._exchange, Exchange) and self._exchange.replied:
            # What is still written to it tells whether it is there.
            self.deadline = NEVER
        else:
            self.transport.abortConnection()

    def wait_over(self) -> None:
        """From now on the client has its time again to send the rest of its request."""
        if self._step == self._read_body:
            self.deadline = self._sweeper.now + self._settings.body_timeout

    def _body_progressed(self) -> bool:
        """Whether the client has sent enough since the deadline was set, or was kept from it by what it waits for."""
        seconds = self._settings.body_timeout
        progress = self._progress
        return progress.in_sensible_chunks(seconds) and (
            self.tap.held or self._waits() or progress.enough(seconds, self._settings.min_body_rate)
        )

    # What is asked of us when there is no room for another connection

    def use(self) -> Use:
        """See OpenConnection."""
        if self._step == self._wait or (self._step == self._read_body and isinstance(self._exchange, Exchange)):
            return Use.BUSY
        # What waits to be read may be a whole request; where one has begun already, it need not be looked at.
        unread = self._step == self._read_head and not self._buffer
        return Use.IDLE if not self.tap.held and not self._posted and settled(self.transport, unread) else Use.UNSETTLED

    def make_room(self) -> None:
        """See OpenConnection.  A client that has begun a request is told."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()
        if self._buffer or exchange is not None:
            self._write_problem(503, "There are too many connections. Try again later.", RETRY_SOON, {}, True)
        self._end_reading()
        self._doorstep.connections.remove(self)
        self.deadline = self._sweeper.now + self._settings.send_timeout
        self.transport.unregisterProducer()
        close_now(self.transport)

    def drain(self) -> None:
        """End the connection as soon as it has no exchange."""
        if self._exchange is None and self._step == self._read_head and not self._buffer:
            self._close()

    def readConnectionEnding(self) -> None:
        """The client sends no more, and what it has sent is not read yet, since it has to wait for something."""
        self.left = True
        self._client_left()

    def readConnectionLost(self) -> None:
        """The client sends no more, and all that it has sent was read; a response that it waits for it still gets."""
        self.left = self._all_read = True
        if not self._posted:
            self._all_received()

    def _all_received(self) -> None:
        """All that the client has sent was looked at."""
        if self._decoder is not None or (self._exchange is None and self._step != self._wait):
            self.transport.loseConnection()
        else:
            self._client_left()

    def _client_left(self) -> None:
        """Most clients that send no more are gone, and only a write would tell."""
        if self._waits():
            # It has nothing to lose but its place, and a client that has gone must not take anybody else's.
            self.transport.loseConnection()
        elif self._step == self._wait and not self.throttle.full:
            self.deadline = self._sweeper.now + self._settings.half_close_timeout

    def _waits(self) -> bool:
        return isinstance(self._exchange, Exchange) and (self._exchange.waiting or self._exchange.queued)

    def writeConnectionLost(self) -> None:
        """The client's kernel has all of the last response."""
        self.deadline = self._sweeper.now + LINGER_SECONDS

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._doorstep.connections.remove(self)
        self._sweeper.watched.discard(self)
        # It may be posted still.
        self._buffer = b""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()

    def __repr__(self) -> str:
        return f"<DownstreamConnection {self.address} {self._step.__name__} {self._exchange!r}>"
