"""Round robin: each server in turn, by weight.

1. The turns are a ring.  With equal weights each server has one turn, in the order of the list; a
   server of weight 2 among servers of weight 1 has two, spread over the ring: a b c a.
2. A request takes the next turn of the ring.  When that server could not be used, the ring goes on
   to the next one that this request has not tried, so that no server gets the failed one's share alone.
3. When the servers change, a new ring is made, and continues with the server whose turn was next, at about
   the same position.  A server in slow start has turns in steps of a twentieth of its weight.

O(1) per choice; O(turns) when servers change.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import gcd

from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBalancer, IPeeking, IRequest

# A ring of more turns (many servers with weights of no common divisor) is made coarser: building it
# blocks the reactor.
MAX_TURNS = 50_000
# The steps of a slow start that make a difference.
RAMP_STEPS = 20


@implementer(IBalancer, IPeeking)
class RoundRobin:
    """The servers in turn.  It takes no options."""

    def __init__(self) -> None:
        self._ring: list[Backend] = []
        self._next = 0

    def backends_changed(self, backends: list[Backend]) -> None:
        """From now on the ring is of these."""
        ring = turns(backends)
        if ring == self._ring:
            return
        stay = set(ring)
        to_come = chain(self._ring[self._next :], self._ring[: self._next])
        following = next((backend for backend in to_come if backend in stay), None)
        if following is None:
            self._next = 0
        else:
            # Of several turns, the one at about the same position: if it were always the first one, the
            # frequent changes of a slow start would keep the ring from ever reaching its end.
            done = self._next * len(ring) / len(self._ring)
            own_turns = [turn for turn, backend in enumerate(ring) if backend is following]
            self._next = min(own_turns, key=lambda turn: abs(turn - done))
        # A new list: iterators that are still drawn from keep the ring that they began with.
        self._ring = ring

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The server whose turn it is, then the others."""
        ring = self._ring
        if not ring:
            return
        start = self._next
        after = start + 1
        self._next = after if after < len(ring) else 0
        first = ring[start]
        yield first
        tried = {first}
        for turn in chain(range(after, len(ring)), range(start)):
            backend = ring[turn]
            if backend not in tried:
                tried.add(backend)
                if ring is self._ring:
                    self._next = (turn + 1) % len(ring)
                yield backend

    def peek(self, request: IRequest) -> Iterator[Backend]:
        """See IPeeking."""
        ring, start = self._ring, self._next
        return iter(dict.fromkeys(chain(ring[start:], ring[:start])))

    def __repr__(self) -> str:
        return f"<RoundRobin next={self._next} of {[backend.name for backend in self._ring]}>"


def turns(backends: list[Backend]) -> list[Backend]:
    """The ring: each server's effective weight (all divided by their common divisor) in turns, evenly spread.

    The k-th of a server's w turns stands at (k + 1/2) / w of the way round.
    """
    weights = [backend.weight for backend in backends]
    if any(backend.ramp < 1 for backend in backends):
        weights = [max(1, round(backend.effective_weight * RAMP_STEPS)) for backend in backends]
    divisor = gcd(*weights) or 1
    weights = [weight // divisor for weight in weights]
    if max(weights, default=1) == 1:
        return list(backends)
    total = sum(weights)
    if total > MAX_TURNS:
        weights = [max(1, weight * MAX_TURNS // total) for weight in weights]
    # Servers of one weight have their turns at the same places: there are far fewer places than turns to be sorted.
    of_weight: dict[int, list[int]] = {}
    for order, weight in enumerate(weights):
        of_weight.setdefault(weight, []).append(order)
    at_place: dict[float, list[int]] = {}
    for weight, orders in of_weight.items():
        for turn in range(weight):
            at_place.setdefault((turn + 0.5) / weight, []).extend(orders)
    return [backends[order] for place in sorted(at_place) for order in sorted(at_place[place])]
