"""The admin listener over an in-memory connection."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import Answer, read_answer
from tests.api.operator import Client, head_of
from twisted_lb import BUILD
from twisted_lb.api.admin import admin_factory, health_factory
from twisted_lb.api.operators import OperatorFactory
from twisted_lb.api.status import Report, shown_server
from twisted_lb.api.users import UserAdministration
from twisted_lb.backend import Backend
from twisted_lb.config.admin_tokens import admin_tokens
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.key_format import KeyFormat
from twisted_lb.users import User, UserFilter, UserPage

# The end of each report of readiness.
BUILT = b',"build":"%b"}\n' % BUILD.encode()
READY = b'{"ready":true,"degraded":false,"reason":"2 servers are up"' + BUILT
SHOWING = ("/servers", "/users", "/metrics")


class HealthTests(SynchronousTestCase):
    """What the admin listener says of health."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ready: Any = (True, False, "2 servers are up")
        self.counts: dict[str, float] = {}
        self.backends = [Backend("server1", "localhost", 9001), Backend("server2", "::1", 9002, 2)]
        self.page = UserPage([], None)
        self.asked: list[tuple[str, int]] = []

    def report(self) -> Any:
        return Report(*self.ready, [shown_server(backend, "default") for backend in self.backends], self.counts)

    def user_page(self, after: str, count: int, filter: UserFilter) -> Deferred[UserPage]:
        self.assertEqual(filter, UserFilter())
        self.asked.append((after, count))
        return succeed(self.page)

    def factory(self, token: str = "") -> OperatorFactory:
        store: Any = self
        users = UserAdministration(store, KeyFormat(), 5, 1.0, lambda: 0, store)
        return admin_factory(self.clock, self, admin_tokens(token), users=users)

    def call(
        self, method: str, target: str, *fields: bytes, token: str = "", host: bytes = b"localhost:9090"
    ) -> Answer:
        client = Client(self.factory(token))
        client.send(head_of(method, target, *fields, host=host))
        return read_answer(client.received, method)

    def test_livez(self) -> None:
        """A process that answers is alive, ready or not."""
        self.ready = (False, False, "draining")
        answer = self.call("GET", "/livez")
        self.assertEqual((answer.status, answer.body), (200, b"ok\n"))
        self.assertEqual(answer.field("content-type"), "text/plain; charset=utf-8")

    def test_ready(self) -> None:
        """Ready is 200, with the reason."""
        answer = self.call("GET", "/readyz")
        self.assertEqual((answer.status, answer.body), (200, READY))
        self.assertEqual(answer.field("content-type"), "application/json")

    def test_not_ready(self) -> None:
        """Not ready is 503, with the reason."""
        self.ready = (False, False, "draining")
        answer = self.call("GET", "/readyz")
        body = b'{"ready":false,"degraded":false,"reason":"draining"' + BUILT
        self.assertEqual((answer.status, answer.body), (503, body))
        self.assertEqual(self.call("HEAD", "/readyz").status, 503)

    def test_degraded(self) -> None:
        """A program that serves worse than it should is ready, and says that it is degraded, and why."""
        self.ready = (True, True, "Redis is away")
        answer = self.call("GET", "/readyz")
        body = b'{"ready":true,"degraded":true,"reason":"Redis is away"' + BUILT
        self.assertEqual((answer.status, answer.body), (200, body))

    def test_broken_readiness(self) -> None:
        """A reason that cannot be found out is 500, and logged once."""
        self.ready = None
        self.assertEqual(self.call("GET", "/readyz").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)


