"""A balancer with `request_finished` is notified when a server no longer has a request."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import OrderedServices
from tests.proxy.world import World, request, response
from twisted_lb.backend import Backend
from twisted_lb.interfaces import IRequest


class Counting(OrderedServices):
    """Notes what has ended, and what was in flight then."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[IRequest, str, int]] = []

    def request_finished(self, request: IRequest, backend: Backend) -> None:
        self.ended.append((request, backend.name, backend.in_flight))


class Failing(OrderedServices):
    def request_finished(self, request: IRequest, backend: Backend) -> None:
        raise SystemExit(backend.name)


class FinishedTests(SynchronousTestCase):
    def names(self, balancer: Counting) -> list[str]:
        return [name for _, name, _ in balancer.ended]

    def test_response(self) -> None:
        """Once, at the end of the response, with the request that was chosen for, which no longer counts."""
        balancer = Counting()
        world = World(balancer=balancer)
        _, upstream = world.asked()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        self.assertEqual(balancer.ended, [])
        upstream.send(b"lf")
        self.assertEqual(balancer.ended, [(balancer.requests[0], "s1", 0)])

    def test_failed_attempt(self) -> None:
        """Once for each server that was tried."""
        balancer = Counting()
        world = World(2, balancer)
        world.servers[0].refuses = True
        world.client().send(request())
        self.assertEqual(self.names(balancer), ["s1"])
        world.servers[1].last.send(response())
        self.assertEqual(self.names(balancer), ["s1", "s2"])

    def test_client_leaves(self) -> None:
        """And when the client has left."""
        balancer = Counting()
        client, _ = World(balancer=balancer).asked()
        client.leave()
        self.assertEqual(self.names(balancer), ["s1"])

    def test_raising(self) -> None:
        """What it raises is logged, and takes nothing from the client."""
        client, upstream = World(balancer=Failing()).asked()
        upstream.send(response(b"done"))
        self.assertEqual(client.response().body, b"done")
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)

    def test_installed(self) -> None:
        """Whether it wants to know is asked when it is installed, at the start or by a reload."""
        world = World()
        self.assertFalse(world.pool.hears_of_ends)
        balancer = Counting()
        world.pool.change(balancer, [])
        self.assertTrue(world.pool.hears_of_ends)
