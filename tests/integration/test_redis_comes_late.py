"""A program that starts before its Redis."""

from __future__ import annotations

import json

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer


def assert_away(balancer: Balancer) -> None:
    """Without Redis all that needs it is 503 at once, as a problem that names no host; what has no key is 401."""
    for method, path, body in (
        ("GET", "/", None),
        ("GET", "/user/tokens/profile", None),
        ("POST", "/user/create", b'{"name": "nobody"}'),
    ):
        answer = ask(balancer.port, method, path, body, "unknown")
        assert answer.status == 503, answer
        assert answer.fields["Content-Type"] == "application/problem+json"
        detail = json.loads(answer.body)["detail"]
        assert "Redis" not in detail and "127.0.0.1" not in detail, detail
    assert ask(balancer.port, "GET", "/").status == 401


def test_redis_comes_late(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """The program starts without Redis and says so, and serves as soon as Redis is there."""
    balancer = new_balancer(servers.yaml(), "--redis-url", redis.url).start_not_ready()
    assert_away(balancer)
    told = json.loads(ask(balancer.admin_port, "GET", "/readyz").body)
    assert not told["ready"] and "Redis" in told["reason"], told
    redis.start()
    wait_until(
        lambda: ask(balancer.port, "GET", "/user/tokens/profile", key="unknown").status == 401,
        what="the store is there",
    )
    key = balancer.create_user("user1", 5, 0)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    assert balancer.tokens(key) == 4
