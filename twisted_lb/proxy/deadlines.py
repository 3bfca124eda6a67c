"""Deadlines are numbers on the connections; one coarse clock sweeps them.

A timer per request would cost more than the request's parsing.  So a deadline is met late, by at
most two ticks, and never early.  Where many are over at once, each iteration of the reactor takes some of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog

TICK_SECONDS = 0.25
NEVER = float("inf")
# Of an iteration of the reactor; and then the deadline that is under way.
SHARE_SECONDS = 0.002


_log = BoundedLog(Logger())


class Watched(Protocol):
    """A connection with a deadline."""

    deadline: float  # on the sweeper's clock; NEVER when there is none

    def deadline_passed(self) -> None:
        """The deadline is over.  It stays until it is moved or the connection is forgotten."""

    def give_up(self) -> None:
        """That has failed, and was logged: end what it belongs to."""


class Sweeper:
    """The coarse clock of one process, and what it watches."""

    def __init__(self, reactor: IReactorTime, wall_clock: Callable[[], float] = time.time) -> None:
        """`wall_clock` gives the seconds since 1970, for `date`; it may be set at any time."""
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._call: IDelayedCall | None = None
        self._passed: list[Watched] = []  # that have not been told
        self._rest: IDelayedCall | None = None  # when they are
        self.watched: set[Watched] = set()
        self._read_clock()

    def _read_clock(self) -> None:
        # A tick ahead: whoever adds to it now is never early.
        self.now = self._reactor.seconds() + TICK_SECONDS
        self.date = formatdate(self._wall_clock(), usegmt=True).encode()

    def start(self) -> None:
        self._call = self._reactor.callLater(TICK_SECONDS, self._tick)

    def stop(self) -> None:
        for call in (self._call, self._rest):
            if call is not None:
                call.cancel()
        self._call = self._rest = None

    def _tick(self) -> None:
        self._call = self._reactor.callLater(TICK_SECONDS, self._tick)
        self._read_clock()
        if self._rest is None:
            self._tell()

    def _tell(self) -> None:
        """Tell those whose deadline is over, for some time."""
        self._rest = None
        seconds = self._reactor.seconds
        end = seconds() + SHARE_SECONDS
        now = self.now - TICK_SECONDS
        passed = self._passed or [one for one in self.watched if one.deadline < now]
        for position, one in enumerate(passed, 1):
            # An earlier one's end may have moved or ended this one.
            if one.deadline < now and one in self.watched:
                try:
                    one.deadline_passed()
                except BaseException:
                    _log.failure("deadline", "A deadline could not be met; what it was for is given up")
                    self.watched.discard(one)
                    one.give_up()
                if seconds() >= end:
                    self._passed = passed[position:]
                    self._rest = self._reactor.callLater(0, self._tell)
                    return
        self._passed = []
