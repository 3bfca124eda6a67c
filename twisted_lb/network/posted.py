"""Posted work: work that is deferred until the current events have been delivered (nginx calls it posted events).

Some work is expensive for this process and cheap for its client: a request that is rejected, one of the user API, a
body in tiny chunks.  A client can send thousands of these in one write, and handling them at once would delay all other
connections.  So this kind of work is done one small piece at a time for each connection, and for a limited time in each
iteration of the reactor:

1. Work is done in the order in which it was posted, one piece for each `post`.
2. After SHARE_SECONDS the reactor runs its timers and polls the sockets; the rest is done in the next iteration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog

# In each iteration of the reactor.  It delays everything else by at most this time and one piece of work.
SHARE_SECONDS: Final = 0.001

_log = BoundedLog(Logger(__name__))


class Work(Protocol):
    """Work that can be posted."""

    def resume(self) -> None:
        """Do one piece, and post again if there is more."""

    def give_up(self) -> None:
        """`resume` has raised, which was logged: close the connection that the work belongs to."""


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

    def _give_up(self, work: Work) -> None:
        try:
            work.give_up()
        except BaseException:
            text = "A {work} whose posted work had failed could not be closed"
            _log.failure("end", text, work=type(work).__name__)

    def _run(self) -> None:
        waiting = self._waiting
        end = self._seconds() + SHARE_SECONDS
        # Work that is posted meanwhile is for the next iteration.
        for _ in range(len(waiting)):
            work = waiting[0]
            try:
                work.resume()
            except BaseException:
                text = "Posted work of a {work} failed; its connection is closed"
                _log.failure("work", text, work=type(work).__name__)
                self._give_up(work)
            # It is removed here and not before, so that a posting from within schedules no second call of this method.
            waiting.popleft()
            if self._seconds() >= end:
                break
        if waiting:
            self._soon(self._run)
