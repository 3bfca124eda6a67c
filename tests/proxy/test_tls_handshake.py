"""Handshakes with clients, on a clock: their limits, and the end of those that do not complete."""

from __future__ import annotations

import ssl
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from tests.network.tls_pairs import VERSIONS, client_side, server_side
from tests.proxy.transports import FakeTransport
from tests.proxy.world import CLIENT, World, request
from twisted_lb.network.tls_layer import TlsLayer


class Port:
    """What a handshake uses of its port."""

    connected = True
    disconnecting = False
    reading = True

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True


class SecuredTransport(FakeTransport):
    """A FakeTransport with the `secure` of `network.tls`."""

    tls: TlsLayer | None = None
    server: Port

    def secure(self, layer: TlsLayer, protocol: Any) -> None:
        self.tls = layer
        self.protocol = protocol
        protocol.makeConnection(self)
        self.deliver()
        if plain := layer.decrypt(b""):
            protocol.dataReceived(plain)

    def deliver(self, data: bytes = b"") -> None:
        super().deliver(self.tls.decrypt(data) if self.tls is not None and data else data)

    def write(self, data: bytes) -> None:
        super().write(self.tls.encrypt(data) if self.tls is not None else data)


class TlsClient:
    """A client of a World's port with TLS."""

    def __init__(self, world: World, factory: Any, address: Any = CLIENT, settle: bool = True) -> None:
        self.world = world
        self.layer = TlsLayer(client_side(), False, "server.test")
        self.transport = SecuredTransport(world.clock, address)
        self.transport.server = factory.port = getattr(factory, "port", Port())
        self.refused = False
        self._read = 0
        protocol = factory.buildProtocol(address)
        if protocol is None:
            self.refused = True
        else:
            self.transport.connect(protocol)
            if settle:
                world.settle()

    def received(self) -> bytes:
        """Bytes since the last call, not decrypted."""
        data = b"".join(self.transport.writes)
        new, self._read = data[self._read :], len(data)
        return new

    def hello(self) -> bytes:
        self.layer.handshake(b"")
        return self.layer.output()

    def send(self, data: bytes) -> None:
        self.transport.deliver(data)
        self.world.settle()

    def shake(self) -> None:
        self.send(self.hello())
        while not self.layer.established:
            self.layer.handshake(self.received())
            self.send(self.layer.output())

    def ask(self) -> bytes:
        self.send(self.layer.encrypt(request()))
        return self.layer.decrypt(self.received())


