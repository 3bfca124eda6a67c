"""Calls that are made one after the other, each when the previous one has its result.

Like DeferredLock.run, but without recursion, so that any number of calls with immediate results may wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred

_Result = TypeVar("_Result")


class SequentialCalls:
    """Makes the calls."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Deferred[Any]], Deferred[Any]]] = deque()
        self._calling = False  # a call has no result yet
        self._looping = False

    def run(self, call: Callable[[], Deferred[_Result]]) -> Deferred[_Result]:
        """The result of `call`, which is made when all earlier ones have their results."""
        result: Deferred[_Result] = Deferred()
        self._waiting.append((call, result))
        self._go_on()
        return result

    def _go_on(self) -> None:
        if self._looping:
            return
        self._looping = True
        while self._waiting and not self._calling:
            call, result = self._waiting.popleft()
            self._calling = True
            maybeDeferred(call).addBoth(self._called, result)
        self._looping = False

    def _called(self, outcome: Any, result: Deferred[Any]) -> None:
        self._calling = False
        result.callback(outcome)
        self._go_on()
