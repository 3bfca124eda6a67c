"""Transports that write with one system call, over a socket that the test scripts."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.proxy.test_world import HalfCloseable, Recorder
from twisted_lb.network import transport as transport_module
from twisted_lb.network.transport import ClientTransport, ServerTransport, io_of
from twisted_lb.network.transport_io import MAX_UNSENT_BYTES, READ_BYTES


class FakeSocket:
    """Takes `room` bytes, and raises what the test says."""

    def __init__(self) -> None:
        self.room = 10**9
        self.sent: list[bytes] = []
        self.incoming: list[bytes | OSError] = []
        self.error: OSError | None = None
        self.calls: list[str] = []

    def send(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        if not self.room:
            raise BlockingIOError(11, "full")
        taken = bytes(data[: self.room])
        self.room -= len(taken)
        self.sent.append(taken)
        return len(taken)

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self.incoming:
            raise BlockingIOError(11, "nothing there")
        first = self.incoming[0] if flags else self.incoming.pop(0)
        if isinstance(first, OSError):
            raise first
        return first[:size]

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def fileno(self) -> int:
        return 7

    def shutdown(self, how: int) -> None:
        self.calls.append("shutdown")

    def setsockopt(self, *args: Any) -> None:
        self.calls.append("setsockopt")

    def close(self) -> None:
        self.calls.append("close")


class FakeReactor:
    """What a transport sees of its reactor."""

    def __init__(self) -> None:
        clock = Clock()
        self.advance: Callable[[float], None] = clock.advance
        self.callLater = clock.callLater
        self.iterating = False
        self.unsent: list[Any] = []
        self.reading = self.writing = False

    def addReader(self, descriptor: object) -> None:
        self.reading = True

    def addWriter(self, descriptor: object) -> None:
        self.writing = True

    def removeReader(self, descriptor: object) -> None:
        self.reading = False

    def removeWriter(self, descriptor: object) -> None:
        self.writing = False

    def pause_reader(self, descriptor: object) -> None:
        self.reading = False

    def flush_later(self, transport: Any) -> None:
        """At the end of the iteration; between iterations these tests do not wait for the reactor."""
        self.unsent.append(transport)
        if not self.iterating:
            self.end_iteration()

    def end_iteration(self) -> None:
        """Do what ends an iteration."""
        self.iterating = False
        unsent, self.unsent = self.unsent, []
        for transport in unsent:
            transport.flush()


@implementer(IPushProducer)
class Recording:
    """A producer that knows whether it is paused."""

    paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        """Not used here."""


class TransportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.socket = FakeSocket()
        self.reactor = FakeReactor()
        self.protocol = Recorder()
        self.transport = self.connected(self.protocol)

    def connected(self, protocol: Protocol) -> ServerTransport:
        transport = ServerTransport(
            self.socket,  # type: ignore[arg-type]
            protocol,
            ("192.0.2.7", 50_000),
            None,  # type: ignore[arg-type]
            0,
            self.reactor,  # type: ignore[arg-type]
        )
        protocol.makeConnection(transport)
        return transport

    def test_small(self) -> None:
        """A connection keeps neither texts for the log nor a bound method, and says the same when it is asked."""
        kept = vars(self.transport)
        self.assertFalse({"fileno", "logstr", "repstr", "hostname", "sessionno"} & set(kept))
        self.assertEqual(self.transport.fileno(), 7)
        self.assertEqual(self.transport.logPrefix(), "Recorder,192.0.2.7")
        self.assertEqual(repr(self.transport), "<ServerTransport of Recorder from 192.0.2.7>")
        self.assertEqual(self.transport.getPeer(), IPv4Address("TCP", "192.0.2.7", 50_000))
        self.transport.connectionLost(Failure(CONNECTION_DONE))
        self.assertEqual(self.transport.fileno(), -1)
        self.assertEqual(repr(self.transport), "<ServerTransport of NoneType from 192.0.2.7>")

    def test_one_call(self) -> None:
        """What is written is sent with one call to the kernel, and nothing waits for a writable event."""
        self.transport.write(b"hello")
        self.assertEqual((self.socket.sent, self.reactor.writing), ([b"hello"], False))

    def test_end_of_iteration(self) -> None:
        """Within an iteration, all that is written goes out in one call at its end, in order."""
        self.reactor.iterating = True
        for data in (b"one ", b"two ", b"three"):
            self.transport.write(data)
        self.assertEqual(self.socket.sent, [])
        self.reactor.end_iteration()
        self.assertEqual(self.socket.sent, [b"one two three"])
        self.transport.flush()
        self.assertEqual(len(self.socket.sent), 1)

    def test_much_in_one_iteration(self) -> None:
        """Much that is written in one iteration is sent before its end, and back-pressure is felt at once."""
        self.socket.room = MAX_UNSENT_BYTES
        self.reactor.iterating = True
        producer = Recording()
        self.transport.registerProducer(producer, True)
        data = b"x" * 1000
        for _ in range(2 * MAX_UNSENT_BYTES // 1000):
            self.transport.write(data)
        self.assertEqual(len(b"".join(self.socket.sent)), MAX_UNSENT_BYTES)
        self.assertTrue(producer.paused)
        self.reactor.end_iteration()
        self.socket.room = 10**9
        while self.reactor.writing:
            self.transport.doWrite()
        self.assertEqual(b"".join(self.socket.sent), data * (2 * MAX_UNSENT_BYTES // 1000))

    def test_sequence(self) -> None:
        """A sequence keeps its place among what is written."""
        self.reactor.iterating = True
        self.transport.write(b"one ")
        self.transport.writeSequence([b"two ", b"three "])
        self.transport.write(b"four")
        self.reactor.end_iteration()
        self.transport.doWrite()
        self.assertEqual(b"".join(self.socket.sent), b"one two three four")

    def test_part_is_taken(self) -> None:
        """What the kernel does not take waits for it, and goes out in order with what is written meanwhile."""
        for iterating in (False, True):
            self.socket.sent = []
            self.socket.room = 3
            self.reactor.iterating = iterating
            self.transport.write(b"hello")
            self.reactor.end_iteration()
            self.assertEqual((self.socket.sent, self.reactor.writing), ([b"hel"], True))
            self.transport.write(b" world")
            self.socket.room = 10**9
            self.reactor.iterating = iterating
            self.transport.write(b"!")
            self.reactor.end_iteration()
            self.assertEqual(self.socket.sent, [b"hel"])
            self.assertIsNone(self.transport.doWrite())
            self.assertEqual((b"".join(self.socket.sent), self.reactor.writing), (b"hello world!", False))

    def test_full(self) -> None:
        """When the kernel takes nothing, all waits for it."""
        self.socket.room = 0
        self.transport.write(b"hello")
        self.assertEqual((self.socket.sent, self.reactor.writing), ([], True))
        self.assertIsNone(self.transport.doWrite())
        self.socket.room = 100
        self.transport.write(b" world")
        self.assertEqual(self.socket.sent, [])
        self.transport.doWrite()
        self.transport.doWrite()
        self.assertEqual(b"".join(self.socket.sent), b"hello world")
        self.transport.write(b"again")
        self.assertEqual(self.socket.sent[-1], b"again")

    def test_back_pressure(self) -> None:
        """The producer is paused when more than a buffer waits, and resumed when nothing does."""
        self.transport.registerProducer(self.protocol, True)
        self.socket.room = 10
        self.transport.write(b"x" * 65_546)
        self.assertEqual(self.protocol.told, [])
        self.transport.write(b"x")
        self.assertEqual(self.protocol.told, ["pause"])
        self.socket.room = 10**9
        self.transport.doWrite()
        self.assertEqual(self.protocol.told, ["pause", "resume"])

    def test_error(self) -> None:
        """A broken socket raises nothing at the writer; the reactor meets the error and ends the connection."""
        for iterating in (False, True):
            self.socket.error = BrokenPipeError(32, "gone")
            self.reactor.iterating = iterating
            self.transport.write(b"hello")
            self.reactor.end_iteration()
            self.assertTrue(self.reactor.writing)
            self.assertEqual(self.protocol.told, [])
            self.assertIs(self.transport.doWrite(), CONNECTION_LOST)

    def test_orderly_end(self) -> None:
        """What was written before loseConnection is sent, also within an iteration, also when it has to wait."""
        self.reactor.iterating = True
        self.socket.room = 3
        self.transport.write(b"hello")
        self.transport.loseConnection()
        self.assertIsNone(self.transport.doWrite())
        self.socket.room = 100
        self.assertIs(self.transport.doWrite(), CONNECTION_DONE)
        self.assertEqual(b"".join(self.socket.sent), b"hello")
        self.reactor.end_iteration()
        self.assertEqual(b"".join(self.socket.sent), b"hello")

    def test_half_close(self) -> None:
        """What was written before loseWriteConnection is sent before the end of this direction; later bytes are not."""
        self.protocol = protocol = HalfCloseable()
        transport = self.connected(protocol)
        self.reactor.iterating = True
        transport.write(b"hello")
        transport.loseWriteConnection()
        transport.doWrite()
        self.assertEqual((self.socket.calls, protocol.told), (["shutdown"], ["no more to write"]))
        transport.write(b"late")
        self.reactor.end_iteration()
        self.assertEqual(b"".join(self.socket.sent), b"hello")

    def test_ended_in_the_iteration(self) -> None:
        """What was written in an iteration in which the connection is lost is dropped without a word."""
        self.reactor.iterating = True
        self.transport.write(b"hello")
        self.transport.connectionLost(Failure(ConnectionLost()))
        self.transport.write(b"more")
        self.reactor.end_iteration()
        self.assertEqual((self.socket.sent, self.protocol.told), ([], [ConnectionLost]))

    def test_not_direct_after_the_end(self) -> None:
        """Once our direction ends, each write asks the transport, also when nothing waits any more."""
        self.transport.write(b"hello")
        self.assertTrue(self.transport.io.direct)
        self.transport.loseWriteConnection()
        self.transport.write(b"late")
        while self.reactor.writing:
            self.transport.doWrite()
        self.transport.write(b"later")
        self.assertFalse(self.transport.io.direct)

    def test_reads_directly(self) -> None:
        """A reactor calls the object that reads, until the connection is aborted, or something else reads."""
        io = io_of(self.transport)
        self.assertIs(io, self.transport.io)
        self.assertEqual(self.transport.doRead, io.read)
        self.socket.incoming = [b"hello"]
        self.assertIsNone(self.transport.doRead())
        self.assertEqual(self.protocol.told, [b"hello"])
        self.transport.abortConnection()
        io_of(self.transport)
        self.socket.incoming = [b"more"]
        self.transport.doRead()
        self.assertEqual(self.protocol.told, [b"hello"])

    def test_freed(self) -> None:
        """A connection that has ended is freed at once: nothing of it waits for the garbage collector."""
        gc.disable()
        self.addCleanup(gc.enable)
        transport = self.connected(Recorder())
        transport.write(b"hello")
        left = weakref.ref(transport)
        transport.connectionLost(Failure(ConnectionLost()))
        io = transport.io
        del transport
        self.assertIsNone(left())
        io.write(b"late")
        io.flush()
        self.assertEqual(self.socket.sent, [b"hello"])

    def test_abort(self) -> None:
        """An abort ends the connection with a reset, in a later iteration."""
        self.transport.abortConnection()
        self.assertEqual(self.protocol.told, [])
        self.reactor.advance(0)
        self.assertEqual((self.protocol.told, self.socket.calls), ([ConnectionAborted], ["setsockopt", "close"]))

    def test_abort_in_the_iteration(self) -> None:
        """What was written in the iteration of an abort is never sent, before it or after."""
        self.reactor.iterating = True
        self.transport.write(b"hello")
        self.transport.abortConnection()
        self.transport.write(b"more")
        self.reactor.end_iteration()
        self.assertEqual((self.socket.sent, self.reactor.writing), ([], False))

    def test_reading(self) -> None:
        """What is read goes to the protocol; nothing there is nothing; an end and an error are told apart."""
        self.socket.incoming = [b"hello"]
        self.assertIsNone(self.transport.doRead())
        self.assertIsNone(self.transport.doRead())
        self.assertEqual(self.protocol.told, [b"hello"])
        self.socket.incoming = [b""]
        self.assertIs(self.transport.doRead(), CONNECTION_DONE)
        self.socket.incoming = [ConnectionResetError(104, "reset")]
        self.assertIs(self.transport.doRead(), CONNECTION_LOST)
        self.assertIsInstance(CONNECTION_DONE, ConnectionDone)

    def test_large_reads(self) -> None:
        """From a server, reads grow while they are full, up to a bound, for so many connections at a time."""
        self.patch(transport_module, "_large_readers", set())
        self.patch(transport_module, "MAX_LARGE_READERS", 1)
        self.patch(ServerTransport, "max_read_bytes", ClientTransport.max_read_bytes)
        sizes = []
        transports: list[Any] = []
        for _ in range(2):
            self.socket = FakeSocket()
            self.socket.incoming = [b"x" * 2**20] * 6
            transports.append(self.connected(Recorder()))
            for _ in range(6):
                sizes.append(transports[-1].bufferSize)
                transports[-1].doRead()
        first, second = transports
        kib = [size // 1024 for size in sizes]
        self.assertEqual(kib, [64, 128, 256, 512, 512, 512] + [64] * 6)
        first.socket.incoming = [b"the end"]
        first.doRead()
        second.socket.incoming = [b"x" * 2**20]
        second.doRead()
        self.assertEqual((first.bufferSize, second.bufferSize), (READ_BYTES, 2 * READ_BYTES))
        second.connectionLost(Failure(CONNECTION_DONE))
        self.assertEqual(transport_module._large_readers, set())

    def test_reads_from_clients(self) -> None:
        """From a client a read takes no more, however full the reads before were."""
        self.socket.incoming = [b"x" * 2**20] * 3
        for _ in range(3):
            self.transport.doRead()
        self.assertEqual([len(data) for data in self.protocol.told], [READ_BYTES] * 3)

    def test_pause_and_resume(self) -> None:
        """A transport is read until it is paused, and from when it is resumed, unless it is closing."""
        self.assertTrue(self.reactor.reading)
        self.transport.pauseProducing()
        self.assertFalse(self.reactor.reading)
        self.transport.resumeProducing()
        self.assertTrue(self.reactor.reading)
        self.transport.loseConnection()
        self.transport.resumeProducing()
        self.assertFalse(self.reactor.reading)

    def test_readable(self) -> None:
        """Bytes that wait to be read are seen, and still there; the end, an error and nothing are not bytes."""
        transport = self.transport
        self.assertFalse(transport.readable())
        for incoming in (b"", ConnectionResetError(104, "reset")):
            self.socket.incoming = [incoming]
            self.assertFalse(transport.readable())
        self.socket.incoming = [b"data"]
        self.assertTrue(transport.readable())
        self.assertEqual(self.socket.incoming, [b"data"])

    def test_delivered(self) -> None:
        """What was written is delivered when the kernel has it, not while it waits for an iteration's end or room."""
        transport = self.transport
        self.assertTrue(transport.delivered())
        self.reactor.iterating = True
        transport.write(b"data")
        self.assertFalse(transport.delivered())
        self.socket.room = 2
        self.reactor.end_iteration()
        self.assertFalse(transport.delivered())
        self.socket.room = 100
        transport.doWrite()
        self.assertTrue(transport.delivered())

    def test_close_now(self) -> None:
        """The connection is over before the call returns, after what was written in the iteration has been sent."""
        transport = self.transport
        self.reactor.iterating = True
        transport.write(b"last words")
        transport.close_now()
        self.reactor.end_iteration()
        self.assertEqual((self.socket.sent, self.socket.calls[-2:]), ([b"last words"], ["shutdown", "close"]))
        self.assertTrue(transport.disconnected and not self.reactor.reading and not self.reactor.writing)

    def test_close_now_with_a_full_kernel(self) -> None:
        """What the kernel does not take goes out before the connection ends."""
        transport = self.transport
        self.socket.room = 4
        transport.write(b"last words")
        transport.close_now()
        self.assertFalse(transport.disconnected)
        self.socket.room = 100
        self.assertIs(transport.doWrite(), CONNECTION_DONE)
        self.assertEqual(b"".join(self.socket.sent), b"last words")

    def test_close_now_after_an_abort(self) -> None:
        """An abort stays an abort, and ends once."""
        transport = self.transport
        transport.abortConnection()
        transport.close_now()
        self.assertEqual(self.socket.calls[-2:], ["setsockopt", "close"])
        self.reactor.advance(1)
        self.assertEqual(self.socket.calls.count("close"), 1)


class SilentTests(SynchronousTestCase):
    def test_silent(self) -> None:
        """A server is silent as long as neither bytes, an end nor an error wait; looking takes nothing away."""
        transport = ClientTransport.__new__(ClientTransport)
        transport.socket = sock = FakeSocket()  # type: ignore[assignment]
        self.assertTrue(transport.silent())
        for waiting in (b"x", b"", ConnectionResetError(104, "reset")):
            sock.incoming = [waiting]
            self.assertFalse(transport.silent())
            self.assertEqual(len(sock.incoming), 1)

    def test_sent(self) -> None:
        """What was written counts as sent when the kernel has taken it: at the iteration's end, and only so much."""
        reactor = FakeReactor()
        transport = ClientTransport.__new__(ClientTransport)
        transport.__dict__.update(connected=1, reactor=reactor, socket=FakeSocket(), _tempDataLen=0)
        reactor.iterating = True
        transport.write(b"hello")
        self.assertEqual(transport.sent, 0)
        reactor.end_iteration()
        self.assertEqual(transport.sent, 5)
