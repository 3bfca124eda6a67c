"""Requests over three servers: how many each gets, and what clients see when servers fail; with each kind of store."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, ask_on, wait_until


def test_300_requests_land_100_on_each_server(balancer: Balancer, servers: Servers) -> None:
    """Round robin gives each of three servers exactly its third, over several connections at once."""
    key = balancer.create_user(f"user-{uuid4()}", 1000, 0)

    def thirty(_: int) -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
        try:
            return [ask_on(connection, "GET", f"/{number}", key=key).status for number in range(30)]
        finally:
            connection.close()

    with ThreadPoolExecutor(5) as clients:
        statuses = [status for part in clients.map(thirty, range(10)) for status in part]
    assert statuses == [200] * 300
    assert [len(origin.seen) for origin in servers.all] == [100, 100, 100]
    assert balancer.tokens(key) == 700


def all_up(balancer: Balancer) -> bool:
    """Whether no server is ejected."""
    return all(one["state"] == "up" for one in json.loads(ask(balancer.admin_port, "GET", "/servers").body))


def test_a_stopped_server_is_no_error_for_any_client(balancer: Balancer, servers: Servers) -> None:
    """With one of three servers gone, and then back, each request is answered by one that runs."""
    key = balancer.create_user(f"user-{uuid4()}", 1000, 0)
    answers: list[bytes] = []
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    try:
        for number in range(90):
            if number == 30:
                servers[1].stop()
            if number == 60:
                servers[1].start()
                wait_until(lambda: all_up(balancer), what="it is used again")
            method, body = ("POST", b"content") if number % 2 else ("GET", None)
            answer = ask_on(connection, method, f"/{number}", body, key=key)
            assert answer.status == 200, (number, answer)
            answers.append(answer.body)
    finally:
        connection.close()
    assert not any(b"server2" in body for body in answers[30:60])
    assert any(b"server2" in body for body in answers[60:])
    assert balancer.tokens(key) == 910


def test_no_server_left_is_503_and_costs_nothing(balancer: Balancer, servers: Servers) -> None:
    """With all servers stopped a request is 503 `No available servers`, and its token is back in the bucket."""
    key = balancer.create_user(f"user-{uuid4()}", 3, 0)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    servers.stop()
    for _ in range(5):
        answer = ask(balancer.port, "GET", "/", key=key)
        assert answer.status == 503, answer
        assert answer.fields["Content-Type"] == "application/problem+json"
        assert json.loads(answer.body)["detail"] == "No available servers"
        assert balancer.tokens(key) == 2
    servers.start()
    assert [ask(balancer.port, "GET", "/", key=key).status for _ in range(3)] == [200, 200, 429]


def test_the_operator_sees_the_servers(balancer: Balancer, servers: Servers) -> None:
    """The admin listener shows each server with its address, in the order of servers.yaml."""
    shown = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    assert [(one["name"], one["url"]) for one in shown] == [(one.name, one.url) for one in servers.all]
    assert ask(balancer.admin_port, "GET", "/livez").body == b"ok\n"
