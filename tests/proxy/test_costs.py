"""The cost of a request: before it, after it, and when there is no response."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import ADMITTED, KEY, REFUSED
from tests.proxy.world import World, request, response
from twisted_lb.credentials import digest
from twisted_lb.interfaces import MICROTOKENS, IRequest, IResponse
from twisted_lb.limits.pricing import NO_PRICING, Pricing
from twisted_lb.proxy.route import Route

MINE = digest(KEY)


class Prices:
    """A user's pricing class: each method gives what the test has set, and keeps what it saw."""

    def __init__(self) -> None:
        self.before: Any = 3
        self.after: Any = 7
        self.seen: list[tuple[Any, ...]] = []

    def cost(self, request: Any) -> Any:
        assert IRequest.providedBy(request)
        self.seen.append((request.method, request.target, request.content_length, request.consumer))
        if isinstance(self.before, Exception):
            raise self.before
        return self.before

    def settle(self, request: Any, response: Any) -> Any:
        assert IRequest.providedBy(request) and IResponse.providedBy(response)
        content_type = response.header(b"Content-Type")
        self.seen.append((request.consumer, response.status, response.body_bytes, response.token_cost, content_type))
        if isinstance(self.after, Exception):
            raise self.after
        return self.after


class TokenCostTests(SynchronousTestCase):
    """The server names the cost in X-Token-Cost."""

    def answered(self, *fields: bytes, **world: Any) -> tuple[World, Any]:
        self.world = World(**world)
        client, upstream = self.world.asked()
        upstream.send(response(b"ok", *fields))
        return self.world, client.response()

    def test_total(self) -> None:
        """It is the cost in all: what was taken before counts, and the rest is taken when the response is over."""
        world, answer = self.answered(b"X-Token-Cost: 10")
        self.assertEqual(world.buckets.released, [(MINE, 9)])
        self.assertEqual((answer.field("x-token-cost"), answer.body), (None, b"ok"))

    def test_remaining(self) -> None:
        """What is left is told as it will be; a bucket below zero has no tokens, and says when the next one comes."""
        _, answer = self.answered(b"X-Token-Cost: 3")
        self.assertEqual(answer.field("x-ratelimit-remaining"), "2")
        _, answer = self.answered(b"X-Token-Cost: 10")
        self.assertEqual((answer.field("x-ratelimit-remaining"), answer.field("x-ratelimit-reset")), ("0", "10"))
        self.assertEqual(answer.field("ratelimit"), '"default";r=0;t=6')

    def test_same_or_less(self) -> None:
        """A cost of one token needs no second step, and a cost of none gives it back."""
        world, _ = self.answered(b"X-Token-Cost: 1")
        self.assertEqual(world.buckets.released, [])
        world, _ = self.answered(b"X-Token-Cost: 0")
        self.assertEqual(world.buckets.released, [(MINE, -1)])

    def test_nonsense(self) -> None:
        """What is no number of tokens changes nothing, and does not reach the client either."""
        for value in (b"-1", b"1.5", b"many", b"", b"1000000001", b"9" * 30):
            world, answer = self.answered(b"X-Token-Cost: " + value)
            self.assertEqual((world.buckets.released, answer.field("x-token-cost")), ([], None), value)
        world, _ = self.answered(b"X-Token-Cost: 2", b"X-Token-Cost: 3")
        self.assertEqual(world.buckets.released, [])

    def test_after_the_response(self) -> None:
        """It is taken when the response is over, not when it begins."""
        world = World()
        _, upstream = world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nX-Token-Cost: 4\r\nContent-Length: 4\r\n\r\nab")
        self.assertEqual(world.buckets.released, [])
        upstream.send(b"cd")
        self.assertEqual(world.buckets.released, [(MINE, 3)])

    def test_trailer(self) -> None:
        """A stream names its cost in a trailer, which beats the header and does not reach the client."""
        world = World()
        client, upstream = world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nX-Token-Cost: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        upstream.send(b"0\r\nX-Token-Cost: 40\r\nX-Sum: 1\r\n\r\n")
        self.assertEqual(world.buckets.released, [(MINE, 39)])
        answer = client.response()
        self.assertEqual((answer.body, answer.trailers), (b"ab", [b"X-Sum: 1"]))

    def test_trailer_announced(self) -> None:
        """The trailer is not announced to the client either, and others are."""
        for announced, told in ((b"X-Token-Cost", None), (b"X-Sum, x-token-cost", "x-sum"), (b"X-Sum", "x-sum")):
            client, upstream = World().asked()
            chunked = b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            upstream.send(b"HTTP/1.1 200 OK\r\nTrailer: " + announced + chunked)
            self.assertEqual(client.response().field("trailer"), told)

    def test_trailer_at_once(self) -> None:
        """A trailer that comes with the head counts too."""
        world = World()
        client, upstream = world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-token-cost:6\r\n\r\n")
        self.assertEqual((world.buckets.released, client.response().trailers), ([(MINE, 5)], []))

    def test_client_leaves(self) -> None:
        """A client that leaves in the middle pays what the server has named by then."""
        world = World()
        client, upstream = world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nX-Token-Cost: 4\r\nContent-Length: 4\r\n\r\nab")
        client.leave()
        self.assertEqual(world.buckets.released, [(MINE, 3)])

    def test_broken_response(self) -> None:
        """A response that breaks off costs what the server has named."""
        world = World()
        _, upstream = world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nX-Token-Cost: 4\r\nContent-Length: 4\r\n\r\nab")
        upstream.reset()
        self.assertEqual(world.buckets.released, [(MINE, 3)])


