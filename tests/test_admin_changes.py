"""Pools, routes and changes over the admin listener, in memory."""

from __future__ import annotations

import gc
import json
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from tests.api.caller import Answer, read_answer
from tests.api.operator import Client, head_of
from tests.test_operator_changes import LIMITS, TEXT, OperatorCase
from twisted_lb.api.admin import admin_factory
from twisted_lb.api.audit import MAX_UNKNOWN, UNKNOWN_SECONDS
from twisted_lb.api.pool_summary import shown_route, total
from twisted_lb.api.pools import MAX_BODY_BYTES
from twisted_lb.api.status import Report, shown_removed, shown_server
from twisted_lb.config.admin_tokens import admin_tokens
from twisted_lb.config.settings import Misconfigured
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.usage import WindowCounts

TOKEN = b"Authorization: Bearer s3cret"


class Recorded:
    """An audit log that keeps its entries."""

    def __init__(self) -> None:
        self.problem = ""
        self.entries: list[dict[str, Any]] = []

    def record(self, entry: Any) -> None:
        self.entries.append(json.loads(json.dumps(entry)))


class AdminCase(OperatorCase):
    token = "s3cret"

    def start(self) -> None:
        super().start()
        self.audit = Recorded()
        running: Any = self
        self.factory = admin_factory(
            self.clock, running, admin_tokens(self.token), changing=self.changes, recording=self.audit
        )

    def report(self) -> Report:
        pools = self.gateway.pools.items()
        servers = [shown_server(one, name) for name, pool in pools for one in pool.pool.backends]
        for name, pool in pools:
            servers += [shown_removed(one, name) for one in pool.pool.leaving]
        return Report(True, False, "", servers, {})

    def send(self, method: str, target: str, body: bytes = b"", *fields: bytes) -> Client:
        client = Client(self.factory)
        length = [b"Content-Length: %d" % len(body)] if body else []
        client.send(head_of(method, target, *fields, *length) + body)
        return client

    def call(self, method: str, target: str, body: object = None, *fields: bytes) -> Answer:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return read_answer(self.send(method, target, data, *(fields or (TOKEN,))).received, method)

    def refused(self, *arguments: Any) -> tuple[int, str]:
        before, entries = self.gateway.spec, len(self.audit.entries)
        answer = self.call(*arguments)
        self.assertEqual(answer.field("content-type"), "application/problem+json")
        self.assertIs(self.gateway.spec, before)
        [entry] = self.audit.entries[entries:]
        self.assertEqual((entry["result"], entry["status"]), ("refused", answer.status))
        self.assertEqual(entry["detail"], answer.json["detail"])
        return answer.status, answer.json["detail"]


