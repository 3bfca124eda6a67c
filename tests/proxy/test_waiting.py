"""Requests that wait for their tokens because their client prefers that."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import ADMITTED, KEY
from tests.proxy.world import Client, World, request, response
from twisted_lb.api_key import digest
from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, MICROTOKENS, Taken
from twisted_lb.limits.bucket import Bucket
from twisted_lb.proxy.admission import preferred_wait
from twisted_lb.proxy.waiting import WaitingRoom

WAIT_3 = b"Prefer: wait=3"
MINE = digest(KEY)


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

    def waited_in_vain(self, taken: Taken, ahead: int) -> None:
        self.case.order.append(f"{self.name} gave up at {self.case.clock.seconds():.2f}, {ahead} ahead")


class RoomTests(SynchronousTestCase):
    """A room in front of one bucket of 5 tokens, empty at first, at 2 tokens a second."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.room = WaitingRoom(self.clock, 100)
        self.bucket = Bucket(5, 2.0, 0, 0)
        self.order: list[str] = []
        self.questions = 0

    def answer(self, admitted: bool, level: int) -> Taken:
        return Taken(admitted, b"ann", self.bucket.capacity, self.bucket.rate_per_sec, level)

    def join(self, name: str, patience: float = 60.0, cost: int = 1) -> bool:
        level = self.bucket.level_at(round(self.clock.seconds() * 1_000_000))
        return self.room.join(Sleeper(name, self, cost), "key", cost, patience, self.answer(False, level))

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
        self.assertEqual((self.questions, len(self.room), self.room.lines), (3 + 2, 0, {}))

    def test_costs(self) -> None:
        """A costly one at the head is not overtaken by a cheap one that could go at once."""
        self.join("dear", cost=4)
        self.join("cheap")
        self.assertEqual(self.run_for(3), "dear at 2.01, cheap at 2.51")

    def test_no_use(self) -> None:
        """Who cannot have its tokens in time, counting those ahead, is not let in; nor is who never can."""
        self.assertFalse(self.join("too dear", cost=6))
        self.assertFalse(self.join("hasty", 0.4))
        self.assertTrue(self.join("a", 0.6))
        self.assertEqual(self.order, [])
        for name, patience, cost in (("b", 0.9, 1), ("c", 0.0, 1), ("too dear", 60.0, 6)):
            self.join(name, patience, cost)
            self.assertEqual(self.order.pop(), f"{name} gave up at 0.00, 1 ahead")
        self.assertTrue(self.join("b", 1.1))
        self.assertEqual((self.order, len(self.room)), ([], 2))
        self.bucket.change(5, 0.0, 0)
        self.assertFalse(WaitingRoom(self.clock, 100).join(Sleeper("x", self, 1), "k", 1, 60, self.answer(False, 0)))

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
        room = WaitingRoom(self.clock, 20)
        refused = self.answer(False, 0)

        class Stubborn:
            def __init__(self, key: str) -> None:
                self.key = key

            def ask_again(self) -> None:
                room.refused(self.key, self, refused)

            def waited_in_vain(self, taken: Taken, ahead: int) -> None:
                raise AssertionError("nobody is let in who has to leave")

        def joins(key: str) -> bool:
            return room.join(Stubborn(key), key, 1, 60, refused)

        self.assertEqual([joins("a") for _ in range(3)], [True, True, False])
        self.assertEqual(sum(joins(str(n)) for n in range(30)), 18)
        self.assertEqual(len(room), 20)

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
        self.assertEqual((self.clock.getDelayedCalls(), self.room.lines), ([], {}))
        self.assertLess(self.questions, 6)

    def test_in_flight(self) -> None:
        """Where requests in flight are the limit, the first one asks when one has ended, and from time to time."""
        refused = Taken(False, b"ann", 2, 0.0, 0, IN_FLIGHT)
        asked: list[float] = []

        class Crowd:
            def ask_again(self) -> None:
                asked.append(clock.seconds())
                room.refused("key", self, refused)

            def waited_in_vain(self, taken: Taken, ahead: int) -> None:
                asked.append(-1)

        clock, room = self.clock, self.room
        self.assertTrue(room.join(Crowd(), "key", 1, 3, refused))
        clock.pump([0.05, 0.0625])
        self.assertEqual(asked, [0.1125])
        room.room_came("key")
        clock.pump([0.0625, 0.0625])
        self.assertEqual(asked, [0.1125, 0.1125, 0.2375])


