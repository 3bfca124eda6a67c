"""The pools in use follow other configurations, as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_lb.app.gateway import FEW, Gateway, PoolInUse
from twisted_lb.backend import Backend
from twisted_lb.balancers.failover import Failover
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured
from twisted_lb.interfaces import IHooks
from twisted_lb.testing.fakes import FakeRequest

ONE = 'servers: [{name: a, url: "http://127.0.0.1:1"}]\n'
TWO = 'servers: [{name: a, url: "http://127.0.0.1:1"}, {name: b, url: "http://127.0.0.1:2"}]\n'
PRICED = f"pricing: {{name: '{__name__}:Fixed', tokens: %d}}\n"
HOOKED = f"hooks: {{name: '{__name__}:Telling', name_of: %s}}\n"
SAME = "the same servers and balancer as before"
POOLS = """
pools:
  models: {balancer: least_conn, servers: [{name: gpu1, url: "http://127.0.0.1:1"}]}
  site: {servers: [{name: web1, url: "http://127.0.0.1:2"}, {name: web2, url: "http://127.0.0.1:3"}]}
routes:
- {path: /v1/, pool: models}
- {pool: site}
"""


class Fixed:
    def __init__(self, tokens: int) -> None:
        if tokens < 0:
            raise ValueError("below 0")
        self._tokens = tokens

    def cost(self, request: object) -> int:
        return self._tokens


@implementer(IHooks)
class Telling:
    def __init__(self, name_of: str) -> None:
        if name_of == "nobody":
            raise SystemExit(0)

    def request_received(self, request: object) -> None:
        """Nothing is done."""


def spec_of(text: str) -> GatewaySpec:
    return read_gateway(text, "x.yaml")


class Followers:
    """The parts that follow a change."""

    def __init__(self) -> None:
        self.specs: list[GatewaySpec] = []
        self.pools: list[dict[str, PoolInUse]] = []

    def follow(self, spec: GatewaySpec, pools: Mapping[str, PoolInUse]) -> Iterable[None]:
        self.specs.append(spec)
        self.pools.append(dict(pools))
        return ()


class Observer:
    """Of all pools."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def backend_added(self, backend: Backend) -> None:
        self.heard.append(f"+{backend.name}")

    def backend_removed(self, backend: Backend) -> None:
        self.heard.append(f"-{backend.name}")

    def tls_changed(self, backend: Backend) -> None:
        self.heard.append(f"tls {backend.name}")


class GatewayCase(SynchronousTestCase):
    def start(self, text: str) -> Gateway:
        self.gateway = Gateway(Clock(), spec_of(text))
        self.parts = Followers()
        self.gateway.parts = self.parts
        return self.gateway

    def change(self, before: str, after: str) -> str:
        return self.start(before).change(spec_of(after))


