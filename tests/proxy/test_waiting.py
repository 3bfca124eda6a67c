"""Requests that wait for their tokens because their client prefers that."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import ADMITTED, KEY, ClockedBuckets
from tests.proxy.world import Client, World, request, response
from twisted_lb.credentials import digest
from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, MICROTOKENS, ITokenReceiver, SharedBucket, Taken
from twisted_lb.limits.client_networks import KnownKeys

WAIT_3 = b"Prefer: wait=3"
MINE = digest(KEY)


class Later(ClockedBuckets):
    """Answers in the next turn."""

    def take(
        self,
        digest: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        network: str = "",
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        self._clock.callLater(0.01, super().take, digest, receiver, cost, network, limits)


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
            self.assertEqual(len(self.world.factory.limits.connections), 1)

    def test_client_left_before(self) -> None:
        """A client that ends its side before the store has answered does not wait, and spends nothing."""
        self.world.buckets = self.world.factory.limits.context.buckets = Later(self.world.clock)
        client = self.ask(WAIT_3)
        client.finish()
        self.world.wait(1.5)
        self.assertEqual((self.reached(), client.response().status), ([], 429))

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
            self.assertEqual(world.factory.limits.context.waiting.key_queues, {})

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

    def test_unfamiliar_network(self) -> None:
        """A key that may be a guess is asked for with its network first, also while others of the key wait."""
        world = self.world = World(known_keys=KnownKeys(10))
        world.buckets.answer = Taken(False, b"user1", 5, 1.0, 0)
        first = self.ask(WAIT_3)
        world.buckets.answer = Taken(False, b"", 20, 0.25, 0, ADDRESS)
        guess = world.client(IPv4Address("TCP", "198.51.100.1", 1))
        guess.send(request())
        self.assertEqual(guess.response().members["violated-policies"], ["address"])
        self.assertEqual(world.buckets.networks, ["192.0.2.7", "198.51.100.1"])
        world.buckets.answer = ADMITTED
        world.wait(1.5)
        self.assertEqual((self.reached(), first.response().status), ([b"/"], 200))

    def test_slow_by_our_own_fault(self) -> None:
        """A client that waits for "100 Continue" is not called slow while its request waits for tokens."""
        self.world = World(rate_per_sec=0.5, body_timeout=1.0)
        client = self.world.client()
        client.send(request("POST", "/", b"Prefer: wait=9", b"Expect: 100-continue", b"Content-Length: 3"))
        self.world.wait(1.75)
        self.assertEqual((self.reached(), client.received), ([], b""))
        self.world.wait(1.0)
        # From now on it has its time.
        self.assertEqual((self.reached(), client.response().status), ([b"/"], 200))

    def test_two_fields(self) -> None:
        """Preferences in several fields are one list."""
        self.assertEqual(self.ask(b"Prefer: respond-async", b"prefer: wait=3").received, b"")

    def test_drain(self) -> None:
        """A request that would wait beyond the time to drain is refused before its connection is cut."""
        client = self.ask(b"Prefer: wait=60", b"X: y")
        self.world.buckets.bucket(MINE).change(5, 0.01, 0)
        self.world.factory.drain(2.0)
        self.world.clock.pump([0.01] * 225)
        answer = client.response()
        self.assertEqual((answer.status, answer.closes, client.ended), (429, True, True))

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
        second = self.ask(b"Prefer: wait=30", target="/second")
        self.assertEqual((self.reached(), second.response().field("retry-after")), ([], "200"))
        bucket.change(100, 1000.0, 0)
        self.world.wait(0.25)
        third = self.ask(target="/third")
        self.world.wait(0.75)
        self.assertEqual(self.reached(), [b"/first", b"/third"])
        self.assertEqual((first.response().status, third.response().status), (200, 200))

    def test_first_to_wait_after_a_change(self) -> None:
        """Whether a request would wait in vain is judged by the policy of now, not by that of those before it."""
        self.world = World(rate_per_sec=0.05)
        self.ask(b"Prefer: wait=40", target="/first")
        self.world.buckets.bucket(MINE).change(5, 2.0, 0)
        self.ask(b"Prefer: wait=5", target="/second")
        self.world.wait(1.5)
        self.assertEqual(self.reached(), [b"/first", b"/second"])

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
