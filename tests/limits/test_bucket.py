"""The law of the bucket, on a scripted clock."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.limits.seconds import seconds_to_full, seconds_to_next
from twisted_lb.interfaces import MICROTOKENS
from twisted_lb.limits.bucket import (
    LOWEST_LEVEL,
    MAX_CAPACITY,
    MAX_COST,
    MAX_RATE_PER_SEC,
    MAX_SECONDS,
    Bucket,
    check_cost,
    check_policy,
    seconds_to_refill,
)

SECOND = 1_000_000  # microseconds
START = 1_800_000_000 * SECOND
M = MICROTOKENS

# (what, capacity, rate, [(microseconds since the start, admitted, level afterwards), ...])
LIVES = [
    (
        "a burst of the capacity, then the rate",
        3,
        1.0,
        [
            (0, True, 2 * M),
            (0, True, 1 * M),
            (0, True, 0),
            (0, False, 0),
            (SECOND - 1, False, M - 1),
            (SECOND, True, 0),
            (2 * SECOND - 1, False, M - 1),
            (2 * SECOND, True, 0),
        ],
    ),
    ("an idle bucket holds its capacity and no more", 2, 5.0, [(0, True, M), (3600 * SECOND, True, M)]),
    (
        "asking often costs nothing of what refills",
        1,
        0.3,
        [(0, True, 0)] + [(at, False, at * 3 // 10) for at in range(1, 3_000_001, 999_999)] + [(3_333_334, True, 0)],
    ),
    ("a rate of 0 never refills", 2, 0.0, [(0, True, M), (10**15, True, 0), (2 * 10**15, False, 0)]),
    (
        "a clock that goes back refills nothing, and nothing twice",
        2,
        1.0,
        [
            (10 * SECOND, True, M),
            (0, True, 0),
            (9 * SECOND, False, 0),
            (10 * SECOND, False, 0),
            (11 * SECOND, True, 0),
            (10 * SECOND, False, 0),
            (12 * SECOND, True, 0),
        ],
    ),
    (
        "the largest bucket loses no microtoken",
        MAX_CAPACITY,
        float(MAX_RATE_PER_SEC),
        [(0, True, (MAX_CAPACITY - 1) * M), (1, True, (MAX_CAPACITY - 1) * M), (1, True, (MAX_CAPACITY - 2) * M)],
    ),
]


class TakingTests(SynchronousTestCase):
    """`Bucket.take` on a table of times."""

    def test_lives(self) -> None:
        """At each time of each life, a bucket admits and holds what the law says."""
        for what, capacity, rate, steps in LIVES:
            bucket = Bucket(capacity, rate, capacity * M, START)
            for number, (at, admitted, level) in enumerate(steps):
                self.assertEqual(bucket.take(1, START + at), (admitted, level), f"{what}, step {number}: {bucket}")

    def test_a_refusal_changes_nothing(self) -> None:
        """A refused taking leaves level and stamp as they were."""
        bucket = Bucket(2, 1.0, 500_000, START)
        self.assertEqual(bucket.take(1, START + 400_000), (False, 900_000))
        self.assertEqual((bucket.level, bucket.stamp_us), (500_000, START))

    def test_a_cost_of_several_tokens_is_all_or_nothing(self) -> None:
        """A taking of 3 from a level of 2 is refused, and one of 2 empties it."""
        bucket = Bucket(5, 0.0, 2 * M, START)
        self.assertEqual(bucket.take(3, START), (False, 2 * M))
        self.assertEqual(bucket.take(2, START), (True, 0))

    def test_giving_back_commutes_with_refill(self) -> None:
        """A token given back before some time has passed and one given back after it leave the same level."""
        for level in (0, M, 3 * M, 5 * M):
            early, late = Bucket(5, 1.0, level, START), Bucket(5, 1.0, level, START)
            early.refund(1)
            late.refill(START + 1_500_000)
            late.refund(1)
            self.assertEqual(early.level_at(START + 1_500_000), late.level)

    def test_a_change_refills_under_the_old_policy_first(self) -> None:
        """Time before a change counts at the old rate, time after it at the new one."""
        bucket = Bucket(10, 1.0, 0, START)
        bucket.change(10, 5.0, START + 2 * SECOND)
        self.assertEqual(bucket.level_at(START + 2 * SECOND), 2 * M)
        self.assertEqual(bucket.level_at(START + 3 * SECOND), 7 * M)

    def test_a_change_from_a_standstill_does_not_count_the_past(self) -> None:
        """A bucket whose rate was 0 for an hour refills from the change on."""
        bucket = Bucket(10, 0.0, 0, START)
        bucket.change(10, 1.0, START + 3600 * SECOND)
        self.assertEqual(bucket.level_at(START + 3601 * SECOND), M)

    def test_repr_shows_the_state(self) -> None:
        """The repr of a bucket tells its level, capacity, stamp and rate."""
        self.assertEqual(repr(Bucket(5, 0.5, 2_500_000, 7)), "<Bucket 2.500000 of 5 at 7us, 0.5/s>")

    @given(
        st.integers(1, 50),
        st.floats(0, 1000),
        st.lists(st.tuples(st.integers(-2_000_000, 5_000_000), st.integers(1, 3)), max_size=60),
    )
    def test_the_law(self, capacity: int, rate: float, steps: list[tuple[int, int]]) -> None:
        """Whatever the clock does, what is admitted in a time is at most capacity + rate * time."""
        bucket = Bucket(capacity, rate, capacity * M, START)
        now = newest = START
        admitted = 0
        for step_us, cost in steps:
            now += step_us
            newest = max(newest, now)
            if bucket.take(cost, now)[0]:
                admitted += cost
            # The product of doubles may round up by one part in 2**53.
            refilled = Fraction(rate) * (newest - START) / SECOND * (1 + Fraction(1, 2**50))
            self.assertLessEqual(admitted, capacity + refilled)

    @given(st.integers(2, 5), st.floats(0.01, 1000), st.lists(st.integers(0, 1_000_000), min_size=50, max_size=50))
    def test_who_keeps_asking_gets_what_refills(self, capacity: int, rate: float, steps: list[int]) -> None:
        """Who asks at least once a token gets all that refills, but for the token begun and a microtoken a taking."""
        bucket = Bucket(capacity, rate, 0, START)
        now, admitted, refilled = START, 0, Fraction(0)
        for step_us in steps:
            step_us = min(step_us, int(SECOND / rate))
            now += step_us
            refilled += Fraction(rate) * step_us / SECOND
            admitted += bucket.take(1, now)[0]
        self.assertGreaterEqual(admitted + 1 + Fraction(admitted + 1, M), refilled)


class SettlingTests(SynchronousTestCase):
    """`Bucket.settle`, after a request that cost something else than was taken for it."""

    def test_it_is_never_refused(self) -> None:
        """Settling 7 on a level of 2 leaves -5, from which the bucket refills at its rate; nothing passes below 0."""
        bucket = Bucket(5, 2.0, 2 * M, START)
        bucket.settle(7, START)
        self.assertEqual((bucket.level, bucket.stamp_us), (-5 * M, START))
        self.assertEqual(bucket.take(0, START + 2 * SECOND), (False, -M))
        self.assertEqual(bucket.take(0, START + 2_500_000), (True, 0))
        self.assertEqual(bucket.take(1, START + 3 * SECOND), (True, 0))

    def test_it_refills_first(self) -> None:
        """The time in which a bucket was full does not pay what is settled after it."""
        bucket = Bucket(5, 1.0, 5 * M, START)
        bucket.settle(7, START + 3600 * SECOND)
        self.assertEqual(bucket.level_at(START + 3600 * SECOND), -2 * M)
        self.assertEqual(bucket.level_at(START + 3601 * SECOND), -M)

    def test_negative_tokens_are_given_back(self) -> None:
        """Settling -2 adds 2 tokens, up to the capacity, and leaves the stamp."""
        bucket = Bucket(5, 1.0, 2 * M, START)
        bucket.settle(-2, START + SECOND)
        self.assertEqual((bucket.level, bucket.stamp_us), (4 * M, START))
        bucket.settle(-MAX_COST, START + SECOND)
        self.assertEqual(bucket.level, 5 * M)

    def test_settling_nothing_changes_nothing(self) -> None:
        """Settling 0 leaves level and stamp."""
        bucket = Bucket(5, 1.0, -M, START)
        bucket.settle(0, START + SECOND)
        self.assertEqual((bucket.level, bucket.stamp_us), (-M, START))

    def test_there_is_a_deepest_debt(self) -> None:
        """However much is settled, the level stays at LOWEST_LEVEL, and refills from there."""
        bucket = Bucket(5, 1.0, 5 * M, START)
        for _ in range(3):
            bucket.settle(MAX_COST, START)
        self.assertEqual(bucket.level, LOWEST_LEVEL)
        self.assertEqual(bucket.level_at(START + SECOND), LOWEST_LEVEL + M)

    def test_a_clock_that_goes_back_does_not_matter(self) -> None:
        """Settling at a time before the stamp neither refills nor moves the stamp."""
        bucket = Bucket(5, 1.0, 2 * M, START)
        bucket.settle(3, START - SECOND)
        self.assertEqual((bucket.level, bucket.stamp_us), (-M, START))

    def test_a_change_keeps_a_debt(self) -> None:
        """A new policy leaves what is owed, refilled to now under the old one."""
        bucket = Bucket(5, 1.0, -4 * M, START)
        bucket.change(2, 10.0, START + SECOND)
        self.assertEqual(bucket.level_at(START + SECOND), -3 * M)
        self.assertEqual(bucket.level_at(START + 3600 * SECOND), 2 * M)

    @given(
        st.integers(1, 50),
        st.floats(0, 1000),
        st.lists(st.tuples(st.integers(0, 5_000_000), st.integers(0, 3), st.integers(0, 9)), max_size=60),
    )
    def test_settling_only_makes_a_bucket_admit_less(
        self, capacity: int, rate: float, steps: list[tuple[int, int, int]]
    ) -> None:
        """What is admitted and settled together stays under the law, but for what the last request owes."""
        bucket = Bucket(capacity, rate, capacity * M, START)
        now, spent = START, 0
        for step_us, cost, more in steps:
            now += step_us
            refilled = Fraction(rate) * (now - START) / SECOND * (1 + Fraction(1, 2**50))
            if bucket.take(cost, now)[0]:
                spent += cost
                self.assertLessEqual(spent, capacity + refilled)
                bucket.settle(more, now)
                spent += more


class PolicyTests(SynchronousTestCase):
    """What a bucket can be."""

    def test_bad_policies_are_named(self) -> None:
        """A capacity or a rate that no bucket can have raises ValueError, which says which of them it is."""
        for capacity in (0, -5, 1.0, "5", None, True, MAX_CAPACITY + 1, 10**30):
            with self.assertRaisesRegex(ValueError, "^capacity: expected a whole number from 1 to 1000000000, not "):
                check_policy(capacity, 1.0)  # type: ignore[arg-type]
        for rate in (-1, -1e-300, float("nan"), float("inf"), "1", None, False, MAX_RATE_PER_SEC + 1, 10**400):
            with self.assertRaisesRegex(ValueError, "^rate_per_sec: expected a number from 0 to 1000000, not "):
                check_policy(5, rate)  # type: ignore[arg-type]

    def test_good_policies_pass(self) -> None:
        """The smallest and the largest policy pass."""
        for capacity, rate in ((1, 0), (MAX_CAPACITY, MAX_RATE_PER_SEC), (5, 1e-300), (5, -0.0)):
            check_policy(capacity, rate)

    def test_whole_numbers_stay_exact_in_doubles(self) -> None:
        """The largest level and the deepest debt are below 2**53, and so is the step between them."""
        self.assertLess(MAX_CAPACITY * MICROTOKENS - LOWEST_LEVEL, 2**53)

    def test_bad_costs_are_named(self) -> None:
        """A cost that no request can have raises ValueError; 0 and the highest one pass."""
        for cost in (-1, 1.0, "1", None, True, MAX_COST + 1, float("nan")):
            with self.assertRaisesRegex(ValueError, "^cost: expected a whole number from 0 to 1000000000, not "):
                check_cost(cost)  # type: ignore[arg-type]
        for cost in (0, 1, MAX_COST):
            check_cost(cost)


class WaitingTests(SynchronousTestCase):
    """How long until tokens come."""

    def test_seconds(self) -> None:
        """Seconds to the next token and to a full bucket are rounded up, and exact where they are whole."""
        for capacity, rate, level, to_next, to_full in [
            (3, 0.1, 0, 10, 30),
            (3, 0.1, 1, 10, 30),
            (3, 0.3, 0, 4, 10),
            (5, 1.0, 4 * M, 1, 1),
            (5, 1.0, 4 * M + 1, 1, 1),
            (5, 1.0, 3 * M + 1, 1, 2),
            (5, 1.0, 3 * M - 1, 1, 3),
            (5, 1.0, 5 * M, 0, 0),
            (5, 0.0, 5 * M, 0, 0),
            (5, 0.0, 4 * M, None, None),
            (5, 1000.0, 0, 1, 1),
            (1, 1 / 3, 0, 3, 3),
            (7, 0.7, 0, 2, 10),
            (5, 5e-324, 0, MAX_SECONDS, MAX_SECONDS),
            # In debt: the next token is the first.
            (5, 1.0, -1, 2, 6),
            (5, 1.0, -3 * M, 4, 8),
            (5, 1.0, -3 * M - 1, 5, 9),
            (5, 0.5, -3 * M, 8, 16),
            (5, 0.0, -1, None, None),
            (1, float(MAX_RATE_PER_SEC), LOWEST_LEVEL, 1001, 1001),
        ]:
            case = f"capacity {capacity}, rate {rate}, level {level}"
            self.assertEqual(seconds_to_next(capacity, rate, level), to_next, case)
            self.assertEqual(seconds_to_full(capacity, rate, level), to_full, case)

    @given(st.integers(1, 10**15), st.floats(1e-6, MAX_RATE_PER_SEC))
    @example(10 * M, 0.1)
    @example(3 * M, 0.3)
    @example(29 * M, 0.29)
    def test_seconds_are_the_least_that_suffice(self, missing: int, rate: float) -> None:
        """After that many seconds the bucket has refilled what was missing, and after one less it has not."""
        seconds = seconds_to_refill(missing, rate)
        assert seconds is not None
        if seconds == MAX_SECONDS:
            return
        bucket = Bucket(MAX_CAPACITY, rate, 0, 0)
        self.assertGreaterEqual(bucket.level_at(seconds * SECOND), missing)
        self.assertLess(bucket.level_at((seconds - 1) * SECOND), missing)
