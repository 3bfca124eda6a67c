"""Buckets that belong to no account, in memory: those of routes and pools, and of client networks.

A full bucket is equivalent to none, so buckets that have become full are dropped, the least recently used first.

A rule that is unbounded (see LimitRule) has at most MAX_BUCKETS: beyond that, the least recently used bucket is dropped
even if it is not full.  A client that uses more networks than that gets a new bucket each time; but it could empty
MAX_BUCKETS buckets anyway, and must not lock out others.  The buckets of other rules are not affected.

Buckets of rules that are not used any more, such as those of a limit that was removed, are dropped by `forget_full`.

The policy of a rule may change: then a bucket is refilled at the new rate for the whole time since its last use, and
the level is reduced to a smaller capacity.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from twisted_lb.interfaces import ADDRESS, MICROTOKENS, LimitRule, Policy, ShadowDecision, SharedBucket
from twisted_lb.limits.bucket import Bucket

MAX_BUCKETS: Final = 100_000
MAX_FORGOTTEN: Final = 5_000  # in one call, so that it takes a few milliseconds


class SharedBuckets:
    """The buckets of all rules.  Times are in microseconds, levels in microtokens."""

    def __init__(self, most: int = MAX_BUCKETS) -> None:
        """`most` is the maximum number of buckets of an unbounded rule."""
        self._most = most
        # By the key of the rule and that of the bucket: the level, and its time stamp.
        self._rules: dict[str, OrderedDict[str, tuple[int, int]]] = {}
        self._policies: dict[str, LimitRule] = {}  # as last used, by the keys of the rules

    def __len__(self) -> int:
        return sum([len(buckets) for buckets in self._rules.values()])

    def level(self, shared: SharedBucket, now_us: int) -> int:
        """The level in microtokens at `now_us`.  Changes nothing."""
        return self._bucket(shared, now_us).level_at(now_us)

    def level_of(self, shared: SharedBucket, now_us: int) -> int:
        """The same, found by the key of the bucket alone: its rule may be another one, with the same policy."""
        rule = shared.rule
        for buckets in self._rules.values():
            if shared.key in buckets:
                return Bucket(rule.capacity, rule.rate_per_sec, *buckets[shared.key]).level_at(now_us)
        return rule.capacity * MICROTOKENS

    def refusing(self, limits: tuple[SharedBucket, ...], cost: int, now_us: int) -> tuple[SharedBucket, int] | None:
        """The first bucket that has less than `cost` tokens, and its level; None: all have them.  Changes nothing."""
        for shared in limits:
            level = self.level(shared, now_us)
            if level < cost * MICROTOKENS:
                return shared, level
        return None

    def take(self, limits: tuple[SharedBucket, ...], cost: int, now_us: int) -> list[int]:
        """Take `cost` tokens from all buckets, which must have them (see `refusing`); return the levels afterwards."""
        levels = []
        for shared in limits:
            bucket = self._bucket(shared, now_us)
            _, level = bucket.take(cost, now_us)
            levels.append(level)
            self._keep(shared, bucket, now_us)
        return levels

    def take_shadows(
        self, limits: tuple[SharedBucket, ...], cost: int, now_us: int
    ) -> tuple[ShadowDecision, ...]:
        """Take `cost` tokens from each bucket that has them; return the decision of each."""
        decisions = []
        for shared in limits:
            bucket = self._bucket(shared, now_us)
            admitted, _ = bucket.take(cost, now_us)
            if admitted:
                self._keep(shared, bucket, now_us)
            decisions.append(ShadowDecision(shared, not admitted))
        return tuple(decisions)

    def settle(self, limits: tuple[SharedBucket, ...], tokens: int, now_us: int) -> None:
        """Take `tokens` more from all buckets, even if levels become negative; negative `tokens` are refunded."""
        for shared in limits:
            bucket = self._bucket(shared, now_us)
            # A full bucket is left as it is, as in Redis: its capacity may be larger again later.
            if tokens > 0 or bucket.level < shared.rule.capacity * MICROTOKENS:
                bucket.settle(tokens, now_us)
                self._keep(shared, bucket, now_us)

    def forget_full(self, now_us: int) -> None:
        """Drop buckets that have become full, the least recently used of each rule first, and rules without buckets."""
        left = MAX_FORGOTTEN
        for key, buckets in list(self._rules.items()):
            rule = self._policies[key]
            full = rule.capacity * MICROTOKENS
            while buckets and left:
                oldest = next(iter(buckets))
                if Bucket(rule.capacity, rule.rate_per_sec, *buckets[oldest]).level_at(now_us) < full:
                    break
                del buckets[oldest]
                left -= 1
            if not buckets:
                del self._rules[key], self._policies[key]

    def _bucket(self, shared: SharedBucket, now_us: int) -> Bucket:
        rule = shared.rule
        level, stamp_us = rule.capacity * MICROTOKENS, now_us
        buckets = self._rules.get(rule.key)
        if buckets is not None:
            level, stamp_us = buckets.get(shared.key, (level, stamp_us))
        return Bucket(rule.capacity, rule.rate_per_sec, level, stamp_us)

    def _keep(self, shared: SharedBucket, bucket: Bucket, now_us: int) -> None:
        rule = shared.rule
        buckets = self._rules.get(rule.key)
        if buckets is None:
            buckets = self._rules[rule.key] = OrderedDict()
        self._policies[rule.key] = rule
        self._forget_full(rule, buckets, now_us)
        buckets[shared.key] = bucket.level, bucket.stamp_us
        buckets.move_to_end(shared.key)
        if rule.unbounded and len(buckets) > self._most:
            buckets.popitem(last=False)

    def _forget_full(self, rule: LimitRule, buckets: OrderedDict[str, tuple[int, int]], now_us: int) -> None:
        """Drop the two least recently used if they are full.  Since a take adds at most one, they do not accumulate."""
        full = rule.capacity * MICROTOKENS
        for key in [key for key, _ in zip(buckets, range(2))]:
            if Bucket(rule.capacity, rule.rate_per_sec, *buckets[key]).level_at(now_us) >= full:
                del buckets[key]


def address_rule(policy: Policy) -> LimitRule:
    """The limit of requests without a valid key, with a bucket for each client network."""
    return LimitRule("address", ADDRESS, policy.capacity, policy.rate_per_sec, unbounded=True)


def address_bucket(rule: LimitRule, network: str) -> SharedBucket:
    """The bucket of a client network."""
    return SharedBucket(rule, f"address:{network}")
