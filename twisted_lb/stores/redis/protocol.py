"""The Redis protocol (RESP2), for Redis and Sentinel: how commands are sent and replies are read, but not when.

Commands are encoded here; replies are framed by txredisapi's protocol, on hiredis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis  # noqa: F401  without it, txredisapi would silently parse replies a character at a time
from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport, ITCPTransport
from twisted.python.failure import Failure
from txredisapi import HiredisProtocol  # type: ignore[import-untyped]


def encode_parts(*parts: bytes) -> bytes:
    """Bulk strings one after another, as in a command."""
    return b"".join([b"$%d\r\n%s\r\n" % (len(part), part) for part in parts])


def encode_command(*parts: bytes) -> bytes:
    """One encoded command."""
    return b"*%d\r\n" % len(parts) + encode_parts(*parts)


class Wire(HiredisProtocol):  # type: ignore[misc]
    """txredisapi's protocol, with encoded commands and raw replies."""

    def __init__(self, lost: Callable[[Wire, Failure], None]) -> None:
        # No password and no database: they are in the owner's greeting.
        super().__init__(charset=None, convertNumbers=False)
        self._lost = lost
        self._over = False

    def connectionMade(self) -> None:
        super().connectionMade()
        # Only for a plain transport: with TLS the handle is the socket below the encryption.
        plain = isinstance(self.transport, tcp.Connection) and not self.transport.TLS
        self._socket = self.transport.getHandle() if plain else None
        self.secure = ISSLTransport.providedBy(self.transport)
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        # Bytes that the transport still had when the connection was dropped are replies to calls that have failed.
        if not self._over:
            super().dataReceived(data, unpause)

    def connectionLost(self, why: Failure) -> None:
        # The owner first: what fails below must not try to send its next command here.
        self._lost(self, why)
        super().connectionLost(why)

    def tryConvertData(self, data: object) -> object:
        return data

    def send(self, command: bytes, buffer_empty: bool) -> Deferred[Any]:
        """Write one command.  `buffer_empty`: all that was written before has been answered, so nothing waits.

        Then the socket is tried first, which saves an iteration of the event loop and two epoll_ctl calls.
        """
        if buffer_empty and self._socket is not None:
            try:
                command = command[self._socket.send(command) :]
            except OSError:
                pass  # full, or broken: the transport will find out which
        if command:
            self.transport.write(command)
        reply: Deferred[Any] = self.replyQueue.get()
        return reply

    def drop(self, reason: str) -> None:
        """Close at once, and fail the calls under way now, not when the socket is finally closed."""
        self._over = True
        self.transport.abortConnection()
        while self.replyQueue.waiting:
            self.replyReceived(ConnectionAbortedError(reason))
