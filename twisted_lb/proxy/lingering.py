"""Lingering close: after the last response on a connection, input from its client is read and dropped.

The kernel resets a socket that is closed while input is unread, and a client that receives the reset while it is
sending usually drops the response that it has not read yet (RFC 9112 section 9.6).  Therefore the sending direction is
closed first, and the receiving one is read until the client closes it, as in nginx (`lingering_close`):

1. The response must be sent within SEND_TIMEOUT.
2. After that the limits are LINGERING_TIME in total, and LINGERING_TIMEOUT without input.
3. At most LINGERING_CONNECTIONS connections linger; for one more, the one that has lingered longest is closed.

Nothing is kept of a connection's requests, and dropped input is not even copied from the kernel where it supports that.
If there are more than MAX_READS connections, each is paused after FREE_READS reads: every READ_SECONDS up to MAX_READS
of them are read once, in rotation, so that many clients that send without end take little time from others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.config.settings import ProxySettings
from twisted_lb.deadlines import NEVER, Sweeper
from twisted_lb.network.transport import drop_input, keep_input
from twisted_lb.proxy.reading_progress import ReadingProgress

FREE_READS = 2
READ_SECONDS = 0.005
MAX_READS = 4


class LingeringConnections:
    """The lingering connections of one process."""

    def __init__(self, clock: IReactorTime, sweeper: Sweeper, settings: ProxySettings) -> None:
        self._clock = clock
        self._sweeper = sweeper
        self._paused: OrderedDict[LingeringConnection, None] = OrderedDict()
        self._next: IDelayedCall | None = None
        self._settings = settings
        self._connections: OrderedDict[LingeringConnection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._connections)

    def begin(self, transport: Any) -> None:
        """Close `transport`, on which the last response was written; its protocol is not called any more."""
        settings = self._settings
        # The response still needs a deadline if lingering is disabled.
        lingers = settings.lingering_connections > 0 and settings.lingering_time > 0
        if lingers and len(self._connections) >= settings.lingering_connections:
            next(iter(self._connections)).close()
        connection = LingeringConnection(self, transport, self._sweeper, settings)
        self._connections[connection] = None
        self._sweeper.watched.add(connection)
        transport.protocol = connection
        if lingers:
            drop_input(transport)
            transport.loseWriteConnection()
            # Reading may have been paused.
            transport.resumeProducing()
        else:
            transport.loseConnection()

    def pause(self, connection: LingeringConnection) -> None:
        """Stop reading it until the other connections have been read."""
        if len(self._connections) <= MAX_READS:
            return
        connection.transport.pauseProducing()
        self._paused[connection] = None
        if self._next is None:
            self._next = self._clock.callLater(READ_SECONDS, self._read_on)

    def _read_on(self) -> None:
        self._next = None
        paused = self._paused
        for _ in range(min(MAX_READS, len(paused))):
            paused.popitem(last=False)[0].transport.resumeProducing()
        if paused:
            self._next = self._clock.callLater(READ_SECONDS, self._read_on)

    def hurry(self) -> None:
        """The program stops: from now on at most LINGERING_TIMEOUT is left."""
        for connection in self._connections:
            connection.hurry()

    def abort(self) -> None:
        """Abort all of them."""
        for connection in list(self._connections):
            connection.transport.abortConnection()

    def forget(self, connection: LingeringConnection) -> None:
        """It has ended.  May be called more than once."""
        self._connections.pop(connection, None)
        self._sweeper.watched.discard(connection)
        self._paused.pop(connection, None)


@implementer(IHalfCloseableProtocol)
class LingeringConnection(Protocol):
    """Reads what a client still sends, and drops it."""

    transport: Any

    def __init__(self, home: LingeringConnections, transport: Any, sweeper: Sweeper, settings: ProxySettings) -> None:
        self.transport = transport
        self.deadline = sweeper.now + settings.send_timeout
        self._pool = home
        self._sweeper = sweeper
        self._settings = settings
        self._reading = ReadingProgress(transport)
        self._reads = 0
        self._sent = False  # the kernel has the whole response, and our direction has ended
        self._end = NEVER  # of the lingering

    def dataReceived(self, data: bytes) -> None:
        self._reads += 1
        if self._reads > FREE_READS:
            self._pool.pause(self)
        self._client_is_there()

    def _client_is_there(self) -> None:
        if self._sent:
            self.deadline = min(self._end, self._sweeper.now + self._settings.lingering_timeout)

    def writeConnectionLost(self) -> None:
        """The response has been sent."""
        self._sent = True
        self._end = min(self._end, self._sweeper.now + self._settings.lingering_time)
        self._client_is_there()

    def readConnectionEnding(self) -> None:
        """See `transport`.  What the client has sent is read first, so that it gets no reset while it reads."""

    def readConnectionLost(self) -> None:
        """The client sends no more."""
        self.transport.loseConnection()

    def hurry(self) -> None:
        """See LingeringConnections."""
        self._end = min(self._end, self._sweeper.now + self._settings.lingering_timeout)
        self.deadline = min(self.deadline, self._end)

    def deadline_passed(self) -> None:
        now, settings = self._sweeper.now, self._settings
        reads = not self._sent and self._reading.next_period(settings.min_body_rate * settings.send_timeout)
        if reads and now < self._end:
            self.deadline = min(self._end, now + settings.send_timeout)
        else:
            self.close()

    def give_up(self) -> None:
        """See Watched."""
        self.transport.abortConnection()

    def close(self) -> None:
        """End the connection now; a response that was not sent completely is lost."""
        self._pool.forget(self)
        if self._sent:
            self.transport.loseConnection()
        else:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._pool.forget(self)
        keep_input(self.transport)

    def __repr__(self) -> str:
        return f"<LingeringConnection {self.transport.getPeer()}>"