class PricingTests(SynchronousTestCase):
    """A class of the user's own."""

    def setUp(self) -> None:
        self.prices = Prices()
        self.world = World(pricing=Pricing("prices:Prices", self.prices))

    def test_before_and_after(self) -> None:
        """`cost` is asked for before, of the request alone; `settle` after, and the difference is taken."""
        client, upstream = self.world.asked(request("POST", "/x?y", body=b"12345"))
        self.assertEqual(self.prices.seen.pop(), (b"POST", b"/x?y", 5, b""))
        self.assertEqual(self.world.buckets.costs, [3])
        upstream.send(response(b"1234", b"Content-Type: text/plain"))
        self.assertEqual(self.prices.seen, [(b"user1", 200, 4, None, b"text/plain")])
        self.assertEqual(self.world.buckets.released, [(MINE, 4)])
        self.assertEqual(client.response().status, 200)

    def test_chunks(self) -> None:
        """The bytes of a response are counted however they come, and a chunked request has no length."""
        client = self.world.client()
        client.send(request("POST", "/", b"Transfer-Encoding: chunked") + b"0\r\n\r\n")
        self.assertEqual(self.prices.seen.pop()[2], -1)
        upstream = self.world.server.last
        upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        upstream.send(b"2\r\nde\r\n")
        upstream.send(b"0\r\nX-Token-Cost: 9\r\n\r\n")
        self.assertEqual(self.prices.seen, [(b"user1", 200, 5, 9, None)])

    def test_settle_says_nothing(self) -> None:
        """Where `settle` says nothing, the server's word counts, and without it the cost before."""
        self.prices.after = None
        _, upstream = self.world.asked()
        upstream.send(response(b"", b"X-Token-Cost: 8"))
        self.assertEqual(self.world.buckets.released, [(MINE, 5)])
        world = World(pricing=Pricing("prices:Prices", self.prices))
        _, upstream = world.asked()
        upstream.send(response())
        self.assertEqual(world.buckets.released, [])

    def test_failing_cost(self) -> None:
        """A class that fails before, or says nonsense, is logged, answered 500, and costs nothing."""
        for before in (ValueError("no"), -1, 1.5, True, None, 10**9 + 1):
            world = World(pricing=Pricing("prices:Prices", self.prices))
            self.prices.before = before
            client = world.client()
            client.send(request())
            self.assertEqual(client.response().status, 500, before)
            self.assertEqual((world.buckets.asked, world.dialled), ([], []), before)
            self.flushLoggedErrors(ValueError)

    def test_failing_settle(self) -> None:
        """Where a class fails afterwards the server's word counts, and the client gets its response."""
        for after in (ValueError("no"), -1, "3"):
            world = World(pricing=Pricing("prices:Prices", self.prices))
            self.prices.after = after
            client, upstream = world.asked()
            upstream.send(response(b"", b"X-Token-Cost: 8"))
            self.assertEqual((client.response().status, world.buckets.released), (200, [(MINE, 5)]), after)
            self.flushLoggedErrors(ValueError)

    def test_given_back(self) -> None:
        """What no server answered costs nothing: all of it is given back, and `settle` is not asked."""
        self.world.server.refuses = True
        self.world.buckets.answer = ADMITTED._replace(level=MICROTOKENS)
        client = self.world.client()
        client.send(request())
        answer = client.response()
        self.assertEqual((answer.status, answer.field("x-ratelimit-remaining")), (503, "4"))
        self.assertEqual((self.world.buckets.released, len(self.prices.seen)), ([(MINE, -3)], 1))

    def test_too_dear(self) -> None:
        """A request that its bucket has too little for says what it costs, and what never will be there, so."""
        for cost, detail, retry in (
            (3, "The bucket of 5 tokens has 0, and this request costs 3. They are available in 3 s.", "3"),
            (6, "The bucket of 5 tokens has 0, and this request costs 6. It never holds that many.", None),
        ):
            self.prices.before = cost
            self.world.buckets.answer = REFUSED
            client = self.world.client()
            client.send(request())
            answer = client.response()
            self.assertEqual((answer.status, answer.detail, answer.field("retry-after")), (429, detail, retry))

    def test_another_class(self) -> None:
        """A request is settled by the object that priced it, and the next one priced by the one that came since."""
        client, upstream = self.world.asked()
        self.world.use(Route(self.world.server_pool, NO_PRICING))
        upstream.send(response())
        self.assertEqual(self.world.buckets.released, [(MINE, 4)])
        client.send(request())
        upstream.send(response())
        self.assertEqual((self.world.buckets.costs, self.world.buckets.released), ([3, 1], [(MINE, 4)]))


