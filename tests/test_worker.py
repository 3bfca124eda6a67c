"""The lifeline of a worker."""

from __future__ import annotations

import os

from twisted.internet.error import ConnectionDone, ConnectionLost, ReactorNotRunning
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.worker import Lifeline


class FakeReactor:
    def __init__(self) -> None:
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1
        if self.stops > 1:
            raise ReactorNotRunning


class LifelineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.ours, self.theirs = os.pipe()
        self.addCleanup(os.close, self.ours)
        self.lifeline = Lifeline(self.reactor, self.ours)

    def test_interface(self) -> None:
        """A reactor can read from it."""
        self.assertTrue(verifyObject(IReadDescriptor, self.lifeline))
        self.assertEqual(self.lifeline.fileno(), self.ours)
        os.close(self.theirs)

    def test_words_mean_nothing(self) -> None:
        """What still comes does not stop the worker."""
        os.write(self.theirs, b"x")
        os.close(self.theirs)
        self.assertIsNone(self.lifeline.doRead())
        self.assertEqual(self.reactor.stops, 0)

    def test_end(self) -> None:
        """At its end the reactor is told that the connection is done."""
        os.close(self.theirs)
        result = self.lifeline.doRead()
        assert result is not None
        self.assertIsInstance(result.value, ConnectionDone)

    def test_stops_once(self) -> None:
        """The worker stops when the lifeline is lost, and losing it while the worker stops is no error."""
        os.close(self.theirs)
        self.lifeline.connectionLost(Failure(ConnectionDone()))
        self.lifeline.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.reactor.stops, 2)
