"""What --check prints."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.describe import description
from twisted_lb.app.startup import Startup
from twisted_lb.app.version import version_text
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Settings

ALL = """
balancer: {name: sticky, secret: geheim}
health_check: {path: /healthz, interval: 2s, status: 200-299}
panic_threshold: 0.5
retries: {attempts: 1}
queue: {size: 7, timeout: 500ms}
pricing: {name: "mine:Class", key: geheim, factor: 3}
ejection: false
servers:
- {name: a, url: "http://127.0.0.1:9001", weight: 0, maxconn: 5, backup: true, slowstart: 30s}
- {name: b, url: "http://10.0.0.1", health_check: false}
"""


def described(text: str, **settings: Any) -> str:
    return description(Startup(Settings(**settings), read_gateway(text, "x.yaml"), text, False))


class DescriptionTests(SynchronousTestCase):
    def test_everything(self) -> None:
        """Each thing that the file says is there as the program understands it."""
        health = ("tcp:9091", "tcp:9092")
        more = {"health_listen": health, "redis_url": "redis://h:1", "head_timeout": 7.5}
        said = described(ALL, listen=("tcp:80", "tcp6:80"), workers=3, **more)
        for part in (
            f"program    {version_text()}\n",
            "public     tcp:80, tcp6:80\n",
            "workers    3\n",
            "health     tcp:9091, tcp:9092\n",
            "settings   HEAD_TIMEOUT=7.5\n",
            "balancer   sticky, secret=...\n",
            "pricing    mine:Class, key=..., factor=...\n",
            "ejection   none\n",
            "panic      below 50% healthy servers\n",
            "retries    none\n",
            "queue      7 requests, 0.5 s\n",
            "  a, http://127.0.0.1:9001, weight 0 (draining), maxconn 5, backup, slow start of 30 s, "
            "check /healthz every 2 s, timeout 2 s, status 200-299, 3 fails, 2 passes\n",
        ):
            self.assertIn(part, said)
        self.assertTrue(said.endswith("  b, http://10.0.0.1, weight 1, no health check"), said)

    def test_webhook(self) -> None:
        """The host of the webhook is shown, and neither its path and query nor its secret."""
        said = described(ALL, webhook_url="https://hooks.example:8443/path?key=query", webhook_secret="whsec_abc")
        self.assertIn("\nwebhook    hooks.example:8443, signed\nsettings   all others have their defaults\n", said)
        for secret in ("path", "query", "whsec"):
            self.assertNotIn(secret, said.partition("\nsettings")[0])
        self.assertNotIn("\nwebhook", described(ALL))

    def test_notices(self) -> None:
        """What an operator may have meant otherwise is there, too."""
        startup = Startup(Settings(), read_gateway(ALL, "x.yaml"), ALL, False, ("X is no setting", "Y neither"))
        self.assertIn("\nnotice     X is no setting\nnotice     Y neither\n", description(startup))

    def test_no_pricing(self) -> None:
        """Without a pricing class it says what a request costs then."""
        said = described(ALL.replace("pricing", "#"))
        self.assertIn("pricing    1 token per request, or as the server reports\n", said)

    def test_cors(self) -> None:
        """Who may do what from a page of another origin is told, and that it is the servers' business by default."""
        self.assertIn("cors       preflights are passed to the servers\n", described(ALL))
        more = "cors: {allowed_origins: [https://a.test, 'https://*.b.test'], allow_credentials: true, "
        said = described(more + "allowed_methods: [PUT], allowed_headers: [], max_age: 1m}\n" + ALL)
        allowed = "https://a.test, https://*.b.test, with credentials; methods PUT; headers none; max age 60 s"
        self.assertIn(f"cors       {allowed}\n", said)

    def test_no_secrets(self) -> None:
        """No password, no token and no value of an option is printed."""
        secrets = {"admin_token": "geheim", "redis_sentinel_password": "geheim"}
        said = described(ALL, redis_url="redis+sentinel://user:geheim@h:1", **secrets)
        self.assertNotIn("geheim", said)
        self.assertIn("store      Redis at mymaster (sentinels h:1)\n", said)
        self.assertIn("with a token", said)

    def test_routes(self) -> None:
        """Each pool has its name and its servers, and each route is one line with what it does."""
        said = described("""
maintenance: 5m
pools:
  a: {servers: [{url: "http://a"}]}
  b: {maintenance: false, servers: [{url: "http://b"}]}
routes:
- {host: api.test, path: /v1/, methods: [GET, PUT], headers: {X-A: geheim, X-B: null}, pool: a, cost: 3, timeout: 90s}
- {path: /x/, pool: b, key: optional, retries: {attempts: 2}, max_body: 1k, strip_prefix: /x, name: x}
- {path: /y, respond: {status: 404, body: "xx"}, key: none, allow: 10.0.0.0/8, deny: [10.1.0.0/16]}
- {redirect: {to: "https://a.test{path}?b"}, maintenance: true}
""")
        for part in (
            "pool       a\nbalancer   round_robin\n",
            "\nstatus     in maintenance: requests are answered 503, with 300 s in Retry-After\n  a, http://a, ",
            "pool       b\n",
            "\n  api.test, /v1/, GET PUT, x-a: ..., x-b -> pool a, cost 3, timeout 90 s\n",
            "\n  any host, /x/ -> pool b, key optional, attempts 2, bodies up to 1024 bytes, without /x (x)\n",
            "\n  any host, /y -> 404 with 2 bytes, key none, allows 10.0.0.0/8, denies 10.1.0.0/16\n",
        ):
            self.assertIn(part, said)
        self.assertNotIn("limits", said)
        self.assertTrue(said.endswith("\n  any host, any path -> 308 to https://a.test{path}?b, in maintenance (60 s)"))
        self.assertEqual(said.count("maintenance"), 2)

    def test_hooks_and_mirrors(self) -> None:
        """Hooks are there without the values of their options, and mirrors with their share."""
        said = described("""
pools:
  a: {servers: [{url: "http://a"}], hooks: {name: "mine:Hooks", key: geheim}}
  b: {servers: [{url: "http://b"}]}
routes:
- {path: /x/, pool: a, mirror: {pool: b, percent: 0.5}}
- {pool: a, hooks: {name: "mine:Others", key: geheim}, mirror: b}
""")
        for part in (
            "\nhooks      mine:Hooks, key=...\n",
            "\n  any host, /x/ -> pool a, 0.5 % mirrored to b\n",
            "\n  any host, any path -> pool a, hooks mine:Others, key=..., 100 % mirrored to b",
        ):
            self.assertIn(part, said)
        self.assertNotIn("geheim", said)

    def test_limits(self) -> None:
        """Limits of a pool have a line, and those of a route stand with it."""
        said = described("""
pools: {a: {limits: [{name: all, per: pool, capacity: 9, rate_per_sec: 0.5}], servers: [{url: "http://a"}]}}
routes:
- pool: a
  limits: [{name: k, per: key, capacity: 3, rate_per_sec: 1}, {name: r, per: route, capacity: 4, rate_per_sec: 0}]
""")
        self.assertIn("\nlimits     all (9 for the pool, 0.5 a second)\n", said)
        limits = "k (3 for each key, 1 a second) and r (4 for the route, 0 a second)"
        self.assertTrue(said.endswith(f"\n  any host, any path -> pool a, limits {limits}"), said)
