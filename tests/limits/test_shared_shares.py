"""The fallback's shares of buckets of routes and pools; the law is in `test_fallback_law`."""

from __future__ import annotations

from tests.limits.test_fallback import OnClock
from twisted_lb.interfaces import (
    ADDRESS,
    GLOBAL,
    IN_FLIGHT,
    MICROTOKENS,
    LimitLevel,
    LimitRule,
    Limits,
    Policy,
    SharedBucket,
    Taken,
)
from twisted_lb.limits.bucket import Bucket
from twisted_lb.limits.fallback import ADMITTED, REFUSED, UNKNOWN, Fallback
from twisted_lb.limits.share import Share
from twisted_lb.limits.shared_buckets import address_bucket, address_rule
from twisted_lb.limits.shared_shares import SharedShares

M = MICROTOKENS


class SharesTests(OnClock):
    """With ON_STORE_ERROR=local."""

    def setUp(self) -> None:
        super().setUp()
        self.rule = LimitRule("rule", "burst", 10, 1.0)
        self.limits = (self.rule.bucket(),)

    def take_one(self, fallback: Fallback, cost: int = 1, limits: tuple[SharedBucket, ...] = ()) -> Taken:
        taken = fallback.take_without_key(limits or self.limits, cost)
        assert taken is not None
        return taken

    def test_shares(self) -> None:
        """Each instance goes on with its part of the level that it has seen last, and tells of the share."""
        fallback = self.fallback(instances=2)
        fallback.seen_shared(self.limits[0], 6 * M)
        self.assertEqual(self.take_one(fallback, 2), Taken(True, b"", 10, 0.5, M, "burst"))
        self.assertEqual(self.take_one(fallback, 2), Taken(False, b"", 10, 0.5, M, "burst"))
        self.clock.advance(2)
        self.assertEqual(self.take_one(fallback, 2), Taken(True, b"", 10, 0.5, 0, "burst"))
        self.assertEqual(fallback.counts, {ADMITTED: 2, REFUSED: 1, UNKNOWN: 0})

    def test_a_bucket_that_was_not_seen_counts_as_full(self) -> None:
        """Each instance admits its part of the capacity."""
        fallback = self.fallback(instances=2)
        self.assertEqual([self.take_one(fallback).admitted for _ in range(6)], [True] * 5 + [False])

    def test_with_a_key(self) -> None:
        """The order is that of the store, all or none is taken, and all are described."""
        fallback = self.fallback(Limits(Policy(100, 0.0), in_flight=3))
        self.answered(fallback, "k", 20, 0.0, 20)
        fallback.seen_of_all(7 * M)
        fallback.seen_shared(self.limits[0], 8 * M)
        for cost, in_flight, limit in ((21, 9, "default"), (20, 3, IN_FLIGHT), (9, 0, "burst"), (8, 0, GLOBAL)):
            taken = fallback.take("k", cost, in_flight, self.limits)
            assert taken is not None
            self.assertEqual((taken.admitted, taken.limit), (False, limit))
        more = (LimitLevel(10, 1.0, 2 * M, "burst"),)
        self.assertEqual(fallback.take("k", 6, 0, self.limits), Taken(True, b"k", 20, 0.0, 14 * M, more=more))
        self.assertEqual(fallback.debts(), ([("k", 6 * M)], 6 * M))
        self.assertEqual(fallback.shared_debts(), [(self.limits[0], 6 * M)])
        self.assertEqual(fallback.shared_debts(), [])

    def test_what_is_left_is_known_in_the_next_outage(self) -> None:
        """A second outage goes on from what was left, also when the store has not been asked in between."""
        fallback = self.fallback()
        self.take_one(fallback, 7)
        fallback.shared_debts()
        self.assertEqual(self.take_one(fallback, 3).level, 0)

    def test_releases(self) -> None:
        """What a request costs in the end is charged to the share, with a key and without."""
        fallback = self.fallback()
        self.answered(fallback, "k", 20, 0.0, 20)
        self.take_one(fallback, 4)
        fallback.release("", -3, self.limits)
        fallback.release("k", 5, self.limits)
        fallback.release("", 0, self.limits)
        self.assertEqual(self.take_one(fallback, 4).level, 0)
        self.assertEqual(fallback.shared_debts(), [(self.limits[0], 10 * M)])
        self.assertEqual(fallback.debts(), ([("k", 5 * M)], 0))

    def test_what_the_store_is_told_is_known(self) -> None:
        """A charge that goes to the store counts in the level that is known."""
        fallback = self.fallback()
        fallback.seen_shared(self.limits[0], 5 * M)
        fallback.settled_shared(self.limits, 3)
        self.assertEqual(self.take_one(fallback, 2).level, 0)

    def test_another_policy(self) -> None:
        """A reload during an outage holds for the shares: of the capacity, the level, and what is owed."""
        fallback = self.fallback(instances=2)
        self.take_one(fallback)
        self.rule.capacity, self.rule.rate_per_sec = 4, 2.0
        self.assertEqual(self.take_one(fallback), Taken(True, b"", 4, 1.0, M, "burst"))
        self.rule.capacity = 40
        self.clock.advance(1)
        self.assertEqual(self.take_one(fallback).level, M)
        # With nothing taken the share would have been reduced to 2 tokens, and would have them still.
        self.assertEqual(fallback.shared_debts(), [(self.limits[0], M)])

    def test_a_gift_that_comes_late(self) -> None:
        """What the store has to give back is less by what the bucket, full since, would have lost of it."""
        fallback = self.fallback()
        shared = self.limits[0]
        fallback.seen_shared(shared, 4 * M)
        self.clock.advance(8)
        for amount, expected in ((3, 3), (-3, -1), (-1, 0)):
            self.assertEqual(fallback.shared_still_missing(shared, amount * M), expected * M)
        self.assertEqual(fallback.shared_still_missing(self.rule.bucket("other"), -M), -M)

    def test_networks_have_whole_buckets(self) -> None:
        """A network's bucket pays in each process for itself, and nothing is charged to the store."""
        fallback = self.fallback(Limits(address=Policy(4, 0.0)), instances=2)
        limits = (address_bucket(address_rule(Policy(4, 0.0)), "n"),)
        self.assertEqual(fallback.of_address(limits, 3), Taken(True, b"", 4, 0.0, M, ADDRESS))
        fallback.release("", -2, limits)
        self.assertEqual(fallback.of_network("n", spend=True).level, 2 * M)
        fallback.settled_shared(limits, 3)
        self.assertEqual(fallback.shared_debts(), [])

    def test_known_levels_are_bounded(self) -> None:
        """However many buckets are seen, about as many levels as `keys` are kept, the latest ones."""
        fallback = self.fallback(keys=10)
        for number in range(100):
            fallback.seen_shared(self.rule.bucket(str(number)), 0)
        buckets = [self.rule.bucket(str(number)) for number in range(100)]
        kept = [at for at, bucket in enumerate(buckets) if not self.take_one(fallback, 1, (bucket,)).admitted]
        self.assertTrue(5 <= len(kept) <= 10 and kept[-1] == 99, kept)

    def test_shares_of_networks_are_bounded(self) -> None:
        """When more networks come than are kept, the share longest unused goes; those of other rules stay."""
        shares = SharedShares(100, lambda whole, now_us: Share(whole, 1, now_us), most=3)
        networks, other = LimitRule("networks", "n", 2, 0.0, unbounded=True), LimitRule("all", "a", 2, 0.0)
        shares.take((other.bucket(),), 2, 0)
        for number in range(50):
            shares.take((networks.bucket(str(number)),), 2, 0)
        self.assertIsNotNone(shares.refusing((other.bucket(),), 1, 0))
        # Its level is known, even though its share was dropped.
        self.assertIsNotNone(shares.refusing((networks.bucket("46"),), 1, 0))
        self.assertEqual([shared.key for shared, _ in shares.debts(0)], ["all", "networks|48", "networks|49"])


