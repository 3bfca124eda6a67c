"""A retry uses the current state of the servers, not that at the first choice."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import ScriptedServer
from tests.proxy.world import World, request, response
from twisted_lb.backend import Backend
from twisted_lb.config.pool import Queue, Retries, ServerSpec


def spec(name: str, port: int) -> ServerSpec:
    return ServerSpec(name, f"http://127.0.0.1:{port}", "127.0.0.1", port)


class NowTests(SynchronousTestCase):
    def test_server_added(self) -> None:
        """A server that a reload has brought since the first choice saves the request."""
        world = World(servers=2)
        client, upstream = world.asked()
        world.servers.append(ScriptedServer(Backend("s3", "127.0.0.1", 9003), world.clock))
        world.pool.change(world.balancer, [spec("s1", 9001), spec("s3", 9003)])
        upstream.finish()
        world.servers[2].last.send(response(b"three"))
        self.assertEqual(client.response().body, b"three")

    def test_server_down(self) -> None:
        """A server that went down since the first choice is not asked."""
        world = World(servers=3)
        _, upstream = world.asked()
        world.backends[1].up = False
        world.pool.refresh()
        upstream.finish()
        self.assertEqual([port for _, port in world.dialled], [9001, 9003])

    def test_room_again(self) -> None:
        """A server that was full at the first choice, and has room now, saves the request."""
        world = World(servers=2, maxconn=1)
        first, _ = world.asked()
        client = world.client()
        client.send(request())
        world.servers[0].last.send(response(b"first"))
        world.servers[1].last.finish()
        world.servers[0].last.send(response(b"one"))
        self.assertEqual((first.response().body, client.response().body), (b"first", b"one"))

    def test_still_full(self) -> None:
        """A request whose only other server is full waits for it."""
        world = World(servers=2, maxconn=1)
        world.asked()
        client = world.client()
        client.send(request())
        world.servers[1].last.finish()
        self.assertEqual((client.received, len(world.server_pool.queue)), (b"", 1))
        world.servers[0].last.send(response(b"first"))
        world.servers[0].last.send(response(b"one"))
        self.assertEqual(client.response().body, b"one")


class QueueTests(SynchronousTestCase):
    def test_choosy_request(self) -> None:
        """A request that cannot go to the server that has room does not hold up those behind it."""
        world = World(servers=2)
        one, two = world.backends
        one.maxconn = 1

        def up(value: bool) -> None:
            two.up = value
            world.pool.refresh()

        up(False)
        world.client().send(request())
        world.pool.backends.reverse()
        up(True)
        excludes_servers = world.client()
        excludes_servers.send(request())
        world.servers[1].last.finish()
        up(False)
        behind = world.client()
        behind.send(request())
        self.assertEqual(len(world.server_pool.queue), 2)
        up(True)
        world.settle()
        world.servers[1].last.send(response(b"two"))
        self.assertEqual((behind.response().body, excludes_servers.received), (b"two", b""))

    def test_shorter_timeout(self) -> None:
        """A shorter time to wait holds for all from now on, also behind one who was promised more."""
        world = World(maxconn=1, queue=Queue(10, 60.0))
        world.asked()
        old, new = world.client(), world.client()
        old.send(request())
        world.server_pool.configure(Retries(), Queue(10, 1.0))
        new.send(request())
        world.wait(2)
        self.assertEqual((old.response().status, new.response().status), (503, 503))


class BudgetTests(SynchronousTestCase):
    def test_long_quiet(self) -> None:
        """After an hour without a failure, the traffic of the last seconds counts."""
        world = World(servers=2, retries=Retries(3, 0.2, 0.0))
        world.wait(3600)
        for _ in range(40):
            client, upstream = world.asked()
            upstream.send(response())
            client.leave()
            world.wait(1)
        client, kept = world.asked()
        kept.finish()
        world.server.last.finish()
        world.servers[1].last.send(response(b"two"))
        self.assertEqual(client.response().body, b"two")
