"""Least connections: the server with the fewest exchanges in flight for its weight.

1. A heap holds one valid entry for each server: (load, turn, index).  The load is what it has in flight
   divided by its weight; full servers come after all others.  Servers of equal load take turns by
   weight, so that an idle pool is shared by weight.
2. The balancer is not notified when an exchange ends, so a load in the heap may be out of date.  One that is too
   low comes to the top, where it is checked and corrected.  One that is too high would stay below, so each
   choice first checks two kinds of servers:
   a. those whose requests' iterators have been dropped since the last choice.  The proxy keeps an iterator as
      long as the exchange, so that its end means that a server has one less.  With that, choices are exact.
   b. the next SWEEP servers in turn, in case iterators are dropped early or exchanges outlive them.  This alone
      keeps the choice exact among up to SWEEP servers; among n, a load is out of date for at most
      n / SWEEP choices, and in a busy pool the chosen server mostly has at most one exchange more than the best.

O(SWEEP + log n) per choice, amortised over the removal of outdated entries; O(n) when servers change.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace

from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBalancer, IPeeking, IRequest

SWEEP = 8
# Added to the load of a full server; larger than any load.
FULL = 1e12
# Choices of one request that are taken from the heap; for the others, the servers are sorted once instead.
MOST_FROM_HEAP = 8

_Entry = tuple[float, float, int]


class _Loads:
    """A snapshot of the servers, and the heap of their loads."""

    __slots__ = ("backends", "turn", "ended", "_steps", "_bounds", "_entries", "_heap", "_looks", "_looked")

    def __init__(self, backends: list[Backend], turns: dict[Backend, float], turn: float) -> None:
        """`turns` are the turns so far; `turn` is that of the last choice."""
        self.backends = backends
        self.turn = turn
        # Servers, by index, that may have one exchange less.  The garbage collector can end an iterator in the middle
        # of any code; so its end is recorded here and handled by the next choice.
        self.ended: list[int] = []
        self._steps = [1 / backend.effective_weight for backend in backends]
        self._bounds = [backend.maxconn or FULL for backend in backends]
        self._entries: list[_Entry] = [
            (self._load(index, backend.in_flight), turns.get(backend, turn), index)
            for index, backend in enumerate(backends)
        ]
        self._heap = list(self._entries)
        heapify(self._heap)
        # What each step of the sweep reads, prepared because every choice takes a step.
        places = list(zip(range(len(backends)), backends, self._steps, self._bounds, strict=True))
        self._looks = [places[start : start + SWEEP] for start in range(0, len(places), SWEEP)]
        self._looked = 0  # steps of this round

    def turns(self) -> dict[Backend, float]:
        """The turn of each server."""
        return {backend: entry[1] for backend, entry in zip(self.backends, self._entries, strict=True)}

    def _load(self, index: int, in_flight: int) -> float:
        load = in_flight * self._steps[index]
        return load if in_flight < self._bounds[index] else load + FULL

    def _look(self, index: int) -> None:
        load = self._load(index, self.backends[index].in_flight)
        entry = self._entries[index]
        if load != entry[0]:
            self._entries[index] = entry = (load, entry[1], index)
            heappush(self._heap, entry)

    def _bring_up_to_date(self) -> None:
        ended = self.ended
        while ended:
            self._look(ended.pop())
        entries = self._entries
        heap = self._heap
        if self._looked == len(self._looks):
            self._looked = 0
            if len(heap) > 4 * len(entries) + 64:
                heap[:] = entries
                heapify(heap)
        # As _look does, without a call for each.
        for index, backend, step, bound in self._looks[self._looked]:
            in_flight = backend.in_flight
            load = in_flight * step
            if in_flight >= bound:
                load += FULL
            entry = entries[index]
            if load != entry[0]:
                entries[index] = entry = (load, entry[1], index)
                heappush(heap, entry)
        self._looked += 1

    def take(self, tried: list[int]) -> int:
        """The index of the best server that is not in `tried`, which must not hold all of them."""
        self._bring_up_to_date()
        heap, entries, backends = self._heap, self._entries, self.backends
        aside: list[_Entry] = []
        while True:
            entry = heap[0]
            index = entry[2]
            if entries[index] is not entry:
                heappop(heap)
                continue
            in_flight = backends[index].in_flight
            load = self._load(index, in_flight)
            if load != entry[0]:
                entries[index] = entry = (load, entry[1], index)
                heapreplace(heap, entry)
            elif index in tried:
                aside.append(heappop(heap))
            else:
                break
        # A server that was not chosen for a long time has accumulated no more than one turn.
        turn = self.turn = max(self.turn, entry[1])
        # The chosen one is about to have one more in flight; if not, the sweep will see that.
        entries[index] = entry = (self._load(index, in_flight + 1), turn + self._steps[index], index)
        heapreplace(heap, entry)
        for entry in aside:
            heappush(heap, entry)
        return index

    def in_order(self) -> Iterator[Backend]:
        """The servers as they would be taken now; nothing is brought up to date."""
        now = [
            (self._load(index, backend.in_flight), self._entries[index][1], index)
            for index, backend in enumerate(self.backends)
        ]
        first = sorted(now)[:MOST_FROM_HEAP]
        for _, _, index in first:
            yield self.backends[index]
        yield from self.rest([index for _, _, index in first])

    def rest(self, tried: list[int]) -> Iterator[Backend]:
        """The servers that are not in `tried`, sorted by their load now."""
        left = set(range(len(self.backends))).difference(tried)
        for index in sorted(left, key=lambda index: self._load(index, self.backends[index].in_flight)):
            yield self.backends[index]


@implementer(IBalancer, IPeeking)
class LeastConn:
    """The least busy server for its weight.  It takes no options."""

    def __init__(self) -> None:
        self._loads = _Loads([], {}, 0.0)

    def backends_changed(self, backends: list[Backend]) -> None:
        """From now on choose among these."""
        # Iterators that are still drawn from keep the loads that they began with.
        self._loads = _Loads(backends, self._loads.turns(), self._loads.turn)

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The least busy server, then the next."""
        loads = self._loads
        count = len(loads.backends)
        tried: list[int] = []
        try:
            while len(tried) < count and len(tried) < MOST_FROM_HEAP:
                index = loads.take(tried)
                tried.append(index)
                yield loads.backends[index]
            if len(tried) < count:
                yield from loads.rest(tried)
        finally:
            loads.ended.extend(tried)

    def peek(self, request: IRequest) -> Iterator[Backend]:
        """See IPeeking.  It reads the current loads, since `choices` updates outdated ones before it chooses."""
        return self._loads.in_order()

    def __repr__(self) -> str:
        loads = {backend.name: backend.in_flight for backend in self._loads.backends}
        return f"<LeastConn in flight {loads}>"
