"""What every store promises about costs and the limits beside the keys' own, as one suite: see `contract`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks

from tests.stores.contract import StoreCase, digest_of
from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, MICROTOKENS, Limits, Policy, Taken
from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_COST

M = MICROTOKENS
HERE, THERE = "192.0.2.7", "2001:db8:1:2::/64"
# Too slow to refill a token during a test, and not 0.
SLOW = 0.0001


class LimitsContract(StoreCase):
    """Costs, and each limit alone and with the others."""

    # Costs

    @inlineCallbacks
    def test_a_cost_is_taken_whole_or_not_at_all(self) -> Any:
        """A bucket of 5 gives 3, has no 3 any more but 2, and gives nothing for nothing as often as asked."""
        yield self.create("k", "ann", 5)
        answers = yield gatherResults([self.take("k", cost) for cost in (3, 3, 0, 2, 0, 1)])
        outcomes = [(answer.admitted, answer.level / M) for answer in answers]
        self.assertEqual(outcomes, [(True, 2), (False, 2), (True, 2), (True, 0), (True, 0), (False, 0)])

    @inlineCallbacks
    def test_a_cost_above_the_capacity_is_refused_and_spends_nothing(self) -> Any:
        """A full bucket of 5 refuses 6, and the highest cost; the largest bucket gives the highest cost at once."""
        yield self.create("k", "ann", 5)
        for cost in (6, MAX_COST):
            self.assertEqual((yield self.take("k", cost)), Taken(False, b"ann", 5, 0.0, 5 * M))
        yield self.create("large", "bob", MAX_CAPACITY)
        self.assertEqual((yield self.take("large", MAX_COST)), Taken(True, b"bob", MAX_CAPACITY, 0.0, 0))

    @inlineCallbacks
    def test_a_cost_that_cannot_be_takes_nothing(self) -> Any:
        """A cost below 0 or above the highest one raises ValueError, and the bucket keeps its level."""
        yield self.create("k", "ann", 5)
        yield self.take("k", 3)
        for cost in (-1, MAX_COST + 1):
            with self.assertRaisesRegex(ValueError, "^cost: expected a whole number from 0 to 1000000000, not "):
                self.take("k", cost)
        self.assertEqual((yield self.level("k")), 2)

    # Releases

    @inlineCallbacks
    def test_what_is_released_with_tokens_may_leave_a_debt(self) -> Any:
        """A release of 7 on a level of 4 leaves -3; then not even a cost of 0 passes, and gifts pay it off."""
        yield self.create("k", "ann", 5)
        yield self.take("k")
        self.store.release(digest_of("k"), 7)
        self.assertEqual((yield self.take("k", 0)), Taken(False, b"ann", 5, 0.0, -3 * M))
        self.store.release(digest_of("k"), -3)
        self.assertEqual((yield self.take("k", 0)), Taken(True, b"ann", 5, 0.0, 0))
        self.store.release(digest_of("k"), -4)
        self.assertEqual((yield self.take("k", 3)), Taken(True, b"ann", 5, 0.0, M))

    @inlineCallbacks
    def test_a_debt_is_paid_off_by_the_refill(self) -> Any:
        """A bucket of 5 that owes 1,000 and refills a million a second is full after some milliseconds."""
        yield self.create("k", "ann", 5, 1_000_000.0)
        self.store.release(digest_of("k"), 1_000)
        yield self.some_milliseconds()
        self.assertEqual((yield self.take("k", 2)), Taken(True, b"ann", 5, 1_000_000.0, 3 * M))

    @inlineCallbacks
    def test_a_debt_has_a_bottom(self) -> Any:
        """However often the highest cost is charged, the level stays at minus the largest capacity."""
        yield self.create("k", "ann", 5)
        for _ in range(12):
            self.store.release(digest_of("k"), MAX_COST)
        self.assertEqual((yield self.take("k")), Taken(False, b"ann", 5, 0.0, -MAX_CAPACITY * M))

    @inlineCallbacks
    def test_releasing_for_nobody_is_no_error(self) -> Any:
        """A release of a key that no account has changes nothing."""
        yield self.begin_with(Limits(in_flight=1))
        for tokens in (-1, 0, 1):
            self.store.release(digest_of("nobody"), tokens)
        self.assertIsNone((yield self.take("nobody")))

    # Requests in flight

    @inlineCallbacks
    def test_places_in_flight_are_counted(self) -> Any:
        """Of a key two requests are in flight at most; one that ends makes room for one, with its tokens or without."""
        yield self.begin_with(Limits(in_flight=2))
        self.assertIs(self.store.counts_in_flight, True)
        yield self.create("k", "ann", 100)
        yield self.create("other", "bob", 100)
        refused = Taken(False, b"ann", 2, 0.0, 0, IN_FLIGHT)
        answers = yield gatherResults([self.take("k") for _ in range(4)] + [self.take("other")])
        self.assertEqual([answer.admitted for answer in answers], [True, True, False, False, True])
        self.assertEqual(answers[2:4], [refused, refused])
        self.store.release(digest_of("k"), 0)
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 100, 0.0, 97 * M))
        self.assertEqual((yield self.take("k")), refused)
        self.store.release(digest_of("k"), 10)
        self.store.release(digest_of("k"), -1)
        answers = yield gatherResults([self.take("k") for _ in range(3)])
        self.assertEqual([answer.level for answer in answers], [87 * M, 86 * M, 0])
        self.assertEqual(answers[2], refused)

    @inlineCallbacks
    def test_an_end_too_many_makes_no_room(self) -> Any:
        """Releases of a key that has nothing in flight leave the places as many as they are."""
        yield self.begin_with(Limits(in_flight=1))
        yield self.create("k", "ann", 100)
        for _ in range(3):
            self.store.release(digest_of("k"), 0)
        answers = yield gatherResults([self.take("k") for _ in range(3)])
        self.assertEqual([answer.admitted for answer in answers], [True, False, False])

    @inlineCallbacks
    def test_without_the_limit_nothing_counts_in_flight(self) -> Any:
        """A store without that limit admits any number of requests that do not end."""
        self.assertIs(self.store.counts_in_flight, False)
        yield self.create("k", "ann", 300)
        answers = yield gatherResults([self.take("k") for _ in range(300)])
        self.assertTrue(all(answer.admitted for answer in answers))

    # The bucket of everyone

    @inlineCallbacks
    def test_everyone_has_a_bucket(self) -> Any:
        """Keys with plenty of tokens get the capacity of the global bucket together, whatever each request costs."""
        yield self.begin_with(Limits(global_bucket=Policy(5, SLOW)))
        yield self.create("k", "ann", 100)
        yield self.create("other", "bob", 100)
        answers = yield gatherResults([self.take("k", 3), self.take("other", 3), self.take("other", 2)])
        self.assertEqual([answer.admitted for answer in answers], [True, False, True])
        refused = answers[1]
        self.assertEqual(refused._replace(level=0), Taken(False, b"bob", 5, SLOW, 0, GLOBAL))
        self.assertEqual(refused.level // M, 2)
        self.assertEqual((yield self.level("other")), 98)

    @inlineCallbacks
    def test_releases_count_for_everyone(self) -> Any:
        """What a release takes or gives back, it takes from and gives to the global bucket, up to its capacity."""
        yield self.begin_with(Limits(global_bucket=Policy(5, 0.0)))
        yield self.create("k", "ann", 100)
        yield self.take("k", 4)
        self.store.release(digest_of("k"), 3)
        self.assertEqual((yield self.take("k")), Taken(False, b"ann", 5, 0.0, -2 * M, GLOBAL))
        self.store.release(digest_of("k"), -90)
        self.assertEqual((yield self.take("k", 6)), Taken(False, b"ann", 5, 0.0, 5 * M, GLOBAL))
        self.assertEqual((yield self.take("k", 5)).admitted, True)

    @inlineCallbacks
    def test_the_first_limit_that_refuses_is_told_and_none_spends(self) -> Any:
        """The key's bucket comes before the requests in flight, and these before the global bucket."""
        yield self.begin_with(Limits(global_bucket=Policy(2, 0.0), in_flight=1))
        yield self.create("k", "ann", 2)
        yield self.create("other", "bob", 9)
        # By the key's bucket: everyone's keeps its tokens, and no place is taken.
        self.assertEqual((yield self.take("k", 3)), Taken(False, b"ann", 2, 0.0, 2 * M))
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 2, 0.0, M))
        # All three would refuse; then two.
        self.assertEqual((yield self.take("k", 2)), Taken(False, b"ann", 2, 0.0, M))
        yield self.take("other")
        self.assertEqual((yield self.take("k")), Taken(False, b"ann", 1, 0.0, 0, IN_FLIGHT))
        # By everyone's alone: the key keeps its token and its place.
        self.store.release(digest_of("k"), 0)
        for _ in range(2):
            self.assertEqual((yield self.take("k")), Taken(False, b"ann", 2, 0.0, 0, GLOBAL))
        self.assertEqual((yield self.level("k")), 1)
        # What was refused for a place or by the global bucket spent nothing of that either.
        self.store.release(digest_of("other"), -1)
        self.assertEqual((yield self.take("k")), Taken(True, b"ann", 2, 0.0, 0))

    # The buckets of networks

    @inlineCallbacks
    def test_an_unknown_key_costs_its_network_a_token(self) -> Any:
        """Unknown keys from one network are answered with None until its bucket is empty, then refused by it."""
        yield self.begin_with(Limits(address=Policy(2, 0.0)))
        yield self.create("k", "ann", 5)
        answers = yield gatherResults([self.take(f"guess {n}", 1, HERE) for n in range(3)])
        refused = Taken(False, b"", 2, 0.0, 0, ADDRESS)
        self.assertEqual(answers, [None, None, refused])
        # The cost of the request is not that of the guess.
        self.assertEqual((yield self.take("guess", 7, THERE)), None)
        self.assertEqual((yield self.take("guess", 7, THERE)), None)
        self.assertEqual((yield self.take("guess", 0, THERE)), refused)
        # A key that was never used is refused then, unseen; its own bucket keeps its tokens.
        self.assertEqual([(yield self.in_use("k")), (yield self.in_use("guess"))], [False, False])
        self.assertEqual((yield self.take("k", 1, HERE)), refused)
        self.assertEqual((yield self.level("k")), 5)
        # Without a network nothing is asked of it, and another network has a bucket of its own.
        self.assertEqual((yield self.take("k", 1)), Taken(True, b"ann", 5, 0.0, 4 * M))
        self.assertIsNone((yield self.take("guess", 1)))
        self.assertEqual((yield self.take("k", 1, "192.0.2.8")), Taken(True, b"ann", 5, 0.0, 3 * M))
        # A key that is in use is not a guess, wherever it comes from.
        self.assertEqual([(yield self.in_use("k")), (yield self.in_use("guess"))], [True, False])
        self.assertEqual((yield self.take("k", 1, HERE)), Taken(True, b"ann", 5, 0.0, 2 * M))
        self.assertEqual((yield self.take("another guess", 1, HERE)), refused)

    @inlineCallbacks
    def test_a_known_key_costs_its_network_nothing(self) -> Any:
        """Takings of a valid key, admitted or refused, leave the network's one token where it is."""
        yield self.begin_with(Limits(address=Policy(1, 0.0)))
        yield self.create("k", "ann", 3)
        answers = yield gatherResults([self.take("k", 1, HERE) for _ in range(5)])
        self.assertEqual([answer.admitted for answer in answers], [True] * 3 + [False] * 2)
        self.assertEqual(answers[4], Taken(False, b"ann", 3, 0.0, 0))
        self.assertEqual((yield self.take_address(HERE)), Taken(True, b"", 1, 0.0, 0, ADDRESS))

    @inlineCallbacks
    def test_less_than_a_token_of_a_network_is_none(self) -> Any:
        """A network's bucket that has refilled some of a token, and not all, still refuses."""
        yield self.begin_with(Limits(address=Policy(1, 1.0)))
        yield self.create("k", "ann", 5)
        self.assertIsNone((yield self.take("guess", 1, HERE)))
        yield self.some_milliseconds()
        taken = yield self.take("another guess", 1, HERE)
        self.assertEqual((taken.admitted, taken.limit), (False, ADDRESS))
        self.assertTrue(0 < taken.level < M, taken)

    @inlineCallbacks
    def test_an_address_is_asked_alone(self) -> Any:
        """`take_address` takes a token of the network's bucket until there is none, and one given back is there."""
        yield self.begin_with(Limits(address=Policy(2, 0.0)))
        answers = yield gatherResults([self.take_address(HERE) for _ in range(3)] + [self.take_address(THERE)])
        expected = [(True, 1), (True, 0), (False, 0), (True, 1)]
        self.assertEqual(answers, [Taken(admitted, b"", 2, 0.0, level * M, ADDRESS) for admitted, level in expected])
        self.store.release_address(HERE, -1)
        self.assertIsNone((yield self.take("guess", 1, HERE)))
        self.assertFalse((yield self.take_address(HERE)).admitted)
        # Never above the capacity.
        for _ in range(5):
            self.store.release_address(THERE, -1)
        self.assertEqual((yield self.take_address(THERE)), Taken(True, b"", 2, 0.0, M, ADDRESS))

    @inlineCallbacks
    def test_a_networks_bucket_refills(self) -> Any:
        """An empty bucket of a network that refills a million tokens a second admits after some milliseconds."""
        yield self.begin_with(Limits(address=Policy(1, 1_000_000.0)))
        yield self.take_address(HERE)
        yield self.some_milliseconds()
        self.assertEqual((yield self.take_address(HERE)), Taken(True, b"", 1, 1_000_000.0, 0, ADDRESS))

    @inlineCallbacks
    def test_without_the_limit_addresses_are_admitted_unasked(self) -> Any:
        """A store without buckets of networks admits any address, and answers for keys as if none was given."""
        yield self.create("k", "ann", 5)
        for _ in range(3):
            taken = yield self.take_address(HERE)
            self.assertEqual((taken.admitted, taken.limit), (True, ADDRESS))
            self.assertIsNone((yield self.take("guess", 1, HERE)))
        self.store.release_address(HERE, -1)
        self.assertEqual((yield self.take("k", 1, HERE)), Taken(True, b"ann", 5, 0.0, 4 * M))
