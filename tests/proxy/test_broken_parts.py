"""Exceptions of any kind in any part of a request: nothing waits for ever, and nothing leaks."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from tests.proxy.scripted import REFUSED, OrderedServices
from tests.proxy.world import Client, World, request, response
from twisted_lb import BUILD
from twisted_lb.backend import Backend
from twisted_lb.build_info import COMPILED_BUILD
from twisted_lb.interfaces import IBalancer, IRequest, IResponseFields
from twisted_lb.limits.pricing import Pricing
from twisted_lb.pool.pool import BalancerRaised, Pool
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.token_grant import TokenGrant


class OwnBase(BaseException):
    """Nobody's exception."""


KINDS = (
    ZeroDivisionError,
    RecursionError,
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    asyncio.CancelledError,
    OwnBase,
)


def raising(kind: type[BaseException]) -> Any:
    def raise_it(*args: object, **more: object) -> Any:
        raise kind("on purpose")

    return raise_it


class BrokenWorld(SynchronousTestCase):
    def assert_at_rest(self, world: World) -> None:
        """Nobody has anything any more, and what was admitted has been settled."""
        self.assertEqual(world.in_flight, [0] * len(world.backends))
        self.assertEqual((world.buckets.unreleased, len(world.server_pool.queue)), (0, 0))
        self.assertEqual(len(world.factory.limits.context.waiting), 0)

    def assert_still_serves(self, world: World) -> None:
        """The next client is served as ever."""
        client = world.client()
        client.send(request("GET", "/next"))
        world.server.last.send(response(b"next"))
        self.assertEqual(client.response().body, b"next")
        client.leave()
        self.assert_at_rest(world)

    def assert_told(self, client: Client, begun: bool) -> None:
        """The client was answered 500, or, where a response had begun, cut."""
        if begun:
            self.assertTrue(client.ended)
        else:
            self.assertEqual(client.response().status, 500)


class SeamTests(BrokenWorld):
    """A method raises at each seam of an exchange."""

    def test_each(self) -> None:
        """The client is answered or cut, the server's connection ended, counters and tokens settled."""
        if BUILD == COMPILED_BUILD:
            raise SkipTest("Methods of compiled classes cannot be replaced; the other tests here break what they meet.")
        for owner, method, begun in (
            (Exchange, "_admitted", False),
            (Exchange, "_choose", False),
            (TokenGrant, "response_started", False),
            (TokenGrant, "settle", True),
            (Exchange, "_finish", True),
            (Exchange, "_part", True),
        ):
            for kind in KINDS:
                world = World(counts_in_flight=True)
                original = getattr(owner, method)
                setattr(owner, method, raising(kind))
                try:
                    client = world.client()
                    client.send(request("GET", "/", b"Prefer: wait=1"))
                    if world.server.connections:
                        world.server.last.send(response(b"x" * 10, b"X-Token-Cost: 1"))
                finally:
                    setattr(owner, method, original)
                self.assert_told(client, begun)
                self.flushLoggedErrors()
                if method != "_part":
                    self.assert_still_serves(world)

    def test_shared_parts(self) -> None:
        """The same where what the exchanges share raises: header lines, health, the clock, the store."""
        for name, begun in (("limit_fields", False), ("seen", False), ("seconds", False)):
            for kind in KINDS:
                world = World(counts_in_flight=True)
                context: Any = world.factory.limits.context
                owner = world.route if name == "seen" else context
                client, upstream = world.asked()
                original = getattr(owner, name)
                setattr(owner, name, raising(kind))
                upstream.send(response(b"hello"))
                setattr(owner, name, original)
                self.assert_told(client, begun)
                self.assertTrue(upstream.ended, name)
                self.assert_at_rest(world)
                self.assert_still_serves(world)
                self.flushLoggedErrors()

    def test_amid_the_response(self) -> None:
        """A response that has begun is cut."""
        for kind in KINDS:
            world = World(counts_in_flight=True)
            client, upstream = world.asked()
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            client.transport.write = raising(kind)
            upstream.send(b"world")
            del client.transport.write
            self.assertTrue(client.ended and upstream.ended)
            self.assert_at_rest(world)
            self.assert_still_serves(world)
            self.flushLoggedErrors()

    def test_while_it_waits(self) -> None:
        """A request that waits for a server, or for tokens, and fails when its turn comes, does not stop the others."""
        world = World(maxconn=1, counts_in_flight=True)
        _, upstream = world.asked()
        waiting, behind = world.client(), world.client()
        waiting.send(request("GET", "/waiting"))
        behind.send(request("GET", "/behind"))
        upstream.transport.write = raising(TypeError)
        upstream.send(response())
        self.assertEqual(waiting.response().status, 500)
        world.server.last.send(response(b"behind"))
        self.assertEqual(behind.response().body, b"behind")
        self.assert_at_rest(world)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)


@implementer(IBalancer, IResponseFields)
class Saying(OrderedServices):
    """Says to each client what the test wants."""

    def __init__(self, fields: Any) -> None:
        super().__init__()
        self.fields = fields

    def response_fields(self, request: IRequest, backend: Backend) -> Any:
        if isinstance(self.fields, type):
            raise self.fields
        return self.fields


