"""Calls one after the other."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.stores.sqlite.sequential import SequentialCalls


class SequentialTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.calls = SequentialCalls()
        self.made: list[str] = []

    def run_call(self, name: str, outcome: Any) -> Deferred[Any]:
        def call() -> Any:
            self.made.append(name)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return self.calls.run(call)

    def test_order(self) -> None:
        """A call is made when the one before has its result, whatever that is."""
        first: Deferred[int] = Deferred()
        results = [self.run_call("a", first), self.run_call("b", fail(KeyError())), self.run_call("c", ValueError())]
        results.append(self.run_call("d", succeed(4)))
        self.assertEqual(self.made, ["a"])
        first.callback(1)
        self.assertEqual(self.made, ["a", "b", "c", "d"])
        self.assertEqual((self.successResultOf(results[0]), self.successResultOf(results[3])), (1, 4))
        self.failureResultOf(results[1], KeyError)
        self.failureResultOf(results[2], ValueError)

    def test_calls_in_results(self) -> None:
        """A call that is asked for when a result comes is made after those that wait already."""
        first: Deferred[int] = Deferred()
        self.run_call("a", first).addCallback(lambda _: self.run_call("c", succeed(3)))
        self.run_call("b", succeed(2))
        first.callback(1)
        self.assertEqual(self.made, ["a", "b", "c"])

    def test_many(self) -> None:
        """Of calls that have their results at once, any number may wait."""
        first: Deferred[int] = Deferred()
        self.run_call("", first)
        results = [self.run_call("", KeyError()) for _ in range(5000)]
        first.callback(1)
        for result in results:
            self.failureResultOf(result, KeyError)
