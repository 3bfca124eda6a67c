"""Work that is done in steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.steps import STEP, Steps, chunks, finish, run_in_turns


class Turns:
    """A reactor that takes a turn when it is told to; what is called later meanwhile waits for the next."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def callLater(self, seconds: float, call: Callable[..., object], *arguments: Any) -> None:
        assert seconds == 0
        self.calls.append((call, arguments))

    def next(self) -> None:
        calls, self.calls = self.calls, []
        for call, arguments in calls:
            call(*arguments)


class StepsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.done: list[int] = []

    def work(self, steps: int, fails: bool = False) -> Steps[str]:
        for step in range(steps):
            self.done.append(step)
            yield
        if fails:
            raise KeyError("no")
        return "result"

    def test_finish(self) -> None:
        """At once is all steps, and the result; an exception goes to the caller."""
        self.assertEqual((finish(self.work(3)), self.done), ("result", [0, 1, 2]))
        self.assertRaises(KeyError, finish, self.work(1, fails=True))

    def test_turns(self) -> None:
        """In turns is one step in each, the first one at once."""
        turns = Turns()
        result = run_in_turns(turns, self.work(3))
        for count in (1, 2, 3):
            self.assertEqual(self.done, list(range(count)))
            self.assertNoResult(result)
            turns.next()
        self.assertEqual((self.successResultOf(result), turns.calls), ("result", []))

    def test_nothing_is_kept(self) -> None:
        """A result that nobody wants any more is freed without the garbage collector."""

        class Result:
            """Can be watched."""

        def work() -> Steps[Result]:
            yield
            return Result()

        turns = Turns()
        run = run_in_turns(turns, work())
        turns.next()
        watched = ref(self.successResultOf(run))
        del run
        self.assertIsNone(watched())

    def test_failure(self) -> None:
        """An exception is the Deferred's failure."""
        turns = Turns()
        result = run_in_turns(turns, self.work(1, fails=True))
        turns.next()
        self.failureResultOf(result, KeyError)

    def test_chunks(self) -> None:
        """Chunks hold all things, in their order."""
        for count in (0, 1, STEP, STEP + 1, 3 * STEP):
            found = list(chunks(range(count)))
            self.assertEqual([thing for chunk in found for thing in chunk], list(range(count)))
            self.assertTrue(all(0 < len(chunk) <= STEP for chunk in found))
