"""The service that tells the store what was counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.app.usage_service import FLUSH_SECONDS, PART, UsageService
from twisted_lb.interfaces import IUsageReport
from twisted_lb.limits.collected_counts import CollectedCounts

Counts = Mapping[str, Mapping[str, int]]


class ToldStore:
    """Keeps what it is told, and answers at once, or when the test says."""

    def __init__(self) -> None:
        self.told: list[Counts] = []
        self.refuses = False
        self.pending: list[Deferred[Counts]] | None = None

    def add_counts(self, counts: Counts) -> Deferred[Counts]:
        self.told.append(counts)
        if self.pending is not None:
            self.pending.append(Deferred())
            return self.pending[-1]
        return succeed(counts if self.refuses else {})

    def counts_of(self, subjects: Sequence[str]) -> Deferred[list[int]]:
        """How often it was told anything."""
        return succeed([len(self.told)] * len(subjects))


class UsageServiceTests(SynchronousTestCase):
    """On a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = ToldStore()
        self.collected = CollectedCounts()
        self.service = UsageService(self.clock, self.collected, self.store)
        self.service.startService()

    def count(self, number: int) -> None:
        for subject in range(number):
            self.collected.add(f"x:{subject}", "requests", 1)

    def test_the_store_is_told_every_few_seconds_and_at_the_stop(self) -> None:
        """What was counted is told once, after FLUSH_SECONDS at the latest, and what is left when the service stops."""
        self.count(1)
        self.assertEqual(self.store.told, [])
        self.clock.advance(FLUSH_SECONDS)
        self.clock.advance(FLUSH_SECONDS)
        self.assertEqual(self.store.told, [{"x:0": {"requests": 1}}])
        self.count(2)
        self.successResultOf(self.service.stopService())
        self.assertEqual(self.store.told[1:], [{"x:0": {"requests": 1}, "x:1": {"requests": 1}}])
        self.count(1)
        self.clock.advance(2 * FLUSH_SECONDS)
        self.assertEqual(len(self.store.told), 2)

    def test_many_subjects_are_told_in_parts(self) -> None:
        """No iteration of the event loop tells more than PART subjects."""
        self.count(2 * PART + 1)
        flushed = self.service.flush()
        self.assertEqual([len(part) for part in self.store.told], [PART])
        self.assertNoResult(flushed)
        self.clock.pump([0, 0])
        self.assertEqual([len(part) for part in self.store.told], [PART, PART, 1])
        self.successResultOf(flushed)

    def test_what_the_store_did_not_take_is_told_again(self) -> None:
        """During an outage counts are kept."""
        self.store.refuses = True
        self.count(1)
        self.clock.advance(FLUSH_SECONDS)
        self.count(1)
        self.store.refuses = False
        self.clock.advance(FLUSH_SECONDS)
        self.clock.advance(FLUSH_SECONDS)
        self.assertEqual(self.store.told, [{"x:0": {"requests": 1}}, {"x:0": {"requests": 2}}])

    def test_counts_of(self) -> None:
        """What was counted in this process is told first; IUsageReport is provided."""
        self.assertTrue(verifyObject(IUsageReport, self.service))
        self.count(1)
        self.assertEqual(self.successResultOf(self.service.counts_of(["x:0"])), [len(self.store.told)])
        self.assertEqual(self.store.told, [{"x:0": {"requests": 1}}])

    def test_a_client_that_disconnects_loses_no_counts(self) -> None:
        """What was taken out is told to the store, although nobody waits for the answer."""
        self.count(2 * PART + 1)
        asked = self.service.counts_of(["x"])
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(sum(len(counts) for counts in self.store.told), 2 * PART + 1)

    def test_a_flush_waits_for_the_one_under_way(self) -> None:
        """When `flush` fires, all that was counted before the call is in the store."""
        self.store.pending = []
        self.count(1)
        first, second = self.service.flush(), self.service.flush()
        self.assertNoResult(second)
        self.store.pending[0].callback({})
        self.successResultOf(first)
        self.successResultOf(second)
