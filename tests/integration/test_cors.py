"""CORS on the running program: what a page of another origin gets, with each way of configuring it."""

from __future__ import annotations

import http.client
import json
import os
import signal

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Answer, Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer

APP = "https://app.test"
ASKS = {"Origin": APP, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
CORS = f"cors: {{allowed_origins: [{APP}], exposed_headers: [X-Sum], max_age: 5m}}\n"
# A network may send nine requests without a valid key, and then no new key.
FEW = {"ADDRESS_CAPACITY": "9", "ADDRESS_RATE_PER_SEC": "0.001"}


def readable(answer: Answer) -> bool:
    """Whether a page of APP may read the answer and its limits."""
    exposed = answer.fields.get("Access-Control-Expose-Headers", "")
    allowed = answer.fields.get_all("Access-Control-Allow-Origin") == [APP]
    return allowed and "Retry-After" in exposed and "Origin" in answer.fields["Vary"]


def test_passed_to_servers(new_balancer: Start, servers: Servers) -> None:
    """By default preflights reach a server, without a user, and spend nothing of the network, which a new key needs."""
    balancer = new_balancer(servers.yaml(), environment=FEW).start()
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    for _ in range(50):
        connection.request("OPTIONS", "/a?b", headers=ASKS)
        response = connection.getresponse()
        assert (response.status, response.read()[:6]) == (200, b"Server")
    connection.close()
    seen = [one for origin in servers.all for one in origin.seen]
    assert len(seen) == 50 and len({one.path for one in seen}) == 1
    assert not any(one.field("X-Consumer-Username") for one in seen)
    assert {one.field("Access-Control-Request-Method") for one in seen} == {"PUT"}
    # One token for the user, and one that a valid key gives back.
    key = balancer.create_user("ann", 5, 0)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    assert balancer.tokens(key) == 4
    # A preflight with a key is the user's, and OPTIONS without an origin is no preflight.
    assert ask(balancer.port, "OPTIONS", "/", key=key, fields=ASKS).status == 200
    assert balancer.tokens(key) == 3
    statuses = [ask(balancer.port, "OPTIONS", "/").status for _ in range(12)]
    assert statuses[0] == 401 and statuses[-1] == 429


def test_answered_here(new_balancer: Start, servers: Servers) -> None:
    """With `cors` preflights are answered here and cost nothing, and every answer can be read by the page."""
    balancer = new_balancer(servers.yaml() + CORS, environment=FEW).start()
    for path in ("/", "/user/create", "/user/tokens/profile"):
        for _ in range(10):
            answer = ask(balancer.port, "OPTIONS", path, fields=ASKS)
            assert (answer.status, answer.body, readable(answer)) == (204, b"", False)
            assert answer.fields["Access-Control-Allow-Origin"] == APP
            assert answer.fields["Access-Control-Allow-Headers"] == "authorization"
            assert answer.fields["Access-Control-Max-Age"] == "300"
        refused = ask(balancer.port, "OPTIONS", path, fields={**ASKS, "Origin": "https://other.test"})
        assert refused.status == 204 and "Access-Control-Allow-Origin" not in refused.fields
    assert not any(origin.seen for origin in servers.all)
    page = {"Origin": APP}
    body = json.dumps({"name": "ann", "capacity": 1, "rate_per_sec": 0.01}).encode()
    created = ask(balancer.port, "POST", "/user/create", body, fields=page)
    assert created.status == 200 and readable(created)
    key = json.loads(created.body)["api_key"]
    served, limited = (ask(balancer.port, "GET", "/", key=key, fields=page) for _ in range(2))
    assert (served.status, limited.status) == (200, 429)
    assert readable(served) and readable(limited) and int(limited.fields["Retry-After"]) > 1
    assert "X-Sum" in served.fields["Access-Control-Expose-Headers"]
    unknown = ask(balancer.port, "GET", "/", fields=page)
    assert unknown.status == 401 and readable(unknown)
    profile = ask(balancer.port, "GET", "/user/tokens/profile", key=key, fields=page)
    missing = ask(balancer.port, "GET", "/user/create", fields=page)
    assert (profile.status, missing.status) == (200, 405)
    assert readable(profile) and readable(missing)
    for origin in servers.all:
        origin.stop()
    key = balancer.create_user("bob")
    away = ask(balancer.port, "GET", "/", key=key, fields=page)
    assert away.status == 503 and readable(away) and away.fields["Retry-After"] == "1"


def test_reload(redis: RedisServer, servers: Servers, new_balancer: Start) -> None:
    """All workers follow a change of `cors`, there and back."""
    redis.start()
    balancer = new_balancer(servers.yaml(), "--redis-url", redis.url, "--workers", "2").start()
    for text, statuses in ((servers.yaml() + CORS, {204}), (servers.yaml() + "cors: pass\n", {200})):
        use(balancer, text)
        wait_until(lambda: {ask(balancer.port, "OPTIONS", "/", fields=ASKS).status for _ in range(24)} == statuses)
    use(balancer, servers.yaml() + "cors: {allowed_origins: [app.test]}\n", "was rejected")
    assert "servers.yaml:6: cors.allowed_origins: expected an origin such as" in balancer.log()
    assert ask(balancer.port, "OPTIONS", "/", fields=ASKS).status == 200


def use(balancer: Balancer, text: str, said: str = "was reloaded") -> None:
    """Write the servers file, and wait for what is said of it."""
    before = balancer.log().count(said)
    (balancer.directory / "servers.yaml").write_text(text)
    os.kill(balancer.pid, signal.SIGHUP)
    wait_until(lambda: balancer.log().count(said) > before, what=said)