class ModesTests(OnClock):
    limits = (LimitRule("rule", "burst", 10, 0.0).bucket(), LimitRule("other", "o", 2, 0.0).bucket())

    def test_deny(self) -> None:
        """With `deny` nothing is decided without a key, and what was admitted before is charged afterwards."""
        self.mode = "deny"
        fallback = self.fallback()
        self.assertIsNone(fallback.take_without_key(self.limits, 1))
        fallback.release("", 3, self.limits[:1])
        fallback.release("", -1, self.limits[:1])
        self.assertEqual(fallback.shared_debts(), [(self.limits[0], 2 * M)])

    def test_allow(self) -> None:
        """With `allow` all is admitted at the level that is known, and not counted; what was admitted before is charged
        afterwards."""
        self.mode = "allow"
        fallback = self.fallback()
        fallback.seen_shared(self.limits[0], 3 * M)
        expected = Taken(True, b"", 10, 0.0, 3 * M, "burst", (LimitLevel(2, 0.0, 2 * M, "o"),), counted=False)
        for _ in range(20):
            self.assertEqual(fallback.take_without_key(self.limits, 5), expected)
        self.assertEqual(fallback.shared_debts(), [])
        fallback.release("", 3, self.limits[:1])
        self.assertEqual(fallback.shared_debts(), [(self.limits[0], 3 * M)])

    def test_stale_levels_are_not_told(self) -> None:
        """With `allow` a key is told of its own bucket, and not of limits of the route that it had used before."""
        self.mode = "allow"
        fallback = self.fallback()
        fallback.recent["k"] = Taken(True, b"k", 5, 0.0, M, more=(LimitLevel(2, 0.0, M, "o"),)), self.clock.seconds()
        self.assertEqual(fallback.take("k", 1, 0), Taken(True, b"k", 5, 0.0, M, counted=False))


class ShareTests(OnClock):
    def test_a_changed_whole(self) -> None:
        """A share of a bucket of another policy has a part of that one."""
        share = Share(Bucket(8, 4.0, 8 * M, 0), 4, 0)
        share.take(1, 0)
        share.change_whole(400, 0.4, 1_000_000)
        self.assertEqual((share.level_at(1_000_000), share.level_at(11_000_000)), (2 * M, 3 * M))
        self.assertEqual(share.debt(11_000_000), 0)
        share.take(1, 11_000_000)
        self.assertEqual(share.debt(11_000_000), M)
