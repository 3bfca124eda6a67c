"""Posted work: what is done when the events that are there have been delivered (nginx calls it posted events).

Some work costs this process much and its client nothing: a request that is refused, one of the user API, a body in tiny
chunks.  A client can send thousands of such in one piece, and each event that it causes would hold up everybody
else.  So of this kind of work each connection gets one small piece at a time, and all of them together a share of the
time:

1. Work is done in the order in which it was posted, once for each posting.
2. After SHARE_SECONDS of it the reactor looks at its timers and at the sockets, and what is left goes on after that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog

# Of an iteration of the reactor.  Nobody else waits longer for this than this time and one piece of work.
SHARE_SECONDS = 0.001

_log = BoundedLog(Logger())


class Work(Protocol):
    """What can be posted."""

    def resume(self) -> None:
        """Its turn has come: do one piece, and post again when there is more."""

    def give_up(self) -> None:
        """That has failed, and was logged: end what it belongs to."""


class PostedWork:
    """The work of one process."""

    def __init__(self, seconds: Callable[[], float], soon: Callable[[Callable[[], None]], object]) -> None:
        """`seconds` is the reactor's clock; `soon(act)` calls `act` in the reactor's next iteration."""
        self._seconds = seconds
        self._soon = soon
        self._waiting: deque[Work] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def post(self, work: Work) -> None:
        """Have `work.resume` called once."""
        if not self._waiting:
            self._soon(self._run)
        self._waiting.append(work)

    def _run(self) -> None:
        waiting = self._waiting
        end = self._seconds() + SHARE_SECONDS
        # What is posted meanwhile is for the next iteration.
        for _ in range(len(waiting)):
            work = waiting[0]
            try:
                work.resume()
            except BaseException:
                _log.failure("work", "A piece of posted work failed; its connection is closed")
                work.give_up()
            # Until here it keeps its place, so that a posting from within finds that there is a call to come.
            waiting.popleft()
            if self._seconds() >= end:
                break
        if waiting:
            self._soon(self._run)
