"""Backup servers, behind any balancer.

While a server that is no backup is available, the balancer knows only those.  The backups have a
balancer of their own, which is asked

1. when no other server is available: all requests go to the backups;
2. when a request has tried all others in vain: a backup is its last choice.  Servers that are only
   full are waited for instead.
"""

from __future__ import annotations

from collections.abc import Iterator

from zope.interface import alsoProvides, implementer

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBalancer, IRequest, IResponseFields


@implementer(IBalancer)
class Backups:
    """Two balancers of one kind: one for the servers, one for the backups behind them."""

    def __init__(self, balancer: IBalancer, spare: IBalancer) -> None:
        """Neither has been told of any server; both are told of theirs from now on."""
        self._balancer = balancer
        self._spare = spare
        self._regular: list[Backend] = []
        self._backups: list[Backend] = []
        if IResponseFields.providedBy(balancer):
            # What the one says of a server is as good as what the other says.
            self.response_fields = balancer.response_fields
            alsoProvides(self, IResponseFields)

    def backends_changed(self, backends: list[Backend]) -> None:
        """Tell each balancer of its part of these."""
        self._regular = [backend for backend in backends if not backend.backup]
        self._backups = [backend for backend in backends if backend.backup]
        self._balancer.backends_changed(list(self._regular))
        self._spare.backends_changed(list(self._backups))

    def choices(self, request: IRequest) -> Iterator[Backend]:
        """The balancer's own iterator wherever one of the two parts is empty."""
        if not self._backups:
            return self._balancer.choices(request)
        if not self._regular:
            return self._spare.choices(request)
        return self._with_last_choices(request)

    def _with_last_choices(self, request: IRequest) -> Iterator[Backend]:
        regular = self._regular
        yield from self._balancer.choices(request)
        if not all(backend.full for backend in regular):
            yield from self._spare.choices(request)

    def __repr__(self) -> str:
        return f"<Backups {[backend.name for backend in self._backups]} behind {self._balancer!r}>"
