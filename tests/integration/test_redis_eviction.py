"""The real program and a real Redis that may throw keys away, or that does not tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.conftest import Start
from tests.integration.processes import wait_until
from tests.integration.redis_server import MISSING, RedisServer

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
SERVERS = "servers: [{name: a, url: 'http://127.0.0.1:1'}]"
RULES = "on >geheim ~tokenlb:* +@read +@write +@scripting +time +select".split()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.close()


def test_warning(new_balancer: Start, redis: RedisServer) -> None:
    """There is one line of a Redis that evicts, and the start is not held up."""
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    balancer = new_balancer(SERVERS, "--redis-url", redis.url).start()
    wait_until(lambda: "has maxmemory-policy allkeys-lru" in balancer.log())
    assert balancer.log().count("maxmemory-policy allkeys-lru") == 1


def test_no_permission(new_balancer: Start, redis: RedisServer) -> None:
    """A user of Redis who has the rights of docs/limits.md and no more is served, without a word."""
    redis.command("ACL", "SETUSER", "gateway", *RULES)
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    balancer = new_balancer(SERVERS, "--redis-url", f"redis://gateway:geheim@127.0.0.1:{redis.port}").start()
    assert balancer.create_user("user1")
    # INFO and CONFIG, and nothing else, were refused.
    wait_until(lambda: b"errorstat_NOPERM:count=2\r\n" in redis.command("INFO", "errorstats"), what="two refusals")
    assert "maxmemory" not in balancer.log()
    assert "Traceback" not in balancer.log() and "trying again" not in balancer.log()
