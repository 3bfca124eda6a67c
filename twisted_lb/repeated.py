"""A periodic call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog

_log = BoundedLog(Logger(__name__))


class Repeated:
    """A LoopingCall that continues after an exception, and that may be stopped at any time."""

    def __init__(self, clock: Any, act: Callable[[], object], what: str) -> None:
        """`clock` provides IReactorTime; `what` names the call in the log.

        Where `act` returns a Deferred, the next call waits for it.
        """
        self._act = act
        self._what = what
        self._looping = LoopingCall(self._call)
        self._looping.clock = clock

    def start(self, seconds: float, now: bool = False) -> None:
        """Call it every `seconds` seconds, for the first time now or after `seconds`."""
        self._looping.start(seconds, now)

    def stop(self) -> None:
        """Stop calling it."""
        if self._looping.running:
            self._looping.stop()

    def _call(self) -> Deferred[Any]:
        return maybeDeferred(self._act).addErrback(
            lambda failure: _log.failure(self._what, "{what} failed, and will be tried again", failure, what=self._what)
        )