class AdminTests(HealthTests):
    """What it shows besides."""

    def test_servers(self) -> None:
        """The pool is a list in its order, as it is now."""
        first = self.backends[0]
        first.in_flight, first.tunnels, first.requests, first.failures, first.retries = 3, 2, 10, 2, 1
        first.latency, first.ramp = 0.0123456, 0.25
        answer = self.call("GET", "/servers")
        shown = json.loads(answer.body)
        self.assertEqual(
            shown[0],
            {
                "name": "server1",
                "pool": "default",
                "url": "http://localhost:9001",
                "state": "up",
                "reason": "new",
                "admin_state": "ready",
                "weight": 1,
                "effective_weight": 0.25,
                "backup": False,
                "maxconn": 0,
                "in_flight": 3,
                "tunnels": 2,
                "requests": 10,
                "failures": 2,
                "retries": 1,
                "latency_ms": 12.346,
            },
        )
        self.assertEqual((shown[1]["url"], shown[1]["latency_ms"]), ("http://[::1]:9002", None))
        self.assertEqual((answer.status, answer.field("content-type")), (200, "application/json"))

    def test_states(self) -> None:
        """A server is up, down or draining, and the reason says why."""
        down, drained, removed, drain, disabled = (Backend(name, "h", 1) for name in "abcde")
        down.up, down.reason = False, "down: 3 checks in a row failed"
        drained.weight = 0
        removed.weight, removed.reason = 0, "removed"
        drain.admin_state, disabled.admin_state = "drain", "disabled"
        self.backends = [down, drained, removed, drain, disabled]
        shown = json.loads(self.call("GET", "/servers").body)
        self.assertEqual(
            [(server["state"], server["reason"]) for server in shown],
            [
                ("down", "down: 3 checks in a row failed"),
                ("draining", "its weight is 0"),
                ("draining", "removed"),
                ("draining", "an operator drains it"),
                ("disabled", "an operator has disabled it"),
            ],
        )

    def test_later(self) -> None:
        """What has to be asked elsewhere is answered when it is known."""
        report = self.report()
        self.patch(self, "report", lambda: succeed(report))
        self.assertEqual(self.call("GET", "/readyz").body, READY)
        self.assertEqual(len(json.loads(self.call("GET", "/servers").body)), 2)
        self.assertIn(b"tokenlb_server_up", self.call("GET", "/metrics").body)

    def test_metrics(self) -> None:
        """The numbers of the report are there in the text format of Prometheus."""
        self.counts = {"store_up": 0.0}
        answer = self.call("GET", "/metrics")
        self.assertTrue(answer.field("content-type").startswith("text/plain; version="))
        self.assertEqual(answer.status, 200)
        for line in (b"tokenlb_store_up 0.0", b'tokenlb_server_up{pool="default",server="server1"} 1.0'):
            self.assertIn(line, answer.body.split(b"\n"))

    def test_users(self) -> None:
        """A page of users has their buckets, and says after which name the next one begins."""
        first, second = User("a", 5, 1.0, 4_999_999), User("Zoë", 7, 0.5, -1)
        self.page = UserPage([first, second], second.name)
        answer = self.call("GET", "/users?after=%C3%9F%20x&limit=2")
        self.assertEqual(self.asked, [("ß x", 2)])
        self.assertEqual((answer.status, answer.field("content-type")), (200, "application/json"))
        users = [
            {"name": "a", "capacity": 5, "rate_per_sec": 1, "current_capacity": 4},
            {"name": "Zoë", "capacity": 7, "rate_per_sec": 0.5, "current_capacity": -1},
        ]
        found = json.loads(answer.body)
        shown = [{name: user[name] for name in users[0]} for user in found["users"]]
        self.assertEqual((shown, found["next"]), (users, "Zoë"))

    def test_last_page(self) -> None:
        """After the last user there is no next page, and without users there is an empty one."""
        self.page = UserPage([User("a", 5, 1.0, 0)], None)
        self.assertIsNone(json.loads(self.call("GET", "/users").body)["next"])
        self.page = UserPage([], None)
        self.assertEqual(self.call("GET", "/users").body, b'{"users":[],"next":null}\n')

    def test_pages(self) -> None:
        """A page begins with the first name and has 100 users, where nothing else is asked for, and at most 200."""
        for query in ("", "?", "?after=", "?limit=1", "?limit=200&after=%41", "?limit=007"):
            self.assertEqual(self.call("GET", "/users" + query).status, 200, query)
        # Whatever `next` may be: with a joiner, or from before there were rules.
        for name in ("\U0001f468\u200d\U0001f469", "\u3164", "e\u0301"):
            self.assertEqual(self.call("GET", f"/users?limit=3&after={quote(name)}").status, 200)
            self.assertEqual(self.asked.pop(), (name, 3))
        self.assertEqual(self.asked, [("", 100), ("", 100), ("", 100), ("", 1), ("A", 200), ("", 7)])

    def test_bad_pages(self) -> None:
        """Anything else is 400 and says what was expected; nobody is asked."""
        whole = "limit is not a whole number from 1 to 200."
        cases = [
            *[(f"limit={limit}", whole) for limit in ("0", "201", "-1", "1.0", "x", "", "+1", "9999", "%D9%A3")],
            ("after=%ff", "after is not a name in percent-encoded UTF-8."),
            ("after=%00", "after is not a name of up to 128 printable characters."),
            ("after=" + 129 * "a", "after is not a name of up to 128 printable characters."),
            *[
                (
                    query,
                    "/users takes after=NAME and limit=N, and the filters name, key_id, label, state, disabled, "
                    "used_since and unused_since, each once at most, and nothing else.",
                )
                for query in ("page=2", "after=a&after=b", "limit=1&limit=1", "Limit=5")
            ],
        ]
        for query, detail in cases:
            answer = self.call("GET", f"/users?{query}")
            self.assertEqual((answer.status, answer.json["detail"]), (400, detail), query)
            self.assertEqual(answer.field("content-type"), "application/problem+json")
        self.assertEqual(self.asked, [])

    def test_users_without_store(self) -> None:
        """While the store does not answer, a page is 503, and the store's words are not told."""
        self.patch(self, "user_page", lambda *page: fail(StoreUnavailable("Redis at secret.example is away")))
        answer = self.call("GET", "/users")
        self.assertEqual((answer.status, answer.field("retry-after")), (503, "1"))
        self.assertNotIn(b"secret", answer.body)

    def test_token(self) -> None:
        """With a token set, what shows more than health is for those who have it; health is for all."""
        wrong = [b"X: 1", *(b"Authorization: " + value for value in (b"s3cret", b"Bearer s3cre", b"Bearer s3cret2"))]
        for target in SHOWING:
            for field in wrong:
                answer = self.call("GET", target, field, token="s3cret")
                self.assertEqual((answer.status, answer.field("content-type")), (401, "application/problem+json"))
                self.assertEqual(answer.field("www-authenticate"), 'Bearer realm="twisted_lb admin"')
            self.assertEqual(self.call("GET", target, b"Authorization: bearer s3cret", token="s3cret").status, 200)
            field = "Authorization: Bearer ключ".encode()
            self.assertEqual(self.call("GET", target, field, token="ключ").status, 200)
        for target in ("/livez", "/readyz"):
            self.assertEqual(self.call("GET", target, token="s3cret").status, 200)

    def test_repeated_authorization(self) -> None:
        """Two tokens are refused."""
        field = b"Authorization: Bearer s3cret"
        self.assertEqual(self.call("GET", "/servers", field, field, token="s3cret").status, 400)

    def test_wrong_method(self) -> None:
        """What is read-only answers another method with 405 and names those that work."""
        for target in ("/livez", "/readyz", "/servers", "/metrics"):
            answer = self.call("POST", target)
            self.assertEqual((answer.status, answer.field("allow")), (405, "GET, HEAD"))
            self.assertEqual(answer.field("content-type"), "application/problem+json")

    def test_unknown_path(self) -> None:
        """Any other path is 404 as a problem, text or not."""
        for target in ("/", "/livez/", "/user/create", "/%ff"):
            answer = self.call("GET", target)
            self.assertEqual((answer.status, answer.field("content-type")), (404, "application/problem+json"))

    def test_other_names(self) -> None:
        """Without a token, what shows more than health is for this machine's own names; health is for all."""
        for host in (b"attacker.example", b"10.0.0.2:9090", b"localhost.attacker.example", b"[2001:db8::1]"):
            for target in (*SHOWING, "/%75sers", "/livez/../users", "/"):
                answer = self.call("GET", target, host=host)
                self.assertEqual((answer.status, answer.field("content-type")), (403, "application/problem+json"))
                self.assertIn("ADMIN_TOKEN", answer.json["detail"])
            self.assertEqual(self.call("GET", "/users", b"Authorization: Bearer t", token="t", host=host).status, 200)
            self.assertEqual(self.call("GET", "/users", token="t", host=host).status, 401)
            for target in ("/livez", "/readyz", "/readyz?verbose"):
                self.assertEqual(self.call("GET", target, host=host).status, 200)
        # The connection has come to this address.
        self.assertEqual(self.call("GET", "/users", host=b"10.0.0.1:9090").status, 200)
        # The authority of an absolute target is what counts.
        self.assertEqual(self.call("GET", "http://attacker.example/users").status, 403)
        self.assertEqual(self.call("GET", "http://localhost/users", host=b"attacker.example").status, 200)


class HealthListenerTests(HealthTests):
    """The same on a listener that is for health alone."""

    def factory(self, token: str = "") -> OperatorFactory:
        return health_factory(self.clock, self)

    def test_nothing_else(self) -> None:
        """What is not health is not there, with a token or without."""
        for target in (*SHOWING, "/", "/user/create"):
            self.assertEqual(self.call("GET", target, b"Authorization: Bearer t").status, 404)
