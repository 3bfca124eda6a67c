"""The numbers of admitted and refused requests, for the metrics."""

from __future__ import annotations

from collections import Counter


class Counts:
    """The numbers of one process, since its start."""

    __slots__ = ("admitted", "refused", "answered")

    def __init__(self) -> None:
        self.admitted = 0  # requests that the limits admitted
        self.refused: Counter[str] = Counter()  # refused requests, by the name of the limit
        self.answered: Counter[int] = Counter()  # responses generated here, by status

    def numbers(self) -> dict[str, float]:
        """All numbers by name, for a report."""
        numbers: dict[str, float] = {"admitted": self.admitted}
        numbers.update({f"refused {limit}": count for limit, count in self.refused.items()})
        numbers.update({f"answered {status}": count for status, count in self.answered.items()})
        return numbers
