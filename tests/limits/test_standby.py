"""The standby of a store that is away, on a scripted clock."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.interfaces import GLOBAL, IN_FLIGHT, KEY, MICROTOKENS, Limits, Policy, Taken
from twisted_lb.limits.bucket import LOWEST_LEVEL, MAX_COST
from twisted_lb.limits.standby import ADMITTED, FORGET_SECONDS, REFUSED, UNKNOWN, Standby

M = MICROTOKENS


class OnClock(SynchronousTestCase):
    """Standbys of one mode, which share a clock."""

    mode = "local"

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000)

    def standby(self, limits: Limits = Limits(), instances: int = 1, keys: int = 1000) -> Standby:
        standby = Standby(self.mode, self.clock.seconds, keys, limits)
        standby.instances = instances
        return standby

    def answered(self, standby: Standby, digest: str, capacity: int, rate: float, level: float) -> None:
        """The store answers for a key; `level` in tokens."""
        taken = Taken(True, digest.encode(), capacity, rate, int(level * M))
        standby.recent[digest] = taken, self.clock.seconds()

    def admitted(self, standby: Standby, digest: str, asked: int = 100, cost: int = 1) -> int:
        """How many of `asked` requests pass now."""
        return sum(self.take(standby, digest, cost).admitted for _ in range(asked))

    def take(self, standby: Standby, digest: str, cost: int = 1, in_flight: int = 0) -> Taken:
        taken = standby.take(digest, cost, in_flight)
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
            standbys = [self.standby(instances=instances) for _ in range(instances)]
            for standby in standbys:
                self.answered(standby, "k", capacity, rate, level)
            start, admitted = self.clock.seconds(), 0
            for at, expected in steps:
                self.clock.advance(start + at - self.clock.seconds())
                admitted += sum(self.admitted(standby, "k") for standby in standbys)
                self.assertEqual(admitted, expected, f"{instances} of {capacity} at {rate}, from {level}, after {at} s")

    def test_a_share_begins_with_what_was_refilled_since_the_last_answer(self) -> None:
        """A level that is some seconds old is refilled since, up to the capacity."""
        standby = self.standby()
        self.answered(standby, "k", 5, 0.5, 1)
        self.answered(standby, "full", 5, 0.5, 4)
        self.clock.advance(4)
        self.assertEqual(self.take(standby, "k"), Taken(True, b"k", 5, 0.5, 2 * M))
        self.assertEqual(self.take(standby, "full").level, 4 * M)

    def test_answers_tell_of_the_share(self) -> None:
        """An answer has the key's name and capacity, and the rate and level of the share that decides."""
        standby = self.standby(instances=4)
        self.answered(standby, "k", 20, 2.0, 8)
        self.assertEqual(self.take(standby, "k", 2), Taken(True, b"k", 20, 0.5, 0))
        self.assertEqual(self.take(standby, "k"), Taken(False, b"k", 20, 0.5, 0, KEY))
        self.assertEqual(standby.counts, {ADMITTED: 1, REFUSED: 1, UNKNOWN: 0})

    def test_costs(self) -> None:
        """A cost is taken whole or not at all, 0 passes for nothing, and more than the share's capacity never."""
        standby = self.standby(instances=2)
        self.answered(standby, "k", 10, 0.0, 10)
        costs = [(3, True), (3, False), (0, True), (2, True), (0, True), (1, False), (6, False)]
        self.assertEqual([self.take(standby, "k", cost).admitted for cost, _ in costs], [ok for _, ok in costs])

    def test_asking_often_costs_nothing_of_what_refills(self) -> None:
        """A refusal keeps the fractions: 10,000 of them in ten seconds leave the token that these refill."""
        standby = self.standby()
        self.answered(standby, "k", 5, 0.1001, 0)
        for _ in range(10_000):
            self.clock.advance(0.001)
            taken = self.take(standby, "k", 5)
            self.assertFalse(taken.admitted)
        self.assertAlmostEqual(taken.level / M, 1.001, places=3)

    def test_a_clock_that_goes_back_refills_nothing(self) -> None:
        """Neither a taking nor a debt at a time before the last one adds tokens."""
        standby = self.standby()
        self.answered(standby, "k", 5, 1.0, 5)
        self.assertEqual(self.admitted(standby, "k"), 5)
        self.clock.rightNow -= 100
        self.assertEqual(self.admitted(standby, "k"), 0)
        self.assertEqual(standby.debts(), ([("k", 5 * M)], 0))


    def test_a_taking_of_the_past_does_not_move_the_stamp(self) -> None:
        """Time that a clock runs through twice, with a taking in between, refills once."""
        standby = self.standby()
        self.answered(standby, "k", 9, 1.0, 2)
        self.clock.advance(5)
        self.assertEqual(self.take(standby, "k").level, 6 * M)
        self.clock.rightNow -= 4
        self.assertEqual(self.take(standby, "k").level, 5 * M)
        self.clock.advance(4)
        self.assertEqual(self.take(standby, "k").level, 4 * M)


