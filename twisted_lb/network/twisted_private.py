"""Everything that this package uses of Twisted's classes beyond their public interfaces.

It is all in this file, and in USED by name: a test compares USED with the installed Twisted, so that a release that
renames one of them fails that test instead of the data path.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet import abstract, tcp, unix
from twisted.internet.address import IPv6Address
from twisted.internet.base import DelayedCall
from twisted.internet.protocol import Factory
from twisted.python.lockfile import FilesystemLock

try:
    from twisted.internet.epollreactor import EPollReactor
except ImportError:
    # This system has no epoll.
    EPollReactor = None  # type: ignore[assignment,misc]

# Class -> its attributes, each with what we do with it.
USED: dict[type, dict[str, str]] = {
    abstract.FileDescriptor: {
        "dataBuffer": "read: bytes that wait to be written",
        "_tempDataBuffer": "set: the bytes that wait to be joined to them",
        "_tempDataLen": "read: their number",
        "_writeDisconnected": "read: whether our direction has ended",
        "bufferSize": "read and set: the bytes of one read",
        "writeSomeData": "overridden: bytes are counted",
        "_postLoseConnection": "overridden: sends the end of TLS before the connection is closed",
    },
    tcp.Connection: {
        "_aborting": "read: whether the connection is being aborted",
        "_closeWriteConnection": "overridden: sends the end of TLS before our direction is closed",
    },
    tcp.Server: {
        "_addressType": "set: the class of IPv6 addresses",
    },
    tcp.BaseClient: {
        "_connectDone": "overridden and called: a handshake comes before the protocol",
        "failIfNotConnected": "called: the handshake has failed",
    },
    tcp.Connector: {"_makeTransport": "overridden: makes transports of ours"},
    tcp.Port: {
        "transport": "set: makes the transports of accepted connections",
        "numberAccepts": "read and set: the number of connections that are accepted at a time",
        "createInternetSocket": "overridden: sets IPV6_V6ONLY",
        "_shouldShutdown": "set: whether the socket is shut down, for all processes that have it, when it is closed",
    },
    unix.Port: {
        "_fromListeningDescriptor": "called: makes a port of a socket that was inherited",
        "_bindPath": "read and set: the path of the file, which is removed when the port is closed",
        "connectionLost": "overridden: removes the files of the port when it is closed",
    },
    DelayedCall: {
        "time": "read and set: when it is due",
        "seconds": "set: the clock that it uses",
    },
}

OF_EPOLL = {
    "_poller": "read: its epoll set, which is polled from outside",
    "doIteration": "set and called: an iteration is another one, which calls this one when there are events",
}
if EPollReactor is not None:
    USED[EPollReactor] = OF_EPOLL

if TYPE_CHECKING:
    _Connection = tcp.Connection
else:
    _Connection = object


class ConnectionState(_Connection):
    """Mix in before a `tcp.Connection`: access to its buffer and its state."""

    def aborting(self) -> bool:
        """Whether the connection was aborted."""
        return self._aborting

    def must_wait(self) -> bool:
        """Whether nothing can be sent now: bytes wait already, or the connection takes no more."""
        return bool(
            self.dataBuffer or self._tempDataLen or not self.connected or self._writeDisconnected or self._aborting
        )

    def buffered(self) -> bool:
        """Whether bytes wait in Twisted's buffer."""
        return bool(self.dataBuffer or self._tempDataLen)

    def buffer(self, data: bytes) -> None:
        """Put bytes into Twisted's buffer."""
        if not self._tempDataBuffer:
            # It may be the tuple of `AcceptedConnection`.
            self._tempDataBuffer = []
        abstract.FileDescriptor.write(self, data)


class AcceptedConnection(tcp.Server):
    """Twisted's own without some things that it keeps for each connection: log prefixes, a bound method, an empty list.

    Mix in after a `ConnectionState`, whose `buffer` makes the list.
    """

    def __init__(self, sock: socket.socket, protocol: Any, client: Any, server: Any, number: int, reactor: Any) -> None:
        """See tcp.Server."""
        tcp.Connection.__init__(self, sock, protocol, reactor)
        self._tempDataBuffer: Any = ()
        if len(client) != 2:
            self._addressType = IPv6Address
        self.server = server
        self.client = client
        self.startReading()
        self.connected = 1

    def _descriptor(self) -> Callable[[], int]:
        try:
            return self.socket.fileno
        except AttributeError:
            return _closed

    def _unused(self, *args: object) -> None:
        """Twisted sets and deletes it."""

    fileno = property(_descriptor, _unused, _unused)

    def logPrefix(self) -> str:
        """See ILoggingContext."""
        return f"{type(self.protocol).__name__},{self.client[0]}"

    def __repr__(self) -> str:
        protocol = type(getattr(self, "protocol", None)).__name__
        return f"<{type(self).__name__} of {protocol} from {self.client[0]}>"


def _closed() -> int:
    return -1


