"""The list of servers: what a balancer is notified of, and what a change keeps, adds and removes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.proxy.world import World, response
from twisted_lb.backend import Backend
from twisted_lb.config.pool import ServerSpec, ServerTls, TlsFiles
from twisted_lb.interfaces import IBalancer, IRequest
from twisted_lb.pool.pool import Pool, made


def server(name: str, port: int = 80, **more: object) -> ServerSpec:
    return replace(ServerSpec(name, f"http://h:{port}", "h", port), **more)  # type: ignore[arg-type]


A, B, C = server("a", 1), server("b", 2), server("c", 3)


@implementer(IBalancer)
class Told:
    """Keeps what it was told last; fails when it is to."""

    def __init__(self, fails: bool = False) -> None:
        self.names: list[str] = []
        self.fails = fails

    def backends_changed(self, backends: list[Backend]) -> None:
        self.names = [backend.name for backend in backends]
        if self.fails:
            raise ValueError("no")

    def choices(self, request: IRequest) -> Iterator[Backend]:
        return iter(())


class Heard:
    """Keeps what it was told of servers that come and go."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def backend_added(self, backend: Backend) -> None:
        self.said.append(f"+{backend.name}:{backend.port}")

    def backend_removed(self, backend: Backend) -> None:
        self.said.append(f"-{backend.name}:{backend.port}")

    def tls_changed(self, backend: Backend) -> None:
        self.said.append(f"tls {backend.name}:{backend.port}")


class RefreshTests(SynchronousTestCase):
    def test_availability(self) -> None:
        """The balancer is told of the servers that are up and have a weight, in their order."""
        balancer = Told()
        pool = Pool(balancer, [made(one) for one in (A, B, C)])
        self.assertEqual(balancer.names, ["a", "b", "c"])
        pool.backends[0].up = False
        pool.backends[1].weight = 0
        pool.refresh()
        self.assertEqual(balancer.names, ["c"])


class ChangeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.balancer = Told()
        self.pool = Pool(self.balancer, [made(one) for one in (A, B, C)])
        self.a, self.b, self.c = self.pool.backends
        self.heard = Heard()
        self.pool.subscribe(self.heard)

    def test_unchanged_stays_itself(self) -> None:
        """A server that is in the list as before is the same object, with its counts, exchanges and health."""
        self.a.requests, self.a.in_flight, self.a.up, self.a.reason = 7, 2, False, "down: x"
        change = self.pool.change(self.balancer, [A, B, C])
        self.assertEqual(self.pool.backends, [self.a, self.b, self.c])
        self.assertEqual((self.a.requests, self.a.in_flight, self.a.up, self.a.reason), (7, 2, False, "down: x"))
        self.assertEqual(change, ((), (), (), False))
        self.assertEqual(self.heard.said, [])

    def test_what_is_asked_is_taken_over(self) -> None:
        """Another weight, maxconn, backup and slowstart hold for the server that is there, and are told."""
        change = self.pool.change(self.balancer, [replace(A, weight=0, maxconn=5, backup=True, slowstart=2.5), B, C])
        self.assertEqual((self.a.weight, self.a.maxconn, self.a.backup, self.a.slowstart), (0, 5, True, 2.5))
        self.assertEqual(self.balancer.names, ["b", "c"])
        told = "weight 1 -> 0, maxconn 0 -> 5, backup false -> true, slowstart 0 -> 2.5"
        self.assertEqual(change.changed, ((self.a, told),))

    def test_other_tls(self) -> None:
        """A server with other settings for TLS, or from http:// to https://, stays itself; subscribers are told."""
        secure = replace(A, tls=ServerTls("a"))
        for wanted in (secure, replace(A, tls=ServerTls("a", TlsFiles(digest="other"))), A):
            change = self.pool.change(self.balancer, [wanted, B, C])
            self.assertEqual((self.pool.backends[0], self.a.tls), (self.a, wanted.tls))
            self.assertEqual((change.changed, self.heard.said), (((self.a, "tls"),), ["tls a:1"]))
            self.assertEqual(self.a.url.partition(":")[0], "https" if wanted.tls else "http")
            self.heard.said.clear()
        self.pool.change(self.balancer, [replace(A, weight=2), B, C])
        self.assertEqual(self.heard.said, [])

    def test_host_of_requests(self) -> None:
        """A server has a Host of its own where its address is not its name; another one changes nothing else."""
        self.assertEqual((self.a.authority, self.a.url), (b"h:1", "http://h:1"))
        change = self.pool.change(self.balancer, [replace(A, authority="web.test:80"), B, C])
        self.assertEqual((self.a.authority, self.a.url), (b"web.test:80", "http://h:1"))
        self.assertEqual(change.changed, ((self.a, "authority h:1 -> web.test:80"),))
        self.assertEqual(self.heard.said, [])

    def test_added(self) -> None:
        """A new server is made as the file says, told to the balancer in its place, and to the subscribers."""
        change = self.pool.change(self.balancer, [A, server("new", 9, weight=3, maxconn=4), B, C])
        new = self.pool.backends[1]
        self.assertEqual((new.name, new.weight, new.maxconn), ("new", 3, 4))
        self.assertEqual(self.balancer.names, ["a", "new", "b", "c"])
        self.assertEqual((change.added, self.heard.said), ((new,), ["+new:9"]))

    def test_removed(self) -> None:
        """A removed server is not chosen again whatever health says, and is shown until its exchanges are done."""
        self.b.in_flight = 1
        change = self.pool.change(self.balancer, [A, C])
        self.assertEqual((change.removed, self.heard.said, self.balancer.names), ((self.b,), ["-b:2"], ["a", "c"]))
        self.b.up = True
        self.assertFalse(self.b.available)
        self.assertEqual((self.b.reason, self.pool.leaving), ("removed", [self.b]))
        self.b.in_flight = 0
        self.assertEqual(self.pool.leaving, [])

    def test_removed_ones_are_not_kept(self) -> None:
        """Servers that come and go leave nothing behind, also when nobody asks for those that are leaving."""
        for number in range(20):
            self.pool.change(self.balancer, [A, server(f"new{number}", 9)])
        self.assertLessEqual(len(self.pool._leaving), 1)

    def test_in_steps(self) -> None:
        """A change of thousands is done in steps: all servers change in one of them, and then it is announced."""
        steps = self.pool.change_in_steps(self.balancer, [server(f"new{number}", 9) for number in range(1000)])
        seen = {len(self.pool.backends) for _ in steps}
        self.assertEqual(seen, {3, 1000})
        self.assertEqual(len(self.balancer.names), 1000)
        self.assertEqual(len(self.heard.said), 1003)

    def test_moved(self) -> None:
        """A name with another address is another server: the new one comes, and then the old one goes."""
        self.pool.change(self.balancer, [server("a", 100), B, C])
        self.assertIsNot(self.pool.backends[0], self.a)
        self.assertEqual(self.heard.said, ["+a:100", "-a:1"])

    def test_other_balancer(self) -> None:
        """Another balancer is told of the servers and chooses from now on."""
        other = Told()
        self.pool.change(other, [C, A])
        self.assertIs(self.pool.balancer, other)
        self.assertEqual((other.names, self.balancer.names), (["c", "a"], ["a", "b", "c"]))

    def test_order(self) -> None:
        """The same servers in another order are a change, and a server less is no other order."""
        self.assertTrue(self.pool.change(self.balancer, [B, A, C]).reordered)
        self.assertFalse(self.pool.change(self.balancer, [B, C]).reordered)

    def test_balancer_that_fails(self) -> None:
        """When the balancer does not take the servers, everything is as it was, and nobody is told anything."""
        self.assertRaises(ValueError, self.pool.change, Told(fails=True), [replace(A, weight=5), server("new", 9)])
        self.assertEqual((self.pool.backends, self.pool.balancer), ([self.a, self.b, self.c], self.balancer))
        self.assertEqual((self.a.weight, self.b.weight, self.heard.said), (1, 1, []))
        self.assertEqual(self.balancer.names, ["a", "b", "c"])


class RemovedPoolTests(SynchronousTestCase):
    def test_removed(self) -> None:
        """Of a pool that is removed no connection is left, nor anything that follows the names of its servers."""
        world = World(hosts=("a.test", "b.test"))
        world.names.addresses = {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]}
        client, upstream = world.asked()
        self.assertEqual(world.factory.server_connections, 1)
        upstream.send(response(b"hello"))
        self.assertEqual(client.response().body, b"hello")
        # One of the servers was removed before the pool was.
        world.pool.change(world.balancer, [])
        self.assertTrue(world.server_pool.idle)
        world.factory.remove_pool(world.server_pool)
        world.settle()
        self.assertTrue(upstream.ended)
        self.assertEqual(world.factory.server_connections, 0)
        self.assertEqual([followers for followers in world.names.followers.values() if followers], [])
        self.assertNotIn(world.server_pool.retries, world.factory.sweeper.watched)