class ExchangeTests(SynchronousTestCase):
    """The whole proxy, in front of one bucket of 5 tokens, empty at first, at 1 token a second."""

    def setUp(self) -> None:
        self.world = World(rate_per_sec=1.0)

    def ask(self, *fields: bytes, target: str = "/") -> Client:
        client = self.world.client()
        client.send(request("GET", target, *fields))
        return client

    def reached(self) -> list[bytes]:
        """The targets that have reached the server, which answers them."""
        targets = []
        for side in self.world.server.connections:
            data = side.read()
            if data:
                targets.append(data.split(b" ")[1])
                side.send(response())
        return targets

    def test_waits(self) -> None:
        """A request waits for its token, reaches the server when it is there, and the client is told that it waited."""
        client = self.ask(WAIT_3)
        self.world.wait(0.9)
        self.assertEqual((self.reached(), client.received), ([], b""))
        self.world.wait(0.2)
        self.assertEqual(self.reached(), [b"/"])
        answer = client.response()
        self.assertEqual((answer.status, answer.field("preference-applied")), (200, "wait=3"))
        self.assertEqual(answer.field("x-ratelimit-remaining"), "0")

    def test_no_waiting(self) -> None:
        """Without the preference, or with less of it than it takes, the answer is 429 at once."""
        for fields in ((), (b"Prefer: wait=0",), (b"Prefer: respond-async",)):
            self.assertEqual(self.ask(*fields).response().status, 429, fields)
        self.ask(WAIT_3)
        self.ask(WAIT_3)
        answer = self.ask(WAIT_3).response()
        self.assertEqual((answer.status, answer.field("retry-after")), (429, "3"))
        self.assertIsNone(answer.field("preference-applied"))

    def test_switched_off(self) -> None:
        """MAX_WAIT bounds what a client may ask for, and 0 switches waiting off."""
        for most, waits in ((0.0, False), (0.5, False), (2.0, True)):
            self.world = World(rate_per_sec=1.0, max_wait=most)
            client = self.ask(b"Prefer: wait=60")
            self.assertEqual(client.received == b"", waits, most)

    def test_no_overtaking(self) -> None:
        """While a request of a key waits, one that does not wait is refused, and told when its turn would be."""
        first = self.ask(WAIT_3)
        self.world.wait(0.5)
        answer = self.ask().response()
        self.assertEqual((answer.status, answer.field("retry-after")), (429, "2"))
        self.assertIn("other requests of this key wait", answer.detail)
        self.world.wait(0.6)
        self.assertEqual(self.reached(), [b"/"])
        self.assertEqual(first.response().status, 200)

    def test_order(self) -> None:
        """Those that wait reach the server in the order of their arrival."""
        for target in ("/a", "/b", "/c"):
            self.ask(b"Prefer: wait=4", target=target)
        seen = []
        for _ in range(4):
            self.world.wait(1.0)
            seen.append(self.reached())
        self.assertEqual(seen, [[], [b"/a"], [b"/b"], [b"/c"]])

    def test_client_leaves(self) -> None:
        """A client that leaves, or ends its side, takes no token, and the next one moves up."""
        for leave in (Client.leave, Client.finish):
            self.world = World(rate_per_sec=1.0)
            gone = self.ask(WAIT_3, target="/gone")
            self.ask(WAIT_3, target="/next")
            leave(gone)
            self.world.wait(1.5)
            self.assertEqual(self.reached(), [b"/next"], leave)
            self.assertEqual(len(self.world.factory.doorstep.connections), 1)

    def test_token_goes_elsewhere(self) -> None:
        """A request whose token another balancer took is refused when its time is up, with what was left to wait."""
        client = self.ask(b"Prefer: wait=2")
        self.assertEqual(client.received, b"")
        bucket = self.world.buckets.bucket(MINE)
        for _ in range(50):
            bucket.take(1, round(self.world.clock.seconds() * 1_000_000))
            self.world.wait(0.05)
        answer = client.response()
        self.assertEqual((answer.status, answer.field("retry-after")), (429, "1"))
        self.assertEqual(answer.members["violated-policies"], ["default"])

    def test_store_leaves(self) -> None:
        """When the store goes away or the user does meanwhile, the request is answered so, and its line is gone."""
        for told, status in (("Redis is away", 503), (None, 401)):
            world = self.world = World()
            world.buckets.answer = Taken(False, b"user1", 5, 1.0, 0)
            client = self.ask(WAIT_3)
            self.assertEqual(client.received, b"")
            if told is None:
                world.buckets.forgets = True
            else:
                world.buckets.answer = told
            world.wait(1.5)
            self.assertEqual(client.response().status, status)
            self.assertEqual(world.factory.doorstep.shared.waiting.lines, {})

    def test_late_answer(self) -> None:
        """A token that comes when all waiting was in vain goes back."""
        world = self.world = World()
        world.buckets.answer = Taken(False, b"user1", 5, 1.0, 0)
        client = self.ask(WAIT_3)
        world.buckets.later = True
        world.wait(1.5)
        world.buckets.answer = ADMITTED
        client.leave()
        world.buckets.answer_now()
        self.assertEqual(world.buckets.released, [(MINE, -1)])

    def test_body(self) -> None:
        """The content of a request that waits is kept, and reaches the server whole."""
        client = self.world.client()
        client.send(request("POST", "/", WAIT_3, body=b"content"))
        self.world.wait(1.5)
        self.assertTrue(self.world.server.last.read().endswith(b"\r\n\r\ncontent"))

    def test_change_of_policy(self) -> None:
        """A user whose policy has changed is served from the next request on, also while a request waits."""
        first = self.ask(b"Prefer: wait=30", target="/first")
        bucket = self.world.buckets.bucket(MINE)
        bucket.change(100, 0.01, 0)
        self.ask(b"Prefer: wait=30", target="/second")
        self.assertEqual(self.reached(), [])
        bucket.change(100, 1000.0, 0)
        self.world.wait(0.25)
        third = self.ask(target="/third")
        self.world.wait(0.75)
        self.assertEqual(self.reached(), [b"/first", b"/second", b"/third"])
        self.assertEqual((first.response().status, third.response().status), (200, 200))

    def test_other_limits(self) -> None:
        """A request waits for a token that all share and for room among its key's, and never for a network's."""
        for limit, waits in ((GLOBAL, True), (IN_FLIGHT, True), (ADDRESS, False)):
            world = self.world = World()
            world.buckets.answer = Taken(False, b"user1", 5, 0.0 if limit == IN_FLIGHT else 1.0, 0, limit)
            client = self.ask(WAIT_3)
            self.assertEqual(client.received == b"", waits, limit)
            if waits:
                world.buckets.answer = ADMITTED
                world.wait(1.5)
                self.assertEqual(self.reached(), [b"/"], limit)

    def test_room_in_flight(self) -> None:
        """A request that waits for room goes as soon as another of its key has ended."""
        world = self.world = World(counts_in_flight=True)
        first, upstream = world.asked()
        world.buckets.answer = Taken(False, b"user1", 1, 0.0, 0, IN_FLIGHT)
        second = self.ask(WAIT_3, target="/second")
        world.buckets.answer = ADMITTED
        upstream.read()
        upstream.send(response())
        world.settle()
        self.assertEqual(first.response().status, 200)
        self.assertEqual((self.reached(), second.response().status), ([b"/second"], 200))
        self.assertEqual(world.buckets.unreleased, 0)

    def test_whole_seconds(self) -> None:
        """The level told after waiting is that of the store."""
        self.ask(WAIT_3)
        self.world.wait(1.1)
        self.assertLess(self.world.buckets.bucket(MINE).level, MICROTOKENS)
