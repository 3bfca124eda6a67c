"""Whether something takes time in proportion to its input, found by doubling the input.

Not a measurement of speed: what is linear takes some nanoseconds a byte, what is quadratic has passed
LIMIT_SECONDS_A_BYTE at a few thousand bytes, what is worse long before.  The two are so far apart that a slow or
busy machine makes no difference.  The sizes begin small, so that even an exponential one ends.
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time
from typing import NamedTuple

LIMIT_SECONDS_A_BYTE = 1e-6
FIXED_SECONDS = 300e-6  # for what does not depend on the size
SMALLEST = 12
TRIES = 5  # the least of these counts


class Attack(NamedTuple):
    """Inputs of one shape: `pump` is repeated."""

    prefix: bytes
    pump: bytes
    suffix: bytes

    def of_size(self, size: int) -> bytes:
        """An input of about this many bytes."""
        return self.prefix + self.pump * (size // len(self.pump)) + self.suffix


def slow_size(act: Callable[[bytes], object], attack: Attack, largest: int) -> int | None:
    """The size, doubling up to `largest`, at which `act` takes more time than a linear one; None: it never does."""
    size = SMALLEST
    while size <= largest:
        data = attack.of_size(size)
        limit = FIXED_SECONDS + LIMIT_SECONDS_A_BYTE * len(data)
        if all(_seconds(act, data) > limit for _ in range(TRIES)):
            return size
        size *= 2
    return None


def _seconds(act: Callable[[bytes], object], data: bytes) -> float:
    begun = thread_time()
    act(data)
    return thread_time() - begun
