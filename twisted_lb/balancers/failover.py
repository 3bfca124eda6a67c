"""Backup servers, behind any balancer.

While any server that is not a backup is available, the balancer has only those.  The backups have a
balancer of their own, which chooses

1. when no other server is available: all requests go to the backups;
2. when a request has failed on all others: a backup is its last choice.  When they are only full,
   the request waits for them instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from zope.interface import alsoProvides, implementer

from twisted_lb.backend import Backend
from twisted_lb.interfaces import OPTIONAL_METHODS, IBalancer, IPeeking, IPreparing, IRequest, IResponseFields

_Choices = Callable[[IRequest], Iterator[Backend]]


@implementer(IBalancer, IPreparing)
class Failover:
    """Two balancers of one kind: one for the servers, one for the backups behind them."""

    def __init__(self, balancer: IBalancer, spare: IBalancer) -> None:
        """Neither has any server yet; both are notified of theirs from now on."""
        self._balancer = balancer
        self._spare = spare
        self._regular: list[Backend] = []
        self._backups: list[Backend] = []
        if IResponseFields.providedBy(balancer):
            # Either of them can make the fields for any server.
            self.response_fields = balancer.response_fields
            alsoProvides(self, IResponseFields)
        if IPeeking.providedBy(balancer):
            alsoProvides(self, IPeeking)
        for name in OPTIONAL_METHODS:
            if callable(getattr(balancer, name, None)):
                setattr(self, name, partial(self._pass_on, getattr(balancer, name), getattr(spare, name)))

    def backends_changed(self, backends: list[Backend]) -> None:
        """Give each balancer its part of these."""
        self._regular = [backend for backend in backends if not backend.backup]
        self._backups = [backend for backend in backends if backend.backup]
        self._balancer.backends_changed(list(self._regular))
        self._spare.backends_changed(list(self._backups))

    def prepare(self, weights: Mapping[Backend, float]) -> Iterator[None]:
        """See IPreparing: each of the two prepares for its part."""
        for balancer, backup in ((self._balancer, False), (self._spare, True)):
            if IPreparing.providedBy(balancer):
                yield from balancer.prepare({one: weight for one, weight in weights.items() if one.backup == backup})

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The best first; backups last.  Where one of the two parts is empty, the iterator is the balancer's own."""
        if not self._backups:
            return self._balancer.choices(request)
        if not self._regular:
            return self._spare.choices(request)
        return self._with_last_choices(request, self._balancer.choices, self._spare.choices)

    def peek(self, request: IRequest) -> Iterator[Backend]:
        """See IPeeking; only where the balancers provide it."""
        balancer: Any = self._balancer
        spare: Any = self._spare
        if not self._regular:
            found: Iterator[Backend] = spare.peek(request)
            return found
        return self._with_last_choices(request, balancer.peek, spare.peek)

    def _with_last_choices(self, request: IRequest, first: _Choices, last: _Choices) -> Iterator[Backend]:
        regular = self._regular
        yield from first(request)
        if not all(backend.full for backend in regular):
            yield from last(request)

    def _pass_on(
        self,
        of_regular: Callable[..., None],
        of_backups: Callable[..., None],
        request: IRequest,
        backend: Backend,
        *more: object,
    ) -> None:
        """Call an optional method of the balancer that has chosen `backend`."""
        (of_backups if backend.backup else of_regular)(request, backend, *more)

    def __repr__(self) -> str:
        return f"<Backups {[backend.name for backend in self._backups]} behind {self._balancer!r}>"
