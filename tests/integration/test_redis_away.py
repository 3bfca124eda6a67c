"""Redis that is not there, or goes and comes back, under the running program."""

from __future__ import annotations

import json

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer

BACK_SECONDS = 10.0


def assert_away(balancer: Balancer, key: str) -> None:
    """Without Redis all that needs it is 503 within a moment, as a problem that says what to do."""
    for method, path, body in (
        ("GET", "/", None),
        ("GET", "/user/tokens/profile", None),
        ("POST", "/user/create", b'{"name": "nobody"}'),
    ):
        answer = ask(balancer.port, method, path, body, key, seconds=5)
        assert answer.status == 503, answer
        assert answer.fields["Content-Type"] == "application/problem+json"
        assert "Redis" in json.loads(answer.body)["detail"]


def back(balancer: Balancer) -> bool:
    """Whether the store answers: an unknown key is 401 then."""
    return ask(balancer.port, "GET", "/user/tokens/profile", key="unknown").status == 401


def test_redis_comes_late_goes_and_comes_back(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """The program starts without Redis, serves when it comes, is 503 while it is away, and then serves on."""
    balancer = new_balancer(servers.yaml(), "--redis-url", redis.url).start()
    assert_away(balancer, "unknown")
    redis.start()
    wait_until(lambda: back(balancer), BACK_SECONDS, "the store is back")
    key = balancer.create_user("user1", 5, 0)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    redis.kill()
    assert_away(balancer, key)
    # Its data are in the append-only file; scripts that it had been given are forgotten.
    redis.start()
    wait_until(lambda: back(balancer), BACK_SECONDS, "the store is back")
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    assert balancer.tokens(key) == 3
    assert ask(balancer.port, "POST", "/user/create", b'{"name": "nobody"}').status == 200


def test_a_redis_that_hangs(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """While Redis is stopped in its tracks requests are 503 within seconds, and served again after it goes on."""
    redis.start()
    balancer = new_balancer(servers.yaml(), "--redis-url", redis.url).start()
    key = balancer.create_user("user1", 100, 0)
    redis.pause()
    try:
        assert_away(balancer, key)
    finally:
        redis.resume()
    wait_until(lambda: back(balancer), BACK_SECONDS, "the store is back")
    assert ask(balancer.port, "GET", "/", key=key).status == 200


def test_two_instances_share_one_bucket(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """A key works at two balancers on one Redis, which together admit what its bucket holds."""
    redis.start()
    first, second = (new_balancer(servers.yaml(), "--redis-url", redis.url).start() for _ in range(2))
    key = first.create_user("user1", 11, 0)
    statuses = [ask(one.port, "GET", "/", key=key).status for _ in range(10) for one in (first, second)]
    assert statuses == [200] * 11 + [429] * 9
    assert second.create_user("user2") and ask(first.port, "POST", "/user/create", b'{"name": "user2"}').status == 409
