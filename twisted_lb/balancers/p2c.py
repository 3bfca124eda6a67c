"""The power of two choices: draw two servers by weight, and take the one with less to do.

1. Two different servers are drawn, each with a probability in proportion to its weight.
2. The one with fewer exchanges in flight for its weight is chosen; the first one when they are equal,
   so that an idle pool is shared by weight.  A full server loses to one that is not.
3. The other one is the second choice; after it further servers are drawn.

It reads two counters at each choice and keeps no state, and so workers, which do not share their counters, do
not all choose the same idle server.  O(log n) per choice.
Source: M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.balancers.weighted_sampler import UNBOUNDED, WeightedSampler
from twisted_lb.interfaces import IBalancer, IPeeking, IRequest


@implementer(IBalancer, IPeeking)
class TwoChoices:
    """The less busy of two.  It takes no options."""

    def __init__(self, *, chance: Random) -> None:
        self._chance = chance
        self._sampler = WeightedSampler([], chance)

    def backends_changed(self, backends: list[Backend]) -> None:
        """From now on draw among these."""
        self._sampler = WeightedSampler(backends, self._chance)

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The better of two, the other one, and then further ones."""
        return self._drawn(self._sampler)

    def peek(self, request: IRequest) -> Iterator[Backend]:
        """See IPeeking."""
        return self._drawn(self._sampler.copied())

    def _drawn(self, sampler: WeightedSampler) -> Iterator[Backend]:
        backends = sampler.backends
        if not backends:
            return
        one = sampler.draw()
        other = sampler.draw_other(one)
        if self.cost(sampler, other) < self.cost(sampler, one):
            one, other = other, one
        yield backends[one]
        if other != one:
            yield backends[other]
            yield from sampler.rest({one, other})

    def cost(self, sampler: WeightedSampler, index: int) -> float:
        """The cost of choosing the server at `index`: its exchanges in flight relative to its weight."""
        in_flight = sampler.backends[index].in_flight
        return in_flight * sampler.per_weight[index] if in_flight < sampler.bounds[index] else UNBOUNDED

    def __repr__(self) -> str:
        return f"<{type(self).__name__} among {[backend.name for backend in self._sampler.backends]}>"
