"""How many requests may be sent again: a share of the live traffic, so that retries cannot become the storm.

A request that failed on one server costs another server its time.  When all servers are in trouble, a
fixed number of attempts multiplies the load just then; a share of the traffic adds to it no more than
that share (the retry budget of Finagle, Linkerd and Envoy).
"""

from __future__ import annotations

from collections.abc import Callable

# RFC 9110 section 9.2.2: doing these twice is as good as once.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

WINDOW_SECONDS = 10.0  # the past counts less and less: by half after this time


class RetryBudget:
    """Counts requests and retries."""

    __slots__ = ("attempts", "deadline", "requests", "_share", "_reserve", "_retries", "_seconds", "_aged_at")

    def __init__(self, attempts: int, share: float, reserve: int, seconds: Callable[[], float]) -> None:
        """A request is sent `attempts` times at most.

        Of those in the window, `share` (0 to 1) may be retries, and `reserve` more, without which a
        balancer with little traffic could hardly retry at all.  `seconds` is the clock.
        """
        self.attempts = attempts
        self.deadline = 0.0  # for the sweeper: the past is aged with each of its ticks
        self.requests = 0.0  # counted up by whoever sends one
        self._share = share
        self._reserve = reserve
        self._retries = 0.0
        self._seconds = seconds
        self._aged_at = seconds()

    def change(self, attempts: int, share: float, reserve: int) -> None:
        """Other bounds from now on."""
        self.attempts = attempts
        self._share = share
        self._reserve = reserve

    def spend(self) -> bool:
        """Whether one more retry is within the budget; if so it is counted."""
        self.deadline_passed()
        if self._retries + 1 > self._reserve + self._share * self.requests:
            return False
        self._retries += 1
        return True

    def give_up(self) -> None:
        """See Watched.  Arithmetic does not fail."""

    def deadline_passed(self) -> None:
        """Age what was counted.  Were it aged by retries alone, the first after a quiet hour would find no traffic."""
        now = self._seconds()
        part: float = 0.5 ** ((now - self._aged_at) / WINDOW_SECONDS)
        self._aged_at = now
        self.requests *= part
        self._retries *= part
