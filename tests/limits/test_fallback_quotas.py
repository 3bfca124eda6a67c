"""Quotas while the store is away: shares of what was left, on a scripted clock."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from tests.hypothesis_profile import given
from tests.limits.test_fallback import M, OnClock
from twisted_lb.interfaces import KEY, QUOTA, Policy, Taken
from twisted_lb.limits.fallback import Fallback
from twisted_lb.limits.quota_count import QuotaCount
from twisted_lb.limits.recent_keys import SpecialKey
from twisted_lb.quotas import DAY, REQUESTS, SECOND_US, TOKENS, Quota, QuotaCharge, QuotaLevel

# A day in UTC, of which some seconds are left.
ENDS = 20_000 * 86_400
DAY_SECONDS = 86_400


class QuotaShareTests(OnClock):
    """What one outage admits."""

    def known(
        self, fallback: Fallback, left: int, unit: str = REQUESTS, seconds_left: int = 100, amount: int = 100
    ) -> QuotaLevel:
        """The store has decided for the keys a and b of a user with a quota."""
        now_us = (ENDS - seconds_left) * SECOND_US
        quota = QuotaLevel(amount, unit, DAY, "UTC", left, (ENDS - DAY_SECONDS) * SECOND_US, ENDS * SECOND_US, now_us)
        taken = Taken(True, b"ann", 1000, 0.0, 1000 * M, KEY, quota=quota)
        for digest in "ab":
            special = SpecialKey("a", float("inf"), Policy(), 0, self.clock.seconds())
            fallback.seen_special(digest, special, taken)
        return quota

    def test_each_instance_has_a_share_of_what_was_left(self) -> None:
        """All shares together admit what was left, rounded down, and charge that."""
        for instances, left, each in ((1, 10, 10), (3, 10, 3), (4, 3, 0), (2, -5, 0)):
            for _ in range(instances):
                fallback = self.fallback(instances=instances)
                quota = self.known(fallback, left)
                self.assertEqual(self.admitted(fallback, "a", 6) + self.admitted(fallback, "b", 20), each)
                refused = self.take(fallback, "b")
                self.assertEqual((refused.limit, refused.capacity), (QUOTA, 100 // instances))
                charge = QuotaCharge(REQUESTS, quota.starts_us, quota.ends_us, each)
                self.assertEqual(fallback.quota_debts(), [("a", charge)] if each else [])
                self.assertEqual(fallback.debts()[0], [("a", each * M)] if each else [])

    def test_tokens(self) -> None:
        """Costs count, also those that are settled and refunded meanwhile."""
        fallback = self.fallback()
        quota = self.known(fallback, 10, TOKENS)
        self.assertTrue(self.take(fallback, "a", 6).admitted)
        self.assertFalse(self.take(fallback, "a", 5).admitted)
        charge = QuotaCharge(TOKENS, quota.starts_us, quota.ends_us, -3)
        fallback.charge_quota("b", charge)
        self.assertTrue(self.take(fallback, "b", 7).admitted)
        fallback.charge_quota("b", charge._replace(amount=5))
        self.assertEqual(fallback.quota_debts(), [("a", charge._replace(amount=15))])

    def test_the_period_ends_during_the_outage(self) -> None:
        """From then on there is the share of a whole quota; each period is charged for itself."""
        fallback = self.fallback(instances=2)
        quota = self.known(fallback, 10)
        self.assertEqual(self.admitted(fallback, "a"), 5)
        self.clock.advance(99)
        self.assertEqual(self.admitted(fallback, "a"), 0)
        self.clock.advance(1)
        self.assertEqual(self.admitted(fallback, "a"), 50)
        taken = self.take(fallback, "a")
        assert taken.quota is not None
        self.assertEqual((taken.quota.starts_us, taken.quota.seconds_left), (quota.ends_us, DAY_SECONDS))
        first = QuotaCharge(REQUESTS, quota.starts_us, quota.ends_us, 5)
        second = QuotaCharge(REQUESTS, quota.ends_us, quota.ends_us + DAY_SECONDS * SECOND_US, 50)
        self.assertEqual(fallback.quota_debts(), [("a", first), ("a", second)])
        fallback.debts()

    def test_another_outage_goes_on_with_what_is_left(self) -> None:
        """Until the store decides again, what is left of a share is what is known."""
        fallback = self.fallback()
        self.known(fallback, 10)
        self.assertEqual(self.admitted(fallback, "a", 7), 7)
        fallback.quota_debts()
        fallback.debts()
        self.clock.advance(50)
        self.assertEqual(self.admitted(fallback, "a"), 3)
        self.clock.advance(50)
        self.assertEqual(self.admitted(fallback, "a", 200), 100)

    def test_what_is_told_before_an_outage(self) -> None:
        """A charge that the store is told changes what is known, if it is of the same period."""
        fallback = self.fallback()
        quota = self.known(fallback, 10)
        charge = QuotaCharge(REQUESTS, quota.starts_us, quota.ends_us, -2)
        fallback.settled_quota("b", charge)
        fallback.settled_quota("b", charge._replace(starts_us=1))
        fallback.settled("b", -2)
        self.clock.advance(99)
        self.assertEqual(self.admitted(fallback, "a"), 12)
        self.assertEqual(fallback.quota_refund("b", 5), [("a", charge._replace(amount=-1))])

    def test_a_period_that_was_not_known_yet(self) -> None:
        """What was used before the period was determined counts in it."""
        fallback = self.fallback()
        quota = self.known(fallback, 10)
        taken = Taken(True, b"ann", 1000, 0.0, 1000 * M, KEY, quota=quota._replace(starts_us=0, ends_us=0))
        fallback.seen_special("a", SpecialKey("a", float("inf"), Policy(), 0, self.clock.seconds()), taken)
        self.assertEqual(self.admitted(fallback, "a"), 10)
        self.assertEqual(fallback.quota_debts(), [("a", QuotaCharge(REQUESTS, quota.starts_us, quota.ends_us, 10))])

    def test_what_ends_before_the_first_request_of_an_outage(self) -> None:
        """A cost that is settled when there is no share yet counts in the share."""
        fallback = self.fallback()
        quota = self.known(fallback, 10, TOKENS)
        charge = QuotaCharge(TOKENS, quota.starts_us, quota.ends_us, 8)
        fallback.charge_quota("b", charge)
        self.assertEqual(self.admitted(fallback, "a"), 2)
        self.assertEqual(fallback.quota_debts(), [("a", charge._replace(amount=10))])

    def test_what_the_store_was_to_be_told(self) -> None:
        """A charge that is known already, but was not sent, counts once."""
        fallback = self.fallback()
        quota = self.known(fallback, 10, TOKENS)
        charge = QuotaCharge(TOKENS, quota.starts_us, quota.ends_us, 8)
        fallback.settled_quota("b", charge)
        fallback.charge_quota("b", charge, True)
        self.assertEqual(self.admitted(fallback, "a"), 2)
        self.assertEqual(fallback.quota_debts(), [("a", charge), ("a", charge._replace(amount=2))])

    def test_a_refusal_says_what_is_left(self) -> None:
        """What others have used is known from a refusal by the quota, too."""
        fallback = self.fallback()
        quota = self.known(fallback, 10)
        self.clock.advance(5)
        fallback.seen_quota("a", quota._replace(left=2, now_us=quota.now_us + 5 * SECOND_US))
        fallback.seen_quota("unknown", quota)
        self.clock.advance(94)
        self.assertEqual(self.admitted(fallback, "b"), 2)
        self.clock.advance(1)
        self.assertEqual(self.admitted(fallback, "b"), 100)

    def test_charges_without_a_share(self) -> None:
        """What ends during an outage, and has no share, is charged afterwards."""
        fallback = self.fallback()
        quota = self.known(fallback, 10)
        charge = QuotaCharge(REQUESTS, quota.starts_us, quota.ends_us, -1)
        fallback.charge_quota("b", charge)
        fallback.charge_quota("unknown", charge)
        self.assertEqual(fallback.quota_debts(), [("unknown", charge), ("a", charge)])
        self.assertEqual(fallback.quota_debts(), [])

    def test_other_processes_learn_it(self) -> None:
        """News of keys have the quota, as old as it is."""
        fallback, other = self.fallback(), self.fallback()
        self.known(fallback, 10)
        self.clock.advance(60)
        other.learn(json.loads(json.dumps(fallback.news())))
        self.assertEqual(self.admitted(other, "b"), 10)
        self.clock.advance(39)
        self.assertEqual(self.admitted(other, "b"), 0)
        self.clock.advance(1)
        self.assertEqual(self.admitted(other, "b", 200), 100)

    def test_allow(self) -> None:
        """With `allow` a request is told what is left of the whole quota and of its period now, and is not counted."""
        self.mode = "allow"
        fallback = self.fallback(instances=3)
        quota = self.known(fallback, 0)
        self.clock.advance(40)
        taken = self.take(fallback, "b")
        self.assertEqual((taken.admitted, taken.counted), (True, False))
        assert taken.quota is not None
        self.assertEqual((taken.quota.left, taken.quota.seconds_left), (0, 60))
        self.clock.advance(61)
        taken = self.take(fallback, "a")
        assert taken.quota is not None
        self.assertEqual((taken.quota.left, taken.quota.seconds_left), (100, DAY_SECONDS - 1))
        self.assertEqual((taken.quota.starts_us, fallback.quota_debts()), (quota.ends_us, []))

    def test_allow_charges_what_was_counted_before(self) -> None:
        """With `allow`, what is given back of a request that the store has counted is charged afterwards."""
        self.mode = "allow"
        fallback = self.fallback()
        quota = self.known(fallback, 5)
        charge = QuotaCharge(REQUESTS, quota.starts_us, quota.ends_us, -1)
        fallback.charge_quota("b", charge)
        self.assertEqual(fallback.quota_debts(), [("a", charge)])

    @given(st.integers(-12, 12), st.integers(0, 12), st.sampled_from([REQUESTS, TOKENS]), st.integers(1, 3))
    def test_it_refuses_what_the_quota_would(self, left: int, cost: int, unit: str, instances: int) -> None:
        """The share of one instance is the quota; where that is overdrawn, none admits what costs nothing either."""
        fallback = self.fallback(instances=instances)
        self.known(fallback, left, unit, amount=20)
        count = QuotaCount(Quota(20, unit, DAY, used=20 - left))
        refused = not self.take(fallback, "a", cost).admitted
        if instances == 1:
            self.assertEqual(refused, count.refuses(cost))
        elif count.refuses(cost):
            self.assertTrue(refused)
        fallback.quota_debts()
        fallback.debts()
        # In another outage soon afterwards, too.
        if left < 0:
            self.assertEqual(self.admitted(fallback, "b", cost=0), 0)

    @given(
        st.integers(1, 4),
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 60)), max_size=60),
        st.integers(-3, 40),
        st.sampled_from([REQUESTS, TOKENS]),
    )
    def test_never_more_than_was_left(
        self, instances: int, steps: list[tuple[int, int, int]], left: int, unit: str
    ) -> None:
        """All shares together admit at most what was left of the period, and at most the whole of later ones."""
        fallbacks = [self.fallback(instances=instances) for _ in range(instances)]
        for fallback in fallbacks:
            self.known(fallback, left, unit, amount=40)
        used: dict[int, int] = {}
        for which, cost, seconds in steps:
            self.clock.advance(seconds)
            taken = self.take(fallbacks[which % instances], "a", cost)
            if taken.admitted:
                assert taken.quota is not None
                starts = taken.quota.starts_us
                used[starts] = used.get(starts, 0) + (1 if unit == REQUESTS else cost)
        charged: dict[int, int] = {}
        for fallback in fallbacks:
            for _, charge in fallback.quota_debts():
                charged[charge.starts_us] = charged.get(charge.starts_us, 0) + charge.amount
        first = (ENDS - DAY_SECONDS) * SECOND_US
        for starts, amount in used.items():
            self.assertLessEqual(amount, max(left, 0) if starts == first else 40)
        self.assertEqual({starts: amount for starts, amount in used.items() if amount}, charged)
