"""The fakes implement their interfaces, and the transport behaves like Twisted's."""

from __future__ import annotations

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.proxy.reading import read_responses
from tests.proxy.scripted import DoorCall, OrderedServices, ScriptedBuckets, ScriptedDoor
from tests.proxy.transports import BUFFER_BYTES, FakeTransport
from tests.proxy.world import CLIENT, World, request, response
from twisted_lb.interfaces import IBalancer, IBucketStore, IDoor, IServing


@implementer(IPushProducer)
class Recorder(Protocol):
    """Notes what the transport tells it, as a protocol and as a producer."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def dataReceived(self, data: bytes) -> None:
        self.told.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.told.append(reason.type)

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Recorder):
    def readConnectionLost(self) -> None:
        self.told.append("no more to read")

    def writeConnectionLost(self) -> None:
        self.told.append("no more to write")


class FakesTests(SynchronousTestCase):
    def test_interfaces(self) -> None:
        """Every fake has the methods of the interface that the proxy knows it by."""
        verifyObject(IBucketStore, ScriptedBuckets())
        verifyObject(IDoor, ScriptedDoor())
        verifyObject(IBalancer, OrderedServices())
        verifyObject(IServing, DoorCall(b"", b"", CLIENT, None))  # type: ignore[arg-type]
        transport = FakeTransport(Clock(), CLIENT)
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            verifyObject(interface, transport)

    def test_reads_what_it_wrote(self) -> None:
        """The reader finds every response in a stream, and nothing else in it."""
        stream = response(b"one", b"A: 1") + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        one, two = read_responses(stream + b"2\r\nab\r\n1\r\nc\r\n0\r\nT: 1\r\n\r\n")
        self.assertEqual((one.status, one.body, one.field("a")), (200, b"one", "1"))
        self.assertEqual((two.body, two.trailers), (b"abc", [b"T: 1"]))
        self.assertRaises(AssertionError, read_responses, stream)
        self.assertRaises(AssertionError, read_responses, response(b"one")[:-1])

    def test_one_exchange(self) -> None:
        """A request and its response cross the world."""
        world = World()
        client, upstream = world.asked(request("GET", "/a"))
        upstream.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")


class FakeTransportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = FakeTransport(self.clock, CLIENT)
        self.protocol = Recorder()
        self.transport.connect(self.protocol)

    def told(self) -> list[object]:
        told, self.protocol.told = self.protocol.told, []
        return told

    def test_pausing(self) -> None:
        """Nothing is read while reading is paused, not even the end; all of it in the turn after."""
        self.transport.pauseProducing()
        self.transport.deliver(b"abc")
        self.transport.finish()
        self.assertEqual(self.told(), [])
        self.assertFalse(self.transport.silent())
        self.transport.resumeProducing()
        self.assertEqual(self.told(), [])
        self.clock.advance(0)
        self.assertEqual(self.told(), [b"abc", ConnectionDone])

    def test_producer(self) -> None:
        """A producer is paused by more than a buffer that the peer does not take, and resumed when it is taken."""
        self.transport.registerProducer(self.protocol, True)
        self.transport.stop_taking()
        self.transport.write(b"x" * BUFFER_BYTES)
        self.assertEqual(self.told(), [])
        self.transport.write(b"y")
        self.assertEqual((self.told(), self.transport.writes), (["pause"], []))
        self.transport.take()
        self.assertEqual(self.told(), ["resume"])
        self.assertEqual(self.transport.writes, [b"x" * BUFFER_BYTES + b"y"])

    def test_lose_connection(self) -> None:
        """An orderly end waits for the buffer, reads nothing more, and comes in a later turn."""
        self.transport.stop_taking()
        self.transport.write(b"abc")
        self.transport.loseConnection()
        self.transport.deliver(b"late")
        self.clock.advance(0)
        self.assertEqual(self.told(), [])
        self.transport.take()
        self.assertEqual((self.told(), self.transport.writes), ([ConnectionDone], [b"abc"]))

    def test_abort(self) -> None:
        """An abort loses the buffer, and the protocol hears of it in a later turn."""
        self.transport.stop_taking()
        self.transport.write(b"abc")
        self.transport.abortConnection()
        self.assertEqual(self.told(), [])
        self.clock.advance(0)
        self.transport.take()
        self.assertEqual((self.told(), self.transport.writes), ([ConnectionAborted], []))

    def test_half_close(self) -> None:
        """Either direction can end alone, for a protocol that can bear it."""
        self.protocol = protocol = HalfCloseable()
        self.transport.connect(protocol)
        self.transport.finish()
        self.transport.write(b"abc")
        self.transport.loseWriteConnection()
        self.clock.advance(0)
        self.transport.write(b"def")
        self.assertEqual(self.told(), ["no more to read", "no more to write"])
        self.assertEqual(self.transport.writes, [b"abc"])
        self.assertTrue(self.transport.connected)

    def test_reset(self) -> None:
        """A reset is heard at once, and stops the producer."""
        self.transport.registerProducer(self.protocol, True)
        self.transport.reset()
        self.assertEqual(self.told(), ["stop", ConnectionLost])
        self.assertFalse(self.transport.silent())
