"""Quotas with real processes: fields, refusals, and notices to a webhook, signed, repeated, and one of each."""

from __future__ import annotations

import hmac
import json
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import ask, wait_until
from tests.integration.redis_server import RedisServer
from tests.integration.test_admin_users import TOKEN, call, called

KEY = bytes(range(32))
SECRET = f"whsec_{b64encode(KEY).decode()}"


class Received(NamedTuple):
    """A request to the webhook."""

    fields: dict[str, str]
    body: bytes
    status: int  # of the response

    @property
    def content(self) -> Any:
        return json.loads(self.body)


class Webhook:
    """A receiver on loopback, which answers with `answers` first, and then with 204."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.received: list[Received] = []
        lock = threading.Lock()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    status = webhook.answers.pop(0) if webhook.answers else 204
                    fields = {name.lower(): value for name, value in self.headers.items()}
                    webhook.received.append(Received(fields, body, status))
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?secret-path"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def accepted(self, user: str) -> list[Received]:
        """What was accepted about this user."""
        return [one for one in self.received if one.status == 204 and one.content["data"]["user"] == user]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    """A receiver."""
    webhook = Webhook()
    yield webhook
    webhook.close()


def check_signature(one: Received) -> None:
    """Fail unless it is signed as Standard Webhooks are."""
    fields = one.fields
    signed = f"{fields['webhook-id']}.{fields['webhook-timestamp']}.".encode() + one.body
    version, _, signature = fields["webhook-signature"].partition(",")
    assert (version, b64decode(signature)) == ("v1", hmac.digest(KEY, signed, "sha256"))
    assert fields["webhook-id"] == one.content["id"]


def test_fields_and_notices(
    servers: Servers, processes: tuple[str, ...], new_balancer: Start, webhook: Webhook
) -> None:
    """A user with a quota sees it in all responses and in the profile; the notices come after two failures."""
    webhook.answers = [500, 302]
    environment = {**TOKEN, "WEBHOOK_URL": webhook.url, "WEBHOOK_SECRET": SECRET}
    balancer = new_balancer(servers.yaml(), *processes, environment=environment).start()
    quota = {"requests": 5, "per": "day", "time_zone": "Europe/Berlin"}
    user = called(balancer, "POST", "/users", {"name": "ann", "capacity": 100, "rate_per_sec": 0, "quota": quota})
    answers = [ask(balancer.port, "GET", "/", key=user["api_key"]) for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 5 + [429]
    first, last = answers[0].fields, answers[-1].fields
    policy, state = first["RateLimit-Policy"].split(", "), first["RateLimit"].split(", ")
    assert policy[0] == '"default";q=100' and policy[1].startswith('"quota";q=5;qu="requests";w=')
    assert state[1].startswith('"quota";r=4;t=')
    assert (first["X-RateLimit-Limit"], first["X-RateLimit-Remaining"]) == ("5", "4")
    assert last["RateLimit"].startswith('"quota";r=0;t=')
    assert last["Retry-After"] == last["RateLimit"].rpartition("=")[2]
    assert json.loads(answers[-1].body)["violated-policies"] == ["quota"]
    profile = json.loads(ask(balancer.port, "GET", "/user/tokens/profile", key=user["api_key"]).body)
    assert profile["current_capacity"] == 95
    assert {**quota, "used": 5, "left": 0}.items() <= profile["quota"].items()
    wait_until(lambda: len(webhook.accepted("ann")) == 2, what="two notices")
    for one in webhook.received:
        check_signature(one)
    assert sorted(one.content["type"] for one in webhook.accepted("ann")) == ["quota.100", "quota.80"]
    # Each failure is followed by the same notice.
    assert len(webhook.received) == 4
    assert {one.fields["webhook-id"] for one in webhook.received[:2]} <= {
        one.fields["webhook-id"] for one in webhook.accepted("ann")
    }
    for line in ('notices_total{result="delivered"} 2.0', 'notices_total{result="failed"} 2.0'):
        wait_until(lambda: line in call(balancer, "GET", "/metrics").body.decode(), what=line)
    log = balancer.log()
    assert SECRET not in log and b64encode(KEY).decode() not in log and "secret-path" not in log


def test_one_notice_of_two_balancers(
    servers: Servers, redis: RedisServer, new_balancer: Start, webhook: Webhook
) -> None:
    """Two balancers under load admit exactly the quota together, and send one notice of each kind for each user."""
    redis.start()
    environment = {**TOKEN, "WEBHOOK_URL": webhook.url, "WEBHOOK_SECRET": SECRET, "REDIS_URL": redis.url}
    both = [new_balancer(servers.yaml(), environment=environment).start() for _ in range(2)]
    names = [f"user{number}" for number in range(4)]
    keys = []
    for name in names:
        body = {"name": name, "capacity": 1000, "quota": {"requests": 40, "per": "month"}}
        keys.append(called(both[0], "POST", "/users", body)["api_key"])
    with ThreadPoolExecutor(8) as threads:
        asked = [
            (key, threads.submit(ask, balancer.port, "GET", "/", key=key))
            for _ in range(30)
            for balancer in both
            for key in keys
        ]
        statuses = [(key, one.result().status) for key, one in asked]
    for key in keys:
        assert statuses.count((key, 200)) == 40
        assert statuses.count((key, 429)) == 20
    wait_until(lambda: all(len(webhook.accepted(name)) >= 2 for name in names), what="the notices")
    for name in names:
        assert sorted(one.content["type"] for one in webhook.accepted(name)) == ["quota.100", "quota.80"]
    assert len(webhook.received) == 2 * len(names)


def test_kill_9_before_the_delivery(servers: Servers, new_balancer: Start, webhook: Webhook) -> None:
    """A notice that was stored and not delivered is sent after kill -9 and a start, with the same id."""
    webhook.answers = [503]
    environment = {**TOKEN, "WEBHOOK_URL": webhook.url, "WEBHOOK_SECRET": SECRET}
    balancer = new_balancer(servers.yaml(), environment=environment).start()
    quota = {"tokens": 5, "per": "month"}
    user = called(balancer, "POST", "/users", {"name": "ann", "capacity": 100, "quota": quota})
    for _ in range(4):
        assert ask(balancer.port, "GET", "/", key=user["api_key"]).status == 200
    wait_until(lambda: len(webhook.received) == 1, what="the first attempt")
    balancer.kill()
    balancer.start()
    wait_until(lambda: len(webhook.accepted("ann")) == 1, what="the notice")
    assert webhook.received[0].content == webhook.accepted("ann")[0].content
    assert called(balancer, "GET", "/users/ann")["quota"]["used"] == 4
