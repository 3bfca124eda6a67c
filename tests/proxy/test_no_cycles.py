"""Exchanges leave no work to the garbage collector."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.world import World, request, response
from twisted_lb.balancers.registry import make_balancer
from twisted_lb.proxy.exchange import Exchange


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
