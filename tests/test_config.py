"""servers.yaml: what it means, and the errors in one that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.configuration import only_pool
from tests.hypothesis_profile import given
from twisted_lb.config.cors import Cors
from twisted_lb.config.gateway import Mirror
from twisted_lb.config.pool import ClassSpec, Ejection, HealthCheck, PoolSpec, Queue, Retries, ServerSpec
from twisted_lb.config.servers_file import read_gateway, read_with_lines
from twisted_lb.config.settings import Misconfigured

ROOT = Path(__file__).parent.parent

SERVER_KEYS = "name, url, weight, maxconn, backup, slowstart, send_proxy, health_check, tls, admin_state, expand"
KEYS = ["servers", "balancer", "name", "url", "weight", "health_check", "status", "interval", "ejection", "pricing"]
KEYS += ["tls", "ca_file", "server_name"]


def server(line: str) -> str:
    """A file with one good server and this one."""
    return f"servers:\n- {{name: good, url: http://localhost:9001}}\n- {line}\n"


class ReadFleetTests(SynchronousTestCase):
    def test_whole_file(self) -> None:
        """Each word of the file has its place in the description."""
        text = """
balancer: {name: mine.module:Class, speed: 3, deep: {a: [1]}}
servers:
  - name: server1
    url: http://localhost:9001
  - {name: server2, url: "http://10.0.0.2", weight: 0}
  - {name: "s_3.x:y", url: "http://[2001:DB8::0:1]:8000/", weight: 1000}
"""
        self.assertEqual(
            only_pool(text, "x.yaml"),
            PoolSpec(
                "mine.module:Class",
                {"speed": 3, "deep": {"a": [1]}},
                (
                    ServerSpec("server1", "http://localhost:9001", "localhost", 9001, 1),
                    ServerSpec("server2", "http://10.0.0.2", "10.0.0.2", 80, 0),
                    ServerSpec("s_3.x:y", "http://[2001:DB8::0:1]:8000/", "2001:db8::1", 8000, 1000),
                ),
            ),
        )

    def test_defaults(self) -> None:
        """Without a balancer it is round robin without options; JSON is YAML too."""
        pool = only_pool('{"servers": [{"name": "a", "url": "http://a:1"}]}', "x.yaml")
        self.assertEqual((pool.balancer, dict(pool.options)), ("round_robin", {}))

    def test_pricing(self) -> None:
        """A pricing class is named alone, or with its options; without one there is none."""
        cases: list[tuple[str, str, dict[str, object]]] = [
            ("", "", {}),
            ("pricing: mine.prices:Class", "mine.prices:Class", {}),
            ("pricing: {name: 'mine:Class', factor: 3}", "mine:Class", {"factor": 3}),
        ]
        for line, word, options in cases:
            pool = only_pool(f"servers: [{{name: a, url: http://a}}]\n{line}", "x.yaml")
            self.assertEqual((pool.pricing, pool.pricing_options), (word, options), line)

    def test_lines(self) -> None:
        """The line of a key at the top is known, for what is found out about its value later."""
        text = "servers:\n- {name: a, url: http://a}\n\npricing:\n  name: a:B\n"
        lines = read_with_lines(text, "x.yaml")[1]
        places = {key: place for (_, key), place in lines.items()}
        self.assertEqual(places, {"balancer": (1, "balancer"), "pricing": (4, "pricing"), "hooks": (1, "hooks")})
        text = "pools: {p: {servers: [{url: http://a}]}}\nroutes:\n- {pool: p, path: /a}\n- pool: p\n  hooks: a:B\n"
        lines = read_with_lines(text, "x.yaml")[1]
        self.assertEqual(lines["routes[1]", "hooks"], (5, "routes[1].hooks"))

    def test_hooks(self) -> None:
        """Hooks are named as pricing classes are, for a pool, for all pools, and for a route."""
        text = """