class OnePoolTests(GatewayCase):
    def test_words(self) -> None:
        """What has changed is described with the names of the servers and both values."""
        cases = [
            (ONE, TWO, "added b http://127.0.0.1:2"),
            (TWO, ONE, "removed b"),
            (ONE, ONE.replace(":1", ":9"), "moved a to http://127.0.0.1:9"),
            (ONE, ONE.replace("}", ", weight: 0}"), "changed a (weight 1 -> 0)"),
            (ONE, ONE.replace("}", ", admin_state: drain}"), "changed a (admin_state ready -> drain)"),
            (ONE, "# new\n" + ONE, SAME),
            (ONE, ONE + "retries: {attempts: 1}\n", "retries changed"),
            (ONE, ONE + "cors: {allowed_origins: '*'}\n", "cors changed"),
            (ONE, ONE.replace("}", ", health_check: {path: /h}}"), "health check of a"),
            (ONE, "balancer: twisted_lb.balancers.round_robin:RoundRobin\n" + ONE, "balancer round_robin -> tw"),
        ]
        for before, after, expected in cases:
            self.assertTrue(self.change(before, after).startswith(expected), expected)

    def test_out_of_service(self) -> None:
        """A server that drains or is disabled is not chosen; it stays the same, and is chosen when it is ready."""
        gateway = self.start(TWO)
        pool = gateway.pools["default"].pool
        b = pool.backends[1]
        b.in_flight = 3
        for state in ("drain", "disabled"):
            gateway.change(spec_of(TWO.replace('2"', f'2", admin_state: {state}')))
            self.assertEqual([[one.name for one in pool.choices(FakeRequest())] for _ in range(2)], [["a"], ["a"]])
        gateway.change(spec_of(TWO))
        self.assertIs(pool.backends[1], b)
        self.assertEqual({one.name for one in pool.choices(FakeRequest())}, {"a", "b"})

    def test_many(self) -> None:
        """Of many servers the first ones are named, and the rest are counted."""
        lines = "".join(f"- {{name: s{number}, url: 'http://h:{number}'}}\n" for number in range(1, 101))
        said = self.change(ONE, "servers:\n" + lines)
        self.assertIn("s10 http://h:10 and 90 more; removed a", said)

    def test_balancer_stays(self) -> None:
        """A balancer whose name and options are as before keeps its state."""
        balancer = self.start(ONE).pools["default"].pool.balancer
        self.gateway.change(spec_of(TWO))
        self.assertIs(self.gateway.pools["default"].pool.balancer, balancer)
        self.assertEqual([len(spec.servers) for spec in self.parts.specs], [2])

    def test_backups(self) -> None:
        """The first backup server brings a balancer for the backups, and a second one changes nothing of that."""
        with_backup = TWO.replace("2\"}", "2\", backup: true}")
        pool = self.start(ONE).pools["default"].pool
        self.gateway.change(spec_of(with_backup))
        balancer = pool.balancer
        self.assertIsInstance(balancer, Failover)
        self.gateway.change(spec_of(with_backup.replace("1\"}", "1\", backup: true}")))
        self.assertIs(pool.balancer, balancer)

    def test_pricing(self) -> None:
        """Another pricing is there when the rest follows; one whose name and options are as before stays itself."""
        gateway = self.start(ONE + PRICED % 2)
        before = gateway.pools["default"].pricing
        self.assertEqual(gateway.change(spec_of(TWO + PRICED % 2)), "added b http://127.0.0.1:2")
        self.assertEqual(gateway.change(spec_of(TWO + PRICED % 31337)), f"changed options of {__name__}:Fixed: tokens")
        self.assertEqual(gateway.change(spec_of(TWO)), f"pricing {__name__}:Fixed -> none")
        self.assertEqual(gateway.change(spec_of(TWO + PRICED % 4)), f"pricing none -> {__name__}:Fixed")
        seen = [pools["default"].pricing for pools in self.parts.pools]
        self.assertIs(seen[0], before)
        self.assertEqual([pricing.cost(FakeRequest()) for pricing in seen], [2, 31337, 1, 4])

    def test_pricing_that_fails(self) -> None:
        """When the pricing cannot be created nothing has changed, the servers included."""
        gateway = self.start(ONE + PRICED % 2)
        before = gateway.pools["default"]
        error = self.assertRaises(Misconfigured, gateway.change, spec_of(TWO + PRICED % -1))
        self.assertEqual(str(error), f"pricing: {__name__}:Fixed rejected its options: ValueError: below 0")
        self.assertEqual((self.parts.specs, len(gateway.backends)), ([], 1))
        self.assertIs(gateway.pools["default"].pricing, before.pricing)
        self.assertEqual(gateway.change(gateway.spec), SAME)

    def test_hooks(self) -> None:
        """Hooks whose class and options are as before stay themselves, others are new ones."""
        gateway = self.start(ONE + HOOKED % "a")
        before = gateway.pools["default"].hooks
        self.assertEqual(gateway.change(spec_of(TWO + HOOKED % "a")), "added b http://127.0.0.1:2")
        self.assertIs(gateway.pools["default"].hooks, before)
        said = gateway.change(spec_of(TWO + HOOKED % "b"))
        self.assertEqual(said, f"changed options of {__name__}:Telling: name_of")
        self.assertIsNot(gateway.pools["default"].hooks, before)
        self.assertEqual(gateway.change(spec_of(TWO)), f"hooks {__name__}:Telling -> none")
        self.assertIsNone(gateway.pools["default"].hooks)

    def test_hooks_that_fail(self) -> None:
        """When hooks cannot be created nothing has changed."""
        gateway = self.start(ONE + HOOKED % "a")
        before = gateway.pools["default"].hooks
        error = self.assertRaises(Misconfigured, gateway.change, spec_of(TWO + HOOKED % "nobody"))
        self.assertEqual(str(error), f"hooks: {__name__}:Telling rejected its options: SystemExit: 0")
        self.assertEqual((self.parts.specs, len(gateway.backends)), ([], 1))
        self.assertIs(gateway.pools["default"].hooks, before)

    def test_failure_changes_nothing(self) -> None:
        """When the balancer fails nothing follows, and the next change is compared with what still runs."""
        gateway = self.start(ONE)
        pool = gateway.pools["default"].pool

        def fail(backends: list[Backend]) -> None:
            if len(pool.backends) != len(backends):
                raise KeyError("b")

        self.patch(pool.balancer, "backends_changed", fail)
        error = self.assertRaises(Misconfigured, gateway.change, spec_of(TWO))
        self.assertIn("balancer: it rejected the servers: KeyError('b')", str(error))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual((self.parts.specs, len(pool.backends)), ([], 1))
        self.assertEqual(gateway.change(gateway.spec), SAME)


