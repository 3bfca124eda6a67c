"""GET /explain: which servers a request would be sent to, and why not each other one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_lb.app.explain_servers import CANNOT_TELL, FAILED, NO_SERVER, choices, question
from twisted_lb.app.gateway import Gateway
from twisted_lb.backend import Backend
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.interfaces import IBalancer, IPeeking
from twisted_lb.testing.fakes import FakeRequest
from twisted_lb.wire.head import HeadLimits, read_request_head

NAMES = "abcdef"
LINES = [f"- {{name: {name}, url: 'http://127.0.0.1:{order}'}}\n" for order, name in enumerate(NAMES, 1)]
SERVERS = "servers:\n" + "".join(LINES)
BACKUP = "it is a backup, for when no other server can be used"


@implementer(IBalancer)
class Silent:
    def backends_changed(self, backends: list[Backend]) -> None:
        self.backends = backends

    def choices(self, request: object) -> Iterator[Backend]:
        return iter(self.backends)


@implementer(IPeeking)
class Broken(Silent):
    def peek(self, request: object) -> Iterator[Backend]:
        raise KeyError("peek")


class WithoutText:
    def __repr__(self) -> str:
        raise KeyError("repr")


@implementer(IPeeking)
class Mistaken(Silent):
    peeked: Any = ()

    def peek(self, request: object) -> Any:
        return iter(self.peeked)


class ExplainServersTests(SynchronousTestCase):
    def start(self, text: str) -> Gateway:
        self.gateway = Gateway(Clock(), read_gateway(text, "x.yaml"))
        self.pool = self.gateway.pools["default"].pool
        return self.gateway

    def ask(self, *fields: str, client: str = "", user: str = "", target: str = "/") -> dict[str, Any]:
        lines = "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *fields, "", ""])
        head = read_request_head(lines.encode(), 0, HeadLimits())
        assert head is not None
        asked = question(head, client, user, ["default"])
        found: dict[str, Any] = choices(self.gateway, json.loads(json.dumps(asked)))["default"]
        return found

    def test_reasons(self) -> None:
        """Each server that would not get the request has a reason."""
        self.start("balancer: first\n" + SERVERS.replace(":6'", ":6', backup: true, slowstart: 1s"))
        a, b, c, d, e, f = self.pool.backends
        a.up, a.reason = False, "ejected for 10 s: 5 requests in a row failed"
        b.maxconn = b.in_flight = 2
        d.weight = 0
        e.admin_state = "drain"
        self.pool.refresh()
        found = self.ask()
        # A full server is skipped, and the backup comes after all others have failed.
        self.assertEqual(found["order"], ["c", "b", "f"])
        self.assertEqual(
            found["why_not"],
            {
                "a": "ejected for 10 s: 5 requests in a row failed",
                "b": "it is full: 2 of 2 requests are in flight",
                "c": None,
                "d": "its weight is 0",
                "e": "an operator drains it",
                "f": BACKUP,
            },
        )
        c.up = False
        c.reason = "down"
        e.admin_state = "disabled"
        self.pool.refresh()
        found = self.ask()
        self.assertEqual(found["why_not"]["e"], "an operator has disabled it")
        self.assertEqual((found["order"], found["why_not"]["f"]), (["b"], BACKUP))
        b.up, b.reason = False, "down"
        self.pool.refresh()
        self.assertIsNone(self.ask()["why_not"]["f"])

    def test_spends_nothing(self) -> None:
        """However often it is asked, the next request goes where it was said to go."""
        for balancer in ("round_robin", "least_conn", "random", "p2c", "ewma", "hash", "first"):
            self.start(f"balancer: {balancer}\n" + SERVERS)
            for number in range(10):
                asked = [self.ask(user=f"user{number}")["order"] for _ in range(5)]
                chosen = [one.name for one in self.pool.choices(FakeRequest(number))]
                self.assertEqual(asked, [chosen] * 5, balancer)

    def test_what_balancers_see(self) -> None:
        """Balancers get the user, the client, the path and the fields, however the parser keeps these."""
        for by, other in (("consumer", {"user": "b"}), ("address", {"client": "10.0.0.2"}), ("path", {"target": "/b"})):
            self.start(f"balancer: {{name: hash, by: {by}}}\n" + SERVERS)
            given: dict[str, str] = {"user": "a", "client": "10.0.0.1", "target": "/a"}
            orders = {str(self.ask(**{**given, **other})["order"]), str(self.ask(**given)["order"])}
            self.assertEqual(len(orders), 2, by)
        for name in ("X-Tenant", "Authorization", "X-Forwarded-For"):
            self.start(f"balancer: {{name: hash, by: header, header: {name}}}\n" + SERVERS)
            self.assertNotEqual(self.ask(f"{name}: one")["order"], self.ask(f"{name}: three")["order"], name)

    def test_sticky(self) -> None:
        """A cookie leads to its server, and the reason of the others is that."""
        self.start("balancer: {name: sticky, secret: 0123456789abcdef, over: first}\n" + SERVERS)
        balancer: Any = self.pool.balancer
        [(_, cookie)] = balancer.response_fields(FakeRequest(), self.pool.backends[3])
        field = f"Cookie: {cookie.decode().partition(';')[0]}"
        found = self.ask(field)
        self.assertEqual(found["order"], ["d", "a", "b", "c", "e", "f"])
        self.assertEqual((found["why_not"]["d"], found["why_not"]["a"]), (None, "the client's cookie leads to d"))
        self.assertEqual(self.ask()["why_not"]["d"], "a comes first")
        self.pool.backends[3].admin_state = "drain"
        self.pool.refresh()
        self.assertEqual(self.ask(field)["why_not"]["b"], "a comes first")

    def test_all_full(self) -> None:
        """When all servers are full, the request goes to none of them."""
        self.start(SERVERS)
        for backend in self.pool.backends:
            backend.maxconn = backend.in_flight = 1
        self.assertTrue(all(reason.startswith("it is full") for reason in self.ask()["why_not"].values()))

    def test_own_balancers(self) -> None:
        """A balancer of the user's own that does not tell, or fails to, is not asked for choices."""
        for name, reason in (("Silent", CANNOT_TELL), ("Broken", FAILED)):
            self.start(f"balancer: '{__name__}:{name}'\n" + SERVERS)
            self.pool.backends[0].weight = 0
            self.pool.refresh()
            found = self.ask()
            self.assertEqual((found["order"], found["reason"]), (None, reason))
            self.assertEqual((found["why_not"]["a"], found["why_not"]["b"]), ("its weight is 0", reason))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_wrong_choices(self) -> None:
        """A balancer whose peek yields something else than servers of the pool is told of, and all else is answered."""
        self.start(f"balancer: '{__name__}:Mistaken'\n" + SERVERS)
        balancer: Any = self.pool.balancer
        other = Gateway(Clock(), read_gateway(SERVERS, "x.yaml")).pools["default"].pool.backends[0]
        for wrong in ("a", None, 5, [], other, WithoutText()):
            balancer.peeked = [self.pool.backends[1], wrong]
            found = self.ask()
            self.assertEqual((found["order"], found["reason"]), (None, NO_SERVER))
            self.assertEqual(set(found["why_not"].values()), {NO_SERVER})
        for wrong in (None, 5):
            balancer.peeked = wrong
            self.assertEqual(self.ask()["reason"], FAILED)
        self.assertTrue(self.flushLoggedErrors(TypeError))
        balancer.peeked = self.pool.backends[::-1]
        self.assertEqual(self.ask()["order"], list(NAMES[::-1]))

    def test_no_pool(self) -> None:
        """A pool that has gone since has no choices."""
        self.start(SERVERS)
        head = read_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, HeadLimits())
        assert head is not None
        self.assertEqual(choices(self.gateway, question(head, "", "", ["gone"])), {})