class ReadingTests(AdminCase):
    def test_pools(self) -> None:
        """A pool has its state with the reason, and the counts and latency of its servers."""
        a, b = self.gateway.pools["models"].pool.backends
        a.requests, a.in_flight, a.latency = 30, 2, 0.1
        b.requests, b.failures, b.latency, b.up, b.reason = 10, 1, 0.3, False, "down: status 500"
        found = self.call("GET", "/pools").json
        self.assertEqual((found["writes"], found["live_changes"]), ("live", []))
        self.assertEqual(
            found["pools"][0],
            {
                "name": "models",
                "balancer": "round_robin",
                "state": "degraded",
                "reason": "1 of 2 servers are up; down: b",
                "maintenance": None,
                "live": False,
                "server_states": {"up": 1, "down": 1},
                "in_flight": 2,
                "tunnels": 0,
                "requests": 40,
                "failures": 1,
                "retries": 0,
                "latency_ms": 150.0,
            },
        )
        one = self.call("GET", "/pools/models").json
        self.assertEqual([server["name"] for server in one.pop("servers")], ["a", "b"])
        self.assertEqual(one, found["pools"][0])
        self.assertEqual([one["state"] for one in self.call("GET", "/pools/models/servers").json], ["up", "down"])
        self.assertEqual(self.call("GET", "/pools/models/servers/b").json["reason"], "down: status 500")
        self.assertEqual(self.call("HEAD", "/pools").status, 200)

    def test_several(self) -> None:
        """A server of the file that stands for several is shown with these."""
        for number, backend in enumerate(self.gateway.pools["models"].pool.backends):
            backend.name, backend.requests = f"a@10.0.0.{number}:80", 5
        found = self.call("GET", "/pools/models/servers/a").json
        self.assertEqual((found["name"], found["requests"]), ("a", 10))
        self.assertEqual([one["name"] for one in found["servers"]], ["a@10.0.0.0:80", "a@10.0.0.1:80"])
        self.assertEqual(self.call("GET", "/pools/models/servers/a%4010.0.0.1:80").json["requests"], 5)
        self.assertEqual(self.call("GET", "/pools/models/servers/b").json["servers"], [])

    def test_routes(self) -> None:
        """A route has the state and the counts of its pools."""
        self.gateway.pools["models"].pool.backends[1].requests = 7
        self.change("set", "site", maintenance=30)
        v1, rest = self.call("GET", "/routes").json
        self.assertEqual((v1["name"], v1["pools"], v1["state"], v1["requests"]), ("/v1/", ["models"], "up", 7))
        self.assertEqual((rest["state"], rest["reason"][:10]), ("maintenance", "pool site:"))

    def test_many_routes(self) -> None:
        """The servers of a pool are summed up once, however many routes lead to it."""
        looked = []

        class Counted(list[dict[str, Any]]):
            def __iter__(self) -> Any:
                looked.append(len(self))
                return super().__iter__()

        one = {"latency_ms": None, "requests": 2, "in_flight": 0, "tunnels": 0, "failures": 0, "retries": 0}
        routes = [{"name": str(number), "pools": ["p"], "maintenance": 0.0} for number in range(9)]
        totals = {"p": total(Counted([one, one]))}
        once = len(looked)
        shown = [shown_route(route, {"p": ("up", "")}, totals) for route in [*routes, {**routes[0], "pools": []}]]
        self.assertEqual([one.get("requests") for one in shown], [4] * 9 + [None])
        self.assertEqual(len(looked), once)

    def test_states(self) -> None:
        """A pool without a server that is up is down; one in maintenance is that."""
        for backend in self.gateway.pools["models"].pool.backends:
            backend.up = False
        self.assertEqual(self.call("GET", "/pools/models").json["state"], "down")
        self.call("PUT", "/pools/models/maintenance")
        found = self.call("GET", "/pools/models").json
        self.assertEqual((found["state"], found["maintenance"], found["live"]), ("maintenance", 60, True))

    def test_unknown(self) -> None:
        """What is not there is 404; another method is 405 and names those that work."""
        for path in ("pools/x", "pools/x/servers", "pools/models/servers/x", "pools/", "pools/models/x", "routes/1"):
            self.assertEqual(self.call("GET", "/" + path).status, 404, path)
        for path, allow in (
            ("/pools", "GET, HEAD"),
            ("/routes", "GET, HEAD"),
            ("/pools/models", "GET, HEAD"),
            ("/pools/models/servers", "GET, HEAD, POST"),
            ("/pools/models/servers/a", "DELETE, GET, HEAD, PATCH"),
            ("/pools/models/servers/a/drain", "POST"),
            ("/pools/models/maintenance", "DELETE, PUT"),
        ):
            answer = self.call("OPTIONS", path)
            self.assertEqual((answer.status, answer.field("allow")), (405, allow), path)

    def test_token(self) -> None:
        """Reading needs the token as elsewhere on the listener."""
        for path in ("/pools", "/pools/models", "/pools/models/servers", "/pools/models/servers/a", "/routes"):
            self.assertEqual(self.call("GET", path, None, b"X: 1").status, 401)


