"""What every store promises about the buckets of routes and pools, as one suite: see `contract`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks

from tests.stores.contract import StoreCase, digest_of
from twisted_lb.interfaces import (
    GLOBAL,
    IN_FLIGHT,
    MICROTOKENS,
    LimitLevel,
    LimitRule,
    Limits,
    Policy,
    ShadowDecision,
    SharedBucket,
    Taken,
)
from twisted_lb.limits.bucket import MAX_COST

M = MICROTOKENS
HERE, THERE = "192.0.2.7", "2001:db8:1:2::/64"


class SharedContract(StoreCase):
    """Requests that need tokens of more buckets, with a key and without."""

    def rule(self, name: str, capacity: int, rate: float = 0.0, unbounded: bool = False) -> LimitRule:
        return LimitRule(f"limit:route|/|{name}", name, capacity, rate, unbounded)

    @inlineCallbacks
    def test_a_request_is_admitted_by_all_or_takes_of_none(self) -> Any:
        """A request takes its cost of the key's bucket and of each shared one, and a refusal takes nothing of any."""
        yield self.create("k", "ann", 10)
        small, large = self.rule("small", 3).bucket(), self.rule("large", 7).bucket()
        first = yield self.take("k", 2, limits=(small, large))
        more = (LimitLevel(3, 0.0, M, "small"), LimitLevel(7, 0.0, 5 * M, "large"))
        self.assertEqual(first, Taken(True, b"ann", 10, 0.0, 8 * M, more=more))
        self.assertIsInstance(first.more[0], LimitLevel)
        refused = Taken(False, b"ann", 3, 0.0, M, "small")
        answers = yield gatherResults([self.take("k", 2, limits=(small, large)), self.take("k", 6, limits=(large,))])
        self.assertEqual(answers, [refused, Taken(False, b"ann", 7, 0.0, 5 * M, "large")])
        last = yield self.take("k", 5, limits=(large,))
        self.assertEqual(last, Taken(True, b"ann", 10, 0.0, 3 * M, more=(LimitLevel(7, 0.0, 0, "large"),)))

    @inlineCallbacks
    def test_the_first_that_refuses_is_told(self) -> Any:
        """The order is: the key's bucket, requests in flight, shared buckets as given, the global bucket."""
        yield self.begin_with(Limits(global_bucket=Policy(4, 0.0), in_flight=1))
        yield self.create("k", "ann", 9)
        one, two = self.rule("one", 5).bucket(), self.rule("two", 6).bucket()
        names = []
        for cost in (10, 7, 6, 5):
            names.append((yield self.take("k", cost, limits=(two, one))).limit)
        self.assertEqual(names, ["default", "two", "one", GLOBAL])
        yield self.take("k", 1, limits=(one, two))
        self.assertEqual((yield self.take("k", 6, limits=(one, two))).limit, IN_FLIGHT)
        self.store.release(digest_of("k"), 0, (one, two))
        taken = yield self.take("k", 3, limits=(one, two))
        self.assertEqual([level.level for level in taken.more], [M, 2 * M])

    @inlineCallbacks
    def test_all_keys_share_a_bucket(self) -> Any:
        """Keys with plenty of tokens, and requests without a key, get the capacity together, in order."""
        yield self.create("k", "ann", 100)
        yield self.create("other", "bob", 100)
        shared = self.rule("all", 5).bucket()
        asked = [self.take(key, 1, limits=(shared,)) for key in ("k", "other") * 2]
        asked += [self.take_without_key(shared) for _ in range(2)]
        answers = yield gatherResults(asked)
        self.assertEqual(sum(answer.admitted for answer in answers), 5)
        self.assertFalse((yield self.take("k", 1, limits=(shared,))).admitted)
        self.assertTrue((yield self.take("k")).admitted)

    @inlineCallbacks
    def test_subjects_are_apart(self) -> Any:
        """Each subject of a rule has a bucket of its own, and so has each rule."""
        yield self.create("k", "ann", 100)
        networks, other = self.rule("networks", 1, unbounded=True), self.rule("other", 1)
        for limits in ((networks.bucket(HERE),), (networks.bucket(THERE),), (other.bucket(),)):
            answers = yield gatherResults([self.take("k", 1, limits=limits) for _ in range(2)])
            self.assertEqual([answer.admitted for answer in answers], [True, False], limits)

    @inlineCallbacks
    def test_a_request_without_a_key(self) -> Any:
        """It takes its cost of all its buckets or of none, and the first one is described."""
        one, two = self.rule("one", 4).bucket(), self.rule("two", 3).bucket()
        taken = yield self.take_without_key(one, two, cost=2)
        self.assertEqual(taken, Taken(True, b"", 4, 0.0, 2 * M, "one", (LimitLevel(3, 0.0, M, "two"),)))
        self.assertEqual((yield self.take_without_key(one, two, cost=2)), Taken(False, b"", 3, 0.0, M, "two"))
        self.assertEqual((yield self.take_without_key(one, cost=2)), Taken(True, b"", 4, 0.0, 0, "one"))
        for cost in (-1, MAX_COST + 1):
            with self.assertRaisesRegex(ValueError, "^cost: "):
                self.take_without_key(one, cost=cost)

    @inlineCallbacks
    def test_a_request_without_a_key_is_not_limited_by_all(self) -> Any:
        """The global bucket and those of networks have nothing to do with it."""
        yield self.begin_with(Limits(Policy(1, 0.0), Policy(1, 0.0), 1))
        shared = self.rule("all", 5).bucket()
        answers = yield gatherResults([self.take_without_key(shared) for _ in range(6)])
        self.assertEqual([answer.admitted for answer in answers], [True] * 5 + [False])
        self.assertTrue((yield self.take_address(HERE)).admitted)

    @inlineCallbacks
    def test_an_unknown_key_takes_nothing(self) -> Any:
        """What no account has, and what its own bucket refuses, leaves shared buckets as they are."""
        yield self.create("k", "ann", 1)
        shared = self.rule("all", 5).bucket()
        answers = yield gatherResults(
            [self.take("nobody", 1, limits=(shared,)), self.take("k", 3, limits=(shared,))]
        )
        self.assertEqual(answers, [None, Taken(False, b"ann", 1, 0.0, M)])
        self.assertEqual((yield self.take_without_key(shared)).level, 4 * M)

    @inlineCallbacks
    def test_releases(self) -> Any:
        """What a release takes or gives back, it takes from and gives to the same buckets, up to their capacities."""
        yield self.create("k", "ann", 10)
        one, two = self.rule("one", 4).bucket(), self.rule("two", 9).bucket()
        yield self.take("k", 3, limits=(one, two))
        self.store.release(digest_of("k"), 2, (one, two))
        refused = yield self.take("k", 1, limits=(one,))
        self.assertEqual(refused, Taken(False, b"ann", 4, 0.0, -M, "one"))
        self.store.release(digest_of("k"), -4, (one, two))
        taken = yield self.take("k", 0, limits=(one, two))
        self.assertEqual((taken.level, [more.level for more in taken.more]), (9 * M, [3 * M, 8 * M]))
        self.store.release("", -100, (one, two))
        taken = yield self.take("k", 0, limits=(one, two))
        self.assertEqual((taken.level, [more.level for more in taken.more]), (9 * M, [4 * M, 9 * M]))
        self.store.release("", 3, (one,))
        self.assertEqual((yield self.take_without_key(one)), Taken(True, b"", 4, 0.0, 0, "one"))

    @inlineCallbacks
    def test_a_bucket_that_was_not_used_can_get_a_debt(self) -> Any:
        """A charge to a full bucket that the store has not seen yet is taken of its capacity."""
        shared = self.rule("one", 4).bucket()
        self.store.release("", 7, (shared,))
        self.assertEqual((yield self.take_without_key(shared, cost=0)), Taken(False, b"", 4, 0.0, -3 * M, "one"))

    @inlineCallbacks
    def test_a_shared_bucket_refills(self) -> Any:
        """An empty bucket that refills a million tokens a second admits after some milliseconds."""
        shared = self.rule("one", 2, 1_000_000.0).bucket()
        yield self.take_without_key(shared, cost=2)
        yield self.some_milliseconds()
        taken = Taken(True, b"", 2, 1_000_000.0, 0, "one")
        self.assertEqual((yield self.take_without_key(shared, cost=2)), taken)

    @inlineCallbacks
    def test_another_policy(self) -> Any:
        """A changed capacity keeps the level or cuts it, also for the end of a request that came before."""
        rule = self.rule("one", 10)
        shared = rule.bucket()
        yield self.take_without_key(shared, cost=4)
        rule.capacity = 20
        self.store.release("", -1, (shared,))
        self.assertEqual((yield self.take_without_key(shared, cost=0)), Taken(True, b"", 20, 0.0, 7 * M, "one"))
        rule.capacity = 5
        self.assertEqual((yield self.take_without_key(shared)), Taken(True, b"", 5, 0.0, 4 * M, "one"))
        # Another rule of the same key, as after the limit was removed and has come back.
        again = self.rule("one", 10).bucket()
        self.assertEqual((yield self.take_without_key(again)), Taken(True, b"", 10, 0.0, 3 * M, "one"))

    @inlineCallbacks
    def test_levels(self) -> Any:
        """Levels are told in the order asked, full ones of buckets that were not used, and nothing is taken."""
        yield self.begin_with(Limits(global_bucket=Policy(90, 0.0)))
        yield self.create("k", "ann", 10)
        one, two = self.rule("one", 4).bucket(), self.rule("two", 9).bucket()
        of_a, of_b = (self.rule("each", 5).bucket(subject) for subject in ("a", "b"))
        yield self.take("k", 3, limits=(one, of_a))
        everyone = SharedBucket(LimitRule("global", GLOBAL, 90, 0.0), "global")
        # Who asks knows the keys and the policies of the buckets, and not their rules.
        asked = [SharedBucket(LimitRule(of.key, "", of.rule.capacity, 0.0), of.key) for of in (two, one, of_a, of_b)]
        for _ in range(2):
            levels = [9 * M, M, 2 * M, 5 * M, 87 * M]
            self.assertEqual((yield self.store.levels([*asked, everyone])), levels)
        self.assertEqual((yield self.store.levels([])), [])

    @inlineCallbacks
    def test_an_address_pays_the_cost(self) -> Any:
        """A network's bucket pays what a request without a key costs, and what it costs in the end."""
        yield self.begin_with(Limits(address=Policy(9, 0.0)))
        taken = yield self.take_address(HERE, 5, True)
        self.assertEqual(taken, Taken(True, b"", 9, 0.0, 4 * M, "address"))
        self.assertFalse((yield self.take_address(HERE, 5, True)).admitted)
        self.store.release_address(HERE, 3)
        self.assertEqual((yield self.take_address(HERE)).level, 0)
        self.store.release_address(HERE, -2)
        self.assertEqual((yield self.take_address(HERE)).level, M)

    @inlineCallbacks
    def test_a_shadow_refuses_nothing(self) -> Any:
        """A shadow takes as long as it has tokens, refuses nobody after that, and is no part of what is described."""
        yield self.create("k", "ann", 100)
        shadow, binding = self.rule("later", 3).bucket("", True), self.rule("all", 9).bucket()
        answers = yield gatherResults([self.take("k", cost, limits=(binding, shadow)) for cost in (2, 2, 1, 1)])
        self.assertEqual([answer.admitted for answer in answers], [True] * 4)
        self.assertEqual([answer.shadows for answer in answers], [(ShadowDecision(shadow, no),) for no in (0, 1, 0, 1)])
        self.assertEqual([[more.limit for more in answer.more] for answer in answers], [["all"]] * 4)
        self.assertEqual((yield self.store.levels([shadow, binding])), [0, 3 * M])
        alone = yield self.take("k", limits=(shadow,))
        self.assertEqual(alone, Taken(True, b"ann", 100, 0.0, 93 * M, shadows=(ShadowDecision(shadow, True),)))

    @inlineCallbacks
    def test_a_shadow_is_asked_after_all_others(self) -> Any:
        """What another limit refuses takes nothing of a shadow, and the shadow says nothing of it."""
        yield self.create("k", "ann", 5)
        shadow, binding = self.rule("later", 9).bucket("", True), self.rule("all", 3).bucket()
        for cost in (6, 4):
            refused = yield self.take("k", cost, limits=(binding, shadow))
            self.assertEqual((refused.admitted, refused.shadows), (False, ()))
        self.assertFalse((yield self.take_without_key(binding, shadow, cost=4)).admitted)
        self.assertEqual((yield self.store.levels([shadow])), [9 * M])

    @inlineCallbacks
    def test_shadows_are_asked_each_by_itself(self) -> Any:
        """Of two shadows the one with tokens takes, whatever the other one says."""
        yield self.create("k", "ann", 100)
        small, large = self.rule("small", 1).bucket("", True), self.rule("large", 9).bucket("", True)
        taken = yield self.take("k", 2, limits=(small, large))
        self.assertEqual(taken.shadows, (ShadowDecision(small, True), ShadowDecision(large, False)))
        self.assertEqual((yield self.store.levels([small, large])), [M, 7 * M])

    @inlineCallbacks
    def test_a_shadow_is_settled(self) -> Any:
        """What a request costs in the end is taken of, or refunded to, the shadows that are named then."""
        yield self.create("k", "ann", 100)
        shadow = self.rule("later", 5).bucket("", True)
        yield self.take("k", 2, limits=(shadow,))
        self.store.release(digest_of("k"), 4, (shadow,))
        self.assertEqual((yield self.take("k", 1, limits=(shadow,))).shadows, (ShadowDecision(shadow, True),))
        self.assertEqual((yield self.store.levels([shadow])), [-M])
        self.store.release(digest_of("k"), -6, (shadow,))
        self.assertEqual((yield self.take("k", 5, limits=(shadow,))).shadows, (ShadowDecision(shadow, False),))

    @inlineCallbacks
    def test_shadows_of_requests_without_a_key(self) -> Any:
        """A request without a key asks its shadows, whether a limit or its network pays, or nothing does."""
        shadow, binding = self.rule("later", 3).bucket("", True), self.rule("all", 9).bucket()
        taken = yield self.take_without_key(binding, shadow, cost=2)
        decisions = (ShadowDecision(shadow, False),)
        self.assertEqual(taken, Taken(True, b"", 9, 0.0, 7 * M, "all", shadows=decisions))
        taken = yield self.take_address(HERE, 1, True, (shadow,))
        self.assertEqual(taken, Taken(True, b"", 0, 0.0, 0, "address", shadows=decisions))
        yield self.begin_with(Limits(address=Policy(2, 0.0)))
        shadow = self.rule("other", 3).bucket("", True)
        decisions = (ShadowDecision(shadow, False),)
        taken = yield self.take_address(HERE, 2, True, (shadow,))
        self.assertEqual(taken, Taken(True, b"", 2, 0.0, 0, "address", shadows=decisions))
        self.assertEqual((yield self.take_address(HERE, 1, True, (shadow,))).shadows, ())
        taken = yield self.take_address(THERE, 2, True, (shadow,))
        self.assertEqual(taken.shadows, (ShadowDecision(shadow, True),))

    @inlineCallbacks
    def test_a_shadow_becomes_a_limit(self) -> Any:
        """A limit that is enforced from now on has the level that it had as a shadow."""
        yield self.create("k", "ann", 100)
        rule = self.rule("later", 5)
        yield self.take("k", 2, limits=(rule.bucket("", True),))
        taken = yield self.take("k", 2, limits=(rule.bucket(),))
        self.assertEqual(taken.more, (LimitLevel(5, 0.0, M, "later"),))
        self.assertEqual((yield self.take("k", 2, limits=(rule.bucket(),))).limit, "later")

    @inlineCallbacks
    def test_many_at_once(self) -> Any:
        """Of 600 requests at once, with keys and without, on a bucket of 500, exactly 500 are admitted."""
        yield self.create("k", "ann", 1000)
        shared = self.rule("all", 500).bucket()
        asked = [
            self.take_without_key(shared) if number % 3 else self.take("k", 1, limits=(shared,))
            for number in range(600)
        ]
        answers = yield gatherResults(asked)
        self.assertEqual(sum(answer.admitted for answer in answers), 500)
        with_key = sum(answer.admitted for answer in answers[::3])
        self.assertEqual((yield self.level("k")), 1000 - with_key)
