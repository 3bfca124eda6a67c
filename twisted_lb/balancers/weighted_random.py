"""Random: each server with a probability in proportion to its weight.

It shares no state between workers and needs none.  If the server drawn is full, another is drawn, a few times.
O(log n) per choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.balancers.weighted_sampler import WeightedSampler
from twisted_lb.interfaces import IBalancer, IPeeking, IRequest

# Further draws for a server that is not full.
REDRAWS = 3


@implementer(IBalancer, IPeeking)
class WeightedRandom:
    """Any server, by weight.  It takes no options."""

    def __init__(self, *, chance: Random) -> None:
        self._chance = chance
        self._sampler = WeightedSampler([], chance)

    def backends_changed(self, backends: list[Backend]) -> None:
        """From now on draw among these."""
        self._sampler = WeightedSampler(backends, self._chance)

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """Servers as they are drawn."""
        return _drawn(self._sampler)

    def peek(self, request: IRequest) -> Iterator[Backend]:
        """See IPeeking."""
        return _drawn(self._sampler.copied())

    def __repr__(self) -> str:
        return f"<WeightedRandom among {[backend.name for backend in self._sampler.backends]}>"


def _drawn(sampler: WeightedSampler) -> Iterator[Backend]:
    backends = sampler.backends
    if not backends:
        return
    index = first = sampler.draw()
    if backends[index].full:
        for _ in range(REDRAWS):
            index = sampler.draw()
            if not backends[index].full:
                break
        else:
            index = first
    yield backends[index]
    yield from sampler.rest({index})
