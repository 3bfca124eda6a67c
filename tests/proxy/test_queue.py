"""Requests that wait because every server has as many as it may."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import Client, World, request, response
from twisted_lb.config.pool import Queue
from twisted_lb.deadlines import Sweeper
from twisted_lb.pool.fair_queue import FairQueue


class Asker:
    """Waits, and notes when its turn came."""

    excludes_servers = False

    def __init__(self, name: str, order: list[str], room: list[int]) -> None:
        self.name = name
        self._order = order
        self._room = room  # one number: for how many there is room

    def slot_available(self) -> bool:
        if not self._room[0]:
            return False
        self._room[0] -= 1
        self._order.append(self.name)
        return True

    def queue_timed_out(self) -> None:
        self._order.append(self.name + " gave up")


class FairnessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.sweeper = Sweeper(self.clock)
        self.sweeper.start()
        self.queue = FairQueue(self.sweeper, 100, 5.0)
        self.order: list[str] = []
        self.room = [0]

    def join(self, name: str, weight: int = 1) -> Asker:
        """`name` is that of the user and a digit."""
        receiver = Asker(name, self.order, self.room)
        self.assertTrue(self.queue.join(receiver, name[0].encode(), weight))
        return receiver

    def serve(self, room: int) -> str:
        self.room[0] = room
        self.queue.serve()
        order, self.order[:] = " ".join(self.order), []
        return order

    def test_in_turns(self) -> None:
        """A user who came with many requests does not hold up one who came later with one."""
        for name in ("a1", "a2", "a3", "b1", "c1"):
            self.join(name)
        self.assertEqual(self.serve(5), "a1 b1 c1 a2 a3")
        self.assertEqual(len(self.queue), 0)

    def test_by_weight(self) -> None:
        """A user of weight 3 has three requests for one of each other's."""
        for number in range(1, 7):
            self.join(f"a{number}", 3)
            self.join(f"b{number}")
        self.assertEqual(self.serve(8), "a1 a2 a3 b1 a4 a5 a6 b2")

    def test_one_place(self) -> None:
        """As many go as there is room for; the others keep their places, and turns go on where they stopped."""
        for name in ("a1", "a2", "b1", "b2"):
            self.join(name)
        self.assertEqual([self.serve(1) for _ in range(5)], ["a1", "b1", "a2", "b2", ""])

    def test_leave(self) -> None:
        """Who has left is not served, wherever in the line, and twice leaving is once."""
        receivers = {name: self.join(name) for name in ("a1", "a2", "b1", "c1")}
        for name in ("a1", "b1", "b1"):
            self.queue.leave(receivers[name])
        self.assertEqual(len(self.queue), 2)
        self.assertEqual(self.serve(9), "a2 c1")

    def test_full(self) -> None:
        """A full queue takes nobody."""
        queue = FairQueue(self.sweeper, 1, 5.0)
        self.assertTrue(queue.join(Asker("a1", self.order, self.room), b"a", 1))
        self.assertFalse(queue.join(Asker("b1", self.order, self.room), b"b", 1))
        self.assertEqual(len(queue), 1)

    def test_time_is_up(self) -> None:
        """Each waits for its own time, and gives up alone."""
        self.join("a1")
        self.clock.pump([0.25] * 8)
        self.join("b1")
        self.clock.pump([0.25] * 14)
        self.assertEqual(self.order, ["a1 gave up"])
        self.clock.pump([0.25] * 8)
        self.assertEqual((self.order, len(self.queue)), (["a1 gave up", "b1 gave up"], 0))
        self.assertNotIn(self.queue, self.sweeper.watched)

    def test_thousands(self) -> None:
        """Ten thousand requests of a thousand users come out in fair order."""
        queue = FairQueue(self.sweeper, 10_000, 5.0)
        for number in range(10_000):
            queue.join(Asker(str(number % 1000), self.order, self.room), b"%d" % (number % 1000), 1)
        self.room[0] = 2000
        queue.serve()
        self.assertEqual(len(set(self.order[:1000])), 1000)
        self.assertEqual(len(set(self.order[1000:])), 1000)


class MaxconnTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.world = World(maxconn=1, queue=Queue(2, 5.0))
        self.first, self.upstream = self.world.asked()

    def waiting(self) -> Client:
        client = self.world.client()
        client.send(request())
        self.assertEqual(client.received, b"")
        return client

    def test_waits(self) -> None:
        """A request beyond maxconn waits, and goes when an exchange has ended."""
        second = self.waiting()
        self.assertEqual((len(self.world.dialled), self.world.in_flight), (1, [1]))
        self.upstream.send(response(b"one"))
        self.world.server.last.send(response(b"two"))
        self.assertEqual((self.first.response().body, second.response().body), (b"one", b"two"))
        self.assertEqual(self.world.in_flight, [0])

    def test_other_server(self) -> None:
        """A server with room is asked before anybody waits."""
        world = World(servers=2, maxconn=1)
        world.asked()
        client = world.client()
        client.send(request())
        world.servers[1].last.send(response(b"two"))
        self.assertEqual(client.response().body, b"two")

    def test_full(self) -> None:
        """Beyond the queue's size the answer is 503 with Retry-After, and the token is given back."""
        self.waiting()
        self.waiting()
        client = self.world.client()
        client.send(request())
        answer = client.response()
        self.assertEqual((answer.status, answer.field("Retry-After")), (503, "1"))
        self.assertEqual(len(self.world.buckets.refunded), 1)

    def test_too_long(self) -> None:
        """Who has waited for the queue's time gets 503 with Retry-After, and the token is given back."""
        second = self.waiting()
        self.world.wait(6)
        answer = second.response()
        self.assertEqual((answer.status, answer.field("Retry-After")), (503, "1"))
        self.assertEqual(len(self.world.buckets.refunded), 1)

    def test_leaves(self) -> None:
        """A client that leaves leaves the queue, whether it resets the connection or just ends it."""
        second, third = self.waiting(), self.waiting()
        second.leave()
        third.finish()
        self.upstream.send(response(b"one"))
        self.assertEqual((len(self.world.dialled), self.world.in_flight), (1, [0]))
        self.assertEqual(len(self.world.server_pool.queue), 0)

    def test_server_comes_back(self) -> None:
        """Requests that wait see servers that come back."""
        world = World(servers=2, maxconn=1)
        world.backends[1].up = False
        world.pool.refresh()
        world.asked()
        client = world.client()
        client.send(request())
        self.assertEqual(client.received, b"")
        world.backends[1].up = True
        world.pool.refresh()
        world.settle()
        world.servers[1].last.send(response(b"two"))
        self.assertEqual(client.response().body, b"two")

    def test_refused_in_its_turn(self) -> None:
        """A request whose turn came and whose server refuses it is answered, and the next one gets its turn."""
        second, third = self.waiting(), self.waiting()
        self.world.server.refuses = True
        self.upstream.finish()
        self.assertEqual(second.response().status, 503)
        self.assertEqual(third.response().status, 503)
        self.assertEqual((self.world.in_flight, len(self.world.server_pool.queue)), ([0], 0))
