"""Exchanges leave no work to the garbage collector."""

from __future__ import annotations

import gc
from random import Random

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import OrderedServices
from tests.proxy.world import World, request, response
from twisted_lb.backend import Backend
from twisted_lb.balancers.registry import make_balancer
from twisted_lb.hooks.hooks import Hooks
from twisted_lb.interfaces import IHookRequest, IHookResponse
from twisted_lb.limits.pricing import NO_PRICING
from twisted_lb.pool.pool import Pool
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.route import Mirror, Route


class CycleTests(SynchronousTestCase):
    def setUp(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        # Other tests' worlds may be alive.
        self.before = self.alive()

    def alive(self) -> int:
        """How many exchanges are in memory."""
        return sum(isinstance(one, Exchange) for one in gc.get_objects())

    def test_whatever_its_end(self) -> None:
        """An exchange is freed with its end: answered, refused, failed, or left by its client; with any balancer."""
        for name in ("round_robin", "least_conn", "p2c", "hash"):
            world = World(balancer=make_balancer(name))
            client, upstream = world.asked()
            upstream.send(response(b"one"))
            client.send(request())
            upstream.reset()
            world.server.last.reset()
            client.responses()
            world.server.refuses = True
            client.send(request())
            client.read()
            world.server.refuses = False
            other, _ = world.asked()
            other.leave()
            # Fewer than before: what another test has left has gone by itself.
            self.assertLessEqual(self.alive(), self.before, name)
            self.assertEqual(world.in_flight, [0], name)

    def test_hooks_and_mirror(self) -> None:
        """The same with hooks, also when they answer later or never, and with a mirror."""

        class Waiting:
            def request_received(self, request: IHookRequest) -> Deferred[None] | None:
                request.fields.set(b"X-A", b"b")
                later: Deferred[None] = Deferred()
                if request.target == b"/fired":
                    later.callback(None)
                return None if request.target == b"/" else later

            def response_started(self, request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
                response.fields.set(b"X-A", b"b")

        world = World(2)
        pool = world.factory.add_pool(Pool(OrderedServices(), [world.backends[1]]), name="shadow")
        route = Route(world.server_pool, NO_PRICING, hooks=Hooks("mine:Waiting", Waiting()))
        route.copy_to(Mirror(Route(pool, NO_PRICING), 100.0, Random()))
        world.use(route)
        client, upstream = world.asked()
        upstream.send(response(b"one"))
        world.servers[1].last.send(response())
        client.send(request("POST", "/fired", body=b"hello"))
        world.servers[1].last.send(response())
        upstream.send(response(b"two"))
        client.send(request("GET", "/never"))
        client.leave()
        other = world.client()
        other.send(request("POST", "/", b"Content-Length: 5"))
        other.leave()
        world.balancer.requests.clear()  # type: ignore[attr-defined]
        pool.servers.balancer.requests.clear()  # type: ignore[attr-defined]
        self.assertLessEqual(self.alive(), self.before)
        self.assertEqual(world.in_flight, [0, 0])
