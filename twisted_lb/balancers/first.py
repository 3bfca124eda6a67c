"""First: the first server of the file that is up and not full; the others are in reserve.

O(1) per choice while the first one has room, else O(number of full servers before the one chosen).
"""

from __future__ import annotations

from collections.abc import Iterator

from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBalancer, IPeeking, IRequest


@implementer(IBalancer, IPeeking)
class First:
    """The servers in the order of the file.  Weights do not count, and it takes no options."""

    def __init__(self) -> None:
        self._backends: list[Backend] = []

    def backends_changed(self, backends: list[Backend]) -> None:
        """From now on choose among these."""
        self._backends = backends

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """In order, those that are full last."""
        full = []
        for backend in self._backends:
            if backend.full:
                full.append(backend)
            else:
                yield backend
        yield from full

    def peek(self, request: IRequest) -> Iterator[Backend]:
        """See IPeeking."""
        return self.choices(request)

    def __repr__(self) -> str:
        return f"<First of {[backend.name for backend in self._backends]}>"
