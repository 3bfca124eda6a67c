"""A TCP transport without a socket: what Twisted's does to a protocol, step by step and on demand.

It follows twisted.internet.abstract.FileDescriptor and tcp.Connection in what a protocol can see: when
its producer is paused and resumed, that nothing is read while reading is paused, that an end comes in
a later turn of the clock, and that a buffer is flushed before an orderly end and lost with an abort.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IHalfCloseableProtocol, IProducer, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

BUFFER_BYTES = 65_536  # of a transport before it pauses its producer, and of one read
Address = IPv4Address | IPv6Address
HERE = IPv4Address("TCP", "127.0.0.1", 8080)


@implementer(ITCPTransport, IConsumer, IPushProducer)
class FakeTransport:
    """One end of a connection.  The other end is the test."""

    def __init__(self, clock: Clock, peer: Address) -> None:
        self.connected = True
        self.TLS = False
        self.disconnecting = False
        self.reading = True
        self.aborted = False
        self.half_closed = False  # the protocol's FIN has gone out
        self.no_delay = False
        self.sent = 0  # bytes that have left: all that was written, since these have no turns
        self.writes: list[bytes] = []  # what the peer has received
        self.buffer = b""  # what the peer's kernel does not take
        self._clock = clock
        self._peer = peer
        self.protocol: Protocol | None = None
        self._stuck = False
        self._half_closing = False
        self._producer: IPushProducer | None = None
        self._producer_paused = False
        self._inbox = b""  # what has reached this machine and is not read
        self._fin = False  # the peer has ended its direction
        self._fin_read = False
        self._paused = False

    def connect(self, protocol: Protocol) -> None:
        """The connection is made."""
        self.protocol = protocol
        protocol.makeConnection(self)

    # What the test does with the other end

    def arrive(self, data: bytes) -> None:
        """Bytes reach this machine; the reactor has not looked yet."""
        self._inbox += data

    def deliver(self, data: bytes = b"") -> None:
        """Bytes reach this machine, and the reactor reads as long as it may."""
        self._inbox += data
        while self._inbox and self.reading and self.connected:
            data, self._inbox = self._inbox[:BUFFER_BYTES], self._inbox[BUFFER_BYTES:]
            assert self.protocol is not None
            self.protocol.dataReceived(data)
        if self._fin and not self._inbox and self.reading and self.connected and not self._fin_read:
            self._fin_read = True
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.reading = False
                self.protocol.readConnectionLost()
            else:
                self._lose(Failure(ConnectionDone()))

    def finish(self, noticed: bool = True) -> None:
        """The peer ends its direction; `noticed` tells whether the reactor looks at once."""
        self._fin = True
        if noticed:
            self.deliver()
            self._tell_ending()

    def _tell_ending(self) -> None:
        """As ServerTransport does while reading is paused."""
        ending = getattr(self.protocol, "readConnectionEnding", None)
        if self._fin and self._paused and self.connected and not self._fin_read and ending is not None:
            ending()

    def reset(self, reason: Exception = ConnectionLost()) -> None:
        """The peer, or the network, ends the connection at once."""
        self._lose(Failure(reason))

    def stop_taking(self) -> None:
        """The peer's kernel takes no more."""
        self._stuck = True

    def take_some(self, count: int) -> None:
        """The peer takes some bytes, and then no more again."""
        self.writes.append(self.buffer[:count])
        self.buffer = self.buffer[count:]

    def take(self) -> None:
        """The peer takes all there is, and what follows, until it stops again."""
        self._stuck = False
        self._flush()

    @property
    def ended(self) -> bool:
        return not self.connected

    @property
    def unread(self) -> int:
        """How many bytes wait to be read."""
        return len(self._inbox)

    # ITransport, ITCPTransport

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if not self.connected or self.half_closed or self.aborted or not data:
            return
        self.buffer += data
        self.sent += len(data)
        if not self._stuck:
            self.writes.append(self.buffer)
            self.buffer = b""
        elif self._producer is not None and len(self.buffer) > BUFFER_BYTES:
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self.reading = False
            self._clock.callLater(0, self._flush)

    def loseWriteConnection(self) -> None:
        self._half_closing = True
        self._clock.callLater(0, self._flush)

    def abortConnection(self) -> None:
        if self.connected and not self.aborted:
            self.aborted = True
            self.reading = False
            self.buffer = b""
            self._clock.callLater(0, self._lose, Failure(ConnectionAborted()))

    def getPeer(self) -> Address:
        return self._peer

    def getHost(self) -> Address:
        return HERE

    def getTcpNoDelay(self) -> bool:
        return self.no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getTcpKeepAlive(self) -> bool:
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        raise NotImplementedError

    # IConsumer

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert self._producer is None and streaming and IPushProducer.providedBy(producer)
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None
        if self.connected and self.disconnecting:
            self._clock.callLater(0, self._flush)

    # IPushProducer

    def pauseProducing(self) -> None:
        self.reading = False
        self._paused = True
        if self._fin:
            self._clock.callLater(0, self._tell_ending)

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting and not self.aborted:
            self.reading = True
            self._paused = False
            self._clock.callLater(0, self.deliver)

    def stopProducing(self) -> None:
        self.loseConnection()

    # What our own transports add

    def delivered(self) -> bool:
        """Whether the peer's kernel has all that was written."""
        return not self.buffer

    def acknowledged(self) -> int:
        """How many bytes the peer has."""
        return self.sent - len(self.buffer)

    def readable(self) -> bool:
        """Whether bytes wait to be read."""
        return bool(self._inbox)

    def close_now(self) -> None:
        """End in order, at once where the peer's kernel has everything."""
        if self.aborted:
            self._lose(Failure(ConnectionAborted()))
        elif self.delivered():
            self._lose(Failure(ConnectionDone()))
        else:
            self.loseConnection()

    def silent(self) -> bool:
        """Whether nothing waits to be read, not even the end."""
        return self.connected and not self._inbox and not self._fin

    # The inside

    def _flush(self) -> None:
        if self._stuck or not self.connected or self.aborted:
            return
        if self.buffer:
            self.writes.append(self.buffer)
            self.buffer = b""
        if self._producer is not None and self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()
        elif self.disconnecting:
            self._lose(Failure(ConnectionDone()))
        elif self._half_closing and not self.half_closed:
            self.half_closed = True
            if IHalfCloseableProtocol.providedBy(self.protocol):
                self.protocol.writeConnectionLost()

    def _lose(self, reason: Failure) -> None:
        if not self.connected:
            return
        self.connected = False
        self.reading = False
        if self._producer is not None:
            self._producer.stopProducing()
            self._producer = None
        assert self.protocol is not None
        self.protocol.connectionLost(reason)
