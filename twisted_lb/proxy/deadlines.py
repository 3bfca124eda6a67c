"""Deadlines are numbers on the connections; one coarse clock sweeps them.

A timer per request would cost more than the request's parsing.  So a deadline is met late, by at
most two ticks, and never early.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

TICK_SECONDS = 0.25
NEVER = float("inf")


class Watched(Protocol):
    """A connection with a deadline."""

    deadline: float  # on the sweeper's clock; NEVER when there is none

    def deadline_passed(self) -> None:
        """The deadline is over.  It stays until it is moved or the connection is forgotten."""


class Sweeper:
    """The coarse clock of one process, and what it watches."""

    def __init__(self, reactor: IReactorTime, wall_offset: float) -> None:
        """`wall_offset` is what makes the reactor's seconds into those since 1970."""
        self._reactor = reactor
        self._wall_offset = wall_offset
        self._call: IDelayedCall | None = None
        self.watched: set[Watched] = set()
        self._read_clock()

    def _read_clock(self) -> None:
        # A tick ahead: whoever adds to it now is never early.
        self.now = self._reactor.seconds() + TICK_SECONDS
        self.date = formatdate(self._reactor.seconds() + self._wall_offset, usegmt=True).encode()

    def start(self) -> None:
        self._call = self._reactor.callLater(TICK_SECONDS, self._tick)

    def stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _tick(self) -> None:
        self._call = self._reactor.callLater(TICK_SECONDS, self._tick)
        self._read_clock()
        now = self.now - TICK_SECONDS
        for one in [one for one in self.watched if one.deadline < now]:
            # An earlier one's end may have moved or ended this one.
            if one.deadline < now and one in self.watched:
                one.deadline_passed()
