"""Shadow limits over a real balancer and Redis: they refuse nothing, count exactly, and refuse after the promotion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import WITHOUT_REDIS
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask
from tests.integration.redis_server import RedisServer

pytestmark = WITHOUT_REDIS

TOKEN = {"Authorization": "Bearer s3cret"}
ROUTES = """
routes:
- {path: /limited/, pool: p, limits: [{name: burst, per: route, capacity: 3, rate_per_sec: 0, shadow: true}]}  # for now
- {pool: p}
"""


@pytest.fixture(params=[1, 2])
def balancer(request: Any, servers: Servers) -> Iterator[Balancer]:
    """One with so many workers, which writes changes to its file."""
    lines = [line for line in servers.yaml().splitlines() if line.lstrip().startswith("-")]
    text = "pools:\n  p:\n    servers:\n" + "".join(f"    {line.strip()}\n" for line in lines) + ROUTES
    environment = {"ADMIN_TOKEN": "s3cret", "ADMIN_WRITES": "file"}
    redis = RedisServer()
    try:
        redis.start()
        workers = str(request.param)
        balancer = Balancer(text, "--redis-url", redis.url, "--workers", workers, environment=environment)
        balancer.start()
        try:
            yield balancer
        finally:
            balancer.close()
    finally:
        redis.close()


def admin(balancer: Balancer, method: str, path: str, body: object = None) -> Any:
    """The answer of the admin listener."""
    data = None if body is None else json.dumps(body).encode()
    answer = ask(balancer.admin_port, method, path, data, None, TOKEN)
    assert answer.status == 200, answer
    return json.loads(answer.body)


def statuses(balancer: Balancer, path: str, key: str, count: int) -> list[int]:
    """The statuses of so many requests, one after the other, which tell nothing of shadows."""
    answers = [ask(balancer.port, "GET", path, key=key) for _ in range(count)]
    for answer in answers:
        assert answer.status == 429 or answer.fields["RateLimit"].count(";r=") == 1, answer
    return [answer.status for answer in answers]


def test_a_limit_of_a_route(balancer: Balancer) -> None:
    """It admits all and counts what it would have refused; promoted, it refuses from the next request on."""
    key = balancer.create_user("user1", 1000, 0)
    assert statuses(balancer, "/limited/", key, 10) == [200] * 10
    [limit] = admin(balancer, "GET", "/limits")["limits"]
    counts = {"requests": 10, "would_refuse": 7}
    assert (limit["shadow"], limit["level"], limit["hour"], limit["day"]) == (True, 0, counts, counts)
    metrics = ask(balancer.admin_port, "GET", "/metrics", None, None, TOKEN).body.decode()
    assert 'tokenlb_shadow_requests_total{limit="burst",owner="route /limited/"} 10.0' in metrics
    assert 'tokenlb_shadow_would_refuse_total{limit="burst",owner="route /limited/"} 7.0' in metrics
    limit = admin(balancer, "POST", "/routes/%2Flimited%2F/limits/burst/promote")
    assert (limit["shadow"], limit["level"]) == (False, 0)
    text = (balancer.directory / "servers.yaml").read_text()
    assert "shadow" not in text and "# for now" in text
    assert statuses(balancer, "/limited/", key, 6) == [429] * 6
    assert statuses(balancer, "/", key, 2) == [200] * 2


def test_a_policy_of_a_user(balancer: Balancer) -> None:
    """The same of the shadow policy of a user; promoted, it is the policy, with the level of the user's bucket."""
    key = balancer.create_user("user1", 1000, 0)
    admin(balancer, "PATCH", "/users/user1", {"shadow": {"capacity": 3, "rate_per_sec": 0}})
    assert statuses(balancer, "/", key, 10) == [200] * 10
    counts = {"requests": 10, "would_refuse": 7}
    shadow = admin(balancer, "GET", "/users/user1/shadow")
    assert (shadow["current_capacity"], shadow["hour"], shadow["day"]) == (0, counts, counts)
    profile = json.loads(ask(balancer.port, "GET", "/user/tokens/profile", key=key).body)
    assert profile["shadow"]["capacity"] == 3 and profile["current_capacity"] == 990
    user = admin(balancer, "POST", "/users/user1/shadow/promote")
    assert (user["capacity"], user["current_capacity"], "shadow" in user) == (3, 3, False)
    assert statuses(balancer, "/", key, 6) == [200] * 3 + [429] * 3
