"""Shadows: the order of limits, their counts, and decisions while the store is unavailable."""

from __future__ import annotations

from math import inf

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.contract import Asker, digest_of
from twisted_lb.interfaces import (
    KEY,
    MICROTOKENS,
    LimitRule,
    Limits,
    Policy,
    ShadowDecision,
    SharedBucket,
    Taken,
    enforced,
    shadow_bucket,
    shadows,
)
from twisted_lb.limits.collected_counts import CollectedCounts
from twisted_lb.limits.fallback import ALLOW, DENY, LOCAL, Fallback
from twisted_lb.limits.recent_keys import SpecialKey
from twisted_lb.limits.shadow_counts import ShadowCounts, limit_and_owner
from twisted_lb.stores.redis.batch_encoding import Batch, WithoutKey
from twisted_lb.stores.redis.lost_call import lost_call, still_due
from twisted_lb.usage import shadow_subject

M = MICROTOKENS
OWNER = digest_of("a")
LATER = LimitRule("limit:route|/v1/|later", "later", 4, 0.0).bucket("", True)
BINDING = LimitRule("limit:pool|p|all", "all", 9, 0.0).bucket()
OF_ANN = shadow_bucket(OWNER, 6, 0.0)


class PartsTests(SynchronousTestCase):
    def test_parts(self) -> None:
        """Limits are those that are enforced, and the shadows after them."""
        for limits in ((), (BINDING,), (LATER,), (BINDING, LATER), (BINDING, LATER, OF_ANN)):
            self.assertEqual((*enforced(limits), *shadows(limits)), limits)
            self.assertFalse(any(one.shadow for one in enforced(limits)))
            self.assertTrue(all(one.shadow for one in shadows(limits)))


class CountsTests(SynchronousTestCase):
    """What is told to metrics, and to the store."""

    def test_numbers(self) -> None:
        """A limit is named with its owner, users are one, and the two rules of a limit per key are one."""
        collected = CollectedCounts()
        counts = ShadowCounts(collected)
        other = shadow_bucket(digest_of("b"), 1, 0.0)
        per_key, network = (
            LimitRule(f"limit:all||each|{per}", "each", 1, 0.0).bucket("x", True) for per in ("key", "network")
        )
        for _ in range(2):
            counts.add((ShadowDecision(LATER, False), ShadowDecision(OF_ANN, True)))
        counts.add((ShadowDecision(per_key, True), ShadowDecision(other, False)))
        counts.add((ShadowDecision(network, True),))
        self.assertEqual(
            counts.numbers(),
            {
                "shadow_requests later route /v1/": 2,
                "shadow_would_refuse later route /v1/": 0,
                "shadow_requests shadow users": 3,
                "shadow_would_refuse shadow users": 2,
                "shadow_requests each all": 2,
                "shadow_would_refuse each all": 2,
            },
        )
        [part] = collected.take(100)
        self.assertEqual(
            part,
            {
                "limit:route|/v1/|later:4:0.0": {"requests": 2},
                shadow_subject(OWNER, OF_ANN.rule.capacity, OF_ANN.rule.rate_per_sec): {
                    "requests": 2,
                    "would_refuse": 2,
                },
                f"shadow:{digest_of('b')}:1:0.0": {"requests": 1},
                "limit:all||each|key:1:0.0": {"requests": 1, "would_refuse": 1},
                "limit:all||each|network:1:0.0": {"requests": 1, "would_refuse": 1},
            },
        )

    def test_subjects(self) -> None:
        """The names of routes may have any characters, and those of subjects are ASCII without spaces."""
        collected = CollectedCounts()
        rule = LimitRule("limit:route|a é/b|x", "x", 1, 0.0)
        ShadowCounts(collected).add((ShadowDecision(rule.bucket("", True), False),))
        [[subject]] = collected.take(100)
        self.assertTrue(subject.isascii() and " " not in subject, subject)
        self.assertEqual(limit_and_owner(rule.key), ("x", "route a é/b"))


