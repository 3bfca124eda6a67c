"""The audit log: a line for each entry, and none that is dropped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from tests.access_log.test_log import FakeDestination
from twisted_lb.access_log.writer import Writer
from twisted_lb.app.audit_log import AuditLog
from twisted_lb.app.services import CannotStart


class AuditLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.events: list[Any] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def lines(self) -> list[str]:
        return [event["log_format"].format(**event) for event in self.events if event.get("log_format")]

    def log_to(self, place: str) -> AuditLog:
        return AuditLog(self.clock, place, lambda: 1e9)

    def test_program_log(self) -> None:
        """Without a place of its own an entry is an event of the program's log, with its members in a field."""
        log = self.log_to("")
        log.startService()
        log.record({"event": "admin_change", "pool": "ä\n"})
        [event] = [event for event in self.events if "audit" in event]
        self.assertEqual(event["audit"], {"time": "2001-09-09T01:46:40.000Z", "event": "admin_change", "pool": "ä\n"})
        self.assertEqual(len(self.lines()[0].splitlines()), 1)
        self.assertEqual((log.problem, log.stopService()), ("", None))

    def test_file(self) -> None:
        """Entries are lines of JSON in a file, in their order."""
        path = Path(self.mktemp())
        log = self.log_to(str(path))
        log.startService()
        for number in range(3):
            log.record({"number": number})
        stopped = log.stopService()
        log._writer._thread.join(30)  # type: ignore[union-attr]
        self.clock.advance(1)
        assert stopped is not None
        self.successResultOf(stopped)
        written = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual([one["number"] for one in written], [0, 1, 2])
        self.assertEqual(self.lines(), [])

    def test_cannot_be_opened(self) -> None:
        """A place that cannot be opened ends the start."""
        error = self.assertRaises(CannotStart, self.log_to("/nonexistent/x").startService)
        self.assertIn("AUDIT_LOG: '/nonexistent/x': it cannot be opened: No such file", str(error))

    def writer(self, log: AuditLog, destination: FakeDestination, most: int = 1 << 20) -> Writer:
        writer = Writer(destination, self.clock.seconds, most)
        self.patch(log, "_writer", writer)
        return writer

    def test_not_taken(self) -> None:
        """A line for which there is no room is in the program's log as a whole."""
        log = self.log_to("x")
        self.writer(log, FakeDestination(), 100)
        for number in range(3):
            log.record({"number": number})
        [line] = self.lines()
        self.assertIn('was not written: {"time":"2001-09-09T01:46:40.000Z","number":2}', line)

    def test_not_written_at_the_end(self) -> None:
        """So are those that were not written when the program ends; those that were are not."""
        log = self.log_to("x")
        writer = self.writer(log, FakeDestination())
        for number in range(4):
            log.record({"number": number})
        writer.written = 2
        stopped = log.stopService()
        assert stopped is not None
        self.clock.advance(10)
        self.successResultOf(stopped)
        self.assertEqual([line.partition("number")[2] for line in self.lines()], ['":2}', '":3}'])

    def test_not_written_for_now(self) -> None:
        """While lines cannot be written they are in the program's log soon, each once."""
        log = self.log_to("x")
        writer = self.writer(log, FakeDestination())
        for number in range(2):
            log.record({"number": number})
        log.look()
        self.assertEqual(self.lines(), [])
        writer.problem, writer.written = "No space left on device", 1
        for _ in range(2):
            log.look()
        log.record({"number": 2})
        log.look()
        self.assertEqual([line.partition("number")[2] for line in self.lines()], ['":1}', '":2}'])
        self.assertIn("was not written (No space left on device): {", self.lines()[0])
        writer.written, writer.problem = 3, ""
        log.record({"number": 3})
        log.look()
        self.assertEqual(len(self.lines()), 2)
        stopped = log.stopService()
        assert stopped is not None
        self.clock.advance(10)
        self.successResultOf(stopped)
        self.assertEqual([line.partition("number")[2] for line in self.lines()], ['":1}', '":2}', '":3}'])

    def test_problem(self) -> None:
        """A problem of the writer is one of the log."""
        log = self.log_to("x")
        self.writer(log, FakeDestination()).problem = "No space left on device"
        self.assertEqual(log.problem, "No space left on device")
