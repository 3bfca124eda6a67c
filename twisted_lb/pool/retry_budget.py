"""How many requests may be retried: a share of the traffic, so that retries cannot become a retry storm.

Each retry adds load to another server.  When all servers are overloaded, a fixed number of attempts
multiplies the load; a budget adds no more than its share of the traffic (as in Finagle, Linkerd and Envoy).
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Final

from twisted_lb.config.pool import Retries

# RFC 9110 section 9.2.2: the effect of several identical requests is that of one.
IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

WINDOW_SECONDS: Final = 10.0  # the half-life of what was counted


class RetryBudget:
    """Counts requests and retries."""

    __slots__ = ("attempts", "deadline", "requests", "_share", "_reserve", "_retries", "_seconds", "_aged_at")

    def __init__(self, bounds: Retries, seconds: Callable[[], float]) -> None:
        """`seconds` is the clock."""
        self.deadline = 0.0  # for the sweeper: the counts decay with each of its ticks
        self.requests = 0.0  # incremented by the exchange that sends one
        self._retries = 0.0
        self._seconds = seconds
        self._aged_at = seconds()
        self.change(bounds)

    def change(self, bounds: Retries) -> None:
        """Change the limits."""
        self.attempts = bounds.attempts
        self._share = bounds.budget
        # `min_per_second`, over the window; without it a balancer with little traffic could hardly retry.
        self._reserve = bounds.min_per_second * WINDOW_SECONDS / log(2)

    def spend(self) -> bool:
        """Whether one more retry is within the budget; if so, it is counted."""
        self.deadline_passed()
        if self._retries + 1 > self._reserve + self._share * self.requests:
            return False
        self._retries += 1
        return True

    def give_up(self) -> None:
        """See Watched.  There is nothing to end."""

    def deadline_passed(self) -> None:
        """Let the counts decay.

        If only retries did that, the latest requests would decay by the whole time since the last retry.
        """
        now = self._seconds()
        part: float = 0.5 ** ((now - self._aged_at) / WINDOW_SECONDS)
        self._aged_at = now
        self.requests *= part
        self._retries *= part
