"""Several pools and routes, with real processes: which server answers, and pools that change under load."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Origin, Servers, content_hash
from tests.integration.processes import Balancer, ask, ask_on, wait_until
from tests.integration.redis_server import RedisServer
from tests.integration.test_reload import DOWNLOAD_BYTES, Steady, read_slowly, rewrite


def pool(name: str, origins: Iterable[Origin]) -> str:
    servers = ", ".join(f"{{name: {origin.name}, url: '{origin.url}'}}" for origin in origins)
    return f"  {name}: {{servers: [{servers}]}}\n"


def who(balancer: Balancer, key: str, path: str, host: str = "") -> str:
    """The server that answers, or the status."""
    answer = ask(balancer.port, "GET", path, key=key, fields={"Host": host} if host else {})
    return answer.body.split()[1].decode() if answer.status == 200 else str(answer.status)


@pytest.mark.parametrize("workers", [1, 2])
def test_routes(
    new_balancer: Start, new_servers: Callable[..., Servers], redis: RedisServer, workers: int
) -> None:
    """Each request goes to the pool of its route, at once after a change of the file, in all workers."""
    options = []
    if workers > 1:
        redis.start()
        options = ["--redis-url", redis.url, "--workers", str(workers)]
    one, two, three = new_servers(3)
    routes = "routes:\n- {host: api.example.com, path: /v1/, pool: a}\n- {path: /v1/, pool: b}\n"
    routes += "- {host: c.test, pool: c}\n"
    text = "pools:\n" + pool("a", [one]) + pool("b", [two]) + pool("c", [three]) + routes
    balancer = new_balancer(text, *options).start()
    key = balancer.create_user("user1", 1_000_000, 0)
    for _ in range(6):
        assert who(balancer, key, "/v1/x", "API.example.com:80") == one.name
        assert who(balancer, key, "/v1/x") == two.name
        assert who(balancer, key, "/other", "c.test") == three.name
        assert who(balancer, key, "/other") == "404"
    spent = ask(balancer.port, "GET", "/user/tokens/profile", key=key)
    assert json.loads(spent.body)["current_capacity"] == 1_000_000 - 18
    expected = [("a", one.name, 6), ("b", two.name, 6), ("c", three.name, 6)]
    wait_until(lambda: counted(balancer) == expected, what="all are counted")
    rewrite(balancer, text.replace("path: /v1/, pool: b", "path: /v1/, pool: c") + "- {pool: a}\n")
    for path, name in (("/v1/x", three.name), ("/other", one.name)):
        # So many that each worker has some.
        wait_until(lambda: {who(balancer, key, path) for _ in range(24)} == {name}, what="all have the new routes")


def counted(balancer: Balancer) -> list[tuple[str, str, int]]:
    """The requests of each server of each pool."""
    shown = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    return [(server["pool"], server["name"], server["requests"]) for server in shown]


def test_all_pools_are_replaced(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """While downloads and streams run, all pools are replaced by others: nothing is cut, and no request fails."""
    old, new = new_servers(2), new_servers(2)
    routes = "routes:\n- {path: /size/, pool: %s}\n- {pool: %s}\n"
    before = "pools:\n" + pool("a", [old[0]]) + pool("b", [old[1]]) + routes % ("a", "b")
    after = "pools:\n" + pool("c", [new[0]]) + pool("d", [new[1]]) + routes % ("c", "d")
    balancer = new_balancer(before, environment={"SEND_TIMEOUT": "5m"}).start()
    key = balancer.create_user("user1", 1_000_000)
    go_on = threading.Event()
    with ThreadPoolExecutor(10) as clients:
        paths = [f"/size/{DOWNLOAD_BYTES}", f"/chunks/{DOWNLOAD_BYTES}"] * 2
        downloads = [clients.submit(read_slowly, balancer, key, path, go_on) for path in paths]
        wait_until(lambda: sum(len(origin.seen) for origin in old) == 4, what="all are under way")
        steady = Steady(balancer, key)
        for text in (after, before, after):
            wait_until(lambda: len(steady.statuses) > 0)
            rewrite(balancer, text)
        shown = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
        assert {(server["pool"], server["reason"]) for server in shown if server["in_flight"] > 1} == {
            ("a", "removed"),
            ("b", "removed"),
        }
        go_on.set()
        assert {download.result(120) for download in downloads} == {content_hash(DOWNLOAD_BYTES)}
        statuses = steady.stop()
    assert set(statuses) == {200}, statuses
    # What is left of the removed pools ends some seconds later.
    wait_until(lambda: all(origin.closed == origin.connections for origin in old), what="their connections are closed")
    shown = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    assert {server["pool"] for server in shown} == {"c", "d"}


def test_routes_that_answer(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """A response, a redirect, maintenance, an address, a route without a key, a prefix, and a limit for bodies."""
    (origin,) = new_servers(1)
    routes = [
        "- {path: /health, respond: {body: ok}, key: none}",
        "- {path: /old/, redirect: {to: '/new{path}', status: 301}, key: none}",
        "- {path: /later/, pool: p, maintenance: 30s}",
        "- {path: /mine/, pool: p, deny: 127.0.0.1}",
        "- {path: /public/, pool: p, key: none, strip_prefix: /public, max_body: 10}",
    ]
    balancer = new_balancer("pools:\n" + pool("p", [origin]) + "routes:\n" + "\n".join(routes) + "\n").start()
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    answers = [ask_on(connection, "GET", path) for path in ("/health", "/old/x?y", "/later/", "/mine/", "/none")]
    assert [answer.status for answer in answers] == [200, 301, 503, 403, 404]
    assert answers[0].body == b"ok"
    assert answers[1].fields["Location"] == "/new/old/x?y"
    assert answers[2].fields["Retry-After"] == "30"
    assert ask_on(connection, "GET", "/public/size/5?q=1").status == 200
    assert origin.seen[-1].path == "/size/5?q=1"
    assert origin.seen[-1].field("X-Consumer-Username") is None
    assert ask_on(connection, "POST", "/public/", b"x" * 11).status == 413
    assert len(origin.seen) == 1
    connection.close()
