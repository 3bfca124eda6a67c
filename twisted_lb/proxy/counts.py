"""The numbers of admitted and refused requests, for the metrics."""

from __future__ import annotations

from collections import Counter


class Counts:
    """The numbers of one process, since its start."""

    __slots__ = ("admitted", "refused", "answered", "copies")

    def __init__(self) -> None:
        self.admitted = 0  # requests that the limits admitted
        self.refused: Counter[str] = Counter()  # refused requests, by the name of the limit
        self.answered: Counter[int] = Counter()  # responses generated here, by status
        self.copies: Counter[str] = Counter()  # copies of requests for mirrors, by how they have ended

    def numbers(self) -> dict[str, float]:
        """All numbers by name, for a report."""
        numbers: dict[str, float] = {"admitted": self.admitted}
        numbers.update({f"refused {limit}": count for limit, count in self.refused.items()})
        numbers.update({f"answered {status}": count for status, count in self.answered.items()})
        numbers.update({f"copies {outcome}": count for outcome, count in self.copies.items()})
        return numbers
