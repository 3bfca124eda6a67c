"""Usage of keys, with real processes and stores."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import WITHOUT_REDIS, Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer
from tests.integration.test_admin_users import TOKEN, call, called, status
from twisted_lb.stores.sqlite.files import DATABASE_FILE


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis for one test."""
    server = RedisServer(appendonly=True)
    try:
        server.start()
        yield server
    finally:
        server.close()


def usage(balancer: Balancer, key_id: str) -> Any:
    """The usage of a key, which must be the same in the last hour and day."""
    # On a busy machine Redis may have missed its deadline.
    wait_until(lambda: call(balancer, "GET", f"/keys/{key_id}").status == 200, what="the store")
    found = called(balancer, "GET", f"/keys/{key_id}/usage")
    assert found["hour"] == found["day"]
    return found["day"]


def own_usage(balancer: Balancer, key: str, key_id: str) -> Any:
    """What the user sees."""
    answer = ask(balancer.port, "GET", f"/user/keys/{key_id}/usage", key=key)
    assert answer.status == 200, answer
    return json.loads(answer.body)["day"]


def test_counts(servers: Servers, processes: tuple[str, ...], new_balancer: Start) -> None:
    """Operators see all requests that are over, of all workers, at once, and after a restart; users see their own."""
    balancer = new_balancer(servers.yaml(), *processes, environment=TOKEN).start()
    user = called(balancer, "POST", "/users", {"name": "ann", "capacity": 8, "rate_per_sec": 0})
    key, first = user["api_key"], user["keys"][0]["key_id"]
    second = called(balancer, "POST", "/users/ann/keys", {"capacity": 2, "rate_per_sec": 0})
    assert [status(balancer, key) for _ in range(5)] == [200] * 5
    assert [status(balancer, second["api_key"]) for _ in range(3)] == [200, 200, 429]
    of_second = {"requests": 2, "tokens": 2, "refused": {"api-key": 1}}
    assert usage(balancer, second["key_id"]) == of_second
    called(balancer, "POST", f"/users/ann/keys/{second['key_id']}/disable")
    assert [status(balancer, second["api_key"]) for _ in range(2)] == [403, 403]
    assert [status(balancer, key) for _ in range(4)] == [200, 429, 429, 429]
    of_first = {"requests": 6, "tokens": 6, "refused": {"default": 3}}
    of_second["refused"] = {"api-key": 1, "key_disabled": 2}
    for _ in range(2):
        assert usage(balancer, first) == of_first
        found = called(balancer, "GET", "/users/ann/usage")
        assert found["day"] == {
            "requests": 8,
            "tokens": 8,
            "refused": {"api-key": 1, "default": 3, "key_disabled": 2},
        }
        assert [(one["key_id"], one["hour"]) for one in found["keys"]] == [
            (first, of_first),
            (second["key_id"], of_second),
        ]
        assert own_usage(balancer, key, second["key_id"]) == of_second
        balancer.terminate()
        balancer.wait()
        balancer.start()
    assert ask(balancer.port, "GET", f"/user/keys/{first}/usage", key=second["api_key"]).status == 403
    called(balancer, "DELETE", "/users/ann")
    assert call(balancer, "GET", "/users/ann/usage").status == 404
    assert call(balancer, "GET", f"/keys/{first}/usage").status == 404


def test_after_a_crash(servers: Servers, new_balancer: Start, tmp_path: Path) -> None:
    """After kill -9 the embedded store has what it was told, but for the last second."""
    balancer = new_balancer(servers.yaml(), environment=TOKEN).start()
    user = called(balancer, "POST", "/users", {"name": "ann", "capacity": 100})
    key, key_id = user["api_key"], user["keys"][0]["key_id"]
    assert {status(balancer, key) for _ in range(3)} == {200}
    before = usage(balancer, key_id)

    def stored() -> bool:
        # The program would notice another one at its database.
        copy = tmp_path / str(time.monotonic_ns())
        shutil.copytree(balancer.directory / "data", copy)
        connection = sqlite3.connect(copy / DATABASE_FILE)
        try:
            return bool(connection.execute("SELECT count(*) FROM usage").fetchall() == [(2,)])
        except sqlite3.Error:
            # It was written while it was copied.
            return False
        finally:
            connection.close()

    wait_until(stored, what="the counts on disk")
    balancer.kill()
    balancer.start()
    assert usage(balancer, key_id) == before == {"requests": 3, "tokens": 3, "refused": {}}


@WITHOUT_REDIS
def test_decisions_of_an_outage_count(servers: Servers, redis: RedisServer, new_balancer: Start) -> None:
    """Requests that are decided without Redis, and refusals among them, are counted when it is back."""
    environment = {**TOKEN, "ON_STORE_ERROR": "local"}
    balancer = new_balancer(servers.yaml(), "--redis-url", redis.url, environment=environment).start()
    user = called(balancer, "POST", "/users", {"name": "ann", "capacity": 5, "rate_per_sec": 0})
    key, key_id = user["api_key"], user["keys"][0]["key_id"]
    assert [status(balancer, key) for _ in range(2)] == [200, 200]
    redis.kill()
    wait_until(lambda: call(balancer, "GET", f"/keys/{key_id}/usage").status == 503, what="the outage")
    assert [status(balancer, key) for _ in range(5)] == [200, 200, 200, 429, 429]
    redis.start()
    wait_until(lambda: call(balancer, "GET", f"/keys/{key_id}/usage").status == 200, what="the end of the outage")
    expected = {"requests": 5, "tokens": 5, "refused": {"default": 2}}
    wait_until(lambda: usage(balancer, key_id) == expected, what="the usage")
