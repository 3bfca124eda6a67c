"""Has the reactor of this process run on the monotonic clock, which nobody can set.

Twisted's reactors count seconds by the wall clock.  Put back an hour, that stops every timer for an hour; put forward,
it ends every request that is under way.  Deadlines, leases, checks and health all take their time from the reactor.
The log, `Date` and what is stored tell the time of day, and ask the wall clock themselves.
"""

from __future__ import annotations

from time import monotonic
from typing import Any


def run_on_monotonic_clock(reactor: Any) -> None:
    """From now on `reactor.seconds()` is the monotonic clock; calls that are due already keep their distance."""
    if reactor.seconds is monotonic:
        return
    shift = monotonic() - reactor.seconds()
    reactor.seconds = monotonic
    for call in reactor.getDelayedCalls():
        call.seconds = monotonic
        call.time += shift
