"""Transports with TLS, over a socket that the test scripts; the other side is a TlsLayer."""

from __future__ import annotations

import ssl
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.network.test_transport import FakeReactor, FakeSocket, Recording
from tests.network.tls_pairs import VERSIONS, client_side, pair, server_side, shake
from tests.proxy.test_world import HalfCloseable, Recorder
from twisted_lb.network.tls import (
    FIRST_READ_BYTES,
    MIN_READ_BYTES,
    TlsServerTransport,
)
from twisted_lb.network.tls_connector import TlsClientTransport, TlsConnector
from twisted_lb.network.tls_errors import CertificateNotVerified, HandshakeFailed, TlsError, Truncated
from twisted_lb.network.tls_layer import TlsLayer
from twisted_lb.network.transport import close_now, drop_input, keep_input, settled, unread
from twisted_lb.network.transport_io import READ_BYTES


class Socket(FakeSocket):
    """Gives what has arrived in the pieces that are asked for; b"" at the end of `incoming` is the end."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []  # of the reads

    def recv_into(self, buffer: memoryview, size: int = 0, flags: int = 0) -> int:
        self.sizes.append(size)
        data = self.recv(1 << 30)
        if size and len(data) > size:
            self.incoming.insert(0, data[size:])
            data = data[:size]
        buffer[: len(data)] = data
        return len(data)

    def take(self) -> bytes:
        """What was sent since the last call."""
        data, self.sent = b"".join(self.sent), []
        return data


class ServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin(HalfCloseable())

    def begin(self, protocol: Any, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.socket = Socket()
        self.reactor = FakeReactor()
        self.protocol = protocol
        self.client, layer = pair(version)
        self.transport: Any = TlsServerTransport(
            self.socket,  # type: ignore[arg-type]
            Recorder(),
            ("192.0.2.7", 50_000),
            None,  # type: ignore[arg-type]
            0,
            self.reactor,  # type: ignore[arg-type]
        )
        self.transport.secure(layer, protocol)

    def arrive(self, *records: bytes) -> Any:
        """Bytes arrive and are read; what the last read returns."""
        self.socket.incoming += [b"".join(records)]
        result = None
        while self.socket.incoming and result is None:
            result = self.transport.doRead()
        return result

    def received(self) -> bytes:
        """What the client has decrypted."""
        return self.client.decrypt(self.socket.take())

    def test_one_call(self) -> None:
        """What is written in an iteration is one record, sent with one call; what is read comes in one piece."""
        for version in VERSIONS:
            self.begin(HalfCloseable(), version)
            self.reactor.iterating = True
            self.transport.write(b"one ")
            self.transport.writeSequence([b"two ", b"three"])
            self.reactor.end_iteration()
            self.assertEqual(len(self.socket.sent), 1)
            self.assertEqual((self.received(), self.client.records), (b"one two three", 1))
            self.arrive(self.client.encrypt(b"a"), self.client.encrypt(b"b"))
            self.assertEqual(self.protocol.told, [b"ab"])

    def test_in_clear_before(self) -> None:
        """Before `secure` the transport is a plain one, and what was written until then leaves in clear."""
        _, layer = pair()
        before = Recorder()
        transport: Any = TlsServerTransport(self.socket, before, ("192.0.2.7", 1), None, 0, self.reactor)  # type: ignore[arg-type]
        self.socket.incoming = [b"hello"]
        transport.doRead()
        self.reactor.iterating = True
        transport.write(b"plain")
        transport.secure(layer, self.protocol)
        self.assertEqual(self.socket.sent, [b"plain"])
        transport.write(b"secret")
        self.reactor.end_iteration()
        self.assertEqual(before.told, [b"hello"])
        self.assertEqual(self.socket.sent[0], b"plain")
        self.assertNotIn(b"secret", b"".join(self.socket.sent))

    def test_back_pressure(self) -> None:
        """What the kernel does not take pauses the producer, and goes out whole and in order later."""
        producer = Recording()
        self.transport.registerProducer(producer, True)
        self.socket.room = 1000
        data = bytes(range(256)) * 1000
        self.transport.write(data)
        self.assertTrue(producer.paused and self.reactor.writing)
        self.transport.write(b"more")
        self.socket.room = 10**9
        while self.reactor.writing:
            self.assertIsNone(self.transport.doWrite())
        self.assertFalse(producer.paused)
        self.assertEqual(self.received(), data + b"more")
        self.assertTrue(self.transport.delivered())

    def test_partial_sends(self) -> None:
        """A kernel that takes few bytes at a time gets each once."""
        self.socket.room = 0
        self.transport.write(b"x" * 3000)
        while self.reactor.writing:
            self.socket.room = 7
            self.assertIsNone(self.transport.doWrite())
        self.assertEqual(self.received(), b"x" * 3000)
        self.assertEqual(self.transport.sent, 3000 + 22)

    def test_orderly_end(self) -> None:
        """Our close_notify comes after all that was written, also where the kernel takes it in pieces."""
        self.socket.room = 5
        self.transport.write(b"last")
        self.transport.loseConnection()
        result = None
        while result is None:
            self.assertTrue(self.reactor.writing)
            self.socket.room += 5
            result = self.transport.doWrite()
        self.assertIs(result, CONNECTION_DONE)
        self.assertEqual((self.received(), self.client.ended), (b"last", True))

    def test_half_close(self) -> None:
        """Ending our direction is told by close_notify, then by a FIN, then to the protocol; reading goes on."""
        self.socket.room = 5
        self.transport.write(b"last")
        self.transport.loseWriteConnection()
        while self.protocol.told != ["no more to write"]:
            self.assertNotIn("shutdown", self.socket.calls)
            self.socket.room += 5
            self.transport.doWrite()
        self.assertEqual((self.received(), self.client.ended), (b"last", True))
        self.assertEqual(self.socket.calls, ["shutdown"])
        self.arrive(self.client.encrypt(b"still"))
        self.assertEqual(self.protocol.told[1:], [b"still"])

    def test_close_now(self) -> None:
        """At once, with close_notify, where the kernel takes it."""
        close_now(self.transport)
        self.assertEqual(self.protocol.told, [ConnectionDone])
        self.assertEqual((self.received(), self.client.ended), (b"", True))

    def test_abort(self) -> None:
        """An aborted connection has no close_notify, and what was written is lost."""
        self.reactor.iterating = True
        self.transport.write(b"lost")
        self.transport.abortConnection()
        self.reactor.end_iteration()
        self.reactor.advance(0)
        self.assertEqual((self.socket.take(), self.protocol.told), (b"", [ConnectionAborted]))

    def test_lost_in_the_iteration(self) -> None:
        """What was written in the iteration of the end is lost, and no close_notify says that nothing is."""
        self.reactor.iterating = True
        self.transport.write(b"lost")
        self.assertFalse(self.transport.delivered())
        self.transport.connectionLost(Failure(CONNECTION_DONE))
        self.reactor.end_iteration()
        self.assertEqual((self.socket.take(), self.protocol.told), (b"", [ConnectionDone]))

    def test_client_ends(self) -> None:
        """The client's close_notify is the end of its direction; what came before it is read first."""
        self.assertIs(self.arrive(self.client.encrypt(b"bye") + self.client.close()), CONNECTION_DONE)
        self.assertEqual(self.protocol.told, [b"bye"])
        self.assertIs(self.arrive(b"more"), CONNECTION_DONE)
        self.transport.write(b"answer")
        self.assertEqual(self.received(), b"answer")

    def test_client_ends_while_paused(self) -> None:
        """A protocol that has stopped reading hears of the end when it reads again, and not before."""
        received = self.protocol.dataReceived

        def pause(data: bytes) -> None:
            received(data)
            self.transport.pauseProducing()

        self.protocol.dataReceived = pause
        self.assertIsNone(self.arrive(self.client.encrypt(b"bye") + self.client.close()))
        self.reactor.advance(1)
        self.assertEqual(self.protocol.told, [b"bye"])
        self.transport.resumeProducing()
        self.transport.pauseProducing()
        self.reactor.advance(0)
        self.assertEqual(self.protocol.told, [b"bye"])
        self.transport.resumeProducing()
        self.reactor.advance(0)
        self.assertEqual(self.protocol.told, [b"bye", "no more to read"])

    def test_end_is_reported_once(self) -> None:
        """An end that a read finds again before it was reported is reported once."""
        received = self.protocol.dataReceived

        def pause(data: bytes) -> None:
            received(data)
            self.transport.pauseProducing()

        self.protocol.dataReceived = pause
        self.assertIsNone(self.arrive(self.client.encrypt(b"bye") + self.client.close()))
        self.transport.resumeProducing()
        reason = self.arrive(b"more")
        self.assertIs(reason, CONNECTION_DONE)
        self.transport.readConnectionLost(Failure(reason))
        self.reactor.advance(0)
        self.assertEqual(self.protocol.told, [b"bye", "no more to read"])

    def test_truncated(self) -> None:
        """An end without close_notify is a loss, and the reason says what was missing."""
        self.assertIsInstance(self.arrive(b""), Truncated)
        self.assertIsInstance(Truncated(), ConnectionLost)
        self.assertIn("close_notify", str(Truncated()))

    def test_damaged(self) -> None:
        """A record that cannot be decrypted ends the connection; the client gets an alert."""
        sent = bytearray(self.client.encrypt(b"hello"))
        sent[-1] ^= 1
        self.assertIsInstance(self.arrive(bytes(sent)), TlsError)
        self.assertIn("bad record mac", str(self.assertRaises(TlsError, self.received)))
        self.assertEqual(self.protocol.told, [])

    def test_damaged_after_data(self) -> None:
        """What came before a damaged record is delivered, also in a long read."""
        for size in (10, 50_000):
            self.begin(HalfCloseable())
            self.transport._read_limit = READ_BYTES
            good = self.client.encrypt(b"x" * size)
            sent = bytearray(self.client.encrypt(b"hello"))
            sent[-1] ^= 1
            self.assertIsInstance(self.arrive(good, bytes(sent)), TlsError)
            self.assertEqual(b"".join(self.protocol.told), b"x" * size)

    def test_errors_of_the_socket(self) -> None:
        """Nothing there is no error; a reset is a loss."""
        self.assertIsNone(self.transport.doRead())
        self.socket.incoming = [ConnectionResetError(104, "reset")]
        self.assertIs(self.transport.doRead(), CONNECTION_LOST)

    def test_tiny_records(self) -> None:
        """Reads get smaller while a client sends tiny records, and larger again step by step."""
        self.arrive(b"".join(self.client.encrypt(b"x") for _ in range(3000)))
        self.assertEqual(self.socket.sizes[:3], [FIRST_READ_BYTES, FIRST_READ_BYTES // 2, MIN_READ_BYTES])
        self.assertEqual(b"".join(self.protocol.told), b"x" * 3000)
        self.socket.sizes.clear()
        self.arrive(self.client.encrypt(b"x" * 300_000))
        self.assertEqual(self.socket.sizes[:6], [MIN_READ_BYTES * 2**n for n in range(5)] + [READ_BYTES])

    def answered(self) -> Any:
        """A record arrives that OpenSSL answers with 100 bytes, as it does with KeyUpdate, which Python cannot send."""
        self.transport.tls._outgoing.write(b"a" * 100)
        return self.arrive(self.client.encrypt(b"x"))

    def test_answers_that_are_not_read(self) -> None:
        """Answers of OpenSSL that a client does not read do not pile up: the connection is lost."""
        for _ in range(1000):
            self.assertIsNone(self.answered())
        self.assertEqual(len(self.socket.take()), 100_000)
        for _ in range(3):
            self.socket.room = 0
            for _ in range(160):
                self.assertIsNone(self.answered())
            self.socket.room = 10**9
            self.assertIsNone(self.transport.doWrite())
            # The kernel has taken all: it starts anew.
            self.assertIsNone(self.answered())
        self.socket.room = 0
        reasons = [self.answered() for _ in range(170)]
        self.assertIn("answers", str(next(filter(None, reasons))))

    def test_answers_before_what_was_written(self) -> None:
        """An answer of OpenSSL is not encrypted with what waits for the end of the iteration, and comes before it."""
        for room in (0, 5, 10**9):
            self.begin(HalfCloseable())
            self.socket.room = room
            self.transport.write(b"first")
            self.reactor.iterating = True
            self.transport.write(b"second")
            # In place of a KeyUpdate, which has no content, a record that has some.
            self.transport.tls._tls.write(b" answer ")
            self.assertIsNone(self.arrive(self.client.encrypt(b"x")))
            self.reactor.end_iteration()
            self.socket.room = 10**9
            while self.reactor.writing:
                self.assertIsNone(self.transport.doWrite())
            self.assertEqual(self.received(), b"first answer second", room)

    def test_what_waits(self) -> None:
        """Bytes that the kernel has are seen without reading them."""
        self.assertTrue(settled(self.transport, True))
        self.socket.incoming = [self.client.encrypt(b"x")]
        self.assertTrue(unread(self.transport))
        self.assertFalse(settled(self.transport, True))
        self.socket.room = 0
        self.transport.write(b"x")
        self.assertFalse(settled(self.transport, False))

    def test_dropped(self) -> None:
        """What a lingering client sends is dropped without being decrypted, and its FIN is its end."""
        drop_input(self.transport)
        self.assertIs(self.arrive(b"anything", b""), None)
        self.socket.incoming = [b""]
        self.assertIs(self.transport.doRead(), CONNECTION_DONE)
        self.assertEqual(self.protocol.told, [b""])
        keep_input(self.transport)

    def test_written_after_the_end(self) -> None:
        """Nothing is written to a connection that was lost."""
        self.transport.connectionLost(Failure(ConnectionLost()))
        self.socket.take()
        self.transport.write(b"late")
        self.transport.flush()
        self.assertEqual(self.socket.take(), b"")


class Factory(ClientFactory):
    def __init__(self) -> None:
        self.made = HalfCloseable()
        self.built = 0
        self.failures: list[Any] = []

    def buildProtocol(self, addr: object) -> Any:
        self.built += 1
        return self.made

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self.failures.append(reason.value)


class OpenSocket(Socket):
    """A socket whose connection opens at once."""

    def getsockopt(self, *args: Any) -> int:
        return 0

    def connect_ex(self, address: object) -> int:
        return 0


class Transport(TlsClientTransport):
    def createInternetSocket(self) -> Any:
        return OpenSocket()


class Connector(TlsConnector):
    transport_class = Transport


class ClientTests(SynchronousTestCase):
    def open(self, name: str | None = "server.test", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.reactor = FakeReactor()
        self.factory = Factory()
        self.server = TlsLayer(server_side(version), True)
        self.connector = Connector("192.0.2.1", 443, self.factory, 5.0, self.reactor, client_side(), name, None)
        self.connector.connect()
        self.transport: Any = self.connector.transport
        self.socket = self.transport.socket
        self.reactor.advance(0)

    def answer(self) -> None:
        """The server's next step."""
        data = self.socket.take()
        if data and not self.server.established:
            self.server.handshake(data)
        if output := self.server.output():
            self.socket.incoming.append(output)
            self.transport.doRead()

    def test_open_after_the_handshake(self) -> None:
        """The protocol is made after the handshake, and not before."""
        for version in VERSIONS:
            self.open(version=version)
            self.assertEqual((self.factory.built, self.transport.connected), (0, 0))
            while not self.factory.built:
                self.answer()
            self.answer()
            self.transport.write(b"hello")
            self.assertEqual(self.server.decrypt(self.socket.take()), b"hello")
            self.socket.incoming.append(self.server.encrypt(b"answer"))
            self.transport.doRead()
            self.assertEqual(self.factory.made.told, [b"answer"])
            self.assertTrue(self.transport.silent())
            self.assertIsNotNone(self.transport.tls.session)

    def test_wrong_name(self) -> None:
        """A certificate that is not accepted is told apart, and the server gets an alert."""
        self.open("other.test")
        self.answer()
        self.assertEqual([type(one) for one in self.factory.failures], [CertificateNotVerified])
        self.assertEqual(self.factory.built, 0)
        self.assertRaises(HandshakeFailed, self.server.handshake, self.socket.take())

    def test_server_leaves(self) -> None:
        """An end, a reset or garbage during the handshake is a failed handshake."""
        for ending, words in ((b"", "ended"), (ConnectionResetError(104, "reset"), "reset"), (b"HTTP/1.1", "")):
            self.open()
            self.socket.incoming.append(ending)
            self.transport.doRead()
            self.assertEqual([type(one) for one in self.factory.failures], [HandshakeFailed])
            self.assertIn(words, str(self.factory.failures[0]))
            # Nothing of the handshake is left, and the transport does not refer to itself.
            self.assertFalse({"doRead", "doWrite", "_layer"} & set(vars(self.transport)))

    def test_timeout(self) -> None:
        """The time for a connection includes the handshake."""
        self.open()
        self.reactor.advance(4.9)
        self.assertEqual(self.factory.failures, [])
        self.reactor.advance(0.2)
        self.assertEqual([type(one).__name__ for one in self.factory.failures], ["TimeoutError"])

    def test_slow_kernel(self) -> None:
        """A first flight that the kernel takes in pieces goes out whole."""
        self.reactor = FakeReactor()
        self.open()
        first = self.socket.take()
        self.open()
        self.socket.take()
        self.transport._flight = first
        self.socket.room = 10
        self.transport.doWrite()
        self.assertTrue(self.reactor.writing)
        self.socket.room = 10**9
        self.transport.doWrite()
        self.assertEqual((self.socket.take(), self.reactor.writing), (first, False))

    def test_silent(self) -> None:
        """What concerns TLS only is read; data, an end or an error are not silence."""
        self.open()
        while not self.factory.built:
            self.answer()
        server, socket = self.server, self.socket
        data = socket.take()
        if not server.established:
            server.handshake(data)
        tickets = server.output()
        self.assertTrue(tickets)
        socket.incoming = [tickets]
        self.assertTrue(self.transport.silent())
        self.assertEqual(socket.incoming, [])
        socket.incoming = [server.encrypt(b"surprise")]
        self.assertFalse(self.transport.silent())
        socket.incoming = [server.close()]
        self.assertFalse(self.transport.silent())

    def test_bad_name(self) -> None:
        """A name that cannot be one is an error, and not an exception."""
        self.open("")
        self.assertEqual([type(one) for one in self.factory.failures], [HandshakeFailed])
        shake(TlsLayer(client_side(), False, "server.test"), TlsLayer(server_side(), True))
