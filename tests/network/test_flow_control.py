"""Taps and throttles, one by one."""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.proxy.transports import FakeTransport
from tests.proxy.world import CLIENT
from twisted_lb.network.flow_control import BACKLOG, NOT_NOW, PEER_FULL, Tap, Throttle


class Owner:
    def __init__(self) -> None:
        self.told: list[bool] = []

    def pressure_changed(self, full: bool) -> None:
        self.told.append(full)


class TapTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.transport = FakeTransport(Clock(), CLIENT)
        self.tap = Tap(self.transport)

    def test_several_reasons(self) -> None:
        """Reading goes on when the last reason is released, in whatever order, and not before."""
        for order in ((PEER_FULL, NOT_NOW, BACKLOG), (BACKLOG, PEER_FULL, NOT_NOW)):
            for reason in (PEER_FULL, NOT_NOW, BACKLOG):
                self.tap.hold(reason)
                self.assertFalse(self.transport.reading)
            for reason in order:
                self.assertTrue(self.tap.held)
                self.assertFalse(self.transport.reading)
                self.tap.release(reason)
            self.assertTrue(self.transport.reading)
            self.assertFalse(self.tap.held)

    def test_same_reason_twice(self) -> None:
        """A reason that holds twice is released at once."""
        self.tap.hold(PEER_FULL)
        self.tap.hold(PEER_FULL)
        self.tap.release(PEER_FULL)
        self.assertTrue(self.transport.reading)

    def test_two_reasons_at_once(self) -> None:
        """Reasons can be released together, and one that does not hold is no reason."""
        self.tap.hold(BACKLOG)
        self.tap.release(BACKLOG | NOT_NOW)
        self.assertTrue(self.transport.reading)

    def test_release_of_what_does_not_hold(self) -> None:
        """A release without its hold changes nothing."""
        self.tap.hold(BACKLOG)
        self.tap.release(PEER_FULL)
        self.assertFalse(self.transport.reading)

    def test_closing(self) -> None:
        """A connection that is closing is not read again."""
        self.tap.hold(BACKLOG)
        self.transport.loseConnection()
        self.tap.release(BACKLOG)
        self.assertFalse(self.transport.reading)


class ThrottleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.owner = Owner()
        self.throttle = Throttle(self.owner)
        self.transports = [FakeTransport(Clock(), CLIENT) for _ in range(2)]
        self.one, self.two = map(Tap, self.transports)

    def test_interface(self) -> None:
        """A throttle is the producer that transports know."""
        verifyObject(IPushProducer, self.throttle)

    def test_pressure(self) -> None:
        """A full transport holds its source, and its owner hears of it; so when there is room again."""
        self.throttle.connect(self.one)
        self.throttle.pauseProducing()
        self.assertEqual((self.transports[0].reading, self.owner.told), (False, [True]))
        self.throttle.resumeProducing()
        self.assertEqual((self.transports[0].reading, self.owner.told), (True, [True, False]))

    def test_without_source(self) -> None:
        """Without a source, only the owner hears of it."""
        self.throttle.pauseProducing()
        self.throttle.resumeProducing()
        self.throttle.disconnect()
        self.assertEqual(self.owner.told, [True, False])

    def test_full_when_connected(self) -> None:
        """A source that is connected to a full transport is held at once, and the one before it is released."""
        self.throttle.connect(self.one)
        self.throttle.pauseProducing()
        self.throttle.disconnect()
        self.throttle.connect(self.two)
        self.assertEqual([transport.reading for transport in self.transports], [True, False])
        self.throttle.stopProducing()
        self.throttle.disconnect()
        self.assertEqual([transport.reading for transport in self.transports], [True, True])
