"""The fallback of a store that is away, on a scripted clock."""

from __future__ import annotations

import json
from math import inf

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.interfaces import GLOBAL, IN_FLIGHT, KEY, MICROTOKENS, Limits, Policy, Taken
from twisted_lb.limits.bucket import LOWEST_LEVEL, MAX_COST
from twisted_lb.limits.fallback import ADMITTED, REFUSED, UNKNOWN, Fallback
from twisted_lb.limits.recent_keys import FORGET_SECONDS, SpecialKey
from twisted_lb.quotas import DAY, REQUESTS, QuotaLevel

M = MICROTOKENS


class OnClock(SynchronousTestCase):
    """Fallbacks of one mode, which share a clock."""

    mode = "local"

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000)

    def fallback(self, limits: Limits = Limits(), instances: int = 1, keys: int = 1000) -> Fallback:
        fallback = Fallback(self.mode, self.clock.seconds, keys, limits)
        fallback.instances = instances
        return fallback

    def answered(self, fallback: Fallback, digest: str, capacity: int, rate: float, level: float) -> None:
        """The store answers for a key; `level` in tokens."""
        taken = Taken(True, digest.encode(), capacity, rate, int(level * M))
        fallback.recent[digest] = taken, self.clock.seconds()

    def admitted(self, fallback: Fallback, digest: str, asked: int = 100, cost: int = 1) -> int:
        """How many of `asked` requests pass now."""
        return sum(self.take(fallback, digest, cost).admitted for _ in range(asked))

    def take(self, fallback: Fallback, digest: str, cost: int = 1, in_flight: int = 0) -> Taken:
        taken = fallback.take(digest, cost, in_flight)
        assert taken is not None
        return taken