class PlugInTests(BrokenWorld):
    """A balancer and a pricing class of the user's own."""

    def test_response_fields(self) -> None:
        """What is no field line, or frames the response, is left out, and the response is whole."""
        wrong: list[Any] = [None, "X-A: b", 7, b"\r\nX-A: b", bytearray(b"\r\nX-A: b"), {b"x-a": b"b"}, *KINDS]
        wrong += [[b"X-A"], [(b"X-A",)], [(b"X-A", b"b", b"c")], [(b"X-A", 7)], [("X-A", "b")]]
        wrong += [[(bytearray(b"X-A"), b"b")]]
        wrong += [[(name, b"b")] for name in (b"", b"X A", b"X-A:", b"X-A: b\r\nX-B", b" X-A")]
        wrong += [[(b"X-A", value)] for value in (b"\x00", b"b\nX-B: c", b"b\rX", b"b\r\nX-B: c", b"b\r\n c")]
        wrong += [[(b"Content-Length", b"0")], [(b"connection", b"close")]]
        wrong += [[(b"X-A", b"b"), (b"Transfer-Encoding", b"chunked")]]
        for fields in wrong:
            world = World(balancer=Saying(fields), counts_in_flight=True)
            client, upstream = world.asked()
            upstream.send(response(b"hello"))
            answer = client.response()
            self.assertEqual((answer.body, answer.fields.get("x-a")), (b"hello", None), fields)
            self.assert_at_rest(world)
            self.flushLoggedErrors()
        world = World(balancer=Saying([(b"X-A", b"b"), (b"Set-Cookie", b"a=b; Path=/")]))
        client, upstream = world.asked()
        upstream.send(response(b"hello"))
        self.assertEqual(client.response().fields["x-a"], ["b"])

    def test_choices(self) -> None:
        """Whatever choices raises or yields, the client gets 500 or 503, and the token goes back."""
        stranger = Backend("other", "127.0.0.1", 9999)
        kinds: list[Any] = list(KINDS)
        for what in [*kinds, "text", None, 7, stranger, object(), [[]]]:
            balancer = OrderedServices()

            def choices(request: IRequest, what: Any = what) -> Iterator[Any]:
                if isinstance(what, type):
                    raise what
                yield what

            balancer.choices = choices  # type: ignore[method-assign]
            world = World(balancer=balancer, counts_in_flight=True)
            client = world.client()
            client.send(request())
            self.assertIn(client.response().status, (500, 503), what)
            self.assertEqual(len(world.buckets.refunded), 1)
            self.assert_at_rest(world)
            self.flushLoggedErrors()

    def test_choices_without_end(self) -> None:
        """A balancer that yields the same full server for ever is stopped."""
        balancer = OrderedServices()
        world = World(servers=2, balancer=balancer, maxconn=1)

        def for_ever(request: IRequest) -> Iterator[Backend]:
            while True:
                yield world.backends[0]

        world.asked()
        balancer.choices = for_ever  # type: ignore[method-assign]
        client = world.client()
        client.send(request())
        self.assertEqual(client.response().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_generators_that_will_not_end(self) -> None:
        """A generator that raises when it is closed, or goes on, harms nobody."""
        # What a generator raises when it is collected goes here, and pytest would warn of it.
        raised: list[Any] = []
        self.patch(sys, "unraisablehook", lambda told: raised.append(told.exc_type))
        for kind in KINDS:
            balancer = OrderedServices()
            world = World(balancer=balancer, counts_in_flight=True)

            def choices(request: IRequest, kind: Any = kind, world: World = world) -> Iterator[Backend]:
                try:
                    yield world.backends[0]
                finally:
                    raise kind

            balancer.choices = choices  # type: ignore[method-assign]
            client, upstream = world.asked()
            upstream.send(response(b"hello"))
            self.assertEqual(client.response().body, b"hello")
            self.assert_at_rest(world)
            del client, upstream, choices, world, balancer
            gc.collect()
        self.assertLessEqual(set(raised), set(KINDS))

    def test_pricing(self) -> None:
        """What a pricing class raises is answered 500 before the request, and costs what it cost after it."""
        for kind in KINDS:

            class Prices:
                cost = raising(kind)

            world = World(pricing=Pricing("prices:Prices", Prices()))
            client = world.client()
            client.send(request())
            self.assertEqual(client.response().status, 500)
            self.flushLoggedErrors()

            class Settles:
                settle = raising(kind)

            world = World(pricing=Pricing("prices:Settles", Settles()), counts_in_flight=True)
            client, upstream = world.asked()
            upstream.send(response(b"hello"))
            self.assertEqual(client.response().body, b"hello")
            self.assert_at_rest(world)
            self.flushLoggedErrors()

    def test_backends_changed(self) -> None:
        """What it raises when it hears of servers is an Exception for whoever told it."""
        balancer = OrderedServices()
        pool = Pool(balancer, [Backend("s1", "127.0.0.1", 9001)])
        balancer.backends_changed = raising(SystemExit)  # type: ignore[method-assign]
        self.assertRaises(BalancerRaised, pool.refresh)
        self.assertRaises(BalancerRaised, pool.change, balancer, [])


class DeadlineTests(BrokenWorld):
    def test_one_fails(self) -> None:
        """A deadline that raises gives up its connection, and the others are met."""
        for kind in KINDS:
            world = World(keepalive_timeout=1.0, head_timeout=1.0)
            bad, good = world.client(), world.client()
            transport: Any = bad.transport
            transport.loseConnection = raising(kind)
            world.wait(3.0)
            self.assertTrue(bad.ended and good.ended)
            self.flushLoggedErrors()


class RefusedTests(BrokenWorld):
    def test_refusal(self) -> None:
        """A refusal that cannot be said is answered 500."""
        world = World()
        world.buckets.answer = REFUSED
        context = world.factory.limits.context
        context.limit_fields = raising(SystemExit)
        client = world.client()
        client.send(request())
        self.assertEqual(client.response().status, 500)
        self.flushLoggedErrors()
