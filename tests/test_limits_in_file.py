"""`limits` of routes and pools in servers.yaml."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.describe import shown_limits
from twisted_lb.app.limit_rules import LimitRules
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured

LIMIT = "{name: burst, per: key, capacity: 20, rate_per_sec: 5}"
SERVERS = "servers: [{url: 'http://a'}]"


def read(pool: str, *routes: str) -> GatewaySpec:
    """A file with one pool and these routes."""
    lines = "".join(f"- {{{route}}}\n" for route in routes)
    return read_gateway(f"pools: {{p: {{{SERVERS}, {pool}}}}}\nroutes:\n{lines}", "s.yaml")


class LimitsTests(SynchronousTestCase):
    def problems(self, pool: str, *routes: str) -> list[str]:
        with self.assertRaises(Misconfigured) as caught:
            read(pool, *routes)
        return [problem.removeprefix("s.yaml:") for problem in caught.exception.problems]

    def test_values(self) -> None:
        """Limits are read in their order, for a route and for a pool; without any there are none."""
        spec = read(
            "limits: [{name: all, per: pool, capacity: 1, rate_per_sec: 0.5}]",
            f"pool: p, limits: [{LIMIT}, {{name: n, per: network, capacity: 1000000000, rate_per_sec: 1000000}}]",
        )
        self.assertEqual(spec.pools[0].limits, (LimitSpec("all", "pool", 1, 0.5),))
        expected = (LimitSpec("burst", "key", 20, 5.0), LimitSpec("n", "network", 1_000_000_000, 1e6))
        self.assertEqual(spec.routes[0].limits, expected)
        self.assertEqual(read("", "pool: p").routes[0].limits, ())
        [limit] = read("", f"pool: p, limits: [{LIMIT.replace('5', '-0.0')}]").routes[0].limits
        self.assertEqual(repr(limit.rate_per_sec), "0.0")

    def test_of_all_pools(self) -> None:
        """A list beside the pools is for each pool without one of its own; without pools it is that of the servers."""
        text = f"limits: [{LIMIT}]\npools: {{a: {{{SERVERS}}}, b: {{{SERVERS}, limits: []}}}}\nroutes: [{{pool: a}}]"
        a, b = read_gateway(text, "s.yaml").pools
        self.assertEqual((a.limits, b.limits), ((LimitSpec("burst", "key", 20, 5.0),), ()))
        [only] = read_gateway(f"limits: [{LIMIT}]\n{SERVERS}", "s.yaml").pools
        self.assertEqual(only.limits, a.limits)

    def test_refused(self) -> None:
        """An error names the line and the key, and says what was expected."""
        for limit, expected in (
            ("5", "expected a mapping with any of the keys name, per, capacity, rate_per_sec, shadow, not 5"),
            ("{per: key, capacity: 1, rate_per_sec: 1}", ".name: is missing; expected a text of 1 to 64 letters"),
            (LIMIT.replace("burst", "a b"), ".name: expected a text of 1 to 64 letters"),
            (LIMIT.replace("burst", "global"), ".name: expected a name other than default, api-key, quota, in-flight"),
            (LIMIT.replace("per: key", "per: pool"), ".per: expected key, network or route, not 'pool'"),
            (LIMIT.replace("20", "0"), ".capacity: expected a whole number from 1 to 1000000000, not 0"),
            (LIMIT.replace("20", "1.5"), ".capacity: expected a whole number from 1 to 1000000000, not 1.5"),
            (LIMIT.replace("20", "1000000001"), ".capacity: expected a whole number from 1 to 1000000000"),
            (LIMIT.replace("5", "-1"), ".rate_per_sec: expected a number from 0 to 1000000, not -1"),
            (LIMIT.replace("5", ".nan"), ".rate_per_sec: expected a number from 0 to 1000000, not nan"),
            (LIMIT.replace("5", "1000001"), ".rate_per_sec: expected a number from 0 to 1000000"),
            (LIMIT.replace("rate_per_sec", "rate"), ".rate: unknown key; expected one of name, per, capacity"),
        ):
            problems = self.problems("", f"pool: p, limits: [{limit}]")
            place = "3: routes[0].limits[0]"
            found = any(problem.removeprefix(place).removeprefix(": ").startswith(expected) for problem in problems)
            self.assertTrue(found, (limit, problems))
        [problem] = self.problems(f"limits: {LIMIT}", "pool: p")
        self.assertTrue(problem.startswith("1: pools.p.limits: expected a list of up to 8 limits, each as "), problem)
        [problem] = self.problems(f"limits: [{LIMIT.replace('key', 'route')}]", "pool: p")
        self.assertIn(".per: expected key, network or pool, not 'route'", problem)
        many = ", ".join(LIMIT.replace("burst", f"n{number}") for number in range(9))
        [problem] = self.problems("", f"pool: p, limits: [{many}]")
        self.assertIn("routes[0].limits: expected a list of up to 8 limits", problem)

    def test_shadows(self) -> None:
        """A limit may be a shadow, which comes after those that are enforced."""
        shadow = LIMIT.replace("}", ", shadow: true}").replace("burst", "later")
        of_all = LIMIT.replace("burst", "of-all").replace("per: key", "per: all")
        pool = f"limits: [{LIMIT.replace('burst', 'pool-limit')}]"
        routes = f"routes: [{{pool: p, limits: [{shadow}]}}]"
        text = f"global_limits: [{of_all}]\npools: {{p: {{{SERVERS}, {pool}}}}}\n{routes}"
        spec = read_gateway(text, "s.yaml")
        self.assertEqual(spec.limits, (LimitSpec("of-all", "all", 20, 5.0),))
        self.assertEqual(spec.routes[0].limits, (LimitSpec("later", "key", 20, 5.0, True),))
        limits = LimitRules().limits_of(spec.routes[0], spec.pools[0], spec.limits)
        assert limits is not None
        self.assertEqual(
            [(one.key, one.shadow) for one in limits.buckets("d", "n")],
            [
                ("limit:pool|p|pool-limit|key|d", False),
                ("limit:all||of-all", False),
                ("limit:route|/|later|key|d", True),
            ],
        )
        self.assertEqual(limits.key, "limit:pool|p|pool-limit|key limit:all||of-all")
        [problem] = self.problems("", f"pool: p, limits: [{shadow.replace('true', '1')}]")
        self.assertIn("routes[0].limits[0].shadow: expected true or false, not 1", problem)

    def test_check(self) -> None:
        """The output of --check shows shadows as such."""
        limits = (LimitSpec("everything", "all", 9, 0.5), LimitSpec("later", "key", 20, 5.0, True))
        shown = "everything (9 for all, 0.5 a second) and later (20 for each key, 5 a second, a shadow)"
        self.assertEqual(shown_limits(limits), shown)

    def test_names_of_global_limits(self) -> None:
        """A limit of all routes has a name that no route and no pool has for a limit."""
        of_all = f"global_limits: [{LIMIT}]\n"
        for text in (
            f"pools: {{p: {{{SERVERS}, limits: [{LIMIT}]}}}}\nroutes: [{{pool: p}}]",
            f"pools: {{p: {{{SERVERS}}}}}\nroutes: [{{pool: p, limits: [{LIMIT}]}}]",
            f"limits: [{LIMIT}]\n{SERVERS}",
        ):
            with self.assertRaises(Misconfigured) as caught:
                read_gateway(of_all + text, "s.yaml")
            self.assertIn("'burst' is already the name of one of global_limits", str(caught.exception))
        with self.assertRaises(Misconfigured) as caught:
            read_gateway(of_all.replace("per: key", "per: route") + SERVERS, "s.yaml")
        self.assertIn("global_limits[0].per: expected key, network or all, not 'route'", str(caught.exception))

    def test_names(self) -> None:
        """Names are unique in a list, and among those of a route and the pools that it leads to."""
        other = LIMIT.replace("burst", "other")
        for pool, route, expected in (
            ("", f"pool: p, limits: [{LIMIT}, {LIMIT}]", "3: routes[0].limits[1].name: 'burst' is already the name of"
             " routes[0].limits[0]"),
            (f"limits: [{other}, {LIMIT}, {LIMIT}]", "pool: p", "1: pools.p.limits[2].name: 'burst' is already the name"
             " of pools.p.limits[1]"),
            (f"limits: [{LIMIT}]", f"pool: p, limits: [{other}, {LIMIT}]", "3: routes[0].limits[1].name: 'burst' is"
             " already the name of a limit of the pool p"),
            (f"limits: [{LIMIT}]", f"split: {{pools: {{p: 1}}}}, limits: [{LIMIT}]", "3: routes[0].limits[0].name:"
             " 'burst' is already the name of a limit of the pool p"),
        ):
            self.assertEqual(self.problems(pool, route), [expected])
        read(f"limits: [{LIMIT}]", f"respond: {{}}, limits: [{LIMIT}]", "pool: p, path: /x")

    def test_routes_with_limits_have_names_of_their_own(self) -> None:
        """Of two routes with one name only one may have limits, since they are counted under that name."""
        first, second = f"pool: p, methods: GET, limits: [{LIMIT}]", f"pool: p, limits: [{LIMIT}]"
        expected = "4: routes[1]: expected a name: with limits, '/' is already that of routes[0], which has some"
        self.assertEqual(self.problems("", first, second), [expected])
        read("", first, "pool: p")
        read("", first, f"{second}, name: other")


class RulesTests(SynchronousTestCase):
    """From one configuration to the next."""

    def limits(self, pool: str, route: str) -> list[object]:
        spec = read(pool, route)
        limits = self.rules.limits_of(spec.routes[0], spec.pools[0])
        self.rules.forget_unused()
        assert limits is not None
        return list(limits.buckets("d", "n"))

    def setUp(self) -> None:
        self.rules = LimitRules()

    def test_keys(self) -> None:
        """A bucket is named by the route or pool, the limit, and the key or the network."""
        pool = "limits: [{name: all, per: pool, capacity: 1, rate_per_sec: 0.5}]"
        kinds = ("key", "network", "route")
        limits = ", ".join(f"{{name: {per}, per: {per}, capacity: 2, rate_per_sec: 0}}" for per in kinds)
        keys = [bucket.key for bucket in self.limits(pool, f"path: /v1/, pool: p, limits: [{limits}]")]  # type: ignore[attr-defined]
        of_route = "limit:route|/v1/|"
        expected = [f"{of_route}key|key|d", f"{of_route}network|network|n", f"{of_route}route", "limit:pool|p|all"]
        self.assertEqual(keys, expected)

    def test_policies(self) -> None:
        """A limit that stays is the same one with another policy; one that was removed in between is not."""
        route = "pool: p, limits: [{{name: one, per: route, capacity: {}, rate_per_sec: 1}}]"
        [(first, *_)] = self.limits("", route.format(3))  # type: ignore[misc]
        [(second, *_)] = self.limits("", route.format(4))  # type: ignore[misc]
        self.assertEqual((first is second, first.capacity), (True, 4))
        self.assertIsNone(self.rules.limits_of(read("", "pool: p").routes[0]))
        self.rules.forget_unused()
        [(third, *_)] = self.limits("", route.format(5))  # type: ignore[misc]
        self.assertEqual((third is first, first.capacity, third.key), (False, 4, first.key))