class ShareTests(OnClock):
    """What one share admits."""

    def test_lives(self) -> None:
        """n instances that know the same level admit together, at each time, what the bucket itself would have."""
        for instances, capacity, rate, level, steps in [
            # seconds since the start of the outage, admitted by all together until then
            (1, 5, 1.0, 5, [(0, 5), (0, 5), (0.5, 5), (1, 6), (3, 8), (1000, 13)]),
            (1, 5, 1.0, 2.5, [(0, 2), (0.5, 3), (1.4, 3), (1.5, 4)]),
            (1, 5, 0.0, 3, [(0, 3), (1000, 3)]),
            (1, 5, 1.0, -2, [(0, 0), (2, 0), (2.9, 0), (3, 1)]),
            (4, 8, 4.0, 8, [(0, 8), (0.9, 8), (1, 12), (1000, 20)]),
            (4, 8, 4.0, 2, [(0, 0), (0.5, 4), (1, 4)]),
            (3, 10, 0.0, 10, [(0, 9), (1000, 9)]),
            # A share has room for one token at least, so 4 instances of a bucket of 1 have 4 of them.
            (4, 1, 1.0, 1, [(0, 0), (2, 0), (3, 4), (6, 4), (7, 8)]),
            (1, 1, 1.0, 1, [(0, 1), (0.9, 1), (1, 2)]),
        ]:
            fallbacks = [self.fallback(instances=instances) for _ in range(instances)]
            for fallback in fallbacks:
                self.answered(fallback, "k", capacity, rate, level)
            start, admitted = self.clock.seconds(), 0
            for at, expected in steps:
                self.clock.advance(start + at - self.clock.seconds())
                admitted += sum(self.admitted(fallback, "k") for fallback in fallbacks)
                self.assertEqual(admitted, expected, f"{instances} of {capacity} at {rate}, from {level}, after {at} s")

    def test_a_share_begins_with_what_was_refilled_since_the_last_answer(self) -> None:
        """A level that is some seconds old is refilled since, up to the capacity."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 0.5, 1)
        self.answered(fallback, "full", 5, 0.5, 4)
        self.clock.advance(4)
        self.assertEqual(self.take(fallback, "k"), Taken(True, b"k", 5, 0.5, 2 * M))
        self.assertEqual(self.take(fallback, "full").level, 4 * M)

    def test_answers_tell_of_the_share(self) -> None:
        """An answer has the key's name and capacity, and the rate and level of the share that decides."""
        fallback = self.fallback(instances=4)
        self.answered(fallback, "k", 20, 2.0, 8)
        self.assertEqual(self.take(fallback, "k", 2), Taken(True, b"k", 20, 0.5, 0))
        self.assertEqual(self.take(fallback, "k"), Taken(False, b"k", 20, 0.5, 0, KEY))
        self.assertEqual(fallback.counts, {ADMITTED: 1, REFUSED: 1, UNKNOWN: 0})

    def test_costs(self) -> None:
        """A cost is taken whole or not at all, 0 passes for nothing, and more than the share's capacity never."""
        fallback = self.fallback(instances=2)
        self.answered(fallback, "k", 10, 0.0, 10)
        costs = [(3, True), (3, False), (0, True), (2, True), (0, True), (1, False), (6, False)]
        self.assertEqual([self.take(fallback, "k", cost).admitted for cost, _ in costs], [ok for _, ok in costs])

    def test_asking_often_costs_nothing_of_what_refills(self) -> None:
        """A refusal keeps the fractions: 10,000 of them in ten seconds leave the token that these refill."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 0.1001, 0)
        for _ in range(10_000):
            self.clock.advance(0.001)
            taken = self.take(fallback, "k", 5)
            self.assertFalse(taken.admitted)
        self.assertAlmostEqual(taken.level / M, 1.001, places=3)

    def test_a_clock_that_goes_back_refills_nothing(self) -> None:
        """Neither a taking nor a debt at a time before the last one adds tokens."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 1.0, 5)
        self.assertEqual(self.admitted(fallback, "k"), 5)
        self.clock.rightNow -= 100
        self.assertEqual(self.admitted(fallback, "k"), 0)
        self.assertEqual(fallback.debts(), ([("k", 5 * M)], 0))


    def test_a_taking_of_the_past_does_not_move_the_stamp(self) -> None:
        """Time that a clock runs through twice, with a taking in between, refills once."""
        fallback = self.fallback()
        self.answered(fallback, "k", 9, 1.0, 2)
        self.clock.advance(5)
        self.assertEqual(self.take(fallback, "k").level, 6 * M)
        self.clock.rightNow -= 4
        self.assertEqual(self.take(fallback, "k").level, 5 * M)
        self.clock.advance(4)
        self.assertEqual(self.take(fallback, "k").level, 4 * M)


class KnownTests(OnClock):
    """Which keys a fallback can decide for."""

    def test_an_unknown_key_is_not_decided(self) -> None:
        """A key that the store has not answered for is None, and is counted."""
        fallback = self.fallback()
        self.assertIsNone(fallback.take("k", 1, 0))
        self.assertEqual(fallback.counts, {ADMITTED: 0, REFUSED: 0, UNKNOWN: 1})

    def test_keys_that_were_not_seen_for_long_are_forgotten(self) -> None:
        """While the store answers, a key is known for five minutes at least and ten at most."""
        for every in (1, 100, 299):
            fallback = self.fallback()
            self.answered(fallback, "k", 5, 1.0, 5)
            start = self.clock.seconds()
            while self.clock.seconds() - start < 2 * FORGET_SECONDS:
                self.clock.advance(every)
                fallback.tidy()
                age = self.clock.seconds() - start
                known = fallback.take("k", 1, 0) is not None
                if age < FORGET_SECONDS / 2:
                    self.assertTrue(known, f"after {age} s")
                if age > FORGET_SECONDS + every:
                    self.assertFalse(known, f"after {age} s")
                fallback.debts()
                if known:
                    break

    def test_a_key_that_was_seen_a_minute_ago_is_known(self) -> None:
        """Whenever in a long life of batches a key comes, it is known a minute later."""
        for after in range(0, 1300, 50):
            fallback = self.fallback()
            for second in range(0, after + 60, 10):
                fallback.tidy()
                if second == after:
                    self.answered(fallback, "k", 5, 1.0, 5)
                self.clock.advance(10)
            fallback.tidy()
            self.assertIsNotNone(fallback.take("k", 1, 0), f"seen after {after} s")

    def test_a_key_of_a_quiet_hour_is_forgotten_at_the_next_answer(self) -> None:
        """When nothing is asked for longer than keys are kept, the next batch forgets them all."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 1.0, 5)
        self.clock.advance(3600)
        fallback.tidy()
        self.assertIsNone(fallback.take("k", 1, 0))

    def test_a_key_outlives_a_long_outage(self) -> None:
        """While the store does not answer nothing is forgotten, however long that lasts."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 1.0, 0)
        self.clock.advance(24 * 3600)
        self.assertEqual(self.admitted(fallback, "k"), 5)

    def test_the_number_of_keys_is_bounded(self) -> None:
        """Of 10,000 keys at most 1,000 are remembered, among them the last 500."""
        fallback = self.fallback(keys=1000)
        for number in range(10_000):
            fallback.tidy()
            self.answered(fallback, f"k{number}", 5, 1.0, 5)
        known = [number for number in range(10_000) if fallback.take(f"k{number}", 1, 0) is not None]
        self.assertLessEqual(len(known), 1002)
        self.assertEqual(known, list(range(10_000 - len(known), 10_000)))
        self.assertGreaterEqual(len(known), 500)
        # The outage is over: what is left of their shares is no more than that.
        fallback.debts()
        self.assertLessEqual(len(fallback.recent), 1002)


