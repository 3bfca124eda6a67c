"""A ring of points for consistent hashing: each server owns points, in proportion to its weight.

A key belongs to the server that owns the first point at or after the key's hash.  When a server is removed,
so are its points, and only the keys before them move.  The points depend on the server's name alone, so all
workers and all instances agree.

A server has POINTS points for each unit of its weight; where that would make a ring of more than
MAX_POINTS, all have half as many, or a quarter, and so on.  These are a subset of a server's points before, so
few keys move then, too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import chain
from struct import unpack

from twisted_lb.backend import Backend
from twisted_lb.steps import Steps, chunks

RING = 1 << 64  # points are below this
POINTS = 160
MAX_POINTS = 200_000
POINTS_IN_A_BLOCK = 8
POINTS_IN_A_STEP = 20_000  # some milliseconds


def place_of(key: bytes) -> int:
    """The place of a key on the ring.  BLAKE2b, so that clients cannot easily make keys for one server."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def points_of(name: str, start: int, stop: int) -> list[int]:
    """The points of the server `name` whose numbers are in range(start, stop)."""
    points: list[int] = []
    first_block = start // POINTS_IN_A_BLOCK
    for block in range(first_block, -(-stop // POINTS_IN_A_BLOCK)):
        points.extend(unpack(">8Q", blake2b(f"{block}:{name}".encode()).digest()))
    offset = first_block * POINTS_IN_A_BLOCK
    return points[start - offset : stop - offset]


class HashRing:
    """The points in order, and their owners.

    A change makes a new list of points and leaves the old one as it was, so that iterators over the old one
    stay valid; a point of it may have no owner then.
    """

    def __init__(self) -> None:
        self.points: list[int] = []
        self.owners: dict[int, Backend] = {}
        self._counts: dict[Backend, int] = {}

    def change(self, backends: Iterable[Backend]) -> None:
        """Replace the servers of the ring."""
        wanted = point_counts(backends)
        counts = self._counts
        gone: list[int] = []
        come: list[int] = []
        for backend, count in counts.items():
            left = wanted.get(backend, 0)
            if left < count:
                gone.extend(points_of(backend.name, left, count))
        for point in gone:
            self.owners.pop(point, None)
        for backend, count in wanted.items():
            had = counts.get(backend, 0)
            if had < count:
                points = points_of(backend.name, had, count)
                come.extend(points)
                self.owners.update(dict.fromkeys(points, backend))
        self._counts = wanted
        if gone:
            removed = set(gone)
            self.points = [point for point in self.points if point not in removed]
        if come:
            # Two sorted runs: the sort merges them.
            self.points = sorted(chain(self.points, sorted(come)))

    def changed(self, weights: Mapping[Backend, float]) -> Steps[HashRing]:
        """A new ring of servers with these effective weights; this one stays as it is, and may change meanwhile."""
        ring = HashRing()
        ring.points, ring.owners, counts = self.points, self.owners.copy(), self._counts
        yield
        wanted = ring._counts = counts_of(weights)
        removed: set[int] = set()
        for some in chunks(list(counts)):
            gone: list[int] = []
            for backend in some:
                left = wanted.get(backend, 0)
                if left < counts[backend]:
                    gone.extend(points_of(backend.name, left, counts[backend]))
            if gone:
                removed.update(gone)
                yield
        if removed:
            points, ring.points = ring.points, []
            for start in range(0, len(points), POINTS_IN_A_STEP):
                ring.points += [point for point in points[start : start + POINTS_IN_A_STEP] if point not in removed]
                yield
            for number, point in enumerate(removed):
                ring.owners.pop(point, None)
                if not number % POINTS_IN_A_STEP:
                    yield
        runs = [ring.points]
        for some in chunks(list(wanted)):
            come: list[int] = []
            for backend in some:
                had = counts.get(backend, 0)
                if had < wanted[backend]:
                    points = points_of(backend.name, had, wanted[backend])
                    come.extend(points)
                    ring.owners.update(dict.fromkeys(points, backend))
            if come:
                come.sort()
                runs.append(come)
                yield
        if len(runs) > 1:
            ring.points = yield from merged(runs)
        return ring

    def index(self, key: bytes) -> int:
        """The index of the point that the key belongs to.  There must be points."""
        index = bisect_left(self.points, place_of(key))
        return index if index < len(self.points) else 0


def merged(runs: Sequence[list[int]]) -> Steps[list[int]]:
    """The points of sorted lists in order, an arc of the ring in each step."""
    arcs = max(1, sum(map(len, runs)) // POINTS_IN_A_STEP)
    points: list[int] = []
    starts = [0] * len(runs)
    for arc in range(1, arcs + 1):
        end = arc * RING // arcs
        part: list[int] = []
        for index, run in enumerate(runs):
            stop = bisect_left(run, end, starts[index])
            part += run[starts[index] : stop]
            starts[index] = stop
        # Sorted runs: the sort merges them.
        part.sort()
        points += part
        yield
    return points


def point_counts(backends: Iterable[Backend]) -> dict[Backend, int]:
    """How many points each server has."""
    return counts_of({backend: backend.effective_weight for backend in backends})


def counts_of(weights: Mapping[Backend, float]) -> dict[Backend, int]:
    """The same for servers with these weights."""
    scale = float(POINTS)
    total = sum(weights.values())
    while total * scale > MAX_POINTS:
        scale /= 2
    return {backend: max(1, round(weight * scale)) for backend, weight in weights.items()}
