"""Draws servers at random, each with a probability in proportion to its weight.

A draw is one random number and one binary search over the running sums of the weights: O(log n).
Making new sums when the servers change is O(n).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from copy import copy
from itertools import accumulate, chain
from random import Random

from twisted_lb.backend import Backend

# Draws for a server other than those drawn already, before the list is searched instead.
TRIES = 8
UNBOUNDED = float("inf")


class WeightedSampler:
    """A snapshot of the servers, by index, with what a draw and a comparison of loads need."""

    __slots__ = ("backends", "per_weight", "bounds", "_sums", "_last", "_chance", "_random")

    def __init__(self, backends: list[Backend], chance: Random) -> None:
        weights = [backend.effective_weight for backend in backends]
        self.backends = backends
        self._sums = list(accumulate(weights))
        self._last = len(backends) - 1
        self._chance = chance
        self._random = chance.random
        mean = self._sums[-1] / len(backends) if backends else 0.0
        # What one exchange weighs on each server, where a server of mean weight counts it as 1.
        self.per_weight = [mean / weight for weight in weights]
        self.bounds = [backend.maxconn or UNBOUNDED for backend in backends]

    def copied(self) -> WeightedSampler:
        """One that draws the same servers as this one would from now on."""
        return WeightedSampler(self.backends, copy(self._chance))

    def draw(self) -> int:
        """The index of a server."""
        sums = self._sums
        return bisect(sums, self._random() * sums[-1], 0, self._last)

    def draw_other(self, drawn: int) -> int:
        """The index of another server, if there is one."""
        if not self._last:
            return drawn
        for _ in range(TRIES):
            index = self.draw()
            if index != drawn:
                return index
        # One server has nearly all of the weight.  Any other will do.
        return (drawn + 1 + int(self._random() * self._last)) % (self._last + 1)

    def rest(self, drawn: set[int]) -> Iterator[Backend]:
        """The servers that are not in `drawn`, in a random order that favours the heavy ones."""
        backends = self.backends
        misses = 0
        while misses < TRIES and len(drawn) < len(backends):
            index = self.draw()
            if index in drawn:
                misses += 1
                continue
            misses = 0
            drawn.add(index)
            yield backends[index]
        start = int(self._random() * len(backends))
        for index in chain(range(start, len(backends)), range(start)):
            if index not in drawn:
                yield backends[index]
