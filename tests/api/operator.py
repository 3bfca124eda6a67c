"""An operator's client, in memory."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from twisted_lb.api.operators import OperatorFactory


class Wire(StringTransport):
    """Keeps what the listener does with the connection."""

    reset = False  # ended at once
    said_all = False  # the listener will write no more

    def loseWriteConnection(self) -> None:
        self.said_all = True

    def abortConnection(self) -> None:
        self.reset = True
        super().abortConnection()


class Client:
    """One connection."""

    def __init__(self, factory: OperatorFactory) -> None:
        self.wire = Wire()
        self.protocol: Any = factory.buildProtocol(None)
        self.protocol.makeConnection(self.wire)

    def send(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def end_sending(self) -> None:
        self.protocol.readConnectionLost()

    def leave(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def received(self) -> bytes:
        return self.wire.value()

    @property
    def ended(self) -> bool:
        """Whether the listener has said that this is all."""
        return self.wire.said_all or self.wire.disconnecting or self.wire.reset

    @property
    def statuses(self) -> list[int]:
        """Of the answers so far."""
        return [int(status) for status in re.findall(rb"^HTTP/1\.1 ([0-9]{3}) ", self.received, re.MULTILINE)]


def head_of(method: str, target: str, *fields: bytes, host: bytes = b"localhost:9090", version: str = "1.1") -> bytes:
    """A request head."""
    lines = [f"{method} {target} HTTP/{version}".encode(), *([b"Host: " + host] if host else []), *fields]
    return b"\r\n".join([*lines, b"", b""])
