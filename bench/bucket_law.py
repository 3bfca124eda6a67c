"""The law of a bucket, checked from outside: what its clients saw, and nothing else.

    In any time t a bucket admits at most capacity + rate * t.

Strategy: a client knows of each request when it was sent and when its answer had arrived; the token was taken at some
instant between the two.  So the requests that were sent after one instant and answered before a later one took their
tokens between these instants for certain.  `fullest_window` counts them for every pair of instants that matter, and a
single pair with too many breaks the law.  No tolerance is needed for delays.  The only one there is, `CLOCK_SLEW`, is
for the two clocks: clients read the monotonic clock, Redis that of the wall, and the kernel may correct the latter by
500 microseconds in a second at most (adjtimex(2)).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

CLOCK_SLEW = 500e-6

FULFILLED = 0.99  # of the law, for a client that keeps asking
KEEPS_ASKING = 0.995  # of the law is what a perfect bucket would have admitted of its requests
PART_OF_A_TOKEN = 1.0  # what is in the bucket at the end, and cannot be taken yet


class Asking(NamedTuple):
    """One request.  Times are seconds on one clock."""

    sent: float
    answered: float
    admitted: bool


class Bucket(NamedTuple):
    """A policy."""

    capacity: int  # tokens
    rate: float  # tokens per second

    def law(self, seconds: float) -> float:
        """The most that it admits in that time."""
        return self.capacity + self.rate * seconds * (1 + CLOCK_SLEW)


def fullest_window(askings: Iterable[Asking], rate: float) -> float:
    """The most that was admitted in any window beyond `rate` times its length: at most the capacity, by the law.

    Strategy: the admitted requests stand in the order in which they were sent, as the leaves of a tree.  They are
    counted in the order of their answers.  With b the time of the answer just counted, the window that begins at
    leaf a has (leaves counted from a on) - rate * (b - a) too many; the tree's root knows the worst of all a.
    """
    admitted = sorted(asking for asking in askings if asking.admitted)
    if not admitted:
        return 0.0
    rate *= 1 + CLOCK_SLEW
    origin = admitted[0].sent
    width = 1 << (len(admitted) - 1).bit_length()
    counted = [0] * (2 * width)  # leaves below a node that are counted
    worst = [float("-inf")] * (2 * width)  # of the windows that begin below a node, as far as the node's end
    result = float("-inf")
    for index in sorted(range(len(admitted)), key=lambda index: admitted[index].answered):
        sent, answered, _ = admitted[index]
        node = width + index
        counted[node] = 1
        worst[node] = 1 + rate * (sent - origin)
        while node > 1:
            node //= 2
            left, right = 2 * node, 2 * node + 1
            counted[node] += 1
            worst[node] = max(worst[left] + counted[right], worst[right])
        result = max(result, worst[1] - rate * (answered - origin))
    return result


def owed(askings: Sequence[Asking], bucket: Bucket, change: tuple[float, Bucket] | None = None) -> int:
    """What a full bucket of this policy admits of these requests, each of which it sees when it was answered.

    `change`: from then on it has another policy; its level is kept, and cut to a smaller capacity.
    """
    level, seen, count = float(bucket.capacity), min(asking.answered for asking in askings), 0
    for when in sorted(asking.answered for asking in askings):
        level = min(level + bucket.rate * (when - seen), bucket.capacity)
        seen = when
        if change is not None and when >= change[0]:
            bucket, change = change[1], None
            level = min(level, bucket.capacity)
        if level >= 1:
            level -= 1
            count += 1
    return count


def span(askings: Sequence[Asking]) -> float:
    """Seconds from before the first request until after the last answer."""
    return max(asking.answered for asking in askings) - min(asking.sent for asking in askings)
