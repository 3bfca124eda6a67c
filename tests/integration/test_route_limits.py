"""Limits of routes over real balancers that share one Redis: exact for both together, whatever becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import pytest

from tests.integration.conftest import WITHOUT_REDIS
from tests.integration.origin import Servers
from tests.integration.processes import Answer, Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer

pytestmark = WITHOUT_REDIS

CAPACITY = 50
# Buckets that are not refilled: what is admitted is what they had.
ROUTES = """
routes:
- {path: /route, pool: p, key: optional, limits: [{name: r, per: route, capacity: 50, rate_per_sec: 0}]}
- {path: /costs, pool: p, cost: 7, limits: [{name: c, per: route, capacity: 50, rate_per_sec: 0}]}
- {path: /network, pool: p, key: none, limits: [{name: n, per: network, capacity: 50, rate_per_sec: 0}]}
- {path: /key, pool: p, limits: [{name: k, per: key, capacity: 50, rate_per_sec: 0}]}
- {path: /crash, pool: p, key: none, limits: [{name: x, per: route, capacity: 50, rate_per_sec: 0}]}
- {path: /outage, pool: p, key: none, limits: [{name: o, per: route, capacity: 50, rate_per_sec: 0}]}
- {pool: p}
"""


def pools(servers: Servers) -> str:
    """The servers as a pool."""
    lines = [line for line in servers.yaml().splitlines() if line.lstrip().startswith("-")]
    return "pools:\n  p:\n    servers:\n" + "".join(f"    {line.strip()}\n" for line in lines) + ROUTES


class Two:
    """Two balancers."""

    def __init__(self, servers: Servers, redis: RedisServer) -> None:
        self.redis = redis
        self.all = [Balancer(pools(servers), "--redis-url", redis.url) for _ in range(2)]
        for balancer in self.all:
            balancer.start()
        self.key = self.all[0].create_user("user1", 1_000_000, 0)

    def burst(self, path: str, requests: int, key: str = "") -> list[Answer]:
        """So many requests at once, to each in turn."""
        ports = [balancer.port for _, balancer in zip(range(requests), cycle(self.all))]
        with ThreadPoolExecutor(20) as threads:
            return list(threads.map(lambda port: ask(port, "GET", path, key=key or None), ports))

    def admitted(self, path: str, requests: int, key: str = "") -> int:
        """How many of them pass; the others are refused."""
        statuses = [answer.status for answer in self.burst(path, requests, key)]
        assert set(statuses) <= {200, 429}, statuses
        return statuses.count(200)

    def close(self) -> None:
        for balancer in self.all:
            balancer.close()


@pytest.fixture
def two(servers: Servers) -> Iterator[Two]:
    """Two balancers on a Redis of their own."""
    redis = RedisServer(appendonly=True)
    try:
        redis.start()
        two = Two(servers, redis)
        try:
            yield two
        finally:
            two.close()
    finally:
        redis.close()


def test_a_burst_gets_the_capacity(two: Two) -> None:
    """Two balancers admit exactly the capacity of a bucket together: of a route, a network and a key, at any cost."""
    assert two.admitted("/route", 2 * CAPACITY, two.key) == CAPACITY
    assert two.admitted("/route", 10) == 0
    assert two.admitted("/costs", 20, two.key) == CAPACITY // 7
    assert two.admitted("/network", 2 * CAPACITY) == CAPACITY
    assert two.admitted("/key", 2 * CAPACITY, two.key) == CAPACITY
    # What was refused took nothing of the key's bucket.
    taken = CAPACITY + 7 * (CAPACITY // 7) + CAPACITY
    wait_until(lambda: two.all[0].tokens(two.key) == 1_000_000 - taken, what="what was taken of the key's bucket")
    [refused] = two.burst("/route", 1)
    assert refused.fields["RateLimit"] == '"r";r=0'
    assert b'"violated-policies":["r"]' in refused.body.replace(b" ", b"")


def test_a_balancer_that_is_killed(two: Two) -> None:
    """A kill -9 and a restart of a balancer fill no bucket."""
    admitted = two.admitted("/crash", 20)
    two.all[0].kill()
    two.all[0].start()
    admitted += two.admitted("/crash", 2 * CAPACITY)
    assert admitted == CAPACITY


def test_an_outage_of_redis(two: Two) -> None:
    """Before, during and after an outage two balancers admit the capacity together, and no more."""
    admitted = two.admitted("/outage", 20)
    two.redis.kill()
    wait_until(lambda: all(b"degraded" in ask(one.admin_port, "GET", "/readyz").body for one in two.all))
    admitted += two.admitted("/outage", 10)
    two.redis.start()
    wait_until(
        lambda: all(b'"degraded":false' in _readyz(one) or b"serving" in _readyz(one) for one in two.all),
        what="the end of the outage",
    )
    admitted += two.admitted("/outage", 2 * CAPACITY)
    assert admitted == CAPACITY


def _readyz(balancer: Balancer) -> bytes:
    return ask(balancer.admin_port, "GET", "/readyz").body.replace(b" ", b"")
