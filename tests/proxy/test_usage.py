"""What is counted of each key: admitted requests with their cost in the end, and refusals, once for each request."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import KEY, OF_ADDRESS, REFUSED
from tests.proxy.test_costs import Prices
from tests.proxy.test_tunnel import tunnel
from tests.proxy.world import World, request, response
from twisted_lb.credentials import digest
from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, OWN, Taken
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.limits.pricing import Pricing
from twisted_lb.usage import key_subject
from twisted_lb.users import REFUSALS

MINE = key_subject(digest(KEY))


class AdmittedTests(SynchronousTestCase):
    """A request that the limits have admitted."""

    def counted(self, world: World) -> Any:
        """The counters of the one key."""
        parts = list(world.factory.collected.take(100))
        if not parts:
            return {}
        [part] = parts
        self.assertEqual(list(part), [MINE])
        return part[MINE]

    def check(self, world: World, requests: int, tokens: int) -> None:
        self.assertEqual(self.counted(world), {"requests": requests, "tokens": tokens})
        self.assertEqual(self.counted(world), {})

    def test_a_plain_request(self) -> None:
        """It counts when its response is over, and not before."""
        for in_flight in (False, True):
            world = World(counts_in_flight=in_flight)
            _, upstream = world.asked()
            self.assertEqual(self.counted(world), {})
            upstream.send(response(b"ok"))
            self.check(world, 1, 1)

    def test_many_of_one_connection(self) -> None:
        """Each request of a connection counts."""
        world = World()
        client, upstream = world.asked()
        upstream.send(response())
        for _ in range(4):
            client.send(request())
            upstream.send(response(b"x"))
        self.check(world, 5, 5)

    def test_what_it_has_cost_in_the_end(self) -> None:
        """The server's word in the head, or in a trailer, counts, rather than what was taken."""
        for sent, tokens in (
            (response(b"ok", b"X-Token-Cost: 10"), 10),
            (response(b"ok", b"X-Token-Cost: 0"), 0),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Token-Cost: 4\r\n\r\n", 4),
        ):
            world = World()
            _, upstream = world.asked()
            upstream.send(sent)
            self.check(world, 1, tokens)

    def test_pricing_classes(self) -> None:
        """The cost of a pricing class counts: that after the response, or the one before."""
        class Before:
            def cost(self, request: Any) -> int:
                return 3

        for priced, tokens in ((Prices(), 7), (Before(), 3)):
            world = World(pricing=Pricing("prices:Prices", priced))
            _, upstream = world.asked()
            upstream.send(response(b"ok"))
            self.check(world, 1, tokens)

    def test_a_refund_counts_as_no_tokens(self) -> None:
        """A request that no server has answered is one of no tokens."""
        world = World()
        world.server.refuses = True
        client = world.client()
        client.send(request())
        self.assertEqual(client.response().status, 503)
        self.check(world, 1, 0)

    def test_a_server_that_breaks_off(self) -> None:
        """A response that was cut off costs what was taken."""
        world = World()
        _, upstream = world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        upstream.reset()
        self.check(world, 1, 1)

    def test_a_client_that_leaves(self) -> None:
        """A request that its client has aborted costs what was taken."""
        world = World()
        client, _ = world.asked()
        client.leave()
        self.check(world, 1, 1)

    def test_a_client_that_leaves_before_the_answer_of_the_store(self) -> None:
        """The same, when the store answers later."""
        world = World()
        world.buckets.later = True
        client = world.client()
        client.send(request())
        client.leave()
        self.assertEqual(self.counted(world), {})
        world.buckets.answer_now()
        self.check(world, 1, 1)

    def test_a_tunnel(self) -> None:
        """It counts when it is over."""
        world = World()
        client, upstream = tunnel(world)
        self.assertEqual(self.counted(world), {})
        client.finish()
        upstream.finish()
        self.check(world, 1, 1)

    def test_an_answer_of_the_route(self) -> None:
        """A request that its route answers counts."""
        world = World()
        world.use_routes("respond: {status: 204}")
        client = world.client()
        client.send(request())
        self.assertEqual(client.response().status, 204)
        self.check(world, 1, 1)

    def test_a_request_without_a_key(self) -> None:
        """There is no key that it could count for."""
        world = World(known_keys=KnownKeys(100))
        world.use_routes("key: none, pool: p")
        client = world.client()
        client.send(request())
        world.server.last.send(response())
        self.assertEqual(client.response().status, 200)
        self.assertEqual(self.counted(world), {})

    def test_an_own_path_of_the_api(self) -> None:
        """Requests to the user API cost nothing, and are not counted."""
        world = World()
        client = world.client()
        client.send(request("GET", "/door"))
        self.assertEqual(client.response().status, 200)
        self.assertEqual(self.counted(world), {})

    def test_something_that_breaks_at_the_end(self) -> None:
        """When an exception ends a request whose response is complete, it counts once all the same."""
        world = World()
        client, upstream = world.asked()
        exchange_ended = world.factory.collected.take
        self.assertEqual(list(exchange_ended(1)), [])
        client.transport.write = client.transport.writeSequence = self.broken  # type: ignore[method-assign]
        upstream.send(response(b"ok"))
        self.flushLoggedErrors(ZeroDivisionError)
        counted = self.counted(world)
        self.assertEqual(counted["requests"], 1)

    def broken(self, *arguments: object) -> None:
        raise ZeroDivisionError


