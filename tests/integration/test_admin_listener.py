"""The listeners of operators and probes, in the running program: bodies, names, and many slow connections."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.conftest import WITHOUT_REDIS, Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer, free_port

MOST = 20


def first_answer(port: int, data: bytes) -> bytes:
    """What is answered to these bytes, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while received := connection.recv(65536):
            answer += received
        return answer


@pytest.fixture(scope="module")
def health_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def operated(servers: Servers, health_port: int) -> Iterator[Balancer]:
    """A balancer with a listener for health."""
    environment = {
        "HEALTH_LISTEN": f"tcp:{health_port}:interface=127.0.0.1",
        "ADMIN_MAX_CONNECTIONS": str(MOST),
        # Whatever were spooled would be found there.
        "TMPDIR": "/nonexistent",
    }
    balancer = Balancer(servers.yaml(), environment=environment)
    try:
        yield balancer.start()
        assert "Traceback" not in balancer.log()
    finally:
        balancer.close()


def test_bodies(operated: Balancer, health_port: int) -> None:
    """A body is refused when only its head is there, whole or chunked, and one that comes anyway costs no memory."""
    for port in (operated.admin_port, health_port):
        for framing in (b"Content-Length: 100000000", b"Transfer-Encoding: chunked"):
            answer = first_answer(port, b"POST /servers HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 413 ") and b"\r\nConnection: close\r\n" in answer
    before = operated.rss()
    # The answer is there before the whole body has gone.
    head = b"POST /servers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n"
    assert first_answer(operated.admin_port, head + bytes(500_000)).startswith(b"HTTP/1.1 413 ")
    assert operated.rss() - before < 4 * 1024 * 1024


def test_names(operated: Balancer, health_port: int) -> None:
    """Without a token, other names than this machine's own show health only; the health listener has nothing else."""
    for path in ("/users", "/servers", "/metrics"):
        for host in ("attacker.example", f"attacker.example:{operated.admin_port}"):
            answer = ask(operated.admin_port, "GET", path, fields={"Host": host})
            assert (answer.status, json.loads(answer.body)["status"]) == (403, 403)
        for host in ("localhost", "127.0.0.1:1", "[::1]"):
            assert ask(operated.admin_port, "GET", path, fields={"Host": host}).status == 200
        assert ask(health_port, "GET", path).status == 404
    for port in (operated.admin_port, health_port):
        for path in ("/livez", "/readyz"):
            assert ask(port, "GET", path, fields={"Host": "10.1.2.3:9090"}).status == 200
            assert ask(port, "HEAD", path).status == 200
            assert ask(port, "POST", path).status == 405


def test_many_slow_connections(operated: Balancer, health_port: int) -> None:
    """However many connections hang in their heads, few are kept, and a probe is answered at once."""
    for port in (operated.admin_port, health_port):
        with ExitStack() as stack:
            for _ in range(5 * MOST):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: ")
            assert ask(port, "GET", "/readyz").status == 200
            wait_until(lambda: sockets(operated) < MOST + 15, what="few are kept")


def sockets(balancer: Balancer) -> int:
    """How many the process has."""
    directory = f"/proc/{balancer.pid}/fd"
    names = []
    for number in os.listdir(directory):
        try:
            names.append(os.readlink(f"{directory}/{number}"))
        except FileNotFoundError:
            pass
    return sum(name.startswith("socket:") for name in names)


@WITHOUT_REDIS
def test_health_of_workers(new_balancer: Start, servers: Servers, redis: RedisServer) -> None:
    """With several workers the health listener tells of all of them."""
    redis.start()
    port = free_port()
    environment = {"HEALTH_LISTEN": f"tcp:{port}:interface=127.0.0.1", "REDIS_URL": redis.url, "WORKERS": "2"}
    new_balancer(servers.yaml(), environment=environment).start()
    wait_until(lambda: "2 of 2 workers" in json.loads(ask(port, "GET", "/readyz").body)["reason"])


def test_a_port_that_is_taken(new_balancer: Start, servers: Servers) -> None:
    """A HEALTH_LISTEN that cannot be listened on, or is no endpoint, ends the start with its name."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        ended = new_balancer(servers.yaml(), environment={"HEALTH_LISTEN": endpoint}).run_to_end()
        assert ended.status == 1 and f"HEALTH_LISTEN {endpoint}: cannot listen" in ended.output
    ended = new_balancer(servers.yaml(), environment={"HEALTH_LISTEN": "tpc:1"}).run_to_end()
    assert ended.status == 1 and "HEALTH_LISTEN (" in ended.output
    assert "): 'tpc:1' is not an endpoint to listen on" in ended.output