class OtherModeTests(OnClock):
    """`deny` and `allow`."""

    def test_deny_decides_for_nobody(self) -> None:
        """With `deny` a key is as good as unknown."""
        self.mode = "deny"
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 1.0, 5)
        self.assertIsNone(fallback.take("k", 1, 0))
        self.assertEqual(fallback.counts[UNKNOWN], 1)

    def test_deny_keeps_what_ends_in_the_outage(self) -> None:
        """With `deny` the tokens of requests that the store had admitted are charged when it is back."""
        self.mode = "deny"
        fallback = self.fallback(Limits(global_bucket=Policy(10, 1.0)))
        self.answered(fallback, "k", 5, 1.0, 5)
        fallback.release("k", 3)
        fallback.release("k", -1)
        fallback.release("other", -4)
        self.assertEqual(fallback.debts(), ([("k", 2 * M), ("other", -4 * M)], -2 * M))

    def test_allow_spends_nothing(self) -> None:
        """With `allow` a key that is known passes at any cost, is not counted and owes nothing, also one that was
        refused last."""
        self.mode = "allow"
        fallback = self.fallback(Limits(global_bucket=Policy(1, 0.0), in_flight=1))
        fallback.recent["k"] = Taken(False, b"k", 5, 1.0, 0), self.clock.seconds()
        for _ in range(10):
            self.assertEqual(fallback.take("k", 100, 10), Taken(True, b"k", 5, 1.0, 0, KEY, counted=False))
        self.assertIsNone(fallback.take("nobody", 1, 0))
        self.assertEqual(fallback.debts(), ([], 0))
        self.assertEqual(fallback.counts, {ADMITTED: 10, REFUSED: 0, UNKNOWN: 1})

    def test_allow_tells_the_present_level(self) -> None:
        """With `allow` the level is that of the bucket now, from which nobody takes."""
        self.mode = "allow"
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 0.5, 1)
        for seconds, level in ((0, 1), (2, 2), (60, 5)):
            self.clock.advance(seconds)
            self.assertEqual(self.take(fallback, "k").level, level * M)

    def test_allow_charges_what_was_counted_before(self) -> None:
        """With `allow`, what a request that the store has admitted costs more or less is charged afterwards."""
        self.mode = "allow"
        fallback = self.fallback(Limits(global_bucket=Policy(10, 1.0)))
        self.answered(fallback, "k", 5, 1.0, 5)
        self.take(fallback, "k")
        fallback.release("k", 3)
        fallback.release("k", -1)
        fallback.release("other", -4)
        self.assertEqual(fallback.debts(), ([("k", 2 * M), ("other", -4 * M)], -2 * M))