class EndingConnection(ConnectionState):
    """Mix in before a `tcp.Connection`: something is sent after all that was written, before our direction ends."""

    def last_bytes(self) -> bytes:
        """What is to be sent, once; b"" when it was sent before, or there is nothing."""
        raise NotImplementedError

    def send_last(self) -> bool:
        """Send it; return whether some of it has to wait, in Twisted's buffer."""
        data = self.last_bytes()
        if not data:
            return False
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The connection is broken, which closing it will show.
            return False
        if sent < len(data):
            self.buffer(data[sent:])
        return sent < len(data)

    def _postLoseConnection(self) -> Any:
        # None: doWrite is called again when the bytes were sent, and calls this again.
        return None if self.send_last() else super()._postLoseConnection()

    def _closeWriteConnection(self) -> None:
        self._writeDisconnected = False
        if not self.send_last():
            self._writeDisconnected = True
            super()._closeWriteConnection()


class HandshakingClient(tcp.Client):
    """A connection that is reported as open only after a handshake."""

    def begin_handshake(self) -> None:
        """The TCP connection is open."""
        raise NotImplementedError

    def _connectDone(self) -> None:
        self.begin_handshake()

    def handshake_done(self) -> None:
        """Build the protocol."""
        super()._connectDone()

    def handshake_failed(self, error: Exception) -> None:
        """Close the connection, and report that it has failed."""
        self.failIfNotConnected(error)


class TransportConnector(tcp.Connector):
    """A connector with transports of a class of ours."""

    transport_class: type[tcp.Client]

    def _makeTransport(self) -> tcp.Client:
        return self.transport_class(self.host, self.port, self.bindAddress, self, self.reactor)


class IPv6OnlyPort(tcp.Port):
    """An IPv6 port that does not accept IPv4."""

    def createInternetSocket(self) -> socket.socket:
        made: socket.socket = super().createInternetSocket()
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return made


class UnixPort(unix.Port):
    """A port on a Unix socket that it makes itself.

    When it is closed it removes its files, as Twisted's does; but it is no error if they were removed meanwhile, and
    files that another process has made in their place are kept.
    """

    lock: FilesystemLock | None = None  # released when the port is closed
    made: os.stat_result | None = None

    def startListening(self) -> None:
        """Make the socket and listen."""
        super().startListening()
        self.made = os.lstat(self._bindPath)

    def connectionLost(self, reason: object) -> None:
        """The port is closed."""
        with suppress(OSError):
            if self.made is not None and os.path.samestat(self.made, os.lstat(self._bindPath)):
                os.unlink(self._bindPath)
        if self.lock is not None:
            # ValueError: it belongs to another process.
            with suppress(OSError, ValueError):
                self.lock.unlock()
        # Not that of unix.Port.
        tcp.Port.connectionLost(self, reason)


def set_transports(port: tcp.Port, accepted: Callable[..., Any] | None) -> None:
    """Connections of the port have the transports that `accepted` makes; None: Twisted's."""
    if accepted is not None:
        port.transport = accepted  # type: ignore[assignment]


def accept_at_most(port: tcp.Port, count: int) -> None:
    """From now on the port takes at most `count` connections at a time.

    Twisted takes more and more at a time while many clients connect, and the other clients would wait for all of them.
    """
    port.doRead = partial(_accept, port, count)  # type: ignore[method-assign]


def _accept(port: tcp.Port, count: int) -> None:
    port.numberAccepts = min(port.numberAccepts, count)
    tcp.Port.doRead(port)


def accept_now(port: tcp.Port, count: int) -> None:
    """Take up to `count` connections that the kernel has accepted."""
    port.numberAccepts = count
    tcp.Port.doRead(port)


def leave_open(port: tcp.Port) -> None:
    """Close the socket at the end without a shutdown, which would end it for all processes that have it."""
    port._shouldShutdown = False


def inherited_unix_port(reactor: Any, descriptor: int, factory: Factory) -> unix.Port:
    """A port of a listening Unix socket that belongs to another process: its file stays as it is."""
    made: Any = unix.Port._fromListeningDescriptor(reactor, descriptor, factory)
    # As if it were in the abstract namespace, so that Twisted does not remove it.
    made._bindPath = "\0" + os.fsdecode(made._bindPath)
    leave_open(made)
    port: unix.Port = made
    return port


def put_on_clock(call: Any, seconds: Callable[[], float], shift: float) -> None:
    """Move a delayed call to another clock, which is ahead of its own by `shift` seconds."""
    call.seconds = seconds
    call.time += shift


def take_iterations(reactor: Any, iterate: Callable[[Any], None]) -> tuple[int, Callable[[float], object]] | None:
    """From now on `iterate(timeout)` is called in place of the reactor's own iterations.

    The result is the descriptor of its epoll set, and its own method.  It is None, and nothing has changed, if the
    reactor has no epoll set, or its iterations were taken already.
    """
    if EPollReactor is None or not isinstance(reactor, EPollReactor) or "doIteration" in vars(reactor):
        return None
    own = reactor.doIteration
    reactor.doIteration = iterate  # type: ignore[method-assign]
    return reactor._poller.fileno(), own


def has_iterations(reactor: Any, iterate: Callable[[Any], None]) -> bool:
    """Whether `iterate` is called in place of the reactor's own iterations."""
    return bool(vars(reactor).get("doIteration") == iterate)


def return_iterations(reactor: Any, iterate: Callable[[Any], None]) -> None:
    """Undo `take_iterations`, unless `iterate` was replaced meanwhile."""
    if has_iterations(reactor, iterate):
        del reactor.doIteration
