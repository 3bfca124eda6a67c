"""What operators see: readiness at the start, lines in the log, numbers, and keys that all workers know."""

from __future__ import annotations

import re
import time

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import ask, wait_until
from tests.integration.redis_server import RedisServer, free_port
from tests.integration.test_metrics import metrics, readiness


@pytest.mark.parametrize("mode", ["local", "allow", "deny"])
def test_not_ready_before_the_store_was_reached(
    servers: Servers, new_balancer: Start, redis: RedisServer, mode: str
) -> None:
    """An instance that has never reached Redis is not ready, whatever it does in outages; then it is, and stays so."""
    options = ("--redis-url", redis.url)
    balancer = new_balancer(servers.yaml(), *options, environment={"ON_STORE_ERROR": mode}).start_not_ready()
    status, shown = readiness(balancer)
    assert (status, shown["ready"]) == (503, False)
    assert "it was not reached yet" in shown["reason"]
    redis.start()
    wait_until(lambda: readiness(balancer)[0] == 200, what="readiness")
    redis.kill()
    wait_until(lambda: readiness(balancer)[1]["degraded"] or readiness(balancer)[0] == 503, what="the outage")
    assert readiness(balancer)[0] == (503 if mode == "deny" else 200)


def test_all_workers_know_a_key(servers: Servers, new_balancer: Start, redis: RedisServer) -> None:
    """A key that was used once is served by every worker while Redis is away."""
    redis.start()
    balancer = new_balancer(servers.yaml(), "--redis-url", redis.url, "--workers", "2").start()
    key = balancer.create_user("user1", 1000)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    # Workers tell each other each second.
    time.sleep(5)
    redis.kill()
    wait_until(lambda: readiness(balancer)[1]["degraded"], what="the outage")
    assert [ask(balancer.port, "GET", "/", key=key).status for _ in range(40)] == [200] * 40


def test_log(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """Checks and connections write nothing, and failures a line for each server and cause, with numbers behind it."""
    redis.start()
    dead = free_port()
    yaml = f"health_check: {{path: /, interval: 100ms, timeout: 30s}}\n{servers.yaml()}\n"
    yaml += f"  - {{name: dead, url: 'http://127.0.0.1:{dead}', health_check: false}}\nejection: false\n"
    balancer = new_balancer(yaml, "--redis-url", redis.url, environment={"UPSTREAM_IDLE_CONNECTIONS": "0"}).start()
    key = balancer.create_user("user1", 1000)
    before = len(balancer.log())
    for _ in range(40):
        assert ask(balancer.port, "GET", "/", key=key).status == 200
    wait_until(lambda: "more requests to dead failed" in balancer.log(), what="the summary")
    lines = balancer.log()[before:].splitlines()
    failed = "to dead failed: it could not be reached: connection refused"
    assert len(lines) == 2, lines
    assert lines[0].endswith(f"A request {failed}")
    assert re.search(r" [0-9]+ more requests to dead failed in 5 s: it could not be reached: ", lines[1])


def test_numbers(servers: Servers, new_balancer: Start, redis: RedisServer) -> None:
    """Metrics tell requests that passed from those that a limit refused, of all workers, and of the last reload."""
    redis.start()
    balancer = new_balancer(servers.yaml(), "--redis-url", redis.url, "--workers", "2").start()
    key = balancer.create_user("user1", 3, 0)
    for _ in range(10):
        ask(balancer.port, "GET", "/", key=key)
    ask(balancer.port, "GET", "/", key="nobodys")
    (balancer.directory / "servers.yaml").write_text("servers: [")
    wait_until(lambda: metrics(balancer)[("tokenlb_config_last_reload_successful",)] == 0, what="a bad reload")
    told = metrics(balancer)
    assert 0 <= time.time() - told[("tokenlb_config_last_reload_success_timestamp_seconds",)] < 60
    assert told[("tokenlb_requests_admitted_total",)] == 3
    assert told[("tokenlb_requests_refused_total", "default")] == 7
    assert told[("tokenlb_answers_total", "429")] == 7
    assert told[("tokenlb_answers_total", "401")] == 1