hooks: a:All
pools:
  p: {servers: [{url: http://a}]}
  q: {servers: [{url: http://a}], hooks: {name: a:Own, factor: 3}}
routes:
- {pool: p, path: /a}
- {pool: q, hooks: {name: a:Route, x: y}}
"""
        spec = read_gateway(text, "x.yaml")
        expected = [ClassSpec("a:All", {}), ClassSpec("a:Own", {"factor": 3})]
        self.assertEqual([pool.hooks for pool in spec.pools], expected)
        self.assertEqual([route.hooks for route in spec.routes], [None, ClassSpec("a:Route", {"x": "y"})])

    def test_mirrors(self) -> None:
        """A mirror is the name of a pool, or that and a percentage."""
        cases = [
            ("mirror: q", Mirror("q", 100.0)),
            ("mirror: {pool: q}", Mirror("q", 100.0)),
            ("mirror: {pool: q, percent: 0.5}", Mirror("q", 0.5)),
        ]
        pools = "pools: {p: {servers: [{url: http://a}]}, q: {servers: [{url: http://a}]}}\nroutes: [{pool: p, %s}]"
        for mirror, expected in cases:
            self.assertEqual(read_gateway(pools % mirror, "x.yaml").routes[0].mirror, expected)
        wrong = [
            ("mirror: r", "mirror: there is no pool 'r'"),
            ("mirror: p", "mirror: expected another pool than 'p'"),
            ("mirror: {pool: q, percent: 101}", "mirror.percent: expected a number from 0 to 100, not 101"),
            ("mirror: {percent: 1}", "mirror.pool: is missing; expected the name of a pool"),
            ("mirror: [q]", "mirror: expected the name of a pool, or a mapping with any of the keys pool, percent"),
            ("hooks: [x]", "hooks: expected package.module:Class, or {name: ..., and its options}"),
        ]
        for mirror, text in wrong:
            error = self.assertRaises(Misconfigured, read_gateway, pools % mirror, "x.yaml")
            self.assertIn(f"x.yaml:2: routes[0].{text}", str(error))
        for key in ("mirror: q", "hooks: a:B"):
            text = "pools: {q: {servers: [{url: http://a}]}}\nroutes: [{pool: q}, {path: /a, respond: {}, %s}]" % key
            error = self.assertRaises(Misconfigured, read_gateway, text, "x.yaml")
            self.assertIn("expected only with a pool", str(error))

    def test_failure_words(self) -> None:
        """Each word about failures has its place in the description; times are as in .env."""
        text = """
health_check: {path: /healthz, interval: 500ms, timeout: 1.5, passes: 1, fails: 2, status: 204}
ejection:
  consecutive_failures: 3
  failure_share: 0.25
  window: 1m
  minimum_requests: 7
  server_errors: false
  base_time: 5s
  max_time: 1h
  max_share: 1
panic_threshold: 0
retries: {attempts: 2, budget: 0.1, min_per_second: 3}
queue: {size: 10, timeout: 2}
servers:
  - {name: a, url: http://a, maxconn: 100, backup: true, slowstart: 30s}
"""
        pool = only_pool(text, "x.yaml")
        check = HealthCheck("/healthz", 0.5, 1.5, 1, 2, ((204, 204),))
        self.assertEqual(pool.servers, (ServerSpec("a", "http://a", "a", 80, 1, 100, True, 30.0, check),))
        self.assertEqual(pool.ejection, Ejection(3, 0.25, 60.0, 7, False, 5.0, 3600.0, 1.0))
        self.assertEqual(pool.panic_threshold, 0.0)
        self.assertEqual(pool.retries, Retries(2, 0.1, 3.0))
        self.assertEqual(pool.queue, Queue(10, 2.0))

    def test_failure_defaults(self) -> None:
        """A file that says nothing about failures has no checks, and has the defaults for all else."""
        pool = only_pool("servers: [{name: a, url: http://a}]", "x.yaml")
        self.assertEqual(pool, PoolSpec("round_robin", {}, (ServerSpec("a", "http://a", "a", 80),)))

    def test_health_checks(self) -> None:
        """A server has the check of all servers, with what it says itself; false is none."""
        cases: list[tuple[str, str, HealthCheck | None]] = [
            ("", "", None),
            ("false", "", None),
            ("{}", "", HealthCheck()),
            ("{path: /a, fails: 9}", "", HealthCheck("/a", fails=9)),
            ("{path: /a, fails: 9}", "{path: /b, passes: 7}", HealthCheck("/b", fails=9, passes=7)),
            ("{path: /a}", "{}", HealthCheck("/a")),
            ("{path: /a}", "false", None),
            ("false", "{path: /b}", HealthCheck("/b")),
            ("", "{path: /b}", HealthCheck("/b")),
        ]
        for general, own, expected in cases:
            text = f"health_check: {general}\nservers: [{{name: a, url: http://a, health_check: {own or 'null'}}}]"
            self.assertEqual(only_pool(text, "x.yaml").servers[0].health_check, expected, text)

    def test_statuses(self) -> None:
        """A status is a number, a range, or a list of both."""
        cases = [
            ("200", ((200, 200),)),
            ("'204'", ((204, 204),)),
            ("200-399", ((200, 399),)),
            ("[200, 204]", ((200, 200), (204, 204))),
            ("[200 - 299, 503]", ((200, 299), (503, 503))),
        ]
        for value, expected in cases:
            text = f"servers: [{{name: a, url: http://a}}]\nhealth_check: {{status: {value}}}"
            check = only_pool(text, "x.yaml").servers[0].health_check
            self.assertEqual(check, HealthCheck(status=expected), value)

    def test_no_ejection(self) -> None:
        """`ejection: false` looks at no requests."""
        pool = only_pool("ejection: false\nservers: [{name: a, url: http://a}]", "x.yaml")
        self.assertEqual((pool.ejection.consecutive_failures, pool.ejection.failure_share), (0, 0))

    def test_immutable(self) -> None:
        """The description cannot be changed."""
        pool = only_pool("servers: [{name: a, url: http://a:1}]", "x.yaml")
        self.assertRaises(AttributeError, setattr, pool, "balancer", "x")
        self.assertRaises(AttributeError, setattr, pool.servers[0], "weight", 2)
        self.assertFalse(hasattr(pool.options, "__setitem__"))

    def test_files_of_the_project(self) -> None:
        """The two server files that the project ships can be used, and name three servers each."""
        for name in ("servers.yaml", "compose/servers.yaml"):
            pool = only_pool((ROOT / name).read_text(), name)
            self.assertEqual([one.name for one in pool.servers], ["server1", "server2", "server3"])


class RefusalTests(SynchronousTestCase):
    def problems(self, text: str) -> tuple[str, ...]:
        return self.assertRaises(Misconfigured, read_gateway, text, "x.yaml").problems

    def test_server_lines(self) -> None:
        """A server that cannot be used is told with file, line, key and what was expected."""
        form = "servers[1].url: expected http://host[:port]"
        text_form = "a text of the form http://host[:port] or https://host[:port]"
        name = "servers[1].name: expected a text of 1 to 64 letters, digits and . _ : -, such as server1, not "
        weight = "servers[1].weight: expected a whole number from 0 (drain) to 1000, not "
        state = "servers[1].admin_state: expected ready, drain or disabled, not "
        cases = [
            ("{name: a, url: http://a, weihgt: 2}", "servers[1].weihgt: unknown key; did you mean 'weight'?"),
            ("{name: a, url: http://a, x: 2}", "servers[1].x: unknown key; expected one of name, url, weight"),
            ("{name: a}", f"servers[1].url: is missing; expected {text_form}"),
            ("{name: 7, url: http://a}", name + "7"),
            ("{name: on, url: http://a}", name + "True"),
            ("{name: '', url: http://a}", name + "''"),
            ("{name: a b, url: http://a}", name + "'a b'"),
            ('{name: "a\\n", url: http://a}', name + "'a\\n'"),
            ("{name: good, url: http://a}", "servers[1].name: 'good' is already the name of servers[0]"),
            ("{name: a, name: b, url: http://a}", "servers[1].name: duplicate key, first on line 3"),
            ("{name: a, url: 7}", f"servers[1].url: expected {text_form}, not 7"),
            ("{name: a, url: https://a..b}", "servers[1].url: expected a host name such as api.example.com, or an IP"),
            ("{name: a, url: 'https://a/b'}", "servers[1].url: expected https://host[:port] without a path"),
            ("{name: a, url: 'a:9001'}", form),
            ("{name: a, url: 'ftp://a'}", form),
            ("{name: a, url: 'http://'}", form),
            ("{name: a, url: 'http://a:'}", form),
            ("{name: a, url: 'http://a b'}", form),
            ("{name: a, url: 'http://ä'}", form),
            ("{name: a, url: 'http://[::1'}", form),
            ('{name: a, url: "http://a\\n"}', form),
            ("{name: a, url: 'http://me:pw@a'}", form + " without user and password"),
            ("{name: a, url: 'http://a/b'}", form + " without a path"),
            ("{name: a, url: 'http://a?b'}", form + " without a query"),
            ("{name: a, url: 'http://a#b'}", form + " without a fragment"),
            ("{name: a, url: 'http://a:0'}", "servers[1].url: expected a port from 1 to 65535, not 0"),
            ("{name: a, url: 'http://a:65536'}", "servers[1].url: expected a port from 1 to 65535, not 65536"),
            ("{name: a, url: 'http://1.2.3'}", "servers[1].url: expected an IP address: "),
            ("{name: a, url: 'http://[::g]'}", "servers[1].url: expected an IP address: "),
            ("{name: a, url: http://a, weight: -1}", weight + "-1"),
            ("{name: a, url: http://a, admin_state: maint}", state + "'maint'"),
            ("{name: a, url: http://a, admin_state: true}", state + "True"),
            ("{name: a, url: http://a, weight: 1001}", weight + "1001"),
            ("{name: a, url: http://a, weight: 1.0}", weight + "1.0"),
            ("{name: a, url: http://a, weight: '1'}", weight + "'1'"),
            ("{name: a, url: http://a, weight: true}", weight + "True"),
            ("{name: a, url: http://a, weight: }", weight + "None"),
            ("{name: a, url: http://a, maxconn: -1}", "servers[1].maxconn: expected a whole number from 0 (any"),
            ("{name: a, url: http://a, backup: 1}", "servers[1].backup: expected true or false, not 1"),
            ("{name: a, url: http://a, slowstart: -1}", "servers[1].slowstart: expected a time from 0s to 24h, "),
            ("{name: a, url: http://a, health_check: 1}", "servers[1].health_check: expected a mapping with "),
            (
                "{name: a, url: http://a, health_check: {fails: x}}",
                "servers[1].health_check.fails: expected a whole number from 1 to 1000, not 'x'",
            ),
            ("http://a", f"servers[1]: expected a mapping with any of the keys {SERVER_KEYS}, not 'http://a'"),
        ]
        for line, expected in cases:
            (problem,) = self.problems(server(line))
            self.assertTrue(problem.startswith(f"x.yaml:3: {expected}"), (line, problem))

    def test_failure_words(self) -> None:
        """A word about failures that cannot be used is told with its key, and what was expected."""
        time = "expected a time from 0.1s to 24h, in seconds or with a unit, such as 5, 500ms, 10s or 1m, not "
        status = "health_check.status: expected a status such as 200, a range such as '200-399', or a list of them"
        check = "a mapping with any of the keys path, interval, timeout, passes, fails, status"
        retries = "a mapping with any of the keys attempts, budget, min_per_second"
        path = "health_check.path: expected a path such as /healthz, at most 1024 visible ASCII characters, not "
        cases = [
            ("health_check: true", f"health_check: expected {check}, or false for none, not True"),
            ("health_check: /x", f"health_check: expected {check}, or false for none, not '/x'"),
            ("health_check: {pth: /x}", "health_check.pth: unknown key; did you mean 'path'?"),
            ("health_check: {3: /x}", "health_check[3]: unknown key; expected one of path, interval, "),
            ("health_check: {path: x}", path + "'x'"),
            ("health_check: {path: '/a b'}", path + "'/a b'"),
            ("health_check: {path: '/a#b'}", path + "'/a#b'"),
            ('health_check: {path: "/a\\r\\nX: y"}', path),
            ('health_check: {path: "/a\\n"}', path),
            ("health_check: {interval: 0}", f"health_check.interval: {time}0"),
            ("health_check: {interval: 5x}", f"health_check.interval: {time}'5x'"),
            ("health_check: {interval: true}", f"health_check.interval: {time}True"),
            ("health_check: {interval: .nan}", f"health_check.interval: {time}nan"),
            ("health_check: {interval: .inf}", f"health_check.interval: {time}inf"),
            ("health_check: {interval: }", f"health_check.interval: {time}None"),
            ("health_check: {fails: 0}", "health_check.fails: expected a whole number from 1 to 1000, not 0"),
            ("health_check: {status: 100}", status),
            ("health_check: {status: 600}", status),
            ("health_check: {status: 399-200}", status),
            ("health_check: {status: true}", status),
            ("health_check: {status: []}", status),
            ("health_check: {status: [[200]]}", status),
            ("ejection: {failure_share: 1.1}", "ejection.failure_share: expected a number from 0 to 1, not 1.1"),
            ("ejection: {max_share: .nan}", "ejection.max_share: expected a number from 0 to 1, not nan"),
            ("ejection: {window: -1}", f"ejection.window: {time}-1"),
            ("ejection: {server_errors: 1}", "ejection.server_errors: expected true or false, not 1"),
            ("ejection: {max_time: 5}", "ejection.max_time: expected at least base_time, which is 10 s, not 5 s"),
            ("ejection: 7", "ejection: expected a mapping with any of the keys consecutive_failures, "),
            ("panic_threshold: 30%", "panic_threshold: expected a number from 0 to 1, not '30%'"),
            ("retries: {attempts: 0}", "retries.attempts: expected a whole number from 1 to 100, not 0"),
            ("retries: {min_per_second: -1}", "retries.min_per_second: expected a number from 0 to 1000000, not -1"),
            ("retries: false", f"retries: expected {retries}, not False"),
            ("retries: 3", f"retries: expected {retries}, not 3"),
            ("retries:", f"retries: expected {retries}, not None"),
            ("retries: [3]", f"retries: expected {retries}, not [3]"),
            ("queue: 100", "queue: expected a mapping with any of the keys size, timeout, not 100"),
            ("queue: {size: -1}", "queue.size: expected a whole number from 0 to 1000000, not -1"),
            ("queue: {timeout: 0}", "queue.timeout: expected a time from 0.001s to 24h"),
        ]
        for line, expected in cases:
            (problem,) = self.problems(f"servers: [{{name: a, url: http://a}}]\n{line}\n")
            self.assertTrue(problem.startswith(f"x.yaml:2: {expected}"), (line, problem))

    def test_default_names(self) -> None:
        """A server without a name has that of its url, which another one of its pool must not have."""
        text = "servers:\n- {url: 'http://a'}\n- {url: 'http://A/'}\n- {url: 'http://a:80'}\n"
        expected = "x.yaml:3: servers[1]: expected a name: 'a', from its url, is already that of servers[0]"
        self.assertEqual(self.problems(text), (expected,))

    def test_files(self) -> None:
        """A file that is not of the right shape is told so."""
        cases = [
            ("", "x.yaml:1: expected the keys balancer and servers, not None"),
            ("[]", "x.yaml:1: expected the keys balancer and servers, not []"),
            ("balancer: x", "x.yaml:1: expected the key servers, or pools and routes"),
            ("\nservers: []", "x.yaml:2: servers: expected a list of 1 to 10000 servers, each as {url: "),
            ("servers: {a: 1}", "x.yaml:1: servers: expected a list of 1 to 10000 servers, each as {url: "),
            ("a: [", "x.yaml:1: invalid YAML: "),
        ]
        for text, expected in cases:
            (problem,) = self.problems(text)
            self.assertTrue(problem.startswith(expected), (text, problem))

    def test_balancer(self) -> None:
        """A balancer that is neither a name nor a mapping with a name is refused."""
        cases = [
            ("7", "balancer: expected a name, or {name: ..., and its options}, not 7"),
            ("''", "balancer: expected a name, or"),
            ("[a]", "balancer: expected a name, or"),
            ("{speed: 1}", "balancer: expected the key 'name' with the name of a balancer"),
            ("{name: a, 3: 1}", "balancer: expected names as the keys of options, not 3"),
            ("{name: a, two words: 1}", "balancer: expected names as the keys of options, not 'two words'"),
        ]
        for value, expected in cases:
            (problem,) = self.problems(f"servers: [{{name: a, url: http://a}}]\nbalancer: {value}\n")
            self.assertTrue(problem.startswith(f"x.yaml:2: {expected}"), problem)

    def test_pricing(self) -> None:
        """A pricing that is neither a class nor a mapping with one is refused."""
        form = "pricing: expected package.module:Class, or {name: ..., and its options}, not"
        cases = [
            ("7", f"{form} 7"),
            ("''", f"{form} ''"),
            ("", f"{form} None"),
            ("false", f"{form} False"),
            ("{factor: 1}", "pricing: expected the key 'name' with package.module:Class of your own"),
            ("{name: a:B, two words: 1}", "pricing: expected names as the keys of options, not 'two words'"),
        ]
        for value, expected in cases:
            (problem,) = self.problems(f"servers: [{{name: a, url: http://a}}]\npricing: {value}\n")
            self.assertEqual(problem, f"x.yaml:2: {expected}")

    def test_all_at_once(self) -> None:
        """Every problem of a file is reported, in the order of its lines."""
        text = "balanser: x\nservers:\n- {name: a, url: http://a/b}\n- {name: a, url: http://a, weight: x}\n- 3\n"
        lines = [problem.split(":")[1] for problem in self.problems(text)]
        self.assertEqual(lines, ["1", "3", "4", "4", "5"])

    def test_long_value_is_shortened(self) -> None:
        """A value is not repeated at any length."""
        (problem,) = self.problems(server("{name: %s, url: http://a}" % ("x" * 100_000)))
        self.assertLess(len(problem), 300)

    @settings(max_examples=200)
    @given(st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4
        ),
        max_leaves=12,
    ))
    def test_any_data(self, data: object) -> None:
        """Whatever a file holds gives a pool or Misconfigured, and no other exception."""
        shapes = (data, {"servers": data}, {"servers": [data]}, {"health_check": data, "ejection": {"window": data}})
        for text in (*map(json.dumps, shapes), str(data)):
            try:
                read_gateway(text, "x.yaml")
            except Misconfigured as error:
                self.assertTrue(error.problems)


class CorsTests(SynchronousTestCase):
    def test_read(self) -> None:
        """`pass`, as when nothing is said, leaves CORS to the servers; else only the origins must be given."""
        full = "{allowed_origins: [https://A.test, 'https://*.b.test:8443'], allowed_methods: [get, PURGE], "
        full += "allowed_headers: 'X-A, x-b', exposed_headers: [X-C], allow_credentials: true, max_age: 2m}"
        origins = ("https://a.test", "https://*.b.test:8443")
        for text, expected in (
            ("", None),
            ("cors: pass", None),
            ("cors: {allowed_origins: '*'}", Cors(("*",))),
            ("cors: {allowed_origins: [http://localhost:3000, 'null']}", Cors(("http://localhost:3000", "null"))),
            ("cors: {allowed_origins: 'app://x, http://[::1]:*'}", Cors(("app://x", "http://[::1]:*"))),
            ("cors: " + full, Cors(origins, ("GET", "PURGE"), ("X-A", "x-b"), ("X-C",), True, 120.0)),
        ):
            spec = read_gateway(f"{text}\nservers: [{{name: a, url: http://a}}]", "x.yaml")
            self.assertEqual(spec.cors, expected, text)

    def test_refused(self) -> None:
        """What cannot be used is an error that names the key and says what was expected."""
        for value, key, said in (
            ("false", "cors", "expected pass, or the keys of cors, not False"),
            ("allow", "cors", "expected pass, or the keys of cors"),
            ("{}", "cors.allowed_origins", "is missing; expected a list of origins"),
            ("{allowed_origins: []}", "cors.allowed_origins", "expected a list of one or more of origins, not []"),
            ("{allowed_origins: [null]}", "cors.allowed_origins", "expected a list of one or more of origins"),
            ("{allowed_origins: [a.test]}", "cors.allowed_origins", "expected an origin such as https://app.example.com"),
            ("{allowed_origins: [https://a.test/]}", "cors.allowed_origins", "without a path, not 'https://a.test/'"),
            ("{allowed_origins: ['https://*']}", "cors.allowed_origins", "expected an origin such as"),
            ("{allowed_origins: ['https://a.*.test']}", "cors.allowed_origins", "expected an origin such as"),
            ("{allowed_origins: ['https://b\xfccher.test']}", "cors.allowed_origins", "expected an origin such as"),
            ("{allowed_origins: [https://a:443]}", "cors.allowed_origins", "'https://a' without its default port"),
            ("{allowed_origins: [https://a:70000]}", "cors.allowed_origins", "expected a port from 1 to 65535"),
            ("{allowed_origins: '*', allow_credentials: true}", "cors.allowed_origins", "names when allow_credentials"),
            ("{allowed_origins: 'null', allow_credentials: true}", "cors.allowed_origins", "names when allow_cred"),
            ("{allowed_origins: '*', allowed_methods: [a b]}", "cors.allowed_methods", "expected a method such as"),
            ("{allowed_origins: '*', allowed_headers: ['a:']}", "cors.allowed_headers", "the name of a header field"),
            ("{allowed_origins: '*', max_age: -1}", "cors.max_age", "expected a time from 0s"),
            ("{allowed_origins: '*', allow_credentials: 1}", "cors.allow_credentials", "expected true or false, not 1"),
            ("{allowed_origins: '*', expose_headers: a}", "cors.expose_headers", "did you mean 'exposed_headers'?"),
        ):
            text = f"servers: [{{name: a, url: http://a}}]\ncors: {value}"
            error = self.assertRaises(Misconfigured, read_gateway, text, "x.yaml")
            self.assertIn(f"x.yaml:2: {key}: ", error.problems[0], value)
            self.assertIn(said, error.problems[0], value)


POOL = "pools: {p: {servers: [{url: 'http://a'}]}}\nroutes:\n- {%s}\n"


class RouteTests(SynchronousTestCase):
    def problem(self, route: str) -> str:
        (problem,) = self.assertRaises(Misconfigured, read_gateway, POOL % route, "x.yaml").problems
        self.assertTrue(problem.startswith("x.yaml:3: routes[0]"), problem)
        return problem.removeprefix("x.yaml:3: routes[0]").removeprefix(".")

    def test_refused(self) -> None:
        """Of each key that cannot be used, the error names the key and what was expected."""
        size = "a size from 0 to 1125899906842624, in bytes or with a unit, such as 65536, 64k or 10m"
        for route, expected in (
            ("path: /x", ": expected one of the keys pool, split, respond and redirect"),
            ("pool: q", "pool: there is no pool 'q'; expected one of ['p']"),
            ("pool: p, respond: {}", "respond: expected without pool: a request has one end"),
            ("respond: {}, redirect: {to: /x}", "redirect: expected without respond: a request has one end"),
            ("pool: p, split: {pools: {p: 1}}", "split: expected without pool: a request has one end"),
            ("split: {pools: {q: 1, p: 2}}", "split.pools.q: there is no pool 'q'; expected one of ['p']"),
            ("split: {pools: {p: 0}}", "split.pools: expected a number above 0 for one of the pools"),
            ("split: {pools: {p: -1}}", "split.pools.p: expected a mapping of the names of pools and whole numbers"),
            ("split: {pools: {}}", "split.pools: expected a mapping of the names of pools and whole numbers from"),
            ("split: {pools: {p: 1}, by: day}", "split.by: expected key or client, not 'day'"),
            ("respond: {}, timeout: 5s", "timeout: expected only with a pool"),
            ("respond: {}, strip_prefix: /x, path: /x/", "strip_prefix: expected only with a pool"),
            ("respond: {status: 99}", "respond.status: expected a status from 200 to 599, not 99"),
            ("respond: {status: 301}", "respond.status: expected none from 300 to 399, which is for redirect"),
            ("respond: {status: 204, body: x}", "respond.body: expected no body with the status 204"),
            ("respond: {text: x}", "respond.text: unknown key; expected one of status, body, content_type"),
            ("respond: {content_type: \"a\\r\\nb: c\"}", "respond.content_type: expected a media type such as"),
            ("redirect: {}", "redirect.to: is missing; expected an absolute URL or a path"),
            ("redirect: {to: '{path}'}", "redirect.to: expected an absolute URL or a path"),
            ("redirect: {to: //evil}", "redirect.to: expected an absolute URL or a path"),
            ("redirect: {to: 'javascript:x'}", "redirect.to: expected an absolute URL or a path"),
            ("redirect: {to: '/x{y}'}", "redirect.to: expected {host}, {path} or {query}, not {y}"),
            ("redirect: {to: /x, status: 200}", "redirect.status: expected 301, 302, 303, 307 or 308, not 200"),
            ("pool: p, key: maybe", "key: expected required, optional or none, not 'maybe'"),
            ("pool: p, cost: -1", "cost: expected a whole number from 0 to "),
            ("pool: p, timeout: never", "timeout: expected a time from 0.01s to 24h"),
            ("pool: p, retries: {budget: 1}", "retries.budget: unknown key; expected one of attempts"),
            ("pool: p, retries: {attempts: 0}", "retries.attempts: expected a whole number from 1 to 100, not 0"),
            ("pool: p, max_body: lots", f"max_body: expected {size}, not 'lots'"),
            ("pool: p, max_body: true", f"max_body: expected {size}, not True"),
            ("pool: p, path: /x/, strip_prefix: /y", "strip_prefix: expected the beginning of path, which is '/x/'"),
            ("pool: p, path: /xy/, strip_prefix: /x", "strip_prefix: expected the beginning of path, which is '/xy/'"),
            ("pool: p, path: /x/, strip_prefix: x", "strip_prefix: expected a path such as /health"),
            ("pool: p, path: /x/, strip_prefix: /", "strip_prefix: expected segments at the beginning of the path"),
            ("pool: p, allow: here", "allow: 'here' is not an address or a range"),
            ("pool: p, deny: [10.0.0.1/8]", "deny: '10.0.0.1/8' has bits set after its prefix"),
            ("pool: p, deny: {a: b}", "deny: expected a list of addresses and ranges"),
            ("pool: p, maintenance: soon", "maintenance: expected a time from 1s to 24h"),
            ("pool: p, host: 'http://a'", "host: expected a host such as api.example.com"),
            ("pool: p, host: a.*.b", "host: expected a host such as api.example.com"),
            ("pool: p, host: '*'", "host: expected a host such as api.example.com"),
            ("pool: p, host: bücher.test", "host: expected a host such as api.example.com"),
            ("pool: p, path: x", "path: expected a path such as /health"),
            ("pool: p, path: '/x?y'", "path: expected a path such as /health"),
            ("pool: p, path: '/x*'", "path: expected a path such as /health"),
            ("pool: p, path: '/%zz'", "path: expected a path such as /health"),
            ("pool: p, methods: []", "methods: expected a list of one or more methods, not []"),
            ("pool: p, methods: post", "methods: expected POST, not 'post'"),
            ("pool: p, headers: [a]", "headers: expected a mapping of field names to values"),
            ("pool: p, headers: {'a b': c}", "headers: expected the name of a header field, not 'a b'"),
            ("pool: p, headers: {a: 1}", "headers: expected a text of visible ASCII, or null for any value, not 1"),
            ("pool: p, headers: {a: b, A: b}", "headers: expected each field once, not 'A' twice"),
            ("respond: {}, request_headers: {remove: A}", "request_headers: expected only with a pool"),
            ("pool: p, response_headers: {add: {connection: a}}", "response_headers.add: expected no connection"),
            ("pool: p, response_headers: {remove: 3}", "response_headers.remove: expected a list of field names"),
            ("pool: p, name: 'a b'", "name: expected a text of 1 to 64 letters"),
        ):
            problem = self.problem(route)
            self.assertTrue(problem.startswith(expected), (route, problem))

    def test_header_rules_refused(self) -> None:
        """The same for rules for header fields."""
        for rules, expected in (
            ("{sets: {}}", ".sets: unknown key; did you mean 'set'?"),
            ("[A]", ": expected a mapping with any of the keys set, add, remove"),
            ("{set: [A]}", ".set: expected a mapping of field names to values"),
            ("{set: {'a b': c}}", ".set: expected the name of a header field"),
            ("{set: {A: 1}}", ".set: expected a text of one line for A, not 1"),
            ("{set: {A: \"b\\nC: d\"}}", ".set: expected a text of one line"),
            ("{set: {A: b, a: c}}", ".set: expected each field once, not 'a'"),
            ("{set: {A: '{b}'}}", ".set: expected braces in the value of A only"),
            ("{set: {A: '{host!r}'}}", ".set: expected braces in the value"),
            ("{set: {A: '{'}}", ".set: expected braces in the value of A only"),
            ("{remove: Host}", ".remove: expected no Host, which this gateway"),
            ("{add: {Host: a}}", ".add: expected no Host, which this gateway"),
            ("{set: {Content-Length: '1'}}", ".set: expected no Content-Length"),
        ):
            problem = self.problem(f"pool: p, request_headers: {rules}")
            self.assertTrue(problem.startswith(f"request_headers{expected}"), (rules, problem))

    def test_pools(self) -> None:
        """Pools and routes that do not belong together."""
        pool = "{servers: [{url: 'http://a'}]}"
        for text, expected in (
            (f"pools: {{p: {pool}, q: {pool}}}", "x.yaml:1: pools: expected routes beside it"),
            ("servers: [{url: 'http://a'}]\nroutes: [{pool: a}]", "x.yaml:2: routes: expected pools beside it"),
            (f"servers: [{{url: 'http://a'}}]\npools: {{p: {pool}}}", "x.yaml:1: servers: expected in one of the"),
            ("pools: {}", "x.yaml:1: pools: expected a mapping of names and pools, not {}"),
            (f"pools: {{'a b': {pool}}}", "x.yaml:1: pools.a b: expected a text of 1 to 64 letters"),
            ("pools: {p: 3}", "x.yaml:1: pools.p: expected a mapping with any of the keys balancer"),
            (f"pools: {{p: {pool}}}\nroutes: [3]", "x.yaml:2: routes[0]: expected a mapping with any of the keys name"),
            (f"pools: {{p: {pool}}}\ntls: {{}}", "x.yaml:2: tls: expected at least one server with an https:// url"),
        ):
            (problem,) = self.assertRaises(Misconfigured, read_gateway, text, "x.yaml").problems
            self.assertTrue(problem.startswith(expected), (text, problem))

    def test_keys_of_all_pools(self) -> None:
        """A pool has the keys at the top that it does not have itself, of sections key by key."""
        spec = read_gateway(
            "balancer: random\nretries: {attempts: 5}\nhealth_check: {path: /h}\nqueue: {size: 3}\nmaintenance: true\n"
            "pools:\n"
            "  a: {servers: [{url: 'http://a'}]}\n"
            "  b: {balancer: first, retries: {budget: 1}, health_check: false, maintenance: false,"
            " servers: [{url: 'http://b'}, {url: 'http://c', health_check: {path: /c}}]}\n"
            "routes: [{pool: a, path: /a/}, {pool: b}]\n",
            "x.yaml",
        )
        a, b = spec.pools
        self.assertEqual((a.balancer, b.balancer), ("random", "first"))
        self.assertEqual((a.retries, b.retries), (Retries(5), Retries(5, 1)))
        self.assertEqual((a.queue, b.queue), (Queue(3), Queue(3)))
        self.assertEqual((a.maintenance, b.maintenance), (60.0, 0.0))
        checks = [server.health_check for server in spec.servers]
        self.assertEqual(checks, [HealthCheck("/h"), None, HealthCheck("/c")])

    def test_keys_that_say_the_default(self) -> None:
        """Keys of a pool that have the values of `false`, or none, leave the others at the top as they are."""
        max_time, off = "ejection: {max_time: 30}", "ejection: {consecutive_failures: 0, failure_share: 0}"
        for general, own, expected in (
            ("health_check: {path: /h, interval: 1}", "health_check: {fails: 3}", HealthCheck("/h", interval=1.0)),
            ("health_check: {path: /h, interval: 1}", "health_check: {}", HealthCheck("/h", interval=1.0)),
            (off, max_time, Ejection(0, 0, max_time=30)),
            (max_time, off, Ejection(0, 0, max_time=30)),
        ):
            text = f"{general}\npools: {{p: {{{own}, servers: [{{url: 'http://a'}}]}}}}\nroutes: [{{pool: p}}]\n"
            (pool,) = read_gateway(text, "x.yaml").pools
            found = pool.servers[0].health_check if "health" in own else pool.ejection
            self.assertEqual(found, expected, (general, own))