class HandshakeTests(SynchronousTestCase):
    def begin(self, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, **settings: Any) -> None:
        self.world = World(**settings)
        context = server_side(version)
        self.factory = self.world.factory.secured(lambda: context)

    def client(self, **more: Any) -> TlsClient:
        return TlsClient(self.world, self.factory, **more)

    def ended(self) -> dict[str, int]:
        return dict(self.world.factory.handshakes.ended)

    def open(self) -> int:
        return len(self.world.factory.limits.connections)

    def test_request(self) -> None:
        """After the handshake a client is served, and its server learns that it has used https."""
        for version in VERSIONS:
            self.begin(version)
            client = self.client()
            client.shake()
            client.ask()
            head = self.world.server.last.received
            self.assertIn(b"\r\nX-Forwarded-Proto: https\r\n", head)
            self.assertIn(b"proto=https", head)
            self.assertNotIn(b"X-Client-Cert-Subject", head)
            self.assertEqual((self.ended(), self.open(), len(self.world.factory.handshakes)), ({"complete": 1}, 1, 0))
            self.assertEqual(self.world.factory.counts()["handshakes complete"], 1)

    def test_pieces(self) -> None:
        """A handshake may come byte by byte, and the first request together with its end."""
        self.begin()
        client = self.client()
        for byte in client.hello():
            client.send(bytes([byte]))
        client.layer.handshake(client.received())
        client.send(client.layer.output() + client.layer.encrypt(request()))
        self.assertTrue(self.world.server.last.received)

    def test_posted(self) -> None:
        """The expensive steps wait for their turn, and a client that sends more meanwhile is not read."""
        self.begin()
        client = self.client()
        hello = client.hello()
        client.transport.deliver(hello[:5])
        client.transport.deliver(hello[5:])
        self.assertEqual((client.transport.writes, client.transport.reading), ([], False))
        self.world.settle()
        self.assertTrue(client.transport.writes and client.transport.reading)

    def test_plain_http(self) -> None:
        """A request in plain HTTP is answered in clear, and the connection ends."""
        self.begin()
        for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"P"):
            client = self.client()
            client.send(data)
            answer = client.received()
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
            self.assertIn(b"plain HTTP", answer)
            self.assertIn(b"\r\nConnection: close\r\n", answer)
            self.assertTrue(client.transport.half_closed)
        self.assertEqual((self.ended(), self.open()), ({"plain_http": 2}, 0))

    def test_plain_http_is_recorded(self) -> None:
        """Such a request has a record, like any other that is refused."""
        self.begin()
        records: list[Any] = []
        self.world.factory.subscribe(records.append)
        self.client().send(b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\n")
        (record,) = records
        self.assertEqual((record.method, record.target, record.status), (b"GET", b"/a?b", 400))
        self.assertEqual((record.reason, record.peer.address), ("bad_request", CLIENT.host))

    def test_garbage(self) -> None:
        """What is neither is closed, after an alert."""
        self.begin()
        client = self.client()
        client.send(b"\x16\x03\x01\x00\x05" + b"\xff" * 20)
        self.assertTrue(client.transport.ended)
        self.assertEqual(client.received()[:1], b"\x15")
        self.assertEqual((self.ended(), self.open()), ({"failed": 1}, 0))

    def test_slow(self) -> None:
        """A handshake has its time in all, whether its client sends nothing, stops in the middle, or drips."""
        self.begin(tls_handshake_timeout=10.0)
        silent, half, dripping = self.client(), self.client(), self.client()
        half.send(half.hello())
        hello = dripping.hello()
        for byte in hello[:19]:
            dripping.send(bytes([byte]))
            self.world.wait(0.5)
        self.assertEqual(self.open(), 3)
        self.world.wait(1.5)
        self.assertEqual((self.open(), self.ended()), (0, {"timeout": 3}))
        for one in (silent, half, dripping):
            self.assertTrue(one.transport.aborted)

    def test_leaves(self) -> None:
        """A client that leaves in the middle leaves nothing behind."""
        self.begin()
        for count, leave in enumerate((lambda one: one.transport.reset(), lambda one: one.transport.finish())):
            client = self.client()
            client.transport.deliver(client.hello())
            leave(client)
            self.world.settle()
            self.assertEqual((self.ended(), self.open()), ({"failed": count + 1}, 0))

    def test_most(self) -> None:
        """For one handshake too many, the oldest that waits for its client is closed, or no more are accepted."""
        self.begin(tls_max_handshakes=2)
        first, second, third = self.client(), self.client(), self.client()
        self.assertEqual([one.transport.aborted for one in (first, second, third)], [True, False, False])
        self.assertEqual(self.ended(), {"no_room": 1})
        second.transport.deliver(second.hello())
        third.transport.deliver(third.hello())
        fourth = TlsClient(self.world, self.factory, settle=False)
        self.assertEqual((fourth.transport.ended, self.ended()), (False, {"no_room": 1}))
        self.assertFalse(fourth.transport.server.reading)
        self.world.settle()
        self.assertTrue(fourth.transport.server.reading)

    def test_completed_are_not_counted(self) -> None:
        """Connections that have completed theirs are no handshakes."""
        self.begin(tls_max_handshakes=1)
        clients = [self.client() for _ in range(1)]
        clients[0].shake()
        other = self.client()
        self.assertFalse(other.refused or clients[0].transport.aborted)

    def test_max_connections(self) -> None:
        """A handshake counts as a connection, and makes room for another as an idle connection does."""
        self.begin(max_connections=2, max_connections_per_address=0)
        idle, new = self.client(), self.client()
        idle.shake()
        third = self.client()
        self.assertEqual([one.transport.ended for one in (idle, new, third)], [False, True, False])
        third.shake()
        third.ask()
        self.assertEqual(self.open(), 2)

    def test_no_room(self) -> None:
        """Where all connections are busy, a new one is closed: only a handshake could tell it why."""
        self.begin(max_connections=1, max_connections_per_address=0)
        busy = self.client()
        busy.shake()
        busy.ask()
        self.assertTrue(self.client().refused)
        self.assertEqual(self.ended(), {"complete": 1, "no_room": 1})
        self.assertEqual(self.world.factory.counts()["handshake_failures no_room"], 1)

    def test_per_address(self) -> None:
        """Handshakes count for the address of their client."""
        self.begin(max_connections_per_address=1)
        first, other = self.client(), self.client(address=IPv4Address("TCP", "198.51.100.9", 1))
        second = self.client()
        self.assertEqual([one.transport.aborted for one in (first, other, second)], [True, False, False])

    def test_drain(self) -> None:
        """At the stop, handshakes end like connections without a request."""
        self.begin()
        self.client()
        idle = self.client()
        idle.shake()
        finished: list[int] = []
        self.world.factory.drain(30).addCallback(finished.append)
        self.world.clock.advance(0.1)
        self.world.clock.advance(0.1)
        self.assertEqual((finished, self.open()), ([0], 0))
