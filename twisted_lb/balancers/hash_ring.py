"""A ring of points for consistent hashing: each server owns points, in proportion to its weight.

A key belongs to the server that owns the first point at or after the key's hash.  A server that goes
takes its points with it, and only the keys before them move.  The points follow from the server's name
alone, so all workers and all instances agree.

A server has POINTS points for each unit of its weight; where that would make a ring of more than
MAX_POINTS, all have half as many, or a quarter, and so on.  Fewer points of a server are a part of its
more points, so keys move little then, too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from hashlib import blake2b
from itertools import chain
from struct import unpack

from twisted_lb.backend import Backend

POINTS = 160
MAX_POINTS = 200_000
POINTS_IN_A_BLOCK = 8


def place_of(key: bytes) -> int:
    """The place of a key on the ring.  BLAKE2b, because clients must not be able to aim with little effort."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def points_of(name: str, start: int, stop: int) -> list[int]:
    """The points from the `start`-th to before the `stop`-th of the server `name`."""
    points: list[int] = []
    first_block = start // POINTS_IN_A_BLOCK
    for block in range(first_block, -(-stop // POINTS_IN_A_BLOCK)):
        points.extend(unpack(">8Q", blake2b(f"{block}:{name}".encode()).digest()))
    offset = first_block * POINTS_IN_A_BLOCK
    return points[start - offset : stop - offset]


class HashRing:
    """The points in order, and who owns them.

    A change makes a new list of points and leaves the old one as it was, so that whoever goes round the old one
    can end; a point of it may then have no owner any more.
    """

    def __init__(self) -> None:
        self.points: list[int] = []
        self.owners: dict[int, Backend] = {}
        self._counts: dict[Backend, int] = {}

    def change(self, backends: Iterable[Backend]) -> None:
        """From now on the ring is of these."""
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

    def index(self, key: bytes) -> int:
        """The index of the first point that the key belongs to.  There must be points."""
        index = bisect_left(self.points, place_of(key))
        return index if index < len(self.points) else 0


def point_counts(backends: Iterable[Backend]) -> dict[Backend, int]:
    """How many points each server has."""
    weights = {backend: backend.effective_weight for backend in backends}
    scale = float(POINTS)
    total = sum(weights.values())
    while total * scale > MAX_POINTS:
        scale /= 2
    return {backend: max(1, round(weight * scale)) for backend, weight in weights.items()}
