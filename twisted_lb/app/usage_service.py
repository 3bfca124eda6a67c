"""Tells the store what this process has counted, every few seconds and at the stop: see `twisted_lb.usage`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.task import deferLater
from zope.interface import implementer

from twisted_lb.interfaces import IUsageReport
from twisted_lb.limits.collected_counts import CollectedCounts
from twisted_lb.repeated import Repeated
from twisted_lb.usage import WindowCounts

FLUSH_SECONDS: Final = 10.0
PART: Final = 200  # subjects, in one call of the store: about 2 ms


@implementer(IUsageReport)
class UsageService(Service):
    """It starts after the store, and stops before it."""

    def __init__(self, reactor: Any, collected: CollectedCounts, store: Any) -> None:
        """`store` is an IUsageStore."""
        self._reactor = reactor
        self._collected = collected
        self._store = store
        self._lock = DeferredLock()
        self._repeated = Repeated(reactor, self.flush, "the note of what was counted")

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._repeated.start(FLUSH_SECONDS)

    def stopService(self) -> Deferred[None]:
        """Tell it once more."""
        super().stopService()
        self._repeated.stop()
        return self.flush()

    def flush(self) -> Deferred[None]:
        """Tell the store what was counted until now.  Fires when it was told, or is unavailable; does not fail."""
        flushed: Deferred[None] = Deferred()
        # A client that disconnects cancels what it waits for: counts that were taken out must reach the store.
        self._lock.run(lambda: Deferred.fromCoroutine(self._flush())).chainDeferred(flushed)
        return flushed

    def counts_of(self, subjects: Sequence[str]) -> Deferred[list[WindowCounts]]:
        """See IUsageReport.  What this process has counted until now is told to the store first."""
        return self.flush().addCallback(lambda _: self._store.counts_of(subjects))

    async def _flush(self) -> None:
        begun = False
        for counts in self._collected.take(PART):
            if begun:
                # Others have the reactor in between.
                await deferLater(self._reactor, 0)
            begun = True
            self._collected.put_back(await self._store.add_counts(counts))
