"""What was counted, for the parent of several workers: all workers tell the store, and then one of them asks it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from twisted_lb.interfaces import IUsageReport
from twisted_lb.usage import WindowCounts

# The windows of subjects, as a worker has sent them.  Raises StoreUnavailable.
Ask = Callable[[Sequence[str]], Awaitable[Any]]


@implementer(IUsageReport)
class UsageOfWorkers:
    """See the module."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def counts_of(self, subjects: Sequence[str]) -> Deferred[list[WindowCounts]]:
        """See IUsageReport."""
        return Deferred.fromCoroutine(self._counts_of(subjects))

    async def _counts_of(self, subjects: Sequence[str]) -> list[WindowCounts]:
        return [WindowCounts(hour, day) for hour, day in await self._ask(list(subjects))]
