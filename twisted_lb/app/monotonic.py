"""Makes the reactor of this process use the monotonic clock.

Twisted's reactors use the wall clock.  Setting it back by an hour stops every timer for an hour; setting it forward
ends every request in flight.  Deadlines, leases, checks and health all use the time of the reactor.  The log, `Date`
and stored time stamps use the wall clock directly.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from twisted_lb.network.twisted_private import put_on_clock


def run_on_monotonic_clock(reactor: Any) -> None:
    """Make `reactor.seconds()` the monotonic clock; calls that are scheduled already keep their delay."""
    if reactor.seconds is monotonic:
        return
    shift = monotonic() - reactor.seconds()
    reactor.seconds = monotonic
    for call in reactor.getDelayedCalls():
        put_on_clock(call, monotonic, shift)