class OtherLimitTests(OnClock):
    """The limits beside the key's own."""

    def test_everyone_is_divided_too(self) -> None:
        """One of two instances has half of the global bucket, full at first, for all its keys together."""
        fallback = self.fallback(Limits(global_bucket=Policy(6, 2.0)), instances=2)
        for key in ("a", "b"):
            self.answered(fallback, key, 100, 0.0, 100)
        self.assertEqual((self.admitted(fallback, "a", 2), self.admitted(fallback, "b")), (2, 1))
        refused = self.take(fallback, "b")
        self.assertEqual(refused, Taken(False, b"b", 6, 1.0, 0, GLOBAL))
        # What the global bucket refused, the key's has still.
        charges, of_global_bucket = fallback.debts()
        self.assertEqual((sorted(charges), of_global_bucket), ([("a", 2 * M), ("b", M)], 3 * M))

    def test_everyones_bucket_is_not_full_again_in_the_next_outage(self) -> None:
        """Outages right behind each other share what the global bucket had at the first, and its refill."""
        fallback = self.fallback(Limits(global_bucket=Policy(6, 1.0)), instances=2)
        admitted = 0
        for _ in range(10):
            self.answered(fallback, "k", 100, 0.0, 100)
            admitted += self.admitted(fallback, "k")
            fallback.debts()
        self.assertEqual(admitted, 3)
        self.clock.advance(4)
        self.assertEqual(self.admitted(fallback, "k"), 2)

    def test_the_places_in_flight_are_divided(self) -> None:
        """One of three instances has a third of the places, one at least; the refusal spends nothing."""
        for limit, instances, most in ((7, 3, 2), (2, 3, 1), (5, 1, 5)):
            fallback = self.fallback(Limits(global_bucket=Policy(90, 0.0), in_flight=limit), instances=instances)
            self.answered(fallback, "k", 90, 0.0, 90)
            self.assertTrue(self.take(fallback, "k", in_flight=most - 1).admitted)
            self.assertEqual(self.take(fallback, "k", in_flight=most), Taken(False, b"k", most, 0.0, 0, IN_FLIGHT))
            self.assertEqual(fallback.debts(), ([("k", M)], M))

    def test_the_first_limit_that_refuses_is_told(self) -> None:
        """The key's bucket comes before the places in flight, and these before the global bucket."""
        fallback = self.fallback(Limits(global_bucket=Policy(1, 0.0), in_flight=1))
        self.answered(fallback, "k", 2, 0.0, 2)
        limits = [self.take(fallback, "k", *ask).limit for ask in ((1, 0), (2, 1), (1, 1), (1, 0))]
        self.assertEqual(limits, [KEY, KEY, IN_FLIGHT, GLOBAL])