class OutageTests(SynchronousTestCase):
    """Shares of the buckets of shadows."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.begin(LOCAL)

    def begin(self, mode: str, instances: int = 1) -> None:
        self.fallback = Fallback(mode, self.clock.seconds, 100, Limits(address=Policy(5, 0.0)))
        self.fallback.instances = instances
        key = SpecialKey(OWNER, inf, Policy(), 0, self.clock.seconds(), Policy(6, 0.0))
        self.fallback.seen_special(OWNER, key, Taken(True, b"ann", 100, 0.0, 50 * M, KEY, (), ()))

    def take(self, cost: int, *limits: SharedBucket) -> Taken:
        taken = self.fallback.take(OWNER, cost, 0, limits)
        assert taken is not None
        return taken

    def test_they_are_asked(self) -> None:
        """A share of a shadow refuses nothing, and says of each request what it would do; then the store is charged."""
        self.fallback.seen_shared(OF_ANN, 3 * M)
        said = []
        for cost in (2, 2, 1):
            taken = self.take(cost, BINDING, LATER)
            self.assertTrue(taken.admitted)
            self.assertEqual([more.limit for more in taken.more], ["all"])
            said.append([(one.shared.key, one.would_refuse) for one in taken.shadows])
        self.assertEqual([[refused for _, refused in one] for one in said], [[False] * 2, [False, True], [True, False]])
        self.assertEqual([key for key, _ in said[0]], [LATER.key, OF_ANN.key])
        self.fallback.release(OWNER, 1, (BINDING, OF_ANN))
        owed = {shared.key: amount for shared, amount in self.fallback.shared_debts()}
        self.assertEqual(owed, {BINDING.key: 6 * M, LATER.key: 4 * M, OF_ANN.key: 4 * M})

    def test_shares(self) -> None:
        """With several instances each has its part of the bucket."""
        self.begin(LOCAL, instances=2)
        decisions = [self.take(1, LATER).shadows[0].would_refuse for _ in range(3)]
        self.assertEqual(decisions, [False, False, True])

    def test_what_is_refused(self) -> None:
        """What another limit refuses is not asked of a shadow."""
        self.assertEqual(self.take(10, BINDING, LATER).shadows, ())
        self.assertEqual(self.fallback.shared_debts(), [])

    def test_modes(self) -> None:
        """Where all are admitted without tokens, and where none is, shadows are not asked."""
        self.begin(ALLOW)
        self.assertEqual(self.take(1, BINDING, LATER).shadows, ())
        taken = self.fallback.take_without_key((BINDING, LATER), 1)
        assert taken is not None
        self.assertEqual((taken.admitted, taken.shadows), (True, ()))
        self.assertEqual(self.fallback.of_address((BINDING._replace(key="address:n"), LATER), 1).shadows, ())
        self.begin(DENY)
        self.assertIsNone(self.fallback.take(OWNER, 1, 0, (LATER,)))

    def test_without_a_key(self) -> None:
        """Requests without a key ask their shadows, whether a limit, a network or nothing pays."""
        taken = self.fallback.take_without_key((BINDING, LATER), 3)
        assert taken is not None
        self.assertEqual((taken.limit, taken.shadows), ("all", (ShadowDecision(LATER, False),)))
        address = self.fallback.of_address((BINDING._replace(key="address:n"), LATER), 2)
        self.assertEqual(address.shadows, (ShadowDecision(LATER, True),))
        other = Fallback(LOCAL, self.clock.seconds, 100, Limits())
        self.assertEqual(other.of_address((LATER,), 2).shadows, (ShadowDecision(LATER, False),))

    def test_other_processes(self) -> None:
        """A process that has learned of a key from another one knows of the shadow policy of its user."""
        other = Fallback(LOCAL, self.clock.seconds, 100, Limits())
        other.learn([list(row) for row in self.fallback.news()])
        other.recent.update(self.fallback.recent)
        taken = other.take(OWNER, 7, 0)
        assert taken is not None
        self.assertEqual([(one.shared.key, one.would_refuse) for one in taken.shadows], [(OF_ANN.key, True)])


class LostCallTests(SynchronousTestCase):
    def test_shadows_are_refunded(self) -> None:
        """Of a call that was carried out, a shadow gets its tokens back where it had them."""
        other = LimitRule("limit:all||other", "other", 4, 0.0).bucket("", True)
        limits = {2: (BINDING, LATER, other), 3: (BINDING, other), 4: (LATER,)}
        without_key = WithoutKey((BINDING, LATER), 2, Asker())
        batch = Batch([OWNER] * 4, [Asker()] * 4, [], [], [], limits, [without_key], [], {})
        lost = lost_call(7, batch)
        due = still_due(lost, b"9 7 12011 01011")
        self.assertEqual((due.keys, due.of_shadows), ([(OWNER, -M)] * 3, [(OWNER, -M)]))
        expected = [(BINDING, -M), (other, -M), (LATER, -M), (BINDING, -2 * M), (LATER, -2 * M)]
        self.assertEqual(due.shared, expected)
        # Not so where it was not carried out, or Redis has lost a part of it.
        self.assertEqual(still_due(lost, b"9 6 12011 01011").shared, [])
        self.assertEqual(still_due(lost, b"9 7 12011").shared, [(BINDING, -M), (BINDING, -2 * M)])
