"""What operators see of the running program: the metrics, the users, and whether it is degraded."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Answer, Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer


def metrics(balancer: Balancer, **fields: str) -> dict[tuple[str, ...], float]:
    """All numbers by name and labels."""
    answer = ask(balancer.admin_port, "GET", "/metrics", fields=fields)
    assert answer.status == 200, answer
    families = text_string_to_metric_families(answer.body.decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def readiness(balancer: Balancer) -> tuple[int, dict[str, Any]]:
    answer = ask(balancer.admin_port, "GET", "/readyz")
    return answer.status, json.loads(answer.body)


def users(balancer: Balancer, query: str = "") -> Answer:
    return ask(balancer.admin_port, "GET", f"/users{query}")


def all_names(balancer: Balancer, limit: int) -> list[str]:
    """The names of all users, page by page."""
    names: list[str] = []
    query = f"?limit={limit}"
    while True:
        page = json.loads(users(balancer, query).body)
        assert len(page["users"]) <= limit
        names += [user["name"] for user in page["users"]]
        if page["next"] is None:
            return names
        query = f"?limit={limit}&after={quote(page['next'])}"


def test_users_page_by_page(balancer: Balancer) -> None:
    """Pages of any size together show each user once, in the order of the names, with what its bucket has."""
    ours = f"page-{uuid4()}-"
    names = [f"{ours}{number}" for number in range(7)] + [f"{ours}Zoë 东京", f"{ours}%00&?"]
    keys = {name: balancer.create_user(name, 9, 0) for name in names}
    assert ask(balancer.port, "GET", "/", key=keys[f"{ours}3"]).status == 200
    expected = sorted(names, key=str.encode)
    for limit in (1, 2, 9, 200):
        found = all_names(balancer, limit)
        assert [name for name in found if name.startswith(ours)] == expected
        assert len(set(found)) == len(found)
    (user,) = json.loads(users(balancer, f"?after={ours}2&limit=1").body)["users"]
    bucket = {"name": f"{ours}3", "capacity": 9, "rate_per_sec": 0, "current_capacity": 8}
    assert user == {**user, **bucket}
    assert users(balancer, "?limit=201").status == 400


@pytest.mark.parametrize("workers", [1, 2])
def test_redis_that_is_away(new_balancer: Start, servers: Servers, redis: RedisServer, workers: int) -> None:
    """Metrics and /readyz tell of an outage and of its end, and count what was decided meanwhile."""
    redis.start()
    options = ("--redis-url", redis.url, "--workers", str(workers))
    balancer = new_balancer(servers.yaml(), *options).start()
    key = balancer.create_user("user1", 1000, 0)
    for _ in range(20):
        assert ask(balancer.port, "GET", "/", key=key).status == 200
    wait_until(lambda: metrics(balancer)["tokenlb_instances",] == workers, what="all have announced themselves")
    before = metrics(balancer)
    assert (before["tokenlb_store_up",], before["tokenlb_store_outages_total",]) == (1, 0)
    assert before["tokenlb_takings_total",] == 20 and before["tokenlb_script_calls_total",] > 0
    assert sum(before["tokenlb_server_requests_total", "default", f"server{number}"] for number in (1, 2, 3)) == 20
    status, said = readiness(balancer)
    assert (status, said["ready"], said["degraded"]) == (200, True, False)

    redis.kill()
    wait_until(lambda: readiness(balancer)[1]["degraded"], what="degraded")
    wait_until(lambda: metrics(balancer)["tokenlb_store_outages_total",] == workers, what="all have noticed")
    status, said = readiness(balancer)
    assert (status, said["ready"]) == (200, True) and "Redis" in said["reason"]
    for _ in range(4):
        assert ask(balancer.port, "GET", "/", key="unknown").status == 503
    assert users(balancer).status == 503
    away = metrics(balancer)
    assert (away["tokenlb_store_up",], away["tokenlb_store_outages_total",]) == (0, workers)
    assert away["tokenlb_standby_decisions_total", "unknown"] >= 4

    redis.start()
    wait_until(lambda: not readiness(balancer)[1]["degraded"], what="recovered")
    wait_until(lambda: metrics(balancer)["tokenlb_store_up",] == 1, what="all have recovered")
    assert [user["name"] for user in json.loads(users(balancer).body)["users"]] == ["user1"]


def test_deny(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """With ON_STORE_ERROR=deny a program whose Redis is away wants no traffic, and says why without the password."""
    redis.start()
    redis.change_password("geheim")
    environment = {"REDIS_URL": redis.url, "ON_STORE_ERROR": "deny"}
    balancer = new_balancer(servers.yaml(), environment=environment).start()
    key = balancer.create_user("user1")
    redis.kill()
    wait_until(lambda: readiness(balancer)[0] == 503, what="not ready")
    said = readiness(balancer)[1]
    assert (said["ready"], said["degraded"]) == (False, False)
    assert "Redis" in said["reason"] and "geheim" not in said["reason"]
    assert ask(balancer.port, "GET", "/", key=key).status == 503


def test_admin_token(new_balancer: Start, servers: Servers) -> None:
    """With ADMIN_TOKEN the users and the metrics are for who has it."""
    balancer = new_balancer(servers.yaml(), environment={"ADMIN_TOKEN": "s3cret"}).start()
    assert users(balancer).status == 401
    assert ask(balancer.admin_port, "GET", "/metrics").status == 401
    assert metrics(balancer, Authorization="Bearer s3cret")["tokenlb_server_up", "default", "server1"] == 1
