"""The access log of running balancers: a line for each request, whole, without a key, and wherever the file goes."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.raw_client import exchange
from tests.integration.raw_server import RawServer, Script
from tests.integration.redis_server import MISSING, RedisServer

PROBED = "/user/tokens/profile"


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log in JSON; each must be whole."""
    text = path.read_text() if path.exists() else ""
    assert not text or text.endswith("\n")
    found = [json.loads(line) for line in text.splitlines()]
    # The fixture looks whether the port is served.
    return [one for one in found if one["path"] != PROBED]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def logging(new_balancer: Start, servers: Servers, path: Path) -> Balancer:
    """A balancer with a log."""
    environment = {"ACCESS_LOG": str(path), "KEY_QUERY_PARAMETER": "key", "TRUSTED_PROXIES": "127.0.0.1"}
    return new_balancer(servers.yaml(), environment=environment).start()


def test_lines(logging: Balancer, path: Path) -> None:
    """Each request has one line, whoever answered it, and no line has a key."""
    key = logging.create_user("Ann", 2, 0)
    port = logging.port
    statuses = [
        ask(port, "GET", "/whole", key=key, fields={"X-Forwarded-For": "192.0.2.7", "X-Request-ID": "mine"}).status,
        ask(port, "GET", f"/?k%65y={key}&a=b").status,
        ask(port, "GET", f"/?key={key}").status,
        ask(port, "GET", "/", key=key).status,
        ask(port, "GET", f"/?apikey={key}").status,
        exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").status,
    ]
    assert statuses == [200, 200, 429, 429, 401, 400]
    wait_until(lambda: len(lines(path)) == 7, what="all lines")
    created, whole, parameter, limited, *_, unauthorized, malformed = lines(path)
    assert (created["path"], created["status"], created["reason"]) == ("/user/create", 200, "complete")
    assert "user" not in created and "server" not in created
    assert (whole["client"], whole["request_id"], whole["user"]) == ("192.0.2.7", "mine", "Ann")
    assert (whole["tokens"], whole["tokens_left"], whole["attempts"]) == (1, 1, 1)
    assert whole["server"].startswith("server") and 0 < whole["server_us"] <= whole["total_us"]
    assert (parameter["path"], parameter["key_id"]) == ("/?k%65y=REDACTED&a=b", whole["key_id"])
    assert (limited["limit"], limited["reason"], limited["tokens_left"]) == ("default", "limited", 0)
    assert (unauthorized["path"], unauthorized["reason"]) == ("/?apikey=REDACTED", "unauthorized")
    assert (malformed["status"], malformed["reason"], malformed["method"]) == (400, "bad_request", "GET")
    assert key not in path.read_text()


@pytest.fixture
def silent() -> Iterator[RawServer]:
    """A server that answers nothing for a while."""
    server = RawServer().start()
    server.scripts["silent"] = Script((30.0,))
    yield server
    server.stop()


def test_client_that_leaves(new_balancer: Start, silent: RawServer, path: Path) -> None:
    """A client that leaves before its response has the status 499."""
    yaml = f"servers: [{{name: a, url: 'http://127.0.0.1:{silent.port}'}}]\n"
    balancer = new_balancer(yaml, environment={"ACCESS_LOG": str(path)}).start()
    key = balancer.create_user("user", 10, 0)
    with socket.create_connection(("127.0.0.1", balancer.port), 10) as connection:
        connection.sendall(f"GET /script/silent HTTP/1.1\r\nHost: a.test\r\nX-API-Key: {key}\r\n\r\n".encode())
        wait_until(lambda: silent.requests, what="the server has the request")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(lambda: len(lines(path)) == 2, what="the line")
    assert [(one["status"], one["reason"]) for one in lines(path)][1:] == [(499, "client_left")]


def test_rotation(logging: Balancer, path: Path) -> None:
    """A file that was renamed gets no more lines soon, and none is lost; SIGUSR1 makes a new one at once."""
    former = path.with_suffix(".1")
    assert logging.create_user("one", 1, 0)
    wait_until(lambda: len(lines(path)) == 1)
    path.rename(former)
    wait_until(path.exists, what="a new file")
    assert logging.create_user("two", 1, 0)
    wait_until(lambda: len(lines(path)) == 1)
    path.rename(path.with_suffix(".2"))
    os.kill(logging.process.pid, signal.SIGUSR1)
    wait_until(path.exists, what="a new file")
    assert logging.create_user("three", 1, 0)
    logging.terminate()
    logging.wait()
    found = [lines(one) for one in (former, path.with_suffix(".2"), path)]
    assert [len(one) for one in found] == [1, 1, 1]


def test_reader_that_is_slow(new_balancer: Start, servers: Servers, path: Path) -> None:
    """Nobody reads the FIFO: requests are served, and the program ends in time."""
    os.mkfifo(path)
    balancer = new_balancer(servers.yaml(), environment={"ACCESS_LOG": str(path)}).start()
    key = balancer.create_user("user", 1000, 0)
    for _ in range(300):
        assert ask(balancer.port, "GET", "/" + "x" * 500, key=key).status == 200
    balancer.terminate()
    balancer.wait()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    if MISSING:
        pytest.skip(MISSING)
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


def test_workers(new_balancer: Start, servers: Servers, redis: RedisServer, path: Path) -> None:
    """Two workers write whole lines to one file, all of them, also when it is renamed meanwhile."""
    environment = {"ACCESS_LOG": str(path)}
    options = ("--redis-url", redis.url, "--workers", "2")
    balancer = new_balancer(servers.yaml(), *options, environment=environment).start()
    key = balancer.create_user("user", 1000, 0)
    for number in range(100):
        assert ask(balancer.port, "GET", f"/{number}", key=key).status == 200
        if number == 50:
            path.rename(path.with_suffix(".1"))
            os.kill(balancer.process.pid, signal.SIGUSR1)
    balancer.terminate()
    balancer.wait()
    found = lines(path.with_suffix(".1")) + lines(path)
    targets = [one["path"] for one in found if one["path"] != "/user/create"]
    assert sorted(targets) == sorted(f"/{number}" for number in range(100))


def test_not_opened(new_balancer: Start, servers: Servers, tmp_path: Path) -> None:
    """A path that cannot be opened is an error at the start, which names the setting."""
    environment = {"ACCESS_LOG": str(tmp_path / "nowhere" / "access.log")}
    balancer = new_balancer(servers.yaml(), environment=environment)
    with pytest.raises(RuntimeError, match=r"ACCESS_LOG \(environment\): .*it cannot be opened"):
        balancer.start()