class ChangingTests(AdminCase):
    def test_add(self) -> None:
        """A server is added with the keys of servers.yaml; the answer shows it, and where it is."""
        answer = self.call("POST", "/pools/models/servers", {"url": "http://127.0.0.1:4", "weight": 2})
        self.assertEqual((answer.status, answer.field("location")), (201, "/pools/models/servers/127.0.0.1%3A4"))
        self.assertEqual((answer.json["name"], answer.json["weight"]), ("127.0.0.1:4", 2))
        self.assertEqual(self.call("GET", answer.field("location")).json, answer.json)
        [entry] = self.audit.entries
        self.assertEqual(
            (entry["who"], entry["action"], entry["pool"], entry["server"], entry["before"], entry["after"]["weight"]),
            ("admin", "add", "models", "127.0.0.1:4", {}, 2),
        )
        self.assertEqual(entry["request_id"], answer.field("x-request-id"))

    def test_weight(self) -> None:
        """A weight is changed; what is so already is not changed again, and is audited as that."""
        for weight, result in ((7, "applied"), (7, "unchanged")):
            answer = self.call("PATCH", "/pools/models/servers/a", {"weight": weight})
            self.assertEqual((answer.status, answer.json["weight"]), (200, 7))
            entry = self.audit.entries[-1]
            self.assertEqual((entry["action"], entry["result"], entry["writes"]), ("set", result, "live"))
        self.assertEqual([one["after"] for one in self.audit.entries], [{"weight": 7}, {}])
        self.assertEqual(self.call("PATCH", "/pools/models/servers/a", {"weight": None}).json["weight"], 1)

    def test_orders(self) -> None:
        """A server drains, is disabled, and is ready again; its weight stays."""
        for order, admin_state, state in (
            ("drain", "drain", "draining"),
            ("undrain", "ready", "up"),
            ("disable", "disabled", "disabled"),
            ("enable", "ready", "up"),
        ):
            answer = self.call("POST", f"/pools/models/servers/a/{order}")
            shown = answer.json
            self.assertEqual((answer.status, shown["admin_state"], shown["state"]), (200, admin_state, state))
            self.assertEqual((shown["weight"], self.audit.entries[-1]["action"]), (3, order))
        self.assertEqual(self.call("POST", "/pools/models/servers/a/drain", {}).status, 200)

    def test_remove(self) -> None:
        """A removed server is gone, but for the requests that it still has."""
        self.gateway.pools["models"].pool.backends[0].in_flight = 2
        answer = self.call("DELETE", "/pools/models/servers/a")
        self.assertEqual((answer.status, answer.body), (204, b""))
        self.assertEqual(self.call("GET", "/pools/models/servers/a").status, 404)
        shown = self.call("GET", "/pools/models/servers").json
        self.assertEqual([(one["name"], one["state"]) for one in shown], [("b", "up"), ("a", "draining")])
        self.assertEqual(self.audit.entries[-1]["before"]["url"], "http://127.0.0.1:1")

    def test_maintenance(self) -> None:
        """A pool is put into maintenance for a time that clients are told, and taken out of it."""
        for body, seconds in ((None, 60), ({}, 60), ({"retry_after": 5}, 5), ({"retry_after": "2m"}, 120)):
            answer = self.call("PUT", "/pools/site/maintenance", body)
            self.assertEqual((answer.status, answer.json["maintenance"]), (200, seconds))
        self.assertEqual(self.call("DELETE", "/pools/site/maintenance").status, 204)
        self.assertEqual(self.call("GET", "/pools/site").json["state"], "up")
        self.assertEqual(self.call("GET", "/pools").json["live_changes"], [])

    def test_refused(self) -> None:
        """What is wrong is told with the status, the key and the expectation, changes nothing, and is audited."""
        servers, seconds = "/pools/models/servers", "expected a time from 1s to 24h"
        for arguments, status, detail in (
            (("POST", "/pools/x/servers", {"url": "http://a"}), 404, "There is no pool 'x'."),
            (("DELETE", f"{servers}/x"), 404, "The pool models has no server 'x'."),
            (("POST", f"{servers}/x/drain"), 404, "The pool models has no server 'x'."),
            (("POST", servers, {"url": "http://a", "name": "a"}), 409, "The pool models has a server 'a' already."),
            (("DELETE", "/pools/site/servers/a"), 409, "It is the only server of the pool site"),
            (("POST", servers), 400, "The body is empty; expected a JSON object."),
            (("POST", servers, b"{"), 400, "The body is not JSON at line 1"),
            (("POST", servers, [1]), 400, "The body is JSON but not an object"),
            (("POST", servers, {"url": 5}), 400, "url: expected a text of the form http://host[:port]"),
            (("PATCH", f"{servers}/a", {}), 400, "There is nothing to change"),
            (("PATCH", f"{servers}/a", {"weight": 1001}), 400, "weight: expected a whole number from 0 (drain)"),
            (("POST", f"{servers}/a/drain", {"x": 1}), 400, "The body is not empty; expected none."),
            (("PUT", "/pools/site/maintenance", {"retry_after": 0}), 400, f"retry_after: {seconds}"),
            (("PUT", "/pools/site/maintenance", {"time": 1}), 400, "time: unknown key; expected retry_after"),
        ):
            found = self.refused(*arguments)
            self.assertEqual((found[0], found[1][: len(detail)]), (status, detail))

    def test_wrong_tokens(self) -> None:
        """Without the token nothing is changed, and the attempt is audited without what was sent as one."""
        for field in (b"X: 1", b"Authorization: Bearer wr0ng", b"Authorization: s3cret"):
            answer = self.call("POST", "/pools/models/servers/a/drain", None, field)
            self.assertEqual((answer.status, answer.field("www-authenticate")[:6]), (401, "Bearer"))
            entry = self.audit.entries[-1]
            self.assertEqual((entry["who"], entry["status"], entry["action"]), (None, 401, "drain"))
        self.assertNotIn("wr0ng", json.dumps(self.audit.entries))
        self.assertEqual(self.servers()[0], ("a", 3, "ready"))

    def test_many_attempts_without_a_token(self) -> None:
        """Of many attempts within a second there are some lines and their number; those with a token have all lines."""

        def attempts(count: int, *fields: bytes) -> None:
            for _ in range(count):
                self.call("POST", "/pools/models/servers/a/drain", b"{}", *(fields or (b"X: 1",)))

        def left_out() -> list[int]:
            found = [one["left_out"] for one in self.audit.entries if "left_out" in one]
            self.assertEqual({one["who"] for one in self.audit.entries if "left_out" in one} - {None}, set())
            return found

        self.clock.advance(7.3)
        attempts(MAX_UNKNOWN)
        self.clock.advance(5)
        self.assertEqual((len(self.audit.entries), left_out()), (MAX_UNKNOWN, []))
        self.audit.entries.clear()
        attempts(MAX_UNKNOWN + 3)
        self.refused("POST", "/pools/models/servers", b"{")
        self.assertEqual(len(self.audit.entries), MAX_UNKNOWN + 1)
        self.clock.advance(UNKNOWN_SECONDS / 2)
        attempts(2)
        self.assertEqual(left_out(), [])
        self.clock.advance(UNKNOWN_SECONDS / 2)
        self.assertEqual((len(self.audit.entries), left_out()), (MAX_UNKNOWN + 2, [5]))
        attempts(MAX_UNKNOWN + 1)
        self.clock.advance(UNKNOWN_SECONDS)
        self.assertEqual((len(self.audit.entries), left_out()), (2 * MAX_UNKNOWN + 3, [5, 1]))
        self.clock.advance(60)
        self.assertEqual(left_out(), [5, 1])

    def test_bodies(self) -> None:
        """A body may come in pieces or chunked; a long one, and one elsewhere, is 413."""
        client = Client(self.factory)
        body = b'{"weight": 5}'
        path = "/pools/models/servers/a"
        client.send(head_of("PATCH", path, TOKEN, b"Content-Length: %d" % len(body), b"Expect: 100-continue"))
        self.assertEqual(client.received, b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(body[:5])
        client.send(body[5:] + head_of("PATCH", path, TOKEN, b"Transfer-Encoding: chunked") + b"d\r\n")
        client.send(body.replace(b"5", b"6") + b"\r\n0\r\n\r\n")
        self.clock.advance(0)
        self.assertEqual(client.statuses, [100, 200, 200])
        self.assertEqual(self.servers()[0][1], 6)
        for fields, sent in (
            ([b"Content-Length: %d" % (MAX_BODY_BYTES + 1)], b""),
            ([b"Transfer-Encoding: chunked"], b"%x\r\n" % (MAX_BODY_BYTES + 1) + bytes(MAX_BODY_BYTES + 1)),
        ):
            client = Client(self.factory)
            client.send(head_of("PATCH", path, TOKEN, *fields) + sent)
            self.assertEqual((client.statuses, client.ended), ([413], True))
            entry = self.audit.entries[-1]
            self.assertEqual((entry["status"], entry["method"], entry["path"]), (413, "PATCH", path))
        self.assertEqual(self.send("POST", "/servers", b"{}", TOKEN).statuses, [413])

    def test_body_that_does_not_come(self) -> None:
        """A body has some time to come; one that is left in the middle changes nothing."""
        for end in (False, True):
            client = Client(self.factory)
            client.send(head_of("PATCH", "/pools/models/servers/a", TOKEN, b"Content-Length: 13") + b'{"wei')
            if end:
                client.end_sending()
            else:
                self.clock.advance(11)
                self.assertEqual(client.statuses, [408])
            self.assertTrue(client.ended)
        self.assertEqual(self.servers()[0][1], 3)

    def test_audit_log_that_cannot_be_written(self) -> None:
        """While there would be no line about it, nothing is changed."""
        self.audit.problem = "No space left on device"
        status, detail = self.refused("POST", "/pools/models/servers/a/drain")
        self.assertEqual(status, 503)
        self.assertIn("No space left on device", detail)

    def test_client_that_leaves(self) -> None:
        """A change goes on without its client, and is audited."""
        applied: Deferred[str] = Deferred()
        swap = self.file._swap
        self.patch(self.file, "_swap", lambda spec, text: applied.addCallback(lambda _: swap(spec, text)))
        client = self.send("POST", "/pools/models/servers/a/drain", b"", TOKEN)
        client.leave()
        self.assertEqual((client.received, self.audit.entries), (b"", []))
        applied.callback("")
        self.assertEqual(self.servers()[0][2], "drain")
        self.assertEqual(self.audit.entries[-1]["result"], "applied")
        self.assertEqual(self.call("POST", "/pools/models/servers/a/undrain").json["state"], "up")

    def test_failure_without_client(self) -> None:
        """An error of the program is in the log also when the client has left; a refusal is in the audit log only."""
        for error in (KeyError("broken"), Misconfigured(["no"])):
            applied: Deferred[str] = Deferred()
            self.patch(self.file, "_swap", lambda spec, text, applied=applied: applied)
            self.send("POST", "/pools/models/servers/a/drain", b"", TOKEN).leave()
            applied.errback(error)
        self.assertEqual([one["result"] for one in self.audit.entries], ["failed", "refused"])
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_failure(self) -> None:
        """An error of the program is 500, audited, and the next change works."""

        def broken(spec: object, text: str) -> str:
            raise KeyError("broken")

        swap = self.file._swap
        self.patch(self.file, "_swap", broken)
        self.assertEqual(self.call("POST", "/pools/models/servers/a/drain").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.audit.entries[-1]["result"], "failed")
        self.patch(self.file, "_swap", swap)
        self.assertEqual(self.call("POST", "/pools/models/servers/a/drain").status, 200)


class WithoutTokenTests(AdminCase):
    token = ""

    def test_changes(self) -> None:
        """Without ADMIN_TOKEN there are no changes, and it is told what to set; all may read."""
        for fields in ((b"X: 1",), (TOKEN,)):
            status, detail = self.refused("POST", "/pools/models/servers/a/drain", None, *fields)
            self.assertEqual((status, "set ADMIN_TOKEN" in detail), (403, True))
        self.assertEqual(self.call("GET", "/pools", None, b"X: 1").status, 200)


class ShortFormTests(AdminCase):
    text = "servers: [{name: a, url: 'http://127.0.0.1:1'}]\n"

    def test_default(self) -> None:
        """The pool of a file without pools has the name that it has in metrics."""
        self.assertEqual(self.call("PATCH", "/pools/default/servers/a", {"weight": 4}).json["pool"], "default")


class WritingTests(AdminCase):
    writing = True

    def test_file(self) -> None:
        """Changes that are written say so."""
        self.assertEqual(self.call("POST", "/pools/models/servers/a/drain").status, 200)
        self.assertEqual(self.audit.entries[-1]["writes"], "file")
        self.assertEqual(self.call("GET", "/pools").json["writes"], "file")
        self.assertEqual(self.path.read_text(), TEXT.replace("weight: 3", "weight: 3, admin_state: drain"))
        self.path.write_text(TEXT)
        self.assertEqual(self.refused("POST", "/pools/models/servers/a/undrain")[0], 409)


class LimitsTests(AdminCase):
    """Limits of the servers file."""

    text = LIMITS

    def start(self) -> None:
        super().start()
        running: Any = self
        users: Any = self
        tokens = admin_tokens(self.token)
        self.factory = admin_factory(
            self.clock, running, tokens, changing=self.changes, recording=self.audit, users=users
        )
        self.away = False

    # As a UserAdministration, a Running and an IUsageReport.

    store: Any = None

    @property
    def usage(self) -> Any:
        return self

    def counts_of(self, subjects: Any) -> Any:
        if self.away:
            return fail(StoreUnavailable("away"))
        return succeed([WindowCounts({"requests": 4, "would_refuse": 1}, {"requests": 9}) for _ in subjects])

    def levels(self, digest: str, buckets: Any) -> Any:
        if self.away:
            return fail(StoreUnavailable("away"))
        return succeed({"levels": {key: 1_500_000 for key, _, _ in buckets}, "key": None, "refused": ""})

    def test_list(self) -> None:
        """All limits are listed, with levels where there is one bucket, and counts where it is a shadow."""
        found = self.call("GET", "/limits").json["limits"]
        owners = ["route /v1/", "pool models", "pool models", "pool site", "pool other", "all"]
        self.assertEqual([one["of"] for one in found], owners)
        policy = {"per": "key", "capacity": 3, "rate_per_sec": 1.0, "shadow": True, "level": None}
        counts = {"hour": {"requests": 8, "would_refuse": 2}, "day": {"requests": 18, "would_refuse": 0}}
        self.assertEqual(found[0], {"name": "burst", "of": "route /v1/", **policy, **counts})
        self.assertEqual((found[1]["level"], "hour" in found[1]), (1.5, False))
        self.away = True
        found = self.call("GET", "/limits").json["limits"]
        self.assertEqual((found[0]["hour"], found[1]["level"]), (None, None))

    def test_promotion(self) -> None:
        """A promotion is answered with the limit and audited; the name of a route is one segment of the path."""
        for target, of, name in (
            ("/routes/%2Fv1%2F/limits/burst/promote", "route /v1/", "burst"),
            ("/pools/models/limits/two/promote", "pool models", "two"),
            ("/limits/everything/promote", "all", "everything"),
        ):
            answer = self.call("POST", target)
            self.assertEqual((answer.status, answer.json["of"], answer.json["name"]), (200, of, name), answer)
            self.assertEqual((answer.json["shadow"], "hour" in answer.json), (False, False))
            entry = self.audit.entries[-1]
            self.assertEqual((entry["action"], entry["limit"], entry["of"]), ("promote_limit", name, of))
            self.assertEqual((entry["before"], entry["after"]), ({"shadow": True}, {"shadow": False}))
            self.assertEqual(self.refused("POST", target)[0], 409)
            live = [one["name"] for one in self.call("GET", "/pools").json["pools"] if one["live"]]
            self.assertEqual(live, [] if of.startswith("route") else ["models"])
            self.assertEqual(self.call("GET", "/pools/models").json["live"], live == ["models"])
        self.assertEqual(self.refused("POST", "/limits/nothing/promote")[0], 404)
        self.assertEqual(self.refused("POST", "/limits/everything/promote", {"a": 1})[0], 400)