class KnownTests(OnClock):
    """Which keys a standby can decide for."""

    def test_an_unknown_key_is_not_decided(self) -> None:
        """A key that the store has not answered for is None, and is counted."""
        standby = self.standby()
        self.assertIsNone(standby.take("k", 1, 0))
        self.assertEqual(standby.counts, {ADMITTED: 0, REFUSED: 0, UNKNOWN: 1})

    def test_keys_that_were_not_seen_for_long_are_forgotten(self) -> None:
        """While the store answers, a key is known for five minutes at least and ten at most."""
        for every in (1, 100, 299):
            standby = self.standby()
            self.answered(standby, "k", 5, 1.0, 5)
            start = self.clock.seconds()
            while self.clock.seconds() - start < 2 * FORGET_SECONDS:
                self.clock.advance(every)
                standby.tidy()
                age = self.clock.seconds() - start
                known = standby.take("k", 1, 0) is not None
                if age < FORGET_SECONDS / 2:
                    self.assertTrue(known, f"after {age} s")
                if age > FORGET_SECONDS + every:
                    self.assertFalse(known, f"after {age} s")
                standby.debts()
                if known:
                    break

    def test_a_key_that_was_seen_a_minute_ago_is_known(self) -> None:
        """Whenever in a long life of batches a key comes, it is known a minute later."""
        for after in range(0, 1300, 50):
            standby = self.standby()
            for second in range(0, after + 60, 10):
                standby.tidy()
                if second == after:
                    self.answered(standby, "k", 5, 1.0, 5)
                self.clock.advance(10)
            standby.tidy()
            self.assertIsNotNone(standby.take("k", 1, 0), f"seen after {after} s")

    def test_a_key_of_a_quiet_hour_is_forgotten_at_the_next_answer(self) -> None:
        """When nothing is asked for longer than keys are kept, the next batch forgets them all."""
        standby = self.standby()
        self.answered(standby, "k", 5, 1.0, 5)
        self.clock.advance(3600)
        standby.tidy()
        self.assertIsNone(standby.take("k", 1, 0))

    def test_a_key_outlives_a_long_outage(self) -> None:
        """While the store does not answer nothing is forgotten, however long that lasts."""
        standby = self.standby()
        self.answered(standby, "k", 5, 1.0, 0)
        self.clock.advance(24 * 3600)
        self.assertEqual(self.admitted(standby, "k"), 5)

    def test_the_number_of_keys_is_bounded(self) -> None:
        """Of 10,000 keys at most 1,000 are remembered, among them the last 500."""
        standby = self.standby(keys=1000)
        for number in range(10_000):
            standby.tidy()
            self.answered(standby, f"k{number}", 5, 1.0, 5)
        known = [number for number in range(10_000) if standby.take(f"k{number}", 1, 0) is not None]
        self.assertLessEqual(len(known), 1002)
        self.assertEqual(known, list(range(10_000 - len(known), 10_000)))
        self.assertGreaterEqual(len(known), 500)
        # The outage is over: what is left of their shares is no more than that.
        standby.debts()
        self.assertLessEqual(len(standby.recent), 1002)


