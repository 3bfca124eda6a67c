"""IPv4 clients on a dual-stack listener."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from tests.integration.origin import Servers
from tests.integration.processes import Answer, Balancer, ask, ask_on, wait_until
from tests.integration.redis_server import free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def dual(servers: Servers, port: int) -> Iterator[Balancer]:
    """A balancer that also listens on `::`, and whose addresses may try three keys."""
    environment = {"ADDRESS_CAPACITY": "9", "ADDRESS_RATE_PER_SEC": "0.001", "MAX_CONNECTIONS_PER_ADDRESS": "3"}
    balancer = Balancer(
        servers.yaml("{name: hash, by: address}"), "--listen", f"tcp6:{port}:interface=\\:\\:", environment=environment
    )
    try:
        yield balancer.start()
        assert "Traceback" not in balancer.log()
    finally:
        balancer.close()


def on(address: str, port: int, key: str) -> Answer:
    """One request to this address."""
    connection = http.client.HTTPConnection(address, port, timeout=60)
    try:
        return ask_on(connection, "GET", "/", key=key)
    finally:
        connection.close()


def test_one_client(dual: Balancer, servers: Servers, port: int) -> None:
    """By either listener the client has the same address, server, connection limit and bucket for guesses."""
    key = dual.create_user("ann", 100)
    answers = [on("127.0.0.1", listener, key) for listener in (port, dual.port) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 6
    assert len({answer.body for answer in answers}) == 1
    seen = [one for origin in servers.all for one in origin.seen]
    assert {one.field("X-Forwarded-For") for one in seen} == {"127.0.0.1"}
    assert {str(one.field("Forwarded")).partition(";")[0] for one in seen} == {"for=127.0.0.1"}
    servers.forget()
    assert on("::1", port, key).status == 200
    [one] = [one for origin in servers.all for one in origin.seen]
    assert one.field("X-Forwarded-For") == "::1"
    # Connections that are busy, half of them by each listener.
    held = [http.client.HTTPConnection("127.0.0.1", listener, timeout=60) for listener in (port, dual.port, port)]
    servers.hold()
    try:
        for connection in held:
            connection.request("GET", "/held", headers={"Authorization": key})
        wait_until(lambda: servers.paths().count("/held") == 3)
        assert ask(port, "GET", "/", key=key).status == 503
        assert ask(dual.port, "GET", "/", key=key).status == 503
        servers.release()
        assert [connection.getresponse().status for connection in held] == [200] * 3
    finally:
        for connection in held:
            connection.close()
    statuses = [on("127.0.0.1", (port, dual.port)[number % 2], "guess").status for number in range(12)]
    assert set(statuses) == {401, 429} and statuses == sorted(statuses)
    assert on("127.0.0.1", port, "guess").status == on("127.0.0.1", dual.port, "guess").status == 429
