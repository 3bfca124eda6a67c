"""The lifeline of a worker."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost, ReactorNotRunning
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.api.report import Report
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.worker import Lifeline, Reports, answer, first_line


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
        self.told: list[bytes] = []
        self.lifeline = Lifeline(self.reactor, self.told.append, b"begun ", self.ours)

    def test_interface(self) -> None:
        """A reactor can read from it."""
        self.assertTrue(verifyObject(IReadDescriptor, self.lifeline))
        self.assertEqual(self.lifeline.fileno(), self.ours)
        os.close(self.theirs)

    def test_lines(self) -> None:
        """Each line is handed on when it is whole, and begins with what was read before."""
        for data, expected in ((b"be", []), (b"fore\na\nb", [b"begun before", b"a"]), (b"\n", [b"b"])):
            self.told.clear()
            os.write(self.theirs, data)
            self.assertIsNone(self.lifeline.doRead())
            self.assertEqual(self.told, expected)
        os.close(self.theirs)
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


class FirstLineTests(SynchronousTestCase):
    def test_first_line(self) -> None:
        """The first line comes whole, and what follows it already is not lost; without a line there is nothing."""
        for data, expected in ((b"one\ntwo\nth", (b"one", b"two\nth")), (b"no end", (b"", b"")), (b"", (b"", b""))):
            ours, theirs = os.pipe()
            os.write(theirs, data)
            os.close(theirs)
            self.assertEqual(first_line(ours), expected)
            os.close(ours)


class AnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.page: Deferred[Any] = Deferred()
        self.asked: list[tuple[str, int]] = []
        self.said: list[bytes] = []

    def report(self) -> Report:
        return Report(True, False, "serving", [{"name": "a"}], {"takes": 1.0})

    def users(self, after: str, count: int) -> Any:
        self.asked.append((after, count))
        return self.page

    def ask(self, what: str, number: int, **more: object) -> None:
        answer(self, {"ask": what, "number": number, **more}, self.said.append)

    def answers(self) -> list[Any]:
        self.assertTrue(all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in self.said))
        return [json.loads(line) for line in self.said]

    def test_order(self) -> None:
        """Each answer is a line with the number of its question, as soon as it is known."""
        self.ask("users", 1, after="a\nb", count=7)
        self.ask("report", 2)
        self.page.callback({"users": [], "next": None})
        self.assertEqual(self.asked, [("a\nb", 7)])
        first, second = self.answers()
        self.assertEqual(Report(**first["answer"]), self.report())
        self.assertEqual((first["number"], second), (2, {"number": 1, "answer": {"users": [], "next": None}}))

    def test_store_away(self) -> None:
        """Without the store there is no page, and nothing is logged of it here."""
        self.page = fail(StoreUnavailable("Redis at h is away"))
        self.ask("users", 1, after="", count=1)
        self.assertEqual(self.answers(), [{"number": 1, "answer": None}])

    def test_failure(self) -> None:
        """A failure that nobody expected is logged, and the parent is answered all the same."""
        self.page = fail(ZeroDivisionError())
        self.ask("users", 1, after="", count=1)
        self.assertEqual(self.answers(), [{"number": 1, "answer": None}])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class ReportsTests(SynchronousTestCase):
    def test_does_not_wait(self) -> None:
        """What the pipe does not take at once goes out when it does, all of it and in order."""
        ours, theirs = os.pipe()
        self.addCleanup(os.close, ours)
        self.addCleanup(os.close, theirs)
        writers: set[object] = set()
        reactor: Any = SimpleNamespace(addWriter=writers.add, removeWriter=writers.discard)
        reports = Reports(reactor, theirs)
        sent = bytes(range(256)) * 2000
        reports.write(sent)
        received = b""
        while writers:
            reports.doWrite()
            received += os.read(ours, 1_000_000)
        self.assertEqual(received, sent)
