"""Peak EWMA: two servers are drawn by weight, and the one with the lower estimated latency is taken.

1. `Backend.answered` keeps each server's latency: it rises to that of a slow response at once, and falls
   by an exponentially weighted moving average (EWMA).
2. The cost of a server is latency * (1 + load), where the load is its exchanges in flight relative to its weight.
3. A latency decays with its age.  So the cost of a server that was slow once falls until it is chosen
   again, and none starves.  Exchanges in flight slow the decay: the cost of a server that hangs does
   not fall while its requests wait.
4. A server that has not answered yet costs nothing while it is idle, and ASSUMED_SECONDS for each of
   its first requests in flight.

O(log n) per choice.
Source: the peak EWMA load metric of Twitter's Finagle.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from random import Random

from zope.interface import implementer

from twisted_lb.balancers.options import number
from twisted_lb.balancers.p2c import TwoChoices
from twisted_lb.balancers.weighted_sampler import UNBOUNDED, WeightedSampler
from twisted_lb.interfaces import IBalancer, IPeeking

DECAY_SECONDS = 10.0
# The latency of a server that has requests in flight and has never answered.
ASSUMED_SECONDS = 1.0


@implementer(IBalancer, IPeeking)
class PeakEwma(TwoChoices):
    """The probably faster of two.

    `decay` is the seconds in which the latency of an idle server falls to 1/e.  `now` is the clock of
    `Backend.latency_at`.
    """

    def __init__(self, decay: object = DECAY_SECONDS, *, now: Callable[[], float], chance: Random) -> None:
        super().__init__(chance=chance)
        self._decay = number("decay", decay, 0.1, 3600, "a number of seconds")
        self._now = now

    def cost(self, sampler: WeightedSampler, index: int) -> float:
        """The seconds that an answer will probably take."""
        backend = sampler.backends[index]
        in_flight = backend.in_flight
        if in_flight >= sampler.bounds[index]:
            return UNBOUNDED
        busy = in_flight * sampler.per_weight[index]
        latency = backend.latency
        if not latency:
            return ASSUMED_SECONDS * busy
        age = self._now() - backend.latency_at
        if age > 0:
            latency *= exp(-age / (self._decay * (1 + in_flight)))
        return latency * (1 + busy)