class OtherModeTests(OnClock):
    """`deny` and `allow`."""

    def test_deny_decides_for_nobody(self) -> None:
        """With `deny` a key is as good as unknown."""
        self.mode = "deny"
        standby = self.standby()
        self.answered(standby, "k", 5, 1.0, 5)
        self.assertIsNone(standby.take("k", 1, 0))
        self.assertEqual(standby.counts[UNKNOWN], 1)

    def test_deny_keeps_what_ends_in_the_outage(self) -> None:
        """With `deny` the tokens of requests that the store had admitted are charged when it is back."""
        self.mode = "deny"
        standby = self.standby(Limits(everyone=Policy(10, 1.0)))
        self.answered(standby, "k", 5, 1.0, 5)
        standby.release("k", 3)
        standby.release("k", -1)
        standby.release("other", -4)
        self.assertEqual(standby.debts(), ([("k", 2 * M), ("other", -4 * M)], -2 * M))

    def test_allow_spends_nothing(self) -> None:
        """With `allow` a key that is known passes at any cost and owes nothing, also one that was refused last."""
        self.mode = "allow"
        standby = self.standby(Limits(everyone=Policy(1, 0.0), in_flight=1))
        standby.recent["k"] = Taken(False, b"k", 5, 1.0, 0), self.clock.seconds()
        for _ in range(10):
            self.assertEqual(standby.take("k", 100, 10), Taken(True, b"k", 5, 1.0, 0, KEY))
        self.assertIsNone(standby.take("nobody", 1, 0))
        standby.release("k", 7)
        self.assertEqual(standby.debts(), ([], 0))
        self.assertEqual(standby.counts, {ADMITTED: 10, REFUSED: 0, UNKNOWN: 1})


class OtherLimitTests(OnClock):
    """The limits beside the key's own."""

    def test_everyone_is_divided_too(self) -> None:
        """One of two instances has half of everyone's bucket, full at first, for all its keys together."""
        standby = self.standby(Limits(everyone=Policy(6, 2.0)), instances=2)
        for key in ("a", "b"):
            self.answered(standby, key, 100, 0.0, 100)
        self.assertEqual((self.admitted(standby, "a", 2), self.admitted(standby, "b")), (2, 1))
        refused = self.take(standby, "b")
        self.assertEqual(refused, Taken(False, b"b", 6, 1.0, 0, GLOBAL))
        # What everyone's bucket refused, the key's has still.
        charges, of_all = standby.debts()
        self.assertEqual((sorted(charges), of_all), ([("a", 2 * M), ("b", M)], 3 * M))

    def test_everyones_bucket_is_not_full_again_in_the_next_outage(self) -> None:
        """Outages right behind each other share what everyone's bucket had at the first, and its refill."""
        standby = self.standby(Limits(everyone=Policy(6, 1.0)), instances=2)
        admitted = 0
        for _ in range(10):
            self.answered(standby, "k", 100, 0.0, 100)
            admitted += self.admitted(standby, "k")
            standby.debts()
        self.assertEqual(admitted, 3)
        self.clock.advance(4)
        self.assertEqual(self.admitted(standby, "k"), 2)

    def test_the_places_in_flight_are_divided(self) -> None:
        """One of three instances has a third of the places, one at least; the refusal spends nothing."""
        for limit, instances, most in ((7, 3, 2), (2, 3, 1), (5, 1, 5)):
            standby = self.standby(Limits(everyone=Policy(90, 0.0), in_flight=limit), instances=instances)
            self.answered(standby, "k", 90, 0.0, 90)
            self.assertTrue(self.take(standby, "k", in_flight=most - 1).admitted)
            self.assertEqual(self.take(standby, "k", in_flight=most), Taken(False, b"k", most, 0.0, 0, IN_FLIGHT))
            self.assertEqual(standby.debts(), ([("k", M)], M))

    def test_the_first_limit_that_refuses_is_told(self) -> None:
        """The key's bucket comes before the places in flight, and these before everyone's bucket."""
        standby = self.standby(Limits(everyone=Policy(1, 0.0), in_flight=1))
        self.answered(standby, "k", 2, 0.0, 2)
        limits = [self.take(standby, "k", *ask).limit for ask in ((1, 0), (2, 1), (1, 1), (1, 0))]
        self.assertEqual(limits, [KEY, KEY, IN_FLIGHT, GLOBAL])


