"""A request that waits for its hooks: it continues when their Deferred fires, at the latest at its deadline."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.deadlines import Sweeper

_log = BoundedLog(Logger(__name__))


class WaitingForHook(Protocol):
    """A request that waits.  None of the methods raises, and one of them is called once, unless it is cancelled."""

    def hook_answered(self, result: object) -> None:
        """The Deferred has fired with this result."""

    def hook_failed(self, failure: Failure) -> None:
        """The Deferred has failed."""

    def hook_timed_out(self) -> None:
        """The Deferred has not fired in time."""


class PendingHook:
    """The Deferred of one request, watched by the sweeper."""

    __slots__ = ("deadline", "_sweeper", "_waiting", "_deferred")

    def __init__(self, sweeper: Sweeper, seconds: float, waiting: WaitingForHook, deferred: Deferred[Any]) -> None:
        self.deadline = sweeper.now + seconds
        self._sweeper = sweeper
        self._waiting: WaitingForHook | None = waiting
        self._deferred: Deferred[Any] | None = deferred

    def begin(self) -> None:
        """Wait; the Deferred may have fired already."""
        deferred = self._deferred
        assert deferred is not None
        self._sweeper.watched.add(self)
        deferred.addCallbacks(self._answered, self._failed)

    def _answered(self, result: object) -> None:
        waiting = self._end()
        if waiting is not None:
            waiting.hook_answered(result)

    def _failed(self, failure: Failure) -> None:
        waiting = self._end()
        if waiting is not None:
            waiting.hook_failed(failure)

    def _end(self) -> WaitingForHook | None:
        """Stop waiting; return the request the first time, and then None."""
        waiting, self._waiting = self._waiting, None
        self._deferred = None
        self._sweeper.watched.discard(self)
        return waiting

    def cancel(self) -> None:
        """The request does not need the result any more."""
        deferred = self._deferred
        self._end()
        if deferred is not None:
            try:
                deferred.cancel()
            except BaseException:
                # The function that cancels may be a user's.
                _log.failure("cancel", "What a hook waited for could not be cancelled")

    def deadline_passed(self) -> None:
        """See Watched."""
        waiting = self._waiting
        self.cancel()
        if waiting is not None:
            waiting.hook_timed_out()

    def give_up(self) -> None:
        """See Watched."""
        self.cancel()