class InFlightTests(SynchronousTestCase):
    """Where requests in flight are counted, every admitted request comes back exactly once."""

    def setUp(self) -> None:
        self.world = World(counts_in_flight=True)

    def left(self) -> int:
        return self.world.buckets.unreleased

    def test_answered(self) -> None:
        """One that is answered comes back when its response is over."""
        _, upstream = self.world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        self.assertEqual(self.left(), 1)
        upstream.send(b"cd")
        self.assertEqual((self.left(), self.world.buckets.released), (0, [(MINE, 0)]))

    def test_client_leaves(self) -> None:
        """One whose client leaves, at any moment, comes back, and keeps its token."""
        client, _ = self.world.asked()
        client.leave()
        self.assertEqual((self.left(), self.world.buckets.released), (0, [(MINE, 0)]))
        self.world.buckets.later = True
        client = self.world.client()
        client.send(request())
        client.leave()
        self.world.buckets.answer_now()
        self.assertEqual((self.left(), self.world.buckets.released), (0, [(MINE, 0)] * 2))

    def test_no_server(self) -> None:
        """One that no server answered comes back with its token."""
        self.world.server.refuses = True
        client = self.world.client()
        client.send(request())
        self.assertEqual((client.response().status, self.left()), (503, 0))
        self.assertEqual(self.world.buckets.released, [(MINE, -1)])

    def test_broken_request(self) -> None:
        """One whose content breaks off in nonsense comes back."""
        client = self.world.client()
        client.send(request("POST", "/", b"Transfer-Encoding: chunked") + b"2\r\nab\r\n")
        client.send(b"nonsense\r\n")
        self.assertEqual((client.response().status, self.left()), (400, 0))

    def test_broken_response(self) -> None:
        """One whose response breaks off comes back."""
        _, upstream = self.world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        upstream.reset()
        self.assertEqual(self.left(), 0)
