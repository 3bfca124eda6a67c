"""Health checks, connections and routes of the pools follow the configuration; those of removed pools end."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_lb.app.pools_in_process import IDLE_SECONDS, LOOK_SECONDS
from twisted_lb.app.process import Serving
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Settings
from twisted_lb.interfaces import IHooks, StoreState
from twisted_lb.proxy.route import AnsweringRoute, Route
from twisted_lb.steps import STEP
from twisted_lb.wire.head import HeadLimits, read_request_head

POOL = "  {name}: {{servers: [{{name: {name}1, url: 'http://127.0.0.1:{port}'}}]}}\n"


def text(*names: str) -> str:
    """A file with these pools, and a route of the same name to each."""
    pools = "".join(POOL.format(name=name, port=9000 + number) for number, name in enumerate(names))
    routes = "".join(f"- {{path: /{name}/, pool: {name}}}\n" for name in names)
    return f"pools:\n{pools}routes:\n{routes}- {{path: /ok, respond: {{body: ok}}}}\n"


@implementer(IHooks)
class Telling:
    def request_received(self, request: object) -> None:
        """Nothing is done."""


class UpStore:
    """What a report asks of a store."""

    def state(self) -> StoreState:
        return StoreState(True, "")

    def counts(self) -> dict[str, float]:
        return {}


class PoolsInProcessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        settings = Settings(redis_url="redis://127.0.0.1:1")
        self.serving = Serving(self.reactor, settings, read_gateway(text("a", "b"), "x.yaml"), {})
        self.pools = self.serving.pools
        self.pools.startService()
        self.addCleanup(self.pools.stopService)

    def route(self, path: str) -> Route | AnsweringRoute | None:
        head = read_request_head(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 0, HeadLimits())
        assert head is not None
        found: Route | AnsweringRoute | None = self.serving.factory.limits.context.routes.find(head)
        return found

    def pool_of(self, path: str) -> Any:
        route = self.route(path)
        assert isinstance(route, Route)
        return route.pool

    def change(self, *names: str) -> str:
        return self.serving.gateway.change(read_gateway(text(*names), "x.yaml"))

    def wait(self, seconds: float) -> None:
        self.reactor.pump([LOOK_SECONDS] * int(seconds / LOOK_SECONDS))

    def test_routes(self) -> None:
        """Each route leads to its pool, or has its answer."""
        self.assertEqual([self.pool_of(f"/{name}/").name for name in ("a", "b")], ["a", "b"])
        self.assertIsInstance(self.route("/ok"), AnsweringRoute)
        self.assertIsNone(self.route("/c/"))

    def test_many_servers(self) -> None:
        """A pool that is added with many servers has its health checks in several steps."""
        more = "".join(f"{{url: 'http://127.0.0.1:{number}'}}, " for number in range(1, 10 * STEP))
        few, many = [
            # What is not the first pool is new.
            len(list(self.serving.gateway._steps(read_gateway(one, "x.yaml"))))
            for one in (text("a", "c"), text("a", "d").replace("name: d1,", f"url: 'http://a'}}, {more}{{name: d1,"))
        ]
        self.assertGreater(many - few, 40)

    def test_added_and_kept(self) -> None:
        """A pool that stays keeps its connections and its health checks; a new one has checks that run."""
        a = self.pool_of("/a/")
        checks = list(self.pools)
        self.change("a", "b", "c")
        self.assertIs(self.pool_of("/a/"), a)
        self.assertEqual(list(self.pools)[:2], checks)
        self.assertTrue(list(self.pools)[2].running)  # type: ignore[attr-defined]
        self.assertEqual(self.pool_of("/c/").name, "c")

    def test_removed(self) -> None:
        """A removed pool has no route, and ends after some seconds without requests."""
        self.change("a")
        self.assertIsNone(self.route("/b/"))
        self.wait(IDLE_SECONDS - 2 * LOOK_SECONDS)
        self.assertEqual(len(list(self.pools)), 2)
        self.wait(3 * LOOK_SECONDS)
        self.assertEqual(len(list(self.pools)), 1)

    def test_removed_with_requests(self) -> None:
        """Its requests go on, are shown as those of a removed server, and it ends some seconds after the last one."""
        (b,) = self.pool_of("/b/").servers.backends
        b.in_flight = 1
        self.change("a")
        self.wait(10 * IDLE_SECONDS)
        shown = {(one["pool"], one["name"]): one["reason"] for one in self.serving.report().servers}
        self.assertEqual(shown, {("a", "a1"): "new", ("b", "b1"): "removed"})
        self.assertTrue(b.available)
        b.in_flight = 0
        self.wait(IDLE_SECONDS - 2 * LOOK_SECONDS)
        self.assertEqual(len(list(self.pools)), 2)
        self.wait(3 * LOOK_SECONDS)
        self.assertEqual(len(list(self.pools)), 1)
        self.assertEqual({one["pool"] for one in self.serving.report().servers}, {"a"})

    def test_hooks_and_mirror(self) -> None:
        """A route has its own hooks or those of its pool, and its mirror; with hooks, requests have records."""
        hooked = f"hooks: '{__name__}:Telling'"
        changed = text("a", "b", "c").replace("path: /a/, pool: a", f"path: /a/, pool: a, mirror: b, {hooked}")
        changed = changed.replace("9002'}]", f"9002'}}], {hooked}")
        change = self.serving.gateway.change
        context = self.serving.factory.limits.context
        self.assertIsNone(context.records)
        change(read_gateway(changed, "x.yaml"))
        a, b, c = (self.route(f"/{name}/") for name in "abc")
        assert isinstance(a, Route) and isinstance(b, Route) and isinstance(c, Route)
        assert a.mirror is not None
        self.assertEqual((a.mirror.route.pool.name, a.mirror.route.hooks), ("b", None))
        self.assertEqual([one.hooks is not None for one in (a, b, c)], [True, False, True])
        self.assertEqual([one.extended for one in (a, b, c)], [True, False, True])
        self.assertIsNotNone(context.records)
        change(read_gateway(text("a", "b"), "x.yaml"))
        self.assertIsNone(context.records)

    def test_hooks_of_shares(self) -> None:
        """With shares, each pool has its own hooks, unless the route has some for all of them."""
        routes = "- {path: /s/, split: {pools: {a: 1, b: 1}}%s}\n"
        for own, expected in (("", [False, True]), (f", hooks: '{__name__}:Telling'", [True, True])):
            changed = text("a", "b").replace("9001'}]", f"9001'}}], hooks: '{__name__}:Telling'") + routes % own
            self.serving.gateway.change(read_gateway(changed, "x.yaml"))
            route = self.route("/s/")
            assert isinstance(route, Route) and route.split is not None
            self.assertTrue(route.extended)
            self.assertEqual([one.hooks is not None for one in route.split._routes], expected)

    def test_readiness(self) -> None:
        """A pool without a server is told; without any, no traffic is welcome."""
        serving = self.serving
        self.patch(serving, "_store", UpStore())
        serving.proxy.running = True
        self.assertEqual(serving.report()[:3], (True, False, "serving"))
        self.pool_of("/b/").servers.backends[0].up = False
        self.assertEqual(serving.report()[:3], (True, True, "no server of the pool b is available"))
        self.pool_of("/a/").servers.backends[0].up = False
        self.assertEqual(serving.report()[:3], (False, False, "no server is available"))

    def test_back_again(self) -> None:
        """A pool of the same name that comes back is another one."""
        (before,) = self.pool_of("/b/").servers.backends
        before.in_flight = 1
        self.change("a")
        self.change("a", "b")
        (now,) = self.pool_of("/b/").servers.backends
        self.assertIsNot(now, before)
        self.assertEqual((now.in_flight, now.available), (0, True))
