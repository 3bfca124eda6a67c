"""The queues in which requests wait for their tokens, and the field by which clients ask for it."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.interfaces import IN_FLIGHT, QUOTA, Taken
from twisted_lb.limits.bucket import Bucket
from twisted_lb.limits.prefer import preferred_wait
from twisted_lb.limits.wait_queue import WaitQueue
from twisted_lb.quotas import DAY, REQUESTS, TOKENS, QuotaLevel


class PreferTests(SynchronousTestCase):
    def test_values(self) -> None:
        """The N of wait=N is found among other preferences, with or without quotes, in any case; nothing else is."""
        for value, seconds in (
            (b"wait=10", 10),
            (b"respond-async, wait=10", 10),
            (b'WAIT = "7" ; x=1, handling=lenient', 7),
            (b"wait=0", 0),
            (b"wait", 0),
            (b"wait=", 0),
            (b"wait=-1", 0),
            (b"wait=1.5", 0),
            (b"wait=10s", 0),
            (b"await=10", 0),
            (b"wait=9999999999", 0),
            (b"handling=lenient", 0),
            (b'handling="x, wait=5, y", wait=6', 6),
            (b"wait=3, wait=4", 3),
            (b", ,wait=8;a=b", 8),
            (b'"', 0),
        ):
            self.assertEqual(preferred_wait(value), seconds, value)


class Sleeper:
    """Waits in a room, and takes from a bucket when its turn comes."""

    def __init__(self, name: str, case: RoomTests, cost: int) -> None:
        self.name = name
        self.case = case
        self.cost = cost

    def ask_again(self) -> None:
        case = self.case
        case.questions += 1
        admitted, level = case.bucket.take(self.cost, round(case.clock.seconds() * 1_000_000))
        taken = case.answer(admitted, level)
        if admitted:
            case.order.append(f"{self.name} at {case.clock.seconds():.2f}")
            case.room.served("key", self, taken)
        else:
            case.room.refused("key", self, taken)

    def wait_timed_out(self, taken: Taken, ahead: int) -> None:
        self.case.order.append(f"{self.name} gave up at {self.case.clock.seconds():.2f}, {ahead} ahead")


class RoomTests(SynchronousTestCase):
    """A room in front of one bucket of 5 tokens, empty at first, at 2 tokens a second."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.room = WaitQueue(self.clock, 100)
        self.bucket = Bucket(5, 2.0, 0, 0)
        self.order: list[str] = []
        self.questions = 0

    def answer(self, admitted: bool, level: int) -> Taken:
        return Taken(admitted, b"ann", self.bucket.capacity, self.bucket.rate_per_sec, level)

    def join(self, name: str, timeout: float = 60.0, cost: int = 1) -> bool:
        level = self.bucket.level_at(round(self.clock.seconds() * 1_000_000))
        return self.room.join(Sleeper(name, self, cost), "key", cost, timeout, self.answer(False, level))

    def run_for(self, seconds: float) -> str:
        self.clock.pump([0.01] * round(seconds * 100))
        order, self.order[:] = ", ".join(self.order), []
        return order

    def test_first_come_first_served(self) -> None:
        """Each gets its token when it is there, in the order of arrival; the store is asked once for each.

        It is asked once more for each that comes later, since the policy may have changed.
        """
        for name in "abc":
            self.assertTrue(self.join(name))
        self.assertEqual(self.run_for(2), "a at 0.51, b at 1.01, c at 1.51")
        self.assertEqual((self.questions, len(self.room), self.room.key_queues), (3 + 2, 0, {}))

    def test_costs(self) -> None:
        """A costly one at the head is not overtaken by a cheap one that could go at once."""
        self.join("dear", cost=4)
        self.join("cheap")
        self.assertEqual(self.run_for(3), "dear at 2.01, cheap at 2.51")

    def test_a_quota_that_is_used_up(self) -> None:
        """Those who wait for tokens do not wait for the next period of a quota: they are answered at once."""
        for name, cost in (("a", 1), ("dear", 2), ("b", 1)):
            self.join(name, cost=cost)
        self.assertEqual(self.run_for(0.6), "a at 0.51")
        self.refused_by_quota(TOKENS, 1)
        self.assertEqual(self.run_for(0.02), "dear gave up at 0.60, 1 ahead")
        self.refused_by_quota(REQUESTS, 0)
        self.assertEqual((self.run_for(0.02), len(self.room)), ("b gave up at 0.62, 0 ahead", 0))

    def refused_by_quota(self, unit: str, left: int) -> None:
        """The first one is, when it asks."""
        quota = QuotaLevel(3, unit, DAY, "UTC", left, 0, 86_400_000_000, 1)
        first = next(iter(self.room.key_queues["key"].places))
        self.room.refused("key", first, Taken(False, b"ann", 3, 0.0, left * 1_000_000, QUOTA, quota=quota))

    def test_no_use(self) -> None:
        """Who cannot have its tokens in time, counting those ahead, is not let in; nor is who never can."""
        self.assertFalse(self.join("too dear", cost=6))
        self.assertFalse(self.join("hasty", 0.4))
        self.assertTrue(self.join("a", 0.6))
        self.assertEqual(self.order, [])
        for name, timeout, cost in (("b", 0.9, 1), ("c", 0.0, 1), ("too dear", 60.0, 6)):
            self.join(name, timeout, cost)
            self.assertEqual(self.order.pop(), f"{name} gave up at 0.00, 1 ahead")
        self.assertTrue(self.join("b", 1.1))
        self.assertEqual((self.order, len(self.room)), ([], 2))
        self.bucket.change(5, 0.0, 0)
        self.assertFalse(WaitQueue(self.clock, 100).join(Sleeper("x", self, 1), "k", 1, 60, self.answer(False, 0)))

    def test_change_of_policy(self) -> None:
        """A policy that has changed holds from the next request on, for all that wait and for who would not wait."""
        self.bucket.change(5, 0.1, 0)
        self.join("a")
        self.join("b")
        self.clock.advance(1.0)
        self.bucket.change(5, 1000.0, 1_000_000)
        self.clock.advance(1.0)
        self.assertEqual(self.order, [])
        self.join("c", 0.0)
        self.assertEqual(self.run_for(0.05), "a at 2.00, b at 2.01, c at 2.02")

    def test_bounds(self) -> None:
        """A key has at most a tenth of the room, and the room at most its size."""
        room = WaitQueue(self.clock, 20)
        refused = self.answer(False, 0)

        class Stubborn:
            def __init__(self, key: str) -> None:
                self.key = key

            def ask_again(self) -> None:
                room.refused(self.key, self, refused)

            def wait_timed_out(self, taken: Taken, ahead: int) -> None:
                gone.append(self.key)

        gone: list[str] = []

        def joins(key: str) -> bool:
            return room.join(Stubborn(key), key, 1, 60, refused) and not gone[-1:] == [key]

        self.assertEqual([joins("a") for _ in range(3)], [True, True, False])
        self.assertEqual(sum(joins(str(n)) for n in range(30)), 18)
        self.assertEqual(len(room), 20)

    def test_full_line(self) -> None:
        """A line that is full makes the store be asked all the same, and moves on when the policy has changed."""
        self.room = WaitQueue(self.clock, 20)
        self.bucket.change(5, 0.1, 0)
        self.join("a")
        self.join("b")
        self.join("c")
        self.assertEqual(self.order.pop(), "c gave up at 0.00, 2 ahead")
        self.bucket.change(100, 1000.0, 0)
        self.clock.advance(0.1)
        self.join("d")
        self.assertEqual(self.run_for(0.05), "a at 0.10, b at 0.11, d at 0.12")

    def test_too_dear_for_a_new_policy(self) -> None:
        """One whose tokens a smaller bucket never holds leaves when that is known, and does not hold up the others."""
        self.join("dear", cost=4)
        self.join("cheap")
        self.bucket.change(3, 2.0, 0)
        self.assertEqual(self.run_for(3), "dear gave up at 2.01, 1 ahead, cheap at 2.02")

    def test_closing(self) -> None:
        """When all are to go, who would wait for longer gives up in time, and the others get their tokens."""
        for name in "abc":
            self.join(name)
        self.room.close_in(1.2)
        self.assertEqual(self.run_for(3), "a at 0.51, b at 1.01, c gave up at 1.20, 0 ahead")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_leaving(self) -> None:
        """One that leaves, the first or not, is not asked any more, and those behind it move up."""
        sleepers = {}
        for name in "abcd":
            sleepers[name] = Sleeper(name, self, 1)
            self.room.join(sleepers[name], "key", 1, 60, self.answer(False, 0))
        self.room.leave("key", sleepers["a"])
        self.room.leave("key", sleepers["c"])
        self.assertEqual(self.run_for(3), "b at 0.51, d at 1.01")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_patience(self) -> None:
        """One whose token went elsewhere gives up when its time is over, and not before; nothing stays behind."""
        self.join("a", 1.0)
        self.join("b", 1.6)
        for _ in range(40):
            self.bucket.take(1, round(self.clock.seconds() * 1_000_000))
            self.clock.advance(0.05)
        self.assertEqual(self.order, ["a gave up at 1.00, 1 ahead", "b gave up at 1.60, 0 ahead"])
        self.assertEqual((self.clock.getDelayedCalls(), self.room.key_queues), ([], {}))
        self.assertLess(self.questions, 6)

    def test_in_flight(self) -> None:
        """Where requests in flight are the limit, the first one asks when one has ended, and from time to time."""
        refused = Taken(False, b"ann", 2, 0.0, 0, IN_FLIGHT)
        asked: list[float] = []

        class Crowd:
            def ask_again(self) -> None:
                asked.append(clock.seconds())
                room.refused("key", self, refused)

            def wait_timed_out(self, taken: Taken, ahead: int) -> None:
                asked.append(-1)

        clock, room = self.clock, self.room
        self.assertTrue(room.join(Crowd(), "key", 1, 3, refused))
        clock.pump([0.05, 0.0625])
        self.assertEqual(asked, [0.1125])
        room.room_available("key")
        clock.pump([0.0625, 0.0625])
        self.assertEqual(asked, [0.1125, 0.1125, 0.2375])
