"""A worker's connection to its parent."""

from __future__ import annotations

import json
import os
import select
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone, ReactorNotRunning
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.api.status import Report
from twisted_lb.app.workers.child import answer, first_line
from twisted_lb.app.workers.pipe import ParentPipe
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.usage import WindowCounts


class FakeReactor:
    """Polls readers and writers when it is told."""

    def __init__(self) -> None:
        self.stops = 0
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard

    def stop(self) -> None:
        self.stops += 1
        if self.stops > 1:
            raise ReactorNotRunning

    def turn(self) -> None:
        """All events that are there."""
        for writer in list(self.writers):
            writer.doWrite()
        while ready := select.select(self.readers, [], [], 0)[0]:
            why = ready[0].doRead()
            if why is not None:
                self.readers.discard(ready[0])
                ready[0].connectionLost(Failure(why))


class ParentPipeTests(SynchronousTestCase):
    """A worker's connection to its parent, over two pipes."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        stdin, self.theirs = os.pipe()
        self.answers, stdout = os.pipe()
        self.addCleanup(os.close, self.answers)
        self.lines: list[bytes] = []
        self.pipe = ParentPipe(self.reactor, self.lines.append)
        connect: Any = StandardIO
        self.connection = connect(self.pipe, stdin, stdout, self.reactor)
        self.addCleanup(self.connection.connectionLost, Failure(ConnectionDone()))

    def test_interface(self) -> None:
        """StandardIO tells it of each end by itself."""
        self.assertTrue(verifyObject(IHalfCloseableProtocol, self.pipe))
        os.close(self.theirs)

    def test_lines(self) -> None:
        """Each line is handed on when it is whole, however long it is, and begins with what was read before."""
        self.pipe.dataReceived(b"begun ")
        long = b"x" * 50_000
        for data, expected in ((b"be", []), (b"fore\na\n" + long, [b"begun before", b"a"]), (b"\n", [long])):
            self.lines.clear()
            os.write(self.theirs, data)
            self.reactor.turn()
            self.assertEqual(self.lines, expected)
        os.close(self.theirs)
        self.assertEqual(self.reactor.stops, 0)

    def test_end(self) -> None:
        """When the parent closes its end the worker stops; what it has been asked is still answered."""
        os.close(self.theirs)
        self.reactor.turn()
        self.assertEqual(self.reactor.stops, 1)
        self.pipe.transport.write(b"answer\n")
        self.reactor.turn()
        self.assertEqual(os.read(self.answers, 100), b"answer\n")

    def test_stops_once(self) -> None:
        """That the parent closes its end while the worker stops is no error."""
        self.reactor.stop()
        os.close(self.theirs)
        self.reactor.turn()
        self.assertEqual(self.reactor.stops, 2)

    def test_does_not_wait(self) -> None:
        """What the pipe does not take at once goes out when it does, all of it and in order."""
        sent = bytes(range(256)) * 2000
        self.pipe.transport.write(sent)
        received = b""
        while self.reactor.writers:
            self.reactor.turn()
            received += os.read(self.answers, 1_000_000)
        self.assertEqual(received, sent)
        os.close(self.theirs)


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
        self.asked: list[str] = []
        self.said: list[bytes] = []

    def report(self) -> Report:
        return Report(True, False, "serving", [{"name": "a"}], {"takes": 1.0})

    @property
    def users(self) -> Any:
        return self

    @property
    def usage(self) -> Any:
        return self

    def counts_of(self, subjects: list[str]) -> Any:
        self.asked += subjects
        return self.page

    def flush(self) -> Any:
        return self.page

    def user(self, name: str) -> Any:
        self.asked.append(name)
        return self.page

    def ask(self, what: str, number: int, **more: object) -> None:
        answer(self, {"ask": what, "number": number, **more}, self.said.append)

    def answers(self) -> list[Any]:
        self.assertTrue(all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in self.said))
        return [json.loads(line) for line in self.said]

    def test_order(self) -> None:
        """Each answer is a line with the number of its question, as soon as it is known."""
        self.ask("users", 1, call="user", arguments=["a\nb"])
        self.ask("report", 2)
        self.page.callback(None)
        self.assertEqual(self.asked, ["a\nb"])
        first, second = self.answers()
        self.assertEqual(Report(**first["answer"]), self.report())
        self.assertEqual((first["number"], second), (2, {"number": 1, "answer": {"result": None}}))

    def test_usage(self) -> None:
        """What was counted is told to the store, and then the store is asked."""
        self.ask("flush", 1)
        self.assertEqual(self.answers(), [])
        self.page.callback(None)
        self.page = succeed([WindowCounts({"a": 1}, {"a": 2})])
        self.ask("usage", 2, subjects=["key:x"])
        expected = [{"number": 1, "answer": True}, {"number": 2, "answer": [[{"a": 1}, {"a": 2}]]}]
        self.assertEqual((self.answers(), self.asked), (expected, ["key:x"]))

    def test_usage_without_the_store(self) -> None:
        """Without the store there is no answer, and nothing is logged of it here."""
        self.page = fail(StoreUnavailable("Redis at h is away"))
        self.ask("usage", 1, subjects=["key:x"])
        self.assertEqual(self.answers(), [{"number": 1, "answer": None}])

    def test_store_away(self) -> None:
        """Without the store the parent is told, and nothing is logged of it here."""
        self.page = fail(StoreUnavailable("Redis at h is away"))
        self.ask("users", 1, call="user", arguments=[""])
        away = {"error": "StoreUnavailable", "text": "Redis at h is away"}
        self.assertEqual(self.answers(), [{"number": 1, "answer": away}])

    def test_failure(self) -> None:
        """A failure that nobody expected is logged, and the parent is answered all the same."""
        self.page = fail(ZeroDivisionError())
        self.ask("users", 1, call="user", arguments=[""])
        self.assertEqual(self.answers(), [{"number": 1, "answer": None}])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
