"""GET /explain: which route a request takes, and why not the others."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import Answer, read_answer
from tests.api.operator import Client, head_of
from twisted_lb.api.admin import admin_factory
from twisted_lb.api.status import Report, shown_server
from twisted_lb.app.explain import MOST_OTHERS, Explainer
from twisted_lb.app.explain_servers import choices
from twisted_lb.app.gateway import Gateway
from twisted_lb.config.admin_tokens import admin_tokens
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.interfaces import Limits, Policy, StoreUnavailable
from twisted_lb.wire.head import HeadLimits, read_request_head

TEXT = """
pools:
  a: {servers: [{name: a1, url: "http://127.0.0.1:1"}, {name: a2, url: "http://127.0.0.1:2", weight: 0}]}
  b: {maintenance: true, servers: [{name: b1, url: "http://127.0.0.1:3"}]}
routes:
- {name: v1, host: api.test, path: /v1/, pool: a, cost: 3, deny: 192.0.2.0/24}
- {name: post, path: /v1/, methods: POST, headers: {X-Secret: s3cret}, pool: a}
- {name: beta, headers: {X-Beta: null}, split: {pools: {a: 1, b: 1}}}
- {name: health, path: /health, respond: {status: 204}, key: none}
- {name: old, host: "*.old.test", redirect: {to: "https://{host}/new{path}"}}
- {name: later, path: /later/, pool: b}
- {name: now, path: /now, pool: a, maintenance: true}
"""

LIMITED = """
pools:
  a: {servers: [{url: "http://a"}], limits: [{name: all, per: pool, capacity: 9, rate_per_sec: 1}]}
routes:
- pool: a
  key: optional
  limits: [{name: k, per: key, capacity: 3, rate_per_sec: 0}, {name: n, per: network, capacity: 4, rate_per_sec: 2}]
