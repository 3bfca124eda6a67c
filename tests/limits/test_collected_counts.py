"""Counts of a process until the store is told."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.limits import collected_counts
from twisted_lb.limits.collected_counts import CollectedCounts
from twisted_lb.usage import key_subject

A, B = "a" * 64, "b" * 64


class CollectedCountsTests(SynchronousTestCase):
    """What is told to the store."""

    def setUp(self) -> None:
        self.collected = CollectedCounts()

    def taken(self, size: int = 100) -> list[dict[str, dict[str, int]]]:
        return list(self.collected.take(size))

    def test_requests_refusals_and_others_are_told_once(self) -> None:
        """Each subject is told with all its counters, and then no more."""
        self.assertEqual(self.taken(), [])
        for tokens in (1, 0, 5):
            self.collected.request_ended(A, tokens)
        self.collected.request_refused(A, "default")
        self.collected.request_refused(A, "default")
        self.collected.request_refused(B, "key_disabled")
        self.collected.add("limit:x", "would_refuse", 3)
        expected = {
            key_subject(A): {"refused:default": 2, "requests": 3, "tokens": 6},
            key_subject(B): {"refused:key_disabled": 1},
            "limit:x": {"would_refuse": 3},
        }
        self.assertEqual(self.taken(), [expected])
        self.assertEqual(self.taken(), [])

    def test_parts_have_a_size(self) -> None:
        """Of five subjects there are parts of two, two and one, and what comes meanwhile is of the next time."""
        for digit in "abcde":
            self.collected.request_ended(digit * 64, 1)
        parts = self.collected.take(2)
        first = next(parts)
        self.collected.request_ended(A, 1)
        self.assertEqual([len(first), *map(len, parts)], [2, 2, 1])
        self.assertEqual(self.taken(), [{key_subject(A): {"requests": 1, "tokens": 1}}])

    def test_what_was_put_back_is_told_with_what_came_meanwhile(self) -> None:
        """Counts that a store did not take are added to the next ones."""
        self.collected.request_ended(A, 2)
        [part] = self.taken()
        self.collected.request_ended(A, 3)
        self.collected.put_back(part)
        self.assertEqual(self.taken(), [{key_subject(A): {"requests": 2, "tokens": 5}}])

    def test_what_waits_is_bounded(self) -> None:
        """While a store is away, counts of no more than MOST_WAITING subjects are put back."""
        number = collected_counts.MOST_WAITING
        self.collected.put_back({f"x:{at}": {"requests": 1} for at in range(number + 5)})
        self.collected.put_back({"x:1": {"requests": 1}})
        [part] = self.taken(2 * number)
        self.assertEqual(len(part), number)
        self.assertEqual(part["x:1"], {"requests": 2})
