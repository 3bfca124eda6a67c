"""Whether something takes time in proportion to its input, found by inputs that grow.

Not a measurement of speed: what is linear takes some nanoseconds a byte, what is quadratic has passed
LIMIT_SECONDS_A_BYTE at a few thousand bytes, what is worse long before.  The two are so far apart that a slow or
busy machine makes no difference.  The sizes begin small, so that even an exponential one ends; what is not slow at
BENIGN bytes is at most cubic, and the sizes grow faster from there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from time import thread_time
from typing import NamedTuple

LIMIT_SECONDS_A_BYTE = 1e-6
FIXED_SECONDS = 300e-6  # for what does not depend on the size,
FIXED_FACTOR = 10  # and so many times what the smallest input takes
SMALLEST = 12
BENIGN = 192
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
    """The size, growing up to `largest`, at which `act` takes more time than a linear one; None: it never does."""
    smallest = attack.of_size(SMALLEST)
    fixed = FIXED_SECONDS + FIXED_FACTOR * min(_seconds(act, smallest) for _ in range(TRIES))
    for size in _sizes(largest):
        data = attack.of_size(size)
        limit = fixed + LIMIT_SECONDS_A_BYTE * len(data)
        if all(_seconds(act, data) > limit for _ in range(TRIES)):
            return size
    return None


def _sizes(largest: int) -> Iterator[int]:
    size = SMALLEST
    while size < largest:
        yield size
        # An exponential one takes thousands of times longer at twice the size.
        size = size * 3 // 2 if size < BENIGN else size * 8
    yield largest


def _seconds(act: Callable[[bytes], object], data: bytes) -> float:
    collecting = gc.isenabled()
    # A collection takes as long as the process has objects, and comes when it comes.
    gc.disable()
    try:
        begun = thread_time()
        act(data)
        return thread_time() - begun
    finally:
        if collecting:
            gc.enable()