class ReleaseTests(OnClock):
    """Requests that end while the store is away."""

    def test_tokens_come_from_the_share(self) -> None:
        """What a request cost more is taken from the share, into debt; what it cost less is given to it."""
        fallback = self.fallback(Limits(global_bucket=Policy(100, 0.0)))
        self.answered(fallback, "k", 5, 1.0, 5)
        self.take(fallback, "k")
        fallback.release("k", 6)
        self.assertEqual(self.take(fallback, "k"), Taken(False, b"k", 5, 1.0, -2 * M))
        fallback.release("k", -5)
        self.assertEqual(self.take(fallback, "k").level, 2 * M)
        self.assertEqual(fallback.debts(), ([("k", 3 * M)], 3 * M))

    def test_it_counts_before_the_first_taking(self) -> None:
        """A request of the store's that ends before the key's first taking in the outage counts for the share."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 0.0, 5)
        fallback.release("k", 3)
        self.assertEqual(self.admitted(fallback, "k"), 2)
        self.assertEqual(fallback.debts(), ([("k", 5 * M)], 0))

    def test_a_gift_to_a_full_share_is_lost(self) -> None:
        """A gift that does not fit is not set off against what is spent later."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 0.0, 5)
        fallback.release("k", -3)
        self.assertEqual(self.admitted(fallback, "k"), 5)
        self.assertEqual(fallback.debts(), ([("k", 5 * M)], 0))

    def test_a_gift_before_a_long_time_is_not_set_off_either(self) -> None:
        """What a refill to the capacity has overtaken, the store has by its own refill."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 1.0, 1)
        fallback.release("k", -3)
        self.clock.advance(100)
        self.assertEqual(self.admitted(fallback, "k"), 5)
        self.assertEqual(fallback.debts(), ([("k", 5 * M)], 0))

    def test_unknown_keys_are_kept_for_later(self) -> None:
        """What ends for a key that is not known is charged when the store is back, once."""
        fallback = self.fallback(Limits(global_bucket=Policy(100, 0.0)))
        fallback.release("k", 2)
        fallback.release("k", 3)
        fallback.release("other", -1)
        fallback.release("nothing", 0)
        self.assertEqual(fallback.debts(), ([("k", 5 * M), ("other", -M)], 4 * M))
        self.assertEqual(fallback.debts(), ([], 0))

    def test_pending_charges_are_bounded(self) -> None:
        """Charges of at most as many unknown keys as may be remembered are kept; everyone's counts them all."""
        fallback = self.fallback(Limits(global_bucket=Policy(1000, 0.0)), keys=10)
        for _ in range(2):
            for number in range(50):
                fallback.release(f"k{number}", 1)
        charges, of_global_bucket = fallback.debts()
        self.assertEqual(charges, [(f"k{number}", 2 * M) for number in range(10)])
        self.assertEqual(of_global_bucket, 100 * M)

    def test_without_a_bucket_of_everyone_nothing_is_charged_to_it(self) -> None:
        """A balancer without such a bucket has no debt of everyone."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 0.0, 5)
        fallback.release("k", 2)
        fallback.release("unknown", 2)
        self.assertEqual(fallback.debts()[1], 0)

    def test_a_debt_has_a_bottom(self) -> None:
        """However much is charged, a debt stays a number that a double holds exactly."""
        fallback = self.fallback()
        self.answered(fallback, "k", 5, 0.0, 5)
        for _ in range(20):
            fallback.release("k", MAX_COST)
        self.assertEqual(self.take(fallback, "k", 0).level, LOWEST_LEVEL)
        [(_, debt)] = fallback.debts()[0]
        self.assertEqual(debt, 5 * M - LOWEST_LEVEL)

    def test_what_the_store_was_told_is_known(self) -> None:
        """Tokens that the store is told of while it answers count in the level from which an outage begins."""
        fallback = self.fallback()
        fallback.settled("nobody", 3)
        self.answered(fallback, "k", 5, 1.0, 4)
        self.clock.advance(100)
        fallback.settled("k", 3)
        self.assertEqual(self.take(fallback, "k", 0).level, 2 * M)
        fallback.debts()
        fallback.settled("k", -100)
        self.assertEqual(self.take(fallback, "k", 0).level, 5 * M)


class OthersTests(OnClock):
    """What others may have taken, of which this instance knows nothing."""

    def test_the_last_refill_before_an_outage_is_theirs(self) -> None:
        """What was refilled between the last answer and the outage, in a quarter of a second at most, is not in a share
        where there are others."""
        for instances, before, after, expected in [
            (1, 0.2, 0.0, 2),
            (2, 0.2, 0.0, 0),
            (2, 0.2, 1.0, 5),
            (2, 1.25, 0.0, 5),
            (4, 1.25, 0.0, 2),
        ]:
            for limits in (Limits(), Limits(global_bucket=Policy(100, 10.0))):
                fallback = self.fallback(limits, instances=instances)
                self.answered(fallback, "k", 100, 10.0 if limits == Limits() else 1000.0, 0)
                fallback.seen_of_all(0)
                self.clock.advance(before)
                fallback.away_since = self.clock.seconds()
                self.clock.advance(after)
                self.assertEqual(self.admitted(fallback, "k"), expected, (instances, before, after))
                fallback.debts()
                self.clock.advance(100)


class DebtTests(OnClock):
    """What is charged when the store is back."""

    def debt(self, fallback: Fallback) -> float:
        charges, _ = fallback.debts()
        return dict(charges).get("k", 0) / M

    def test_debts(self) -> None:
        """A short outage owes what was spent; a long one owes what its share lacks, for the store has refilled too."""
        for what, instances, rate, level, steps, expected in [
            # seconds, requests
            ("all at once", 1, 1.0, 10, [(0, 4)], 4),
            ("short, and refilled meanwhile", 1, 1.0, 4, [(0, 4), (3, 3), (2, 0)], 7),
            ("refilled to the brim in the end", 1, 1.0, 10, [(0, 10), (11, 0)], 0),
            ("long and spent as it came", 1, 1.0, 10, [(0, 10)] + [(1, 1)] * 1000, 10),
            ("long and nearly idle", 1, 1.0, 0, [(1000, 3), (1, 0)], 2),
            ("nothing asked", 1, 1.0, 3, [(5, 0)], 0),
            ("a half", 2, 1.0, 10, [(0, 10)], 5),
            ("a half, refilled by half the rate", 2, 1.0, 10, [(0, 5), (4, 2), (2, 0)], 4),
            ("a quarter, long and spent as it came", 4, 8.0, 8, [(0, 2)] + [(1, 2)] * 99, 2.5),
        ]:
            fallback = self.fallback(instances=instances)
            self.answered(fallback, "k", 10, rate, level)
            for seconds, requests in steps:
                self.clock.advance(seconds)
                self.admitted(fallback, "k", requests)
            self.assertAlmostEqual(self.debt(fallback), expected, places=4, msg=what)

    def test_a_gift_that_comes_late(self) -> None:
        """What Redis has to give back is less by what the bucket, full since, would have lost of it."""
        for what, rate, seconds, amount, expected in [
            ("a charge is a charge", 1.0, 100, 3, 3),
            ("no refill", 0.0, 100, -3, -3),
            ("not full yet", 1.0, 4, -3, -3),
            ("full by a part of it", 1.0, 8, -3, -1),
            ("full for long", 1.0, 100, -3, 0),
        ]:
            fallback = self.fallback(Limits(global_bucket=Policy(10, rate)))
            self.answered(fallback, "k", 10, rate, 4)
            fallback.seen_of_all(4 * M)
            self.clock.advance(seconds)
            self.assertEqual(fallback.still_missing("k", amount * M), expected * M, what)
            self.assertEqual(fallback.still_missing_of_all(amount * M), expected * M, what)
            self.assertEqual(fallback.still_missing("unknown", amount * M), amount * M, what)
        self.assertEqual(self.fallback().still_missing_of_all(-M), -M)

    def test_debts_are_told_once(self) -> None:
        """A second call has nothing to charge."""
        fallback = self.fallback(Limits(global_bucket=Policy(10, 0.0)))
        self.answered(fallback, "k", 5, 0.0, 5)
        self.admitted(fallback, "k")
        self.assertEqual(fallback.debts(), ([("k", 5 * M)], 5 * M))
        self.assertEqual(fallback.debts(), ([], 0))

    def test_the_next_outage_goes_on_with_what_is_left(self) -> None:
        """Without an answer of the store in between, ten outages in a row admit what one does, and the refill."""
        for instances in (1, 2):
            fallback = self.fallback(instances=instances)
            self.answered(fallback, "k", 10, 1.0, 10)
            admitted = debt = 0.0
            for _ in range(10):
                admitted += self.admitted(fallback, "k")
                debt += self.debt(fallback)
                # Who reconnects first may not see the others yet.
                fallback.instances = instances
            self.assertEqual((admitted, debt), (10 / instances, 10 / instances))
            self.clock.advance(4)
            self.assertEqual(self.admitted(fallback, "k"), 4 // instances)

    def test_an_answer_of_the_store_ends_that(self) -> None:
        """The store's own number counts from when it comes."""
        fallback = self.fallback()
        self.answered(fallback, "k", 10, 0.0, 10)
        self.admitted(fallback, "k", 3)
        fallback.debts()
        self.answered(fallback, "k", 20, 0.0, 1)
        self.assertEqual(self.admitted(fallback, "k"), 1)

    def test_instances_that_come_and_go_between_outages(self) -> None:
        """What was left of a half is a half of what is known; alone, an instance has all of that."""
        fallback = self.fallback(instances=2)
        self.answered(fallback, "k", 10, 0.0, 10)
        self.assertEqual(self.admitted(fallback, "k", 3), 3)
        # As it is when this process is the first to be back.
        fallback.instances = 1
        self.assertEqual(self.debt(fallback), 3)
        self.assertEqual(self.admitted(fallback, "k"), 4)


