"""How many requests passed and how many failed within a sliding window.

The window slides in tenths: a request leaves it between nine tenths of the window and the whole of it
after it was counted.  The cost of counting is constant.
"""

from __future__ import annotations

SLICES = 10


class Window:
    """Two counters over a sliding window."""

    __slots__ = ("passed", "failed", "_slice_seconds", "_number", "_slices")

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / SLICES
        self.clear()

    def clear(self) -> None:
        """Reset both counters."""
        self.passed = 0
        self.failed = 0
        self._number = 0  # of the slice that counts now, from the clock's zero
        self._slices = [(0, 0)] * SLICES

    @property
    def total(self) -> int:
        """Requests in the window."""
        return self.passed + self.failed

    def count(self, passed: int, failed: int, now: float) -> None:
        """Count these; `now` in seconds.  When the clock goes backwards, they count for the latest slice."""
        number = int(now / self._slice_seconds)
        steps = number - self._number
        if steps >= SLICES:
            self.clear()
            self._number = number
        elif steps > 0:
            for index in range(self._number + 1, number + 1):
                old_passed, old_failed = self._slices[index % SLICES]
                self.passed -= old_passed
                self.failed -= old_failed
                self._slices[index % SLICES] = (0, 0)
            self._number = number
        here = self._number % SLICES
        self._slices[here] = (self._slices[here][0] + passed, self._slices[here][1] + failed)
        self.passed += passed
        self.failed += failed
