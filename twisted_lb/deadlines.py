"""Deadlines are numbers on the connections; one coarse timer checks them all.

A timer per request would cost more than parsing the request.  A deadline takes effect late, by at most two ticks, and
never early.  When many expire at once, each iteration of the reactor handles some of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.repeated import Repeated

TICK_SECONDS: Final = 0.25
NEVER: Final = float("inf")
# Per iteration of the reactor; the deadline being handled then is completed.
SHARE_SECONDS: Final = 0.002


_log = BoundedLog(Logger(__name__))


class Watched(Protocol):
    """A connection with a deadline."""

    deadline: float  # on the sweeper's clock; NEVER when there is none

    def deadline_passed(self) -> None:
        """The deadline has expired.  Called again until it is moved, or the connection is no longer watched."""

    def give_up(self) -> None:
        """`deadline_passed` has raised, which was logged: end the connection."""


class Sweeper:
    """The coarse timer of one process, and the connections that it watches."""

    def __init__(self, reactor: IReactorTime, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock` gives the seconds since 1970, for `date`; it may be set at any time."""
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._ticks = Repeated(reactor, self._tick, "the sweep of deadlines")
        self._passed: list[Watched] = []  # expired, and not handled yet
        self._rest: IDelayedCall | None = None  # which handles them
        self.watched: set[Watched] = set()
        self._read_clock()

    def _read_clock(self) -> None:
        # A tick ahead, so that a deadline relative to it is never early.
        self.now = self._reactor.seconds() + TICK_SECONDS
        self.date = formatdate(self._wall_clock(), usegmt=True).encode()

    def start(self) -> None:
        self._ticks.start(TICK_SECONDS)

    def stop(self) -> None:
        self._ticks.stop()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def _tick(self) -> None:
        self._read_clock()
        if self._rest is None:
            self._tell()

    def _tell(self) -> None:
        """Handle expired deadlines, for at most SHARE_SECONDS."""
        self._rest = None
        seconds = self._reactor.seconds
        end = seconds() + SHARE_SECONDS
        now = self.now - TICK_SECONDS
        passed = self._passed or [one for one in self.watched if one.deadline < now]
        for position, one in enumerate(passed, 1):
            # Handling an earlier one may have moved or ended this one.
            if one.deadline < now and one in self.watched:
                try:
                    one.deadline_passed()
                except BaseException:
                    _log.failure("deadline", "An expired deadline could not be handled; its connection is aborted")
                    self.watched.discard(one)
                    _give_up(one)
                if seconds() >= end:
                    self._passed = passed[position:]
                    self._rest = self._reactor.callLater(0, self._tell)
                    return
        self._passed = []


def _give_up(one: Watched) -> None:
    try:
        one.give_up()
    except BaseException:
        _log.failure("end", "A connection with an expired deadline did not end cleanly")