class NewsTests(OnClock):
    """What processes that share a store tell each other of keys."""

    def test_learned(self) -> None:
        """A key that another process has seen is served in an outage, from the share of the level that was told."""
        one, other = self.fallback(instances=2), self.fallback(instances=2)
        self.answered(one, "k", 10, 0.0, 6)
        other.learn(json.loads(json.dumps(one.news())))
        self.assertEqual(self.admitted(other, "k"), 3)
        self.assertEqual(self.take(other, "k").name, b"k")

    def test_once(self) -> None:
        """A key is told once, in as many pieces as it takes, and again when the older keys are forgotten."""
        fallback = self.fallback()
        for number in range(5):
            self.answered(fallback, f"k{number}", 5, 1.0, 5)
        told = [key[1] for _ in range(4) for key in fallback.news(2)]
        self.assertEqual(told, [f"k{number}" for number in range(5)])
        self.answered(fallback, "k0", 5, 1.0, 4)
        self.assertEqual(fallback.news(), [])
        self.clock.advance(FORGET_SECONDS)
        fallback.tidy()
        self.answered(fallback, "k0", 5, 1.0, 5)
        self.assertEqual([key[1] for key in fallback.news()], ["k0"])

    def test_own_knowledge_counts(self) -> None:
        """What a process has from the store itself is not replaced by what another one tells."""
        one, other = self.fallback(), self.fallback()
        self.answered(one, "k", 10, 0.0, 9)
        self.answered(other, "k", 10, 0.0, 4)
        other.learn(one.news())
        self.assertEqual(self.admitted(other, "k"), 4)

    def test_not_passed_on(self) -> None:
        """What was learned from others is not told as news, and takes no more memory than keys may."""
        fallback = self.fallback(keys=10)
        fallback.learn([("bucket", f"k{number}", "n", 5, 1.0, 5 * M, None) for number in range(1000)])
        self.assertEqual(fallback.news(), [])
        self.assertEqual(sum(fallback.knows(f"k{number}") for number in range(1000)), 10)

    def test_kinds(self) -> None:
        """A row says what it is about, whatever there is of it; one of another kind is ignored."""
        fallback = self.fallback()
        self.answered(fallback, "k", 10, 0.0, 6)
        quota = QuotaLevel(5, REQUESTS, DAY, "UTC", 3, 0, 10**15, 10**14)
        taken = Taken(True, b"ann", 10, 0.0, 5 * M, quota=quota)
        fallback.seen_special("s", SpecialKey("u", inf, Policy(), 0, self.clock.seconds()), taken)
        rows = fallback.news()
        self.assertEqual([(row[0], row[1]) for row in rows], [("bucket", "k"), ("bucket", "user u"), ("special", "s")])
        self.assertEqual([row[6] for row in rows[:2]], [None, list(quota)])
        other = self.fallback()
        other.learn([("k", "k", 10, 0.0, 6 * M), *rows])
        self.assertEqual([other.knows(digest) for digest in "ks"], [True, True])

    def test_any_name(self) -> None:
        """Names of any bytes come through."""
        one, other = self.fallback(), self.fallback()
        name = bytes(range(128, 256))
        one.recent["k"] = Taken(True, name, 5, 1.0, 5 * M), self.clock.seconds()
        other.learn(json.loads(json.dumps(one.news())))
        self.assertEqual(self.take(other, "k").name, name)
