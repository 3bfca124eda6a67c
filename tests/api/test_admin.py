"""The admin listener over an in-memory connection."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.api.caller import Answer, head_of, read_answer
from twisted_lb.api.admin import admin_site, shown_server
from twisted_lb.backend import Backend


class AdminSiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.ready = (True, "2 servers are up")
        self.backends = [Backend("server1", "localhost", 9001), Backend("server2", "::1", 9002, 2)]

    def servers(self) -> Any:
        return [shown_server(backend) for backend in self.backends]

    def call(self, method: str, target: str, *fields: bytes, token: str = "") -> Answer:
        site = admin_site(self.clock, lambda: self.ready, self.servers, token)
        site.doStart()
        self.addCleanup(site.doStop)
        transport = StringTransport()
        connection = site.buildProtocol(None)
        connection.makeConnection(transport)
        connection.dataReceived(head_of(method, target, b"", *fields))
        self.assertFalse(transport.disconnecting)
        return read_answer(transport.value(), method)

    def test_livez(self) -> None:
        """A process that answers is alive, ready or not."""
        self.ready = (False, "draining")
        answer = self.call("GET", "/livez")
        self.assertEqual((answer.status, answer.body), (200, b"ok\n"))
        self.assertEqual(answer.field("content-type"), "text/plain; charset=utf-8")

    def test_ready(self) -> None:
        """Ready is 200, with the reason."""
        answer = self.call("GET", "/readyz")
        self.assertEqual((answer.status, answer.body), (200, b'{"ready":true,"reason":"2 servers are up"}\n'))
        self.assertEqual(answer.field("content-type"), "application/json")

    def test_not_ready(self) -> None:
        """Not ready is 503, with the reason."""
        self.ready = (False, "draining")
        answer = self.call("GET", "/readyz")
        self.assertEqual((answer.status, answer.body), (503, b'{"ready":false,"reason":"draining"}\n'))
        self.assertEqual(self.call("HEAD", "/readyz").status, 503)

    def test_servers(self) -> None:
        """The fleet is a list in its order, as it is now."""
        first = self.backends[0]
        first.in_flight, first.requests, first.failures, first.retries = 3, 10, 2, 1
        first.latency, first.ramp = 0.0123456, 0.25
        answer = self.call("GET", "/servers")
        shown = json.loads(answer.body)
        self.assertEqual(
            shown[0],
            {
                "name": "server1",
                "url": "http://localhost:9001",
                "state": "up",
                "reason": "new",
                "weight": 1,
                "effective_weight": 0.25,
                "backup": False,
                "maxconn": 0,
                "in_flight": 3,
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
        down, drained, removed = (Backend(name, "h", 1) for name in "abc")
        down.up, down.reason = False, "down: 3 checks in a row failed"
        drained.weight = 0
        removed.weight, removed.reason = 0, "removed"
        self.backends = [down, drained, removed]
        shown = json.loads(self.call("GET", "/servers").body)
        self.assertEqual(
            [(server["state"], server["reason"]) for server in shown],
            [("down", "down: 3 checks in a row failed"), ("draining", "its weight is 0"), ("draining", "removed")],
        )

    def test_later(self) -> None:
        """What has to be asked elsewhere is answered when it is known."""
        ready, servers = self.ready, self.servers()
        self.patch(self, "ready", succeed(ready))
        self.patch(self, "servers", lambda: succeed(servers))
        self.assertEqual(self.call("GET", "/readyz").status, 200)
        self.assertEqual(len(json.loads(self.call("GET", "/servers").body)), 2)

    def test_token(self) -> None:
        """With a token set, the servers are for those who have it; health is for all."""
        for field in (
            b"X: 1",
            b"Authorization: s3cret",
            b"Authorization: Bearer s3cre",
            b"Authorization: Bearer s3cret2",
        ):
            answer = self.call("GET", "/servers", field, token="s3cret")
            self.assertEqual((answer.status, answer.field("content-type")), (401, "application/problem+json"))
            self.assertEqual(answer.field("www-authenticate"), 'Bearer realm="twisted_lb admin"')
        self.assertEqual(self.call("GET", "/servers", b"Authorization: bearer s3cret", token="s3cret").status, 200)
        field = "Authorization: Bearer ключ".encode()
        self.assertEqual(self.call("GET", "/servers", field, token="ключ").status, 200)
        for target in ("/livez", "/readyz"):
            self.assertEqual(self.call("GET", target, token="s3cret").status, 200)

    def test_repeated_authorization(self) -> None:
        """Two tokens are none."""
        field = b"Authorization: Bearer s3cret"
        self.assertEqual(self.call("GET", "/servers", field, field, token="s3cret").status, 401)

    def test_wrong_method(self) -> None:
        """Everything here is read-only: another method is 405 and names those that work."""
        for target in ("/livez", "/readyz", "/servers"):
            answer = self.call("POST", target)
            self.assertEqual((answer.status, answer.field("allow")), (405, "GET, HEAD"))
            self.assertEqual(answer.field("content-type"), "application/problem+json")

    def test_unknown_path(self) -> None:
        """Any other path is 404 as a problem, text or not."""
        for target in ("/", "/livez/", "/user/create", "/%ff"):
            answer = self.call("GET", target)
            self.assertEqual((answer.status, answer.field("content-type")), (404, "application/problem+json"))

    def test_broken_readiness(self) -> None:
        """A reason that cannot be found out is 500, and logged once."""
        self.ready = None
        self.assertEqual(self.call("GET", "/readyz").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_idle_connection(self) -> None:
        """A connection that asks nothing is closed after a minute, by the clock that was handed in."""
        site = admin_site(self.clock, lambda: self.ready, self.servers)
        site.doStart()
        self.addCleanup(site.doStop)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        transport = StringTransport()
        site.buildProtocol(None).makeConnection(transport)
        self.clock.advance(59)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(transport.disconnecting)
