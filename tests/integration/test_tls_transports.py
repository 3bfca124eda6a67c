"""Transports with TLS on real sockets, over each reactor of the data path: a client and a server of our own."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python.failure import Failure

from tests.integration.test_data_path_reactors import MUCH, SECONDS, Running, running
from tests.network.tls_pairs import VERSIONS, client_side, server_side
from twisted_lb.network.tls import accepted_tls_transport
from twisted_lb.network.tls_connector import connect_tls
from twisted_lb.network.tls_errors import CertificateNotVerified, HandshakeFailed
from twisted_lb.network.tls_layer import TlsLayer

__all__ = ["running"]


class Shaking(Protocol):
    """The server's side of a handshake; after it, an Echo."""

    context: ssl.SSLContext
    failures: list[str]

    def connectionMade(self) -> None:
        self.layer = TlsLayer(self.context, True)

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        try:
            done = self.layer.handshake(data)
        except HandshakeFailed as error:
            self.failures.append(str(error))
            transport.loseConnection()
            return
        transport.write(self.layer.output())
        if done:
            transport.secure(self.layer, Echo(self.failures))


class Echo(Protocol):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        assert reason.type is not None
        self.log.append(reason.type.__name__)


class Client(Protocol):
    def __init__(self) -> None:
        self.received = 0
        self.lost: Any = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"x" * MUCH)

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason.type


class Connecting(ClientFactory):
    noisy = False

    def __init__(self) -> None:
        self.made: Client | None = None
        self.failure: Any = None

    def buildProtocol(self, addr: object) -> Client:
        self.made = Client()
        return self.made

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self.failure = reason.value


@pytest.mark.parametrize("version", VERSIONS)
def test_much(running: Running, version: ssl.TLSVersion) -> None:
    """Megabytes in both directions at the same time, and an orderly end that both sides see as such."""
    port, log = listening(running, server_side(version))
    factory = connecting(running, port, client_side(), "server.test")
    running.until(lambda: factory.made is not None)
    client: Any = factory.made
    running.until(lambda: client.received == MUCH)
    client.transport.loseConnection()
    running.until(lambda: client.lost and log)
    assert (client.lost, log) == (ConnectionDone, ["ConnectionDone"])


def test_not_verified(running: Running) -> None:
    """A certificate that is not accepted is a failed attempt, which says why; so is a server without TLS."""
    port, log = listening(running, server_side())
    factory = connecting(running, port, client_side(), "other.test")
    running.until(lambda: factory.failure and log)
    assert isinstance(factory.failure, CertificateNotVerified) and "other.test" in str(factory.failure)
    assert "bad certificate" in log[0]
    plain = Factory.forProtocol(lambda: Echo([]))
    plain.noisy = False
    port = running.stock.listenTCP(0, plain, interface="127.0.0.1")
    factory = connecting(running, port, client_side(), "server.test")
    running.until(lambda: factory.failure)
    assert isinstance(factory.failure, HandshakeFailed)


def listening(running: Running, context: ssl.SSLContext) -> tuple[Any, list[str]]:
    """A port with TLS, and what its connections have met."""
    log: list[str] = []
    shaking = type("Shaking", (Shaking,), {"context": context, "failures": log})
    factory = Factory.forProtocol(shaking)
    factory.noisy = False
    port = running.stock.listenTCP(0, factory, interface="127.0.0.1")
    port.transport = lambda *arguments: accepted_tls_transport(running.data_path, *arguments)
    return port, log


def connecting(running: Running, port: Any, context: ssl.SSLContext, name: str) -> Connecting:
    factory = Connecting()
    connect_tls(running.data_path, "127.0.0.1", port.getHost().port, factory, SECONDS, context, name)
    return factory