class ReleaseTests(OnClock):
    """Requests that end while the store is away."""

    def test_tokens_come_from_the_share(self) -> None:
        """What a request cost more is taken from the share, into debt; what it cost less is given to it."""
        standby = self.standby(Limits(everyone=Policy(100, 0.0)))
        self.answered(standby, "k", 5, 1.0, 5)
        self.take(standby, "k")
        standby.release("k", 6)
        self.assertEqual(self.take(standby, "k"), Taken(False, b"k", 5, 1.0, -2 * M))
        standby.release("k", -5)
        self.assertEqual(self.take(standby, "k").level, 2 * M)
        self.assertEqual(standby.debts(), ([("k", 3 * M)], 3 * M))

    def test_it_counts_before_the_first_taking(self) -> None:
        """A request of the store's that ends before the key's first taking in the outage counts for the share."""
        standby = self.standby()
        self.answered(standby, "k", 5, 0.0, 5)
        standby.release("k", 3)
        self.assertEqual(self.admitted(standby, "k"), 2)
        self.assertEqual(standby.debts(), ([("k", 5 * M)], 0))

    def test_a_gift_to_a_full_share_is_lost(self) -> None:
        """A gift that does not fit is not set off against what is spent later."""
        standby = self.standby()
        self.answered(standby, "k", 5, 0.0, 5)
        standby.release("k", -3)
        self.assertEqual(self.admitted(standby, "k"), 5)
        self.assertEqual(standby.debts(), ([("k", 5 * M)], 0))

    def test_a_gift_before_a_long_time_is_not_set_off_either(self) -> None:
        """What a refill to the capacity has overtaken, the store has by its own refill."""
        standby = self.standby()
        self.answered(standby, "k", 5, 1.0, 1)
        standby.release("k", -3)
        self.clock.advance(100)
        self.assertEqual(self.admitted(standby, "k"), 5)
        self.assertEqual(standby.debts(), ([("k", 5 * M)], 0))

    def test_unknown_keys_are_kept_for_later(self) -> None:
        """What ends for a key that is not known is charged when the store is back, once."""
        standby = self.standby(Limits(everyone=Policy(100, 0.0)))
        standby.release("k", 2)
        standby.release("k", 3)
        standby.release("other", -1)
        standby.release("nothing", 0)
        self.assertEqual(standby.debts(), ([("k", 5 * M), ("other", -M)], 4 * M))
        self.assertEqual(standby.debts(), ([], 0))

    def test_pending_charges_are_bounded(self) -> None:
        """Charges of at most as many unknown keys as may be remembered are kept; everyone's counts them all."""
        standby = self.standby(Limits(everyone=Policy(1000, 0.0)), keys=10)
        for _ in range(2):
            for number in range(50):
                standby.release(f"k{number}", 1)
        charges, of_all = standby.debts()
        self.assertEqual(charges, [(f"k{number}", 2 * M) for number in range(10)])
        self.assertEqual(of_all, 100 * M)

    def test_without_a_bucket_of_everyone_nothing_is_charged_to_it(self) -> None:
        """A balancer without such a bucket has no debt of everyone."""
        standby = self.standby()
        self.answered(standby, "k", 5, 0.0, 5)
        standby.release("k", 2)
        standby.release("unknown", 2)
        self.assertEqual(standby.debts()[1], 0)

    def test_a_debt_has_a_bottom(self) -> None:
        """However much is charged, a debt stays a number that a double holds exactly."""
        standby = self.standby()
        self.answered(standby, "k", 5, 0.0, 5)
        for _ in range(20):
            standby.release("k", MAX_COST)
        self.assertEqual(self.take(standby, "k", 0).level, LOWEST_LEVEL)
        [(_, debt)] = standby.debts()[0]
        self.assertEqual(debt, 5 * M - LOWEST_LEVEL)

    def test_what_the_store_was_told_is_known(self) -> None:
        """Tokens that the store is told of while it answers count in the level from which an outage begins."""
        standby = self.standby()
        standby.settled("nobody", 3)
        self.answered(standby, "k", 5, 1.0, 4)
        self.clock.advance(100)
        standby.settled("k", 3)
        self.assertEqual(self.take(standby, "k", 0).level, 2 * M)
        standby.debts()
        standby.settled("k", -100)
        self.assertEqual(self.take(standby, "k", 0).level, 5 * M)


