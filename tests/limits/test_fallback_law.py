"""The law of the bucket across outages: random lives of a store and of the fallbacks of its instances."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from twisted_lb.interfaces import MICROTOKENS, LimitRule, Limits, Taken
from twisted_lb.limits.bucket import LOWEST_LEVEL, Bucket
from twisted_lb.limits.fallback import Fallback

M = MICROTOKENS

# Of each step: microseconds that pass, what happens, which instance, and tokens.
TAKE, LEAVE, RETURN, SETTLE = range(4)
STEPS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 3_000_000), st.integers(0, 100_000_000)),
        st.sampled_from([TAKE, TAKE, TAKE, LEAVE, RETURN, SETTLE]),
        st.integers(0, 2),
        st.integers(0, 6),
    ),
    max_size=60,
)


class World:
    """A store with one bucket, full at first, and instances that all know each of its answers."""

    def __init__(self, instances: int, capacity: int, rate: float) -> None:
        self.now_us = 0
        self.bucket = Bucket(capacity, rate, capacity * M, 0)
        self.fallbacks = [Fallback("local", lambda: self.now_us / 1e6, 100, Limits()) for _ in range(instances)]
        self.away = False
        self.outages = 0
        # What the law leaves, in microtokens: a bucket in whole fractions, of which all that is admitted is taken.
        self.left = Fraction(capacity * M)
        self.tell(True, capacity * M)
        for fallback in self.fallbacks:
            fallback.instances = instances

    def tell(self, admitted: bool, level: int) -> None:
        taken = Taken(admitted, b"ann", self.bucket.capacity, self.bucket.rate_per_sec, level)
        for fallback in self.fallbacks:
            fallback.recent["k"] = taken, self.now_us / 1e6

    def decide(self, fallback: Fallback, cost: int) -> Taken | None:
        return fallback.take("k", cost, 0)

    def release(self, fallback: Fallback, tokens: int) -> None:
        fallback.release("k", tokens)

    def settled(self, fallback: Fallback, tokens: int) -> None:
        fallback.settled("k", tokens)

    def debts(self, fallback: Fallback) -> list[int]:
        charges, _ = fallback.debts()
        return [amount for _, amount in charges]

    def wait(self, us: int) -> None:
        self.now_us += us
        self.left = min(self.left + Fraction(self.bucket.rate_per_sec) * us, Fraction(self.bucket.capacity * M))

    def take(self, instance: int, cost: int) -> bool:
        if self.away:
            answer = self.decide(self.fallbacks[instance], cost)
            assert answer is not None
            admitted = answer.admitted
        else:
            admitted, level = self.bucket.take(cost, self.now_us)
            self.tell(admitted, level)
        if admitted:
            self.left -= cost * M
        return admitted

    def settle(self, instance: int, tokens: int) -> None:
        """A request has cost more than it was admitted for."""
        if self.away:
            self.release(self.fallbacks[instance], tokens)
        else:
            for fallback in self.fallbacks:
                self.settled(fallback, tokens)
            self.bucket.settle(tokens, self.now_us)
        self.left -= tokens * M

    def come_back(self) -> None:
        """Each instance charges its debts, as the script of the store does it."""
        self.away = False
        self.outages += 1
        for fallback in self.fallbacks:
            for amount in self.debts(fallback):
                self.bucket.refill(self.now_us)
                full = self.bucket.capacity * M
                self.bucket.level = max(min(self.bucket.level - amount, full), LOWEST_LEVEL)

    def live(self, steps: list[tuple[int, int, int, int]]) -> None:
        """Go through the steps; ask for all there is after each.  AssertionError where that is more than the law."""
        for us, what, instance, tokens in steps:
            self.wait(us)
            instance %= len(self.fallbacks)
            if what == TAKE and self.take(instance, tokens):
                self.check()
            elif what == LEAVE:
                self.away = True
            elif what == RETURN and self.away:
                self.come_back()
            elif what == SETTLE:
                self.settle(instance, tokens)
        if self.away:
            self.come_back()
        while self.take(0, 1):
            self.check()

    def check(self) -> None:
        # Whole microtokens: see the docstring of the fallback.
        rounding = 2 * len(self.fallbacks) * (self.outages + 1)
        assert self.left >= -rounding, f"{float(-self.left) / M} tokens more than the law, after {self.now_us} us"


class SharedWorld(World):
    """The same with the bucket of a route, and requests without a key."""

    def __init__(self, instances: int, capacity: int, rate: float, unbounded: bool = False) -> None:
        self.limits = (LimitRule("rule", "r", capacity, rate, unbounded).bucket("subject"),)
        super().__init__(instances, capacity, rate)

    def tell(self, admitted: bool, level: int) -> None:
        for fallback in self.fallbacks:
            fallback.seen_shared(self.limits[0], level)

    def decide(self, fallback: Fallback, cost: int) -> Taken | None:
        return fallback.take_without_key(self.limits, cost)

    def release(self, fallback: Fallback, tokens: int) -> None:
        fallback.release("", tokens, self.limits)

    def settled(self, fallback: Fallback, tokens: int) -> None:
        fallback.settled_shared(self.limits, tokens)

    def debts(self, fallback: Fallback) -> list[int]:
        return [amount for _, amount in fallback.shared_debts()]


class LawTests(SynchronousTestCase):
    """Before, during and after outages, together."""

    @given(st.integers(1, 12), st.one_of(st.just(0.0), st.floats(0, 5)), STEPS)
    @example(10, 1.0, [(0, TAKE, 0, 6)] * 2 + [(0, LEAVE, 0, 0), (0, TAKE, 0, 4), (0, RETURN, 0, 0)] * 3)
    def test_one_instance(self, capacity: int, rate: float, steps: list[tuple[int, int, int, int]]) -> None:
        """Alone, an instance admits in any time at most capacity + rate * time, whatever outages there are in it."""
        World(1, capacity, rate).live(steps)

    @given(st.integers(3, 30), st.one_of(st.just(0.0), st.floats(0, 5)), STEPS)
    def test_three_instances(self, capacity: int, rate: float, steps: list[tuple[int, int, int, int]]) -> None:
        """Three instances that know the same when each outage begins admit no more than that together.

        Nothing is settled in an outage: one share's debt does not hold back the others.
        """
        World(3, capacity, rate).live(without_debts(steps))

    @given(st.integers(1, 12), st.one_of(st.just(0.0), st.floats(0, 5)), STEPS, st.booleans())
    def test_one_instance_with_a_shared_bucket(
        self, capacity: int, rate: float, steps: list[tuple[int, int, int, int]], unbounded: bool
    ) -> None:
        """The law holds for buckets of routes as for those of keys."""
        SharedWorld(1, capacity, rate, unbounded).live(steps)

    @given(st.integers(3, 30), st.one_of(st.just(0.0), st.floats(0, 5)), STEPS)
    def test_three_instances_with_a_shared_bucket(
        self, capacity: int, rate: float, steps: list[tuple[int, int, int, int]]
    ) -> None:
        """The same together."""
        SharedWorld(3, capacity, rate).live(without_debts(steps))

    def test_a_long_outage_of_steady_use_leaves_nothing_for_twice(self) -> None:
        """A key that spends its rate through an outage of an hour finds no burst when the store is back."""
        for instances in (1, 3):
            world = World(instances, 9, 3.0)
            world.live([(0, TAKE, 0, 9), (0, LEAVE, 0, 0)] + [(333_334, TAKE, at % 3, 1) for at in range(10_800)])
            self.assertLess(world.bucket.level_at(world.now_us), M)
            self.assertGreater(world.left, -2 * M)
            self.assertLess(world.left, 2 * M)


def without_debts(steps: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """The steps, with takings in place of what is settled, and an answer of the store, which all hear, behind each
    return."""
    changed: list[tuple[int, int, int, int]] = []
    for us, what, instance, tokens in steps:
        changed.append((us, TAKE if what == SETTLE else what, instance, tokens))
        if what == RETURN:
            changed.append((0, TAKE, 0, 0))
    return changed
