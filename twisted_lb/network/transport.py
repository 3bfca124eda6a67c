"""Transports that write with one system call.

Twisted's `write` buffers, and waits for the event that the socket is writable, which costs two epoll_ctl calls and an
iteration for each message.  These send at the end of the iteration (`transport_io`), and fall back to Twisted's
buffer, with its back-pressure and its detection of lost connections, for what the kernel does not take.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from fcntl import ioctl
from socket import MSG_PEEK, MSG_TRUNC, AddressFamily, socket
from termios import TIOCOUTQ
from typing import Any, Final

from twisted.internet import tcp, unix
from twisted.internet.error import ConnectionAborted
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from twisted_lb.network.transport_io import READ_BYTES, TransportIO
from twisted_lb.network.twisted_private import AcceptedConnection, ConnectionState, TransportConnector

# Receives dropped bytes; it is never read, and takes no memory where the kernel does not copy them.
_SINK = bytearray(256 * 1024)
# The most bytes of one read.  Each read, and the work that follows it, has a fixed cost, so with a server it is doubled
# after a read that was full, up to MAX_READ_BYTES.  The data may have to wait for a slow client, so only
# MAX_LARGE_READERS connections at a time read more than READ_BYTES.
MAX_READ_BYTES = 512 * 1024
MAX_LARGE_READERS = 128
_large_readers: set[OneCall] = set()


class OneCall(ConnectionState):
    """Mix in before a `tcp.Connection` whose reactor is an IDataPathReactor."""

    socket: socket
    reactor: Any  # an IDataPathReactor
    bufferSize = READ_BYTES
    max_read_bytes = READ_BYTES
    _io: TransportIO | None = None
    _ending = False

    @property
    def io(self) -> TransportIO:
        """What reads and writes.  Those who use it rather than this object save a call."""
        io = self._io
        if io is None:
            self._io = io = TransportIO(self, self.reactor)
        return io

    @property
    def sent(self) -> int:
        """How many bytes the kernel has taken."""
        return self.io.sent

    @sent.setter
    def sent(self, count: int) -> None:
        self.io.sent = count

    def write(self, data: bytes) -> None:
        """Send at the end of the iteration; buffer what the kernel does not take."""
        self.io.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Not Twisted's own, which would overtake the data that waits for the end of the iteration."""
        self.write(b"".join(iovec))

    def flush(self) -> None:
        """Send what was written in this iteration."""
        self.io.flush()

    def may_send(self, data: bytes) -> bool:
        """Whether `data` may be sent now; if not, it is put behind the bytes that wait already."""
        if self.must_wait():
            if not self.aborting():
                self.buffer(data)
            return False
        if not self._ending:
            self.io.direct = True
        return True

    def buffer(self, data: bytes) -> None:
        """Put bytes into Twisted's buffer."""
        self.io.direct = False
        super().buffer(data)

    def writeSomeData(self, data: bytes) -> Any:
        """Twisted's own, with a count of the bytes sent."""
        sent = super().writeSomeData(data)
        if type(sent) is int and sent > 0:
            self.sent += sent
        return sent

    def loseConnection(self, *args: Any) -> None:
        self._end_writing()
        super().loseConnection(*args)

    def loseWriteConnection(self) -> None:
        self._end_writing()
        super().loseWriteConnection()

    def _end_writing(self) -> None:
        """Send what was written; what is written later is for Twisted's own to judge."""
        self.flush()
        self._ending = True
        self.io.direct = False

    def abortConnection(self) -> None:
        self._ending = True
        self.io.drop()
        super().abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """See Twisted's own."""
        _large_readers.discard(self)
        # Not only because nothing can be sent any more: a transport that refers to itself would wait for the garbage
        # collector.
        self.io.end()
        super().connectionLost(reason)

    def delivered(self) -> bool:
        """Whether the kernel has all that was written; unknown once the connection has ended."""
        return not (self.io.unsent or self.buffered())

    def acknowledged(self) -> int:
        """How many bytes the other side has confirmed to have received; with a Unix socket, has read."""
        try:
            waiting = ioctl(self.fileno(), TIOCOUTQ, bytes(4))
        except (OSError, ValueError):
            # The connection has ended, or this system cannot tell.
            return self.sent
        return self.sent - int.from_bytes(waiting, sys.byteorder)

    def readable(self) -> bool:
        """Whether bytes wait to be read."""
        try:
            return bool(self.socket.recv(1, MSG_PEEK))
        except OSError:
            return False

    def close_now(self) -> None:
        """Close the connection, at once if it was aborted or the kernel has all that was written."""
        self.flush()
        if self.aborting():
            self.connectionLost(Failure(ConnectionAborted()))
        elif self.delivered():
            self.connectionLost(Failure(CONNECTION_DONE))
        else:
            self.loseConnection()

    def doRead(self) -> Any:
        """See IReadDescriptor."""
        return self.io.read()

    def adapt(self, count: int) -> None:
        """Take more or fewer bytes at a time: a read has taken `count` of `bufferSize`."""
        size = self.bufferSize
        if count == size:
            if size < self.max_read_bytes and (size > READ_BYTES or len(_large_readers) < MAX_LARGE_READERS):
                self.bufferSize = 2 * size
                _large_readers.add(self)
        elif size > READ_BYTES:
            self.bufferSize = READ_BYTES
            _large_readers.discard(self)