- {name: denied, path: /denied, pool: a, deny: 0.0.0.0/0}
- {name: free, path: /free, respond: {}, key: none}
"""
DIGEST = "0123456789abcdef" * 4
LIMITS = Limits(Policy(1000, 10.0), Policy(20, 2.0), 7)


class Running:
    """The servers of a program."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.away = False
        self.asked: list[tuple[str, list[list[Any]]]] = []
        self.users: list[str] = []
        self.own: dict[str, Any] | None = None  # the bucket of the key
        self.quota: dict[str, Any] | None = None  # of the user
        self.refused = ""

    def report(self) -> Report:
        pools = self._gateway.pools.items()
        servers = [shown_server(one, name) for name, pool in pools for one in pool.pool.backends]
        return Report(True, False, "", servers, {})

    def choices(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.users.append(asked["user"])
        return choices(self._gateway, json.loads(json.dumps(asked)))

    async def levels(self, digest: str, buckets: list[list[Any]]) -> dict[str, Any]:
        if self.away:
            raise StoreUnavailable("away")
        self.asked.append((digest, buckets))
        account = {"user": "Ann", "capacity": 5, "rate_per_sec": 1.0, "level": 2.5, "own": self.own}
        if self.quota is not None:
            account["quota"] = self.quota
        known = digest == DIGEST and not self.refused
        return {
            "levels": {key: 1_500_000 + at for at, (key, _, _) in enumerate(buckets)},
            "key": account if known else None,
            "refused": self.refused,
        }


class ExplainTests(SynchronousTestCase):
    away = False  # the store
    own: dict[str, Any] | None = None
    quota: dict[str, Any] | None = None
    refused = ""

    def call(self, query: list[tuple[str, str]] | str, text: str = TEXT, token: str = "", field: bytes = b"") -> Answer:
        gateway = Gateway(Clock(), read_gateway(text, "x.yaml"))
        running: Any = Running(gateway)
        self.running = running
        running.away, running.own, running.refused = self.away, self.own, self.refused
        running.quota = self.quota
        client = Client(admin_factory(Clock(), running, admin_tokens(token), explaining=Explainer(gateway, LIMITS)))
        target = "/explain?" + (query if isinstance(query, str) else urlencode(query))
        client.send(head_of("GET", target, *([field] if field else []), host=b"localhost:9090"))
        return read_answer(client.received, "GET")

    def explained(self, text: str = TEXT, **query: str) -> dict[str, Any]:
        answer = self.call(list(query.items()), text)
        self.assertEqual(answer.status, 200, answer.body)
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def test_pool(self) -> None:
        """The route and its terms, the pool and its servers, and why not each other route."""
        found = self.explained(host="API.test:80", path="/x/../v1/y?z")
        self.assertEqual(
            found["route"],
            {
                "name": "v1",
                "host": "api.test",
                "path": "/v1/",
                "methods": [],
                "headers": [],
                "pools": ["a"],
                "mirror": None,
                "hooks": None,
                "key": "required",
                "cost": 3,
            },
        )
        self.assertEqual((found["compared_as"], found["pool"], found["status"]), ("/v1/y", "a", None))
        self.assertEqual(
            [(one["name"], one["state"], one["choice"], one["why_not"]) for one in found["servers"]],
            [("a1", "up", 1, None), ("a2", "draining", None, "its weight is 0")],
        )
        self.assertEqual(
            {one["name"]: one["why_not"] for one in found["others"]},
            {
                "post": "its methods are POST",
                "beta": "it asks for x-beta",
                "health": "its path is /health",
                "old": "its host is *.old.test",
                "later": "its path is /later/",
                "now": "its path is /now",
            },
        )

    def test_user(self) -> None:
        """Balancers see the user that is named, or that of the key; limits do not show it."""
        for query, user in (({}, ""), ({"key_digest": DIGEST}, "Ann"), ({"key_digest": DIGEST, "user": "Zoë"}, "Zoë")):
            found = self.explained(host="api.test", path="/v1/", **query)
            self.assertEqual(self.running.users, [user])
            self.assertNotIn("user", str(found["limits"]))

    def test_outcomes(self) -> None:
        """What becomes of a request that goes to no server."""
        for query, name, status, reason in (
            ({"path": "/v1/", "host": "api.test", "client": "192.0.2.7"}, "v1", 403, "forbidden"),
            ({"path": "/v1/", "host": "api.test", "client": "192.0.3.7"}, "v1", None, "it goes to the pool a"),
            ({"path": "/v1/"}, None, 404, "no_route"),
            ({"path": "/v1/", "method": "POST", "header": "X-Secret: s3cret"}, "post", None, "it goes to the pool a"),
            ({"path": "/health"}, "health", 204, "the route answers itself"),
            ({"host": "a.old.test", "path": "/x?y"}, "old", 308, "the route answers itself to https://a.old.test/new/x?y"),
            ({"path": "/later/x"}, "later", 503, "maintenance"),
            ({"path": "/now"}, "now", 503, "maintenance"),
            ({"path": "/health/..%2fx"}, None, 400, "bad_request"),
            ({"path": "/user/create", "method": "POST"}, None, None, "the user API serves this path"),
        ):
            found = self.explained(**query)
            route = found["route"] and found["route"]["name"]
            self.assertEqual((route, found["status"]), (name, status), query)
            self.assertTrue(found["reason"].startswith(reason), found)
            self.assertEqual(bool(found["servers"]), found["pool"] is not None)

    def test_split(self) -> None:
        """Which pool has the request is for its key to decide: the servers of all are shown."""
        found = self.explained(header="x-BETA:")
        self.assertEqual((found["route"]["name"], found["pool"], found["status"]), ("beta", None, None))
        self.assertEqual(found["reason"], "it goes to one of the pools by key: 1 to a, 1 to b; b in maintenance")
        self.assertEqual([one["name"] for one in found["servers"]], ["a1", "a2", "b1"])

    def test_no_secret(self) -> None:
        """The value that a route asks for is not shown."""
        for field in ("X-Secret: other", "X-Secret: s3cret"):
            found = self.explained(path="/v1/", method="POST", header=field)
            self.assertNotIn("s3cret", json.dumps(found))
        for field, expected in (("X-Secret: other", "another value of x-secret"), ("X-Other: 1", "x-secret")):
            found = self.explained(path="/v1/", method="POST", header=field)
            self.assertIn({"name": "post", "why_not": f"it asks for {expected}"}, found["others"])

    def test_more_specific(self) -> None:
        """A route that would have had the request comes later."""
        text = "pools: {p: {servers: [{url: 'http://a'}]}}\nroutes:\n- {path: /x/, pool: p}\n- {name: all, pool: p}\n"
        found = self.explained(text, path="/x/")
        why_not = "another route is more specific, or comes first"
        self.assertEqual(found["others"], [{"name": "all", "why_not": why_not}])

    def test_one_pool(self) -> None:
        """A file without routes has one for all requests."""
        found = self.explained("servers: [{url: 'http://a'}]", path="/a/..%2fb")
        self.assertEqual((found["route"]["name"], found["pool"], found["others"]), ("/", "default", []))

    def test_many(self) -> None:
        """Of thousands of routes the first ones are explained."""
        routes = "".join(f"- {{path: /{number}/, pool: p}}\n" for number in range(2 * MOST_OTHERS))
        found = self.explained("pools: {p: {servers: [{url: 'http://a'}]}}\nroutes:\n" + routes, path="/150/")
        self.assertEqual((found["route"]["name"], len(found["others"])), ("/150/", MOST_OTHERS))

    def test_other_routes(self) -> None:
        """After a reload the routes that are in use decide."""
        text = "pools:\n  a: {servers: [{url: http://a}]}\n  b: {servers: [{url: http://b}]}\nroutes:\n"
        gateway = Gateway(Clock(), read_gateway(text + "- {path: /x/, pool: a}\n- {pool: b}\n", "x.yaml"))
        explainer = Explainer(gateway, LIMITS)
        head = read_request_head(b"GET /x/1 HTTP/1.1\r\nHost: a\r\n\r\n", 0, HeadLimits())
        assert head is not None
        found = [explainer.explain(head, "")["pool"] for _ in range(2)]
        gateway.change(read_gateway(text + "- {path: /y/, pool: a}\n- {pool: b}\n", "x.yaml"))
        self.assertEqual([*found, explainer.explain(head, "")["pool"]], ["a", "a", "b"])

    def test_refused(self) -> None:
        """A query that is no request is refused with what is wrong."""
        for query, expected in (
            ("paht=/", "/explain takes method, host, path, client, user and key_id or key_digest"),
            ("path=/&path=/", "/explain takes method, host, path, client, user and key_id or key_digest"),
            ("user=%ff", "user is not a name in percent-encoded UTF-8."),
            ("path=%0d%0aX:y", "method, host, path and header are texts of visible ASCII."),
            ("path=/%20HTTP/1.1%0d%0aX:", "method, host, path and header are texts of visible ASCII."),
            ("path=x", "This is not a valid request: "),
            ("host=a%2Cb%20c", "method, host, path and header are texts of visible ASCII."),
            ("header=a%20b:c", "This is not a valid request: "),
            ("header=Host:a", "This is not a valid request: "),
            ("method=G(T", "This is not a valid request: "),
            ("client=here", "client is not an IP address."),
        ):
            answer = self.call(query)
            self.assertEqual(answer.status, 400, query)
            self.assertTrue(json.loads(answer.body)["detail"].startswith(expected), (query, answer.body))

    def test_token(self) -> None:
        """It needs the admin token if there is one."""
        self.assertEqual(self.call([], token="t").status, 401)
        self.assertEqual(self.call([], token="t", field=b"Authorization: Bearer t").status, 200)

    def limits(self, **query: str) -> list[tuple[Any, ...]]:
        """The limits as tuples of name, per, of, capacity, rate and level."""
        found = self.explained(LIMITED, **query)["limits"]
        return [tuple(value for name, value in limit.items() if name != "shadow") for limit in found]

    def test_shadows(self) -> None:
        """Limits of all routes, and shadows, are shown; shadows come last."""
        text = f"global_limits: [{{name: later, per: all, capacity: 6, rate_per_sec: 1, shadow: true}}]\n{LIMITED}"
        found = self.explained(text, key_digest=DIGEST, client="2001:db8::1")["limits"]
        self.assertEqual([one["shadow"] for one in found], [False] * 6 + [True])
        self.assertEqual((found[-1]["name"], found[-1]["of"], found[-1]["level"]), ("later", "all", 1.500004))

    def test_limits_with_a_key(self) -> None:
        """The limits in the order in which they are asked, with their levels; nothing else of the key is looked at."""
        self.assertEqual(
            self.limits(key_digest=DIGEST, client="2001:db8::1"),
            [
                ("default", "key", None, 5, 1.0, 2.5),
                ("in-flight", "key", None, 7, 0.0, None),
                ("k", "key", "route /", 3, 0.0, 1.5),
                ("n", "network", "route /", 4, 2.0, 1.500001),
                ("all", "pool", "pool a", 9, 1.0, 1.500002),
                ("global", None, None, 1000, 10.0, 1.500003),
            ],
        )
        [(digest, buckets)] = self.running.asked
        keys = [f"limit:route|/|k|key|{DIGEST}", "limit:route|/|n|network|2001:db8::/64", "limit:pool|a|all", "global"]
        self.assertEqual((digest, [key for key, _, _ in buckets]), (DIGEST, keys))

    def test_limits_without_a_key(self) -> None:
        """Without a key the network has the bucket of a limit per key; without a client too, the level is not known."""
        expected = [("k", "key", "route /", 3, 0.0, 1.5), ("n", "network", "route /", 4, 2.0, 1.500001)]
        self.assertEqual(self.limits(client="192.0.2.7")[:2], expected)
        self.assertEqual(self.running.asked[0][1][0][0], "limit:route|/|k|network|192.0.2.7")
        self.assertEqual([level for *_, level in self.limits()], [None, None, 1.5])
        self.assertEqual(self.limits(path="/free", client="192.0.2.7"), [("address", "network", None, 20, 2.0, 1.5)])
        self.assertEqual(self.limits(path="/free", key_digest=DIGEST)[0][-1], None)

    def test_limits_that_are_not_asked(self) -> None:
        """A request that ends before has none, and an unavailable store tells no levels."""
        self.assertEqual(self.limits(path="/denied", client="192.0.2.7"), [])
        self.assertEqual(self.limits(path="/user/create"), [])
        self.away = True
        self.assertEqual({level for *_, level in self.limits(key_digest=DIGEST)}, {None})

    def test_bucket_of_its_own(self) -> None:
        """A key's own bucket comes after that of its user."""
        self.own = {"capacity": 2, "rate_per_sec": 0.5, "level": -1.0}
        expected = [("default", "key", None, 5, 1.0, 2.5), ("api-key", "key", None, 2, 0.5, -1.0)]
        self.assertEqual(self.limits(key_digest=DIGEST)[:2], expected)

    def test_quota(self) -> None:
        """The quota of the user comes after the buckets of user and key, with what is left of it."""
        self.quota = {"capacity": 9, "rate_per_sec": 0.0, "level": 4}
        expected = [("default", "key", None, 5, 1.0, 2.5), ("quota", "user", None, 9, 0.0, 4)]
        self.assertEqual(self.limits(key_digest=DIGEST)[:2], expected)

    def test_refused_keys(self) -> None:
        """A request with a key that must not be used, or that no user has, goes to no server and meets no limit."""
        found = self.explained(LIMITED, key_digest=DIGEST[::-1])
        self.assertEqual((found["status"], found["reason"], found["pool"]), (401, "unauthorized", None))
        self.assertEqual((found["limits"], found["servers"]), ([], []))
        self.assertIsNone(self.explained(LIMITED, key_digest=DIGEST)["status"])
        self.refused = "key_disabled"
        found = self.explained(LIMITED, key_digest=DIGEST)
        self.assertEqual((found["status"], found["reason"]), (403, "key_refused: key_disabled"))
        self.assertEqual(self.explained(LIMITED, path="/free", key_digest=DIGEST)["status"], 200)
        found = self.explained(LIMITED, path="/denied", key_digest=DIGEST, client="192.0.2.7")
        self.assertEqual(found["reason"], "forbidden")

    def test_bad_key_id(self) -> None:
        """A key_id that is none, or beside a digest, is refused; one that no key has is not found."""
        for query, status, expected in (
            ([("key_id", "x")], 400, b"key_id is not"),
            ([("key_id", "key_0123456789abcdef"), ("key_digest", DIGEST)], 400, b"give one of them"),
            ([("key_id", "key_0123456789abcdef")], 404, b"There is no key key_0123456789abcdef."),
        ):
            answer = self.call(query)
            self.assertEqual((answer.status, expected in answer.body), (status, True), answer.body)

    def test_bad_digest(self) -> None:
        """A key itself is not accepted, nor anything else that is no digest."""
        for text in ("x", DIGEST[1:], DIGEST.upper(), "01234567-89ab-cdef-0123-456789abcdef"):
            answer = self.call([("key_digest", text)])
            self.assertEqual((answer.status, b"key_digest is not" in answer.body), (400, True))
