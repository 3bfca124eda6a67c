"""A Redis that a test plays itself: what was sent is read, and replies are written, byte by byte."""

from __future__ import annotations

from typing import Any

import hiredis
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer


class FakeConnection:
    """One connection, from the side of Redis."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.transport = StringTransport()
        self._reader = hiredis.Reader()
        protocol.makeConnection(self.transport)

    def commands(self) -> list[list[bytes]]:
        """What was sent since the last call of this."""
        self._reader.feed(self.transport.value())
        self.transport.clear()
        commands = []
        while (command := self._reader.gets()) is not False:
            commands.append(command)
        return commands

    def reply(self, *replies: bytes) -> None:
        """Send these bytes, which are whole replies."""
        self.protocol.dataReceived(b"".join(replies))

    def lose(self) -> None:
        """Cut the connection."""
        self.protocol.connectionLost(Failure(ConnectionLost()))

    @property
    def closing(self) -> bool:
        """Whether our side wants to close it."""
        return bool(self.transport.disconnecting or self.transport.disconnected)


@implementer(IStreamClientEndpoint)
class FakeEndpoint:
    """Attempts to connect wait here until the test accepts or refuses them."""

    def __init__(self) -> None:
        self.attempts: list[tuple[IProtocolFactory, Deferred[Any]]] = []
        self.cancelled = 0

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        attempt: Deferred[Any] = Deferred(self._cancelled)
        self.attempts.append((factory, attempt))
        return attempt

    def _cancelled(self, _: object) -> None:
        self.cancelled += 1

    def accept(self) -> FakeConnection:
        """Let the oldest attempt succeed."""
        factory, attempt = self.attempts.pop(0)
        connection = FakeConnection(factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 6379)))
        attempt.callback(connection.protocol)
        return connection

    def refuse(self) -> None:
        """Let the oldest attempt fail."""
        self.attempts.pop(0)[1].errback(Failure(ConnectionRefusedError()))


def bulk(value: bytes | None) -> bytes:
    """A bulk string, or nil."""
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


def array(*elements: bytes | int | list[Any] | None) -> bytes:
    """An array of bulk strings, integers, arrays and nil."""
    return b"*%d\r\n" % len(elements) + b"".join(map(_element, elements))


def _element(element: bytes | int | list[Any] | None) -> bytes:
    if isinstance(element, list):
        return array(*element)
    return b":%d\r\n" % element if isinstance(element, int) else bulk(element)
