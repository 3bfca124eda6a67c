"""TCP transports that write with one system call.

Twisted's `write` buffers, and waits for the event that the socket is writable, which costs two epoll_ctl
calls and a turn for each message.  These send at the end of the poller's turn, and fall back to Twisted's
buffer, with its back-pressure and its way of noticing a lost connection, for what the kernel does not
take.
"""

from __future__ import annotations

from collections.abc import Iterable
from socket import MSG_PEEK, socket
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp, unix
from twisted.internet.error import ConnectionAborted
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

if TYPE_CHECKING:
    _Base = tcp.Connection
else:
    _Base = object


# More than this in one turn is sent at once, so that back-pressure is felt within the turn.
MAX_UNSENT_BYTES = 128 * 1024


class _OneCall(_Base):
    """Mix in before a `tcp.Connection` whose reactor is a Poller."""

    socket: socket
    reactor: Any  # a Poller
    _unsent = b""  # written in this turn
    sent = 0  # bytes that the kernel has taken

    def write(self, data: bytes) -> None:
        """Send with the turn's end; buffer what the kernel does not take."""
        if self._unsent:
            self._unsent += data
            if len(self._unsent) > MAX_UNSENT_BYTES:
                self.flush()
        elif self._aborting:
            return
        elif self.dataBuffer or self._tempDataLen or not self.connected or self._writeDisconnected:
            # Behind bytes that wait already, these wait too.
            super().write(data)
        elif data:
            self._unsent = data
            self.reactor.flush_later(self)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Twisted's own would overtake what waits for the turn's end."""
        self.write(b"".join(iovec))

    def flush(self) -> None:
        """Send what was written in this turn."""
        data, self._unsent = self._unsent, b""
        if not data or not self.connected:
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            # Full, or broken: in that case doWrite meets the same error, outside of our caller's
            # stack, and disconnects as always.
            sent = 0
        self.sent += sent
        if sent < len(data):
            super().write(data[sent:] if sent else data)

    def writeSomeData(self, data: bytes) -> Any:
        """Twisted's own, counted."""
        sent = super().writeSomeData(data)
        if type(sent) is int and sent > 0:
            self.sent += sent
        return sent

    def loseConnection(self, *args: Any) -> None:
        self.flush()
        super().loseConnection(*args)

    def loseWriteConnection(self) -> None:
        self.flush()
        super().loseWriteConnection()

    def abortConnection(self) -> None:
        self._unsent = b""
        super().abortConnection()

    def delivered(self) -> bool:
        """Whether the kernel has all that was written."""
        return not (self._unsent or self.dataBuffer or self._tempDataLen)

    def readable(self) -> bool:
        """Whether bytes wait to be read."""
        try:
            return bool(self.socket.recv(1, MSG_PEEK))
        except OSError:
            return False

    def close_now(self) -> None:
        """End the connection, in order unless it was aborted, and at once if the kernel has all that was written."""
        self.flush()
        if self._aborting:
            self.connectionLost(Failure(ConnectionAborted()))
        elif self.delivered():
            self.connectionLost(Failure(CONNECTION_DONE))
        else:
            self.loseConnection()

    def doRead(self) -> Any:
        """Twisted's own without its two inner calls."""
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None


class _OfClient(_OneCall):
    """A client's connection.  Its protocol hears of the end of the client's direction also while reading is paused."""

    def pauseProducing(self) -> None:
        """Read no more for now."""
        if self.connected and not self.disconnecting:
            self.reactor.pause_reader(self)

    def readConnectionEnding(self) -> None:
        """The client sends no more; what it has sent is not read yet."""
        protocol: Any = self.protocol
        protocol.readConnectionEnding()


class ServerTransport(_OfClient, tcp.Server):
    """A client's connection over TCP."""


class UnixServerTransport(_OfClient, unix.Server):
    """A client's connection over a Unix socket."""


class ClientTransport(_OneCall, tcp.Client):
    """A connection to a server."""

    def silent(self) -> bool:
        """Whether the server has neither sent anything nor closed: nothing waits to be read."""
        try:
            self.socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


class Connector(tcp.Connector):
    """Opens `ClientTransport`s."""

    def _makeTransport(self) -> ClientTransport:
        return ClientTransport(self.host, self.port, self.bindAddress, self, self.reactor)


def settled(transport: Any, unread: bool) -> bool:
    """Whether nothing is on its way: what was written is with the kernel, and, if `unread`, nothing waits to be read.

    Of another transport than these, TLS perhaps, nobody knows.
    """
    if not hasattr(transport, "delivered"):
        return not transport.disconnecting
    return transport.delivered() and not (unread and transport.readable())


def close_now(transport: Any) -> None:
    """End the connection in order, at once if it can be."""
    getattr(transport, "close_now", transport.loseConnection)()
