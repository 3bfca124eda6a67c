"""Buckets of routes, pools and networks in memory."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.interfaces import MICROTOKENS, LimitRule, SharedBucket
from twisted_lb.limits.shared_buckets import MAX_FORGOTTEN, SharedBuckets

SECOND = 1_000_000  # microseconds
START = 1_800_000_000 * SECOND
M = MICROTOKENS


class Buckets:
    """Those of one rule, whose subjects are networks."""

    def __init__(self, capacity: int, rate: float, most: int = 1000) -> None:
        self.all = SharedBuckets(most)
        self.rule = LimitRule("rule", "burst", capacity, rate, unbounded=True)

    def __len__(self) -> int:
        return len(self.all)

    def take_one(self, subject: str, now_us: int, cost: int = 1) -> tuple[bool, int]:
        """Whether it was admitted, and the level then."""
        limits = (self.rule.bucket(subject),)
        refused = self.all.refusing(limits, cost, now_us)
        if refused is not None:
            return False, refused[1]
        [level] = self.all.take(limits, cost, now_us)
        return True, level

    def level_of(self, subject: str, now_us: int = START) -> int:
        return self.all.level(self.rule.bucket(subject), now_us)

    def give(self, subject: str, tokens: int = 1) -> None:
        self.all.settle((self.rule.bucket(subject),), -tokens, START)


class OneRuleTests(SynchronousTestCase):
    """The buckets of one rule."""

    def test_each_subject_has_a_bucket_that_refills(self) -> None:
        """A network gets the capacity, then the rate; another one has its own."""
        buckets = Buckets(2, 1.0)
        taken = [buckets.take_one("a", START + at) for at in (0, 0, 0, SECOND, SECOND, 1_500_000)]
        self.assertEqual(taken, [(True, M), (True, 0), (False, 0), (True, 0), (False, 0), (False, M // 2)])
        self.assertEqual(buckets.take_one("b", START + SECOND), (True, M))

    def test_looking_changes_nothing(self) -> None:
        """The level of a network that was not seen is full, and being asked for it leaves no trace."""
        buckets = Buckets(2, 1.0)
        self.assertEqual(buckets.level_of("a"), 2 * M)
        self.assertEqual(buckets.take_one("a", START, 3), (False, 2 * M))
        self.assertEqual(len(buckets), 0)
        buckets.take_one("a", START)
        for _ in range(3):
            self.assertEqual(buckets.level_of("a", START + 500_000), 1_500_000)

    def test_a_token_given_back_is_there(self) -> None:
        """What is given back counts up to the capacity, and for a network that was not seen it is nothing."""
        buckets = Buckets(2, 0.0)
        buckets.take_one("a", START)
        for _ in range(3):
            buckets.give("a")
            buckets.give("b")
        self.assertEqual((buckets.level_of("a"), buckets.level_of("b"), len(buckets)), (2 * M, 2 * M, 1))

    def test_what_is_settled_may_leave_a_debt(self) -> None:
        """A request that cost more than it had taken is charged, also to a bucket that was forgotten."""
        buckets = Buckets(2, 0.0)
        buckets.give("a", -5)
        self.assertEqual(buckets.take_one("a", START, 0), (False, -3 * M))
        buckets.give("a", 4)
        self.assertEqual(buckets.take_one("a", START), (True, 0))

    def test_full_buckets_are_forgotten(self) -> None:
        """Networks that come once each leave about as many buckets as refill at a time, not as many as came."""
        buckets = Buckets(10, 1.0, 100_000)
        for number in range(10_000):
            buckets.take_one(f"network {number}", START + number * SECOND // 100)
        self.assertLessEqual(len(buckets), 102)
        for number in range(200):
            buckets.take_one("a", START + 1000 * SECOND, number == 0)
        self.assertEqual(len(buckets), 1)

    def test_a_bucket_that_is_forgotten_was_full(self) -> None:
        """Forgetting admits nothing more: an emptied network stays empty while others come and go."""
        buckets = Buckets(3, 0.01, 100_000)
        for _ in range(3):
            buckets.take_one("a", START)
        for number in range(1000):
            buckets.take_one(f"network {number}", START + number * 1000)
        self.assertEqual(buckets.take_one("a", START + SECOND), (False, 10_000))

    def test_a_network_in_use_is_not_the_one_that_goes(self) -> None:
        """A network that was taken from again keeps its bucket, and one that only came later loses its own."""
        buckets = Buckets(2, 0.0, most=3)
        for network in ("a", "b", "c", "a", "d"):
            self.assertTrue(buckets.take_one(network, START)[0])
        self.assertEqual([buckets.level_of(network) for network in "abcd"], [0, 2 * M, M, M])

    def test_the_number_is_bounded(self) -> None:
        """When more networks come than are kept, the one longest unused goes."""
        buckets = Buckets(1, 0.0, most=5)
        for number in range(20):
            buckets.take_one(f"network {number}", START)
            self.assertLessEqual(len(buckets), 5)
        levels = [buckets.level_of(f"network {number}") for number in range(20)]
        self.assertEqual(levels, [M] * 15 + [0] * 5)

    def test_another_policy(self) -> None:
        """A smaller capacity cuts the level, a larger one keeps it; the time since the last use has the new rate."""
        buckets = Buckets(10, 0.0)
        buckets.take_one("a", START, 4)
        buckets.rule.capacity = 20
        self.assertEqual(buckets.level_of("a"), 6 * M)
        buckets.rule.capacity = 5
        self.assertEqual(buckets.level_of("a"), 5 * M)
        buckets.rule.capacity, buckets.rule.rate_per_sec = 20, 2.0
        self.assertEqual(buckets.take_one("a", START + 3 * SECOND), (True, 11 * M))

    def test_refund_to_a_full_bucket(self) -> None:
        """A refund while the capacity is smaller does not take away what is there once it is larger again."""
        buckets = Buckets(10, 0.0)
        buckets.take_one("a", START, 4)
        buckets.rule.capacity = 5
        buckets.give("a")
        buckets.rule.capacity = 10
        self.assertEqual(buckets.level_of("a"), 6 * M)


class ForgottenTests(SynchronousTestCase):
    """What is left of rules that are not used any more, as those of limits that were removed."""

    def test_full_buckets_of_any_rule(self) -> None:
        """A bucket is dropped when it is full, whether its rule is used or not; it was not before."""
        buckets = SharedBuckets()
        removed = LimitRule("removed", "r", 2, 1.0, unbounded=True)
        total = LimitRule("total", "t", 2, 0.0)
        for cost in (1, 2):
            buckets.take((removed.bucket(str(cost)),), cost, START)
        buckets.take((total.bucket(""),), 1, START)
        for seconds, left in ((0, 3), (1, 2), (2, 1), (1000, 1)):
            buckets.forget_full(START + seconds * SECOND)
            self.assertEqual(len(buckets), left, seconds)
        self.assertEqual(buckets.level(removed.bucket("1"), START), 2 * M)
        self.assertEqual(buckets.level(total.bucket(""), START), M)
        buckets.settle((total.bucket(""),), -1, START)
        buckets.forget_full(START)
        self.assertEqual((len(buckets), list(buckets._rules), list(buckets._policies)), (0, [], []))

    def test_many(self) -> None:
        """One call drops a bounded number."""
        buckets = SharedBuckets()
        rule = LimitRule("removed", "r", 2, 0.0)
        for at in range(MAX_FORGOTTEN + 3):
            buckets.take((rule.bucket(str(at)),), 1, START)
        rule.capacity = 1
        for left in (3, 0):
            buckets.forget_full(START)
            self.assertEqual(len(buckets), left)


class SeveralRulesTests(SynchronousTestCase):
    """Takings from buckets of several rules."""

    def setUp(self) -> None:
        self.buckets = SharedBuckets(3)
        self.networks = LimitRule("networks", "n", 2, 0.0, unbounded=True)
        self.all = LimitRule("all", "a", 5, 0.0)

    def refusing(self, *limits: SharedBucket, cost: int = 1) -> str:
        refused = self.buckets.refusing(limits, cost, START)
        return refused[0].rule.name if refused is not None else ""

    def test_the_first_that_refuses_is_told(self) -> None:
        """Of several buckets without tokens the first is told; nothing is taken meanwhile."""
        both = self.networks.bucket("a"), self.all.bucket()
        self.assertEqual(self.buckets.take(both, 2, START), [0, 3 * M])
        self.assertEqual(self.refusing(*both), "n")
        self.assertEqual(self.refusing(*both[::-1], cost=4), "a")
        self.assertEqual(self.buckets.level(both[1], START), 3 * M)

    def test_networks_push_out_no_other_rule(self) -> None:
        """However many networks come, buckets of other rules stay."""
        self.buckets.take((self.all.bucket(),), 5, START)
        for number in range(50):
            self.buckets.take((self.networks.bucket(str(number)),), 1, START)
        self.assertEqual(self.refusing(self.all.bucket()), "a")
        self.assertEqual(len(self.buckets), 4)