class SeveralPoolsTests(GatewayCase):
    def test_start(self) -> None:
        """Each pool has its own servers and its own balancer."""
        gateway = self.start(POOLS)
        self.assertEqual(list(gateway.pools), ["models", "site"])
        self.assertEqual([backend.name for backend in gateway.backends], ["gpu1", "web1", "web2"])
        kinds = [type(one.pool.balancer).__name__ for one in gateway.pools.values()]
        self.assertEqual(kinds, ["LeastConn", "RoundRobin"])

    def test_words(self) -> None:
        """What has changed in a pool is described with its name; pools and routes are named."""
        pools = POOLS.partition("routes:")[0]
        route = "changed the route /; removed the route /v1/"
        cases = [
            (POOLS.replace("2\"}", "2\", weight: 3}"), "pool site: changed web1 (weight 1 -> 3)"),
            (POOLS.replace("least_conn", "random"), "pool models: balancer least_conn -> random"),
            (POOLS.replace("models", "gpus"), "added the pool gpus; removed the pool models; changed the route /v1/"),
            (POOLS.replace("/v1/", "/v2/"), "added the route /v2/; removed the route /v1/"),
            (POOLS.replace("/v1/, pool", "/v1/, methods: POST, pool"), "changed the route /v1/"),
            (POOLS + "- {path: /v1/, host: a.test, pool: site}\n", "added the route a.test/v1/"),
            (f"{pools}routes:\n- {{pool: site}}\n- {{path: /v1/, pool: models}}\n", "order of the routes"),
            (ONE, f"added the pool default; removed the pools models, site; {route}"),
        ]
        for after, expected in cases:
            said = self.change(POOLS, after)
            self.assertEqual(sorted(said.split("; ")), sorted(expected.split("; ")))

    def test_hooks_of_routes(self) -> None:
        """Those of a route stay themselves, wherever it is in the file; one that cannot be created changes nothing."""
        hooked = f"hooks: {{name: '{__name__}:Telling', name_of: %s}}"
        routes = POOLS.replace("pool: site}", "pool: site, " + hooked + "}")
        gateway = self.start(routes % "a")
        self.assertEqual(list(gateway.hooks), [1])
        before = gateway.hooks[1]
        more = routes.replace("- {path: /v1/", "- {path: /v2/, pool: models}\n- {path: /v1/")
        self.assertEqual(gateway.change(spec_of(more % "a")), "added the route /v2/")
        self.assertEqual(gateway.hooks, {2: before})
        error = self.assertRaises(Misconfigured, gateway.change, spec_of(routes % "nobody"))
        self.assertEqual(str(error), f"routes[1].hooks: {__name__}:Telling rejected its options: SystemExit: 0")
        self.assertEqual((gateway.hooks, len(self.parts.specs)), ({2: before}, 1))
        self.assertEqual(gateway.change(spec_of(more % "b")), "changed the route /")
        self.assertIsNot(gateway.hooks[2], before)
        gateway.change(spec_of(POOLS))
        self.assertEqual(gateway.hooks, {})

    def test_pools_stay(self) -> None:
        """A pool of the same name stays itself, with its servers; another one takes no server over."""
        gateway = self.start(POOLS)
        models, site = (one.pool for one in gateway.pools.values())
        web1 = site.backends[0]
        other = Observer()
        gateway.subscribe(other)
        gateway.change(spec_of(POOLS.replace("models", "gpus")))
        self.assertIs(gateway.pools["site"].pool, site)
        self.assertIs(gateway.pools["site"].pool.backends[0], web1)
        self.assertIsNot(gateway.pools["gpus"].pool, models)
        self.assertEqual(sorted(other.heard), ["+gpu1", "-gpu1"])
        # Requests that have found their route before still get a server of the removed pool.
        self.assertEqual([backend.name for backend in models.choices(FakeRequest())], ["gpu1"])

    def test_observers(self) -> None:
        """Who observes the servers is notified of changes in pools that came later, too."""
        gateway = self.start(ONE)
        observer = Observer()
        gateway.subscribe(observer)
        gateway.change(spec_of(POOLS))
        self.assertEqual(sorted(observer.heard), ["+gpu1", "+web1", "+web2", "-a"])
        observer.heard.clear()
        gateway.change(spec_of(POOLS.replace("web2", "web3")))
        self.assertEqual(sorted(observer.heard), ["+web3", "-web2"])

    def test_rejected_by_one(self) -> None:
        """When the balancer of one pool rejects its servers, the pools before it have their servers as before."""
        gateway = self.start(POOLS)
        models, site = (one.pool for one in gateway.pools.values())

        def fail(backends: list[Backend]) -> None:
            if len(backends) != 2:
                raise KeyError("web2")

        self.patch(site.balancer, "backends_changed", fail)
        after = POOLS.replace(', {name: web2, url: "http://127.0.0.1:3"}', "").replace("127.0.0.1:1", "127.0.0.1:9")
        error = self.assertRaises(Misconfigured, gateway.change, spec_of(after))
        self.assertIn("pools.site.balancer: it rejected the servers", str(error))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual([one.url for one in gateway.backends], [f"http://127.0.0.1:{port}" for port in (1, 2, 3)])
        self.assertEqual(self.parts.specs, [])
        self.assertEqual(gateway.change(spec_of(POOLS)), SAME)

    def test_in_turns(self) -> None:
        """With many servers and pools a change takes several iterations, and a second one waits for the first."""
        clock = Clock()
        gateway = Gateway(clock, spec_of(POOLS))
        lines = "".join(f"  p{n}: {{servers: [{{url: 'http://h:{n}'}}]}}\n" for n in range(1, FEW + 1))
        said: list[str] = []
        gateway.change_in_turns(spec_of(POOLS.replace("routes:", lines + "routes:"))).addCallback(said.append)
        gateway.change_in_turns(spec_of(POOLS)).addCallback(said.append)
        self.assertEqual(said, [])
        clock.advance(0)
        expected = f"p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 and {FEW - 10} more"
        self.assertEqual(said, [f"added the pools {expected}", f"removed the pools {expected}"])
        self.assertEqual(len(gateway.backends), 3)