class RefusedTests(SynchronousTestCase):
    """A request that was refused."""

    def counted(self, world: World) -> Any:
        return [dict(part) for part in world.factory.collected.take(100)]

    def refused(self, world: World, taken: Taken | None, *fields: bytes) -> Any:
        """What is counted when this is the answer of the store."""
        if taken is None:
            world.buckets.forgets = True
        else:
            world.buckets.answer = taken
        client = world.client()
        client.send(request("GET", "/", *fields))
        world.wait(5)
        self.assertIn(client.response().status, (401, 403, 429))
        return self.counted(world)

    def test_each_limit_by_its_name(self) -> None:
        """Refusals count for the key by the limit, or by the reason why the key must not be used."""
        for limit in ("default", OWN, IN_FLIGHT, GLOBAL, "burst", *REFUSALS):
            found = self.refused(World(), REFUSED._replace(limit=limit, capacity=0 if limit in REFUSALS else 5))
            self.assertEqual(found, [{MINE: {f"refused:{limit}": 1}}], limit)

    def test_what_has_waited_counts_once(self) -> None:
        """A request that waits for its tokens, and is refused in the end, was refused once; the next is another."""
        world = World(rate_per_sec=0.0)
        found = self.refused(world, REFUSED, b"Prefer: wait=1")
        self.assertEqual(found, [{MINE: {"refused:default": 1}}])

    def test_what_has_waited_and_was_served(self) -> None:
        """A request that was admitted after it had waited was not refused."""
        world = World(rate_per_sec=1.0)
        client = world.client()
        client.send(request("GET", "/", b"Prefer: wait=3"))
        world.wait(2)
        world.server.last.send(response())
        self.assertEqual(client.response().status, 200)
        self.assertEqual(self.counted(world), [{MINE: {"requests": 1, "tokens": 1}}])

    def test_what_is_nobodys_key_is_not_counted(self) -> None:
        """Keys that do not exist, and those that the limit of a network stops, leave nothing in memory."""
        self.assertEqual(self.refused(World(), None), [])
        of_network = OF_ADDRESS._replace(admitted=False, level=0)
        self.assertEqual(self.refused(World(known_keys=KnownKeys(100)), of_network), [])
        self.assertEqual(self.refused(World(), REFUSED._replace(limit=ADDRESS)), [])

    def test_a_store_that_is_unavailable(self) -> None:
        """503 is no refusal by a limit."""
        world = World()
        world.buckets.answer = "down"
        client = world.client()
        client.send(request())
        self.assertEqual(client.response().status, 503)
        self.assertEqual(self.counted(world), [])
