"""The servers of one pool, and the balancer that chooses among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBalancer, IRequest


class Fleet:
    """Keeps the balancer told of the backends it may choose."""

    def __init__(self, balancer: IBalancer, backends: Sequence[Backend]) -> None:
        self.balancer = balancer
        self.backends = list(backends)
        self.refresh()

    def refresh(self) -> None:
        """A backend's state or weight has changed."""
        self.balancer.backends_changed([backend for backend in self.backends if backend.available])

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The backends for `request`, best first."""
        return self.balancer.choices(request)