class DebtTests(OnClock):
    """What is charged when the store is back."""

    def debt(self, standby: Standby) -> float:
        charges, _ = standby.debts()
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
            ("a half, refilled by half the rate", 2, 1.0, 10, [(0, 5), (4, 2), (2, 0)], 4 + 0.3),
            ("a quarter, and what others had who were back before", 4, 8.0, 8, [(0, 2)] + [(1, 2)] * 99, 2.5 + 1.2),
        ]:
            standby = self.standby(instances=instances)
            self.answered(standby, "k", 10, rate, level)
            for seconds, requests in steps:
                self.clock.advance(seconds)
                self.admitted(standby, "k", requests)
            self.assertAlmostEqual(self.debt(standby), expected, places=4, msg=what)

    def test_debts_are_told_once(self) -> None:
        """A second call has nothing to charge."""
        standby = self.standby(Limits(everyone=Policy(10, 0.0)))
        self.answered(standby, "k", 5, 0.0, 5)
        self.admitted(standby, "k")
        self.assertEqual(standby.debts(), ([("k", 5 * M)], 5 * M))
        self.assertEqual(standby.debts(), ([], 0))

    def test_the_next_outage_goes_on_with_what_is_left(self) -> None:
        """Without an answer of the store in between, ten outages in a row admit what one does, and the refill."""
        for instances in (1, 2):
            standby = self.standby(instances=instances)
            self.answered(standby, "k", 10, 1.0, 10)
            admitted = debt = 0.0
            for _ in range(10):
                admitted += self.admitted(standby, "k")
                debt += self.debt(standby)
                # Who reconnects first may not see the others yet.
                standby.instances = instances
            self.assertEqual((admitted, debt), (10 / instances, 10 / instances))
            self.clock.advance(4)
            self.assertEqual(self.admitted(standby, "k"), 4 // instances)

    def test_an_answer_of_the_store_ends_that(self) -> None:
        """The store's own number counts from when it comes."""
        standby = self.standby()
        self.answered(standby, "k", 10, 0.0, 10)
        self.admitted(standby, "k", 3)
        standby.debts()
        self.answered(standby, "k", 20, 0.0, 1)
        self.assertEqual(self.admitted(standby, "k"), 1)

    def test_instances_that_come_and_go_between_outages(self) -> None:
        """What was left of a half is a half of what is known; alone, an instance has all of that."""
        standby = self.standby(instances=2)
        self.answered(standby, "k", 10, 0.0, 10)
        self.assertEqual(self.admitted(standby, "k", 3), 3)
        # As it is when this process is the first to be back.
        standby.instances = 1
        self.assertEqual(self.debt(standby), 3)
        self.assertEqual(self.admitted(standby, "k"), 4)