class OfClient(OneCall):
    """A client's connection: the protocol is notified even while reading is paused that the client sends no more."""

    def pauseProducing(self) -> None:
        """Stop reading for now."""
        if self.connected and not self.disconnecting:
            self.reactor.pause_reader(self)

    def drop_some(self) -> Any:
        """See `drop_input`.  With MSG_TRUNC the kernel discards the received data (tcp(7))."""
        try:
            size = self.socket.recv_into(_SINK, 0, MSG_TRUNC)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not size:
            return CONNECTION_DONE
        self.protocol.dataReceived(b"")
        return None

    def readConnectionEnding(self) -> None:
        """The client sends no more; what it has sent is not read yet."""
        protocol: Any = self.protocol
        # A wrapper, such as that of TLS, would call us again.
        if hasattr(type(protocol), "readConnectionEnding"):
            protocol.readConnectionEnding()


class ServerTransport(OfClient, AcceptedConnection):
    """A client's connection over TCP."""


class UnixServerTransport(OfClient, unix.Server):
    """A client's connection over a Unix socket."""


class ClientTransport(OneCall, tcp.Client):
    """A connection to a server."""

    max_read_bytes = MAX_READ_BYTES

    def silent(self) -> bool:
        """Whether the server has neither sent anything nor closed: nothing waits to be read."""
        try:
            self.socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


class Connector(TransportConnector):
    """Opens `ClientTransport`s."""

    transport_class = ClientTransport


def connect_tcp(reactor: Any, host: str, port: int, factory: ClientFactory, timeout: float) -> Connector:
    """Begin to connect to an IP address; `reactor` is an IDataPathReactor."""
    connector = Connector(host, port, factory, timeout, None, reactor)
    connector.connect()
    return connector


def accepted_transport(reactor: Any, *args: Any) -> ServerTransport | UnixServerTransport:
    """The transport of a connection that a port has accepted; `args` are what `tcp.Port` gives its `transport`.

    The last of them, the port's reactor, is replaced by `reactor`, an IDataPathReactor.
    """
    sock, protocol, client, server, session, _ = args
    transport = UnixServerTransport if sock.family == AddressFamily.AF_UNIX else ServerTransport
    return transport(sock, protocol, client, server, session, reactor)


def io_of(transport: Any) -> Any:
    """What a protocol writes to, and its transport reads with from now on: the TransportIO of a plain transport.

    A transport of TLS, and one that is not ours, is returned itself.
    """
    if type(transport) not in _PLAIN:
        return transport
    io = transport.io
    # An aborted transport has a `doRead` of its own, which does nothing.
    if not transport.aborting():
        # A reactor calls it without the method of the transport in between.
        transport.doRead = io.read
    return io


_PLAIN: Final = (ServerTransport, UnixServerTransport, ClientTransport)


def settled(transport: Any, unread: bool) -> bool:
    """Whether the kernel has all that was written, and, if `unread`, nothing waits to be read.

    For a transport of another class, such as one of TLS, this is unknown, and True unless it is being closed.
    """
    if not _is_ours(transport):
        return not transport.disconnecting
    return transport.delivered() and not (unread and transport.readable())


def drop_input(transport: Any) -> None:
    """From now on what is read is dropped, without a copy; the protocol gets b"" instead."""
    if isinstance(transport, OfClient):
        transport.doRead = transport.drop_some  # type: ignore[method-assign]


def keep_input(transport: Any) -> None:
    """Undo `drop_input`: a transport that refers to itself would wait for the garbage collector."""
    if isinstance(transport, OfClient):
        vars(transport).pop("doRead", None)


def acknowledged(transport: Any) -> int:
    """See OneCall; 0 for a transport of another class."""
    count: int = transport.acknowledged() if _is_ours(transport) else 0
    return count


def all_acknowledged(transport: Any) -> bool:
    """Whether the other side has confirmed all that was written; True for a transport of another class."""
    return not _is_ours(transport) or (transport.delivered() and transport.acknowledged() == transport.sent)


def unread(transport: Any) -> bool:
    """Whether bytes of the other side wait to be read; False for a transport of another class."""
    return _is_ours(transport) and transport.readable()


def close_now(transport: Any) -> None:
    """Close the connection normally, at once if possible."""
    if _is_ours(transport):
        transport.close_now()
    else:
        transport.loseConnection()


def _is_ours(transport: Any) -> bool:
    """Whether its class is one of ours.  Attributes do not show this: Twisted's wrappers, as for TLS, forward them."""
    return hasattr(type(transport), "delivered")
