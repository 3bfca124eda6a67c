"""Log messages that clients can cause: one per second for each cause, and a count of the others."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb import bounded_log
from twisted_lb.bounded_log import MAX_CAUSES, BoundedLog, shown


class BoundedLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(bounded_log, "LOG_SECONDS", 1.0)
        self.clock = Clock()
        self.events: list[LogEvent] = []
        self.log = BoundedLog(Logger(observer=self.events.append), self.clock.seconds)

    @property
    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events]

    def test_one_a_second(self) -> None:
        """The first line of a cause is there at once, the next ones after a second, with the count of those between."""
        for _ in range(5):
            self.log.error("a", "{what} failed", what="it")
        self.assertEqual(self.lines, ["it failed"])
        self.clock.advance(0.99)
        self.log.error("a", "{what} failed", what="it")
        self.assertEqual(len(self.lines), 1)
        self.clock.advance(0.01)
        self.log.error("a", "{what} failed", what="again")
        self.clock.advance(1)
        self.log.error("a", "{what} failed", what="it")
        self.assertEqual(self.lines[1:], ["again failed (5 more since the last such line)", "it failed"])

    def test_causes_are_apart(self) -> None:
        """One cause does not hide another, and fields and levels are those of the line."""
        self.log.error("a", "one")
        self.log.warn("b", "two", server="s1")
        self.assertEqual([event["log_level"] for event in self.events], [LogLevel.error, LogLevel.warn])
        self.assertEqual((self.lines, self.events[1]["server"]), (["one", "two"], "s1"))

    def test_traceback(self) -> None:
        """A failure is that of the exception which is being handled, of whatever kind it is."""
        for kind in (ZeroDivisionError, SystemExit, KeyboardInterrupt):
            try:
                raise kind
            except BaseException:
                self.log.failure(kind.__name__, "it")
            self.assertTrue(self.events[-1]["log_failure"].check(kind))

    def test_many_causes(self) -> None:
        """However many causes there are, a bounded number of them is remembered."""
        for number in range(MAX_CAUSES + 100):
            self.log.error(f"cause {number}", "it")
        self.assertEqual(len(self.log._causes), MAX_CAUSES)

    def test_shown(self) -> None:
        """A value is shown shortly, also one that cannot be."""

        class Shy:
            def __repr__(self) -> str:
                raise SystemExit

        self.assertLess(len(shown("x" * 10_000)), 100)
        self.assertEqual(shown(Shy()), "a Shy")
