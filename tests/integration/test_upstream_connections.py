"""Connections to servers: kept and reused, and replaced without a client noticing when a server closes them."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Origin, Servers
from tests.integration.processes import Balancer, ask_on, wait_until

NewServers = Callable[..., Servers]


@pytest.fixture
def client() -> Iterator[Callable[[Balancer], http.client.HTTPConnection]]:
    """Opens connections of clients, and closes them."""
    opened: list[http.client.HTTPConnection] = []

    def connect(balancer: Balancer) -> http.client.HTTPConnection:
        opened.append(http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


Client = Callable[[Balancer], http.client.HTTPConnection]


def all_closed(origin: Origin) -> bool:
    """Whether the server has closed each connection that it had."""
    return origin.closed == origin.connections


def test_one_connection_serves_one_client(new_balancer: Start, new_servers: NewServers, client: Client) -> None:
    """Fifty requests in turn, with and without bodies, by two clients, need one connection to the server."""
    servers = new_servers(1)
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user("user1", 100)
    for connection in (client(balancer), client(balancer)):
        for number in range(25):
            body = b"content" if number % 2 else None
            assert ask_on(connection, "POST" if body else "GET", f"/{number}", body, key).status == 200
    assert {one.connection for one in servers[0].seen} == {1}


def test_a_server_that_closes_idle_connections(new_balancer: Start, new_servers: NewServers, client: Client) -> None:
    """GET and POST both succeed after the server has closed the connection that was kept."""
    servers = new_servers(1, idle_seconds=0.2)
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user("user1", 100)
    connection = client(balancer)
    for number in range(6):
        body = b"content" if number % 2 else None
        assert ask_on(connection, "POST" if body else "GET", f"/{number}", body, key).status == 200
        wait_until(lambda: all_closed(servers[0]), what="the server closes the connection")
    assert servers[0].connections == 6


def test_a_server_that_closes_at_the_same_moment(new_balancer: Start, new_servers: NewServers, client: Client) -> None:
    """Requests that can be repeated succeed when they meet the server's closing of the idle connection on the way."""
    servers = new_servers(1, idle_seconds=0.02)
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user("user1", 1000)
    connection = client(balancer)
    for number in range(60):
        time.sleep(0.0190 + 0.00005 * number)
        method, body = ("PUT", b"content") if number % 2 else ("GET", None)
        assert ask_on(connection, method, "/", body, key).status == 200


def test_a_server_that_closes_after_each_response(
    new_balancer: Start, new_servers: NewServers, client: Client
) -> None:
    """A server that closes without having said so costs no GET, and no POST once it has closed."""
    servers = new_servers(1, close_silently=True)
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user("user1", 1000)
    connection = client(balancer)
    for number in range(100):
        assert ask_on(connection, "GET", f"/{number}", key=key).status == 200
    for number in range(100):
        wait_until(lambda: all_closed(servers[0]), what="the server closes the connection")
        assert ask_on(connection, "POST", f"/{number}", b"content", key).status == 200
    assert len(servers[0].seen) == 200


def test_a_connection_is_given_up_after_its_idle_time(
    new_balancer: Start, new_servers: NewServers, client: Client
) -> None:
    """An idle connection to a server is closed after UPSTREAM_IDLE_TIMEOUT."""
    servers = new_servers(1)
    balancer = new_balancer(servers.yaml(), environment={"UPSTREAM_IDLE_TIMEOUT": "3s"}).start()
    key = balancer.create_user("user1")
    assert ask_on(client(balancer), "GET", "/", key=key).status == 200
    assert servers[0].closed == 0
    wait_until(lambda: servers[0].closed == 1, what="the connection is closed")


def test_a_server_that_does_not_answer(new_balancer: Start, new_servers: NewServers, client: Client) -> None:
    """After UPSTREAM_TIMEOUT the client gets 504, its token back, and its next request on the same connection."""
    servers = new_servers(1)
    balancer = new_balancer(servers.yaml(), environment={"UPSTREAM_TIMEOUT": "2s"}).start()
    key = balancer.create_user("user1", 5, 0)
    connection = client(balancer)
    assert ask_on(connection, "GET", "/slow/60", key=key).status == 504
    assert balancer.tokens(key) == 5
    assert ask_on(connection, "GET", "/", key=key).status == 200
