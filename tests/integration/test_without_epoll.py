"""Clients are served on a system without epoll, on Twisted's own reactors, as they are with it."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.integration.conftest import assert_calm
from tests.integration.origin import Servers, blocks, content_hash
from tests.integration.processes import Balancer, ask, ask_on, wait_until
from tests.integration.test_memory import GROWTH_BYTES, MIB, UNDERWAY_BYTES, connected, read_response, stands_still
from tests.without_epoll import without

BODY_BYTES = 128 * MIB


@pytest.fixture(scope="module", params=[("epoll",), ("epoll", "poll")], ids=["poll", "select"])
def balancer(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Balancer]:
    """A balancer whose Twisted reactor is over poll(2), and over select(2); also on a Unix socket."""
    directory = tmp_path_factory.mktemp("balancer")
    environment = {**without(directory, *request.param), "HEAD_TIMEOUT": "4s"}
    balancer = Balancer(servers.yaml(), "--listen", "unix:s", environment=environment)
    try:
        balancer.start()
        kind = "SelectReactor" if "poll" in request.param else "PollReactor"
        assert f"the data path runs on {kind}" in balancer.log()
        yield balancer
        assert_calm(balancer)
    finally:
        balancer.close()


@pytest.fixture
def key(balancer: Balancer) -> str:
    """A key of a user of its own."""
    return balancer.create_user(f"user-{uuid4()}", 1000)


def test_requests(balancer: Balancer, key: str, servers: Servers) -> None:
    """Many requests on one connection, of all kinds, and one on each of many connections, are answered."""
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    for number in range(100):
        assert ask_on(connection, "GET", f"/{number}", key=key).status == 200
        assert ask_on(connection, "POST", "/", b"x" * number, key=key, fields={"A": "b"}).status == 200
        assert ask_on(connection, "GET", "/user/tokens/profile", key=key).status == 200
        assert ask_on(connection, "GET", "/").status == 401
    connection.close()
    for _ in range(50):
        assert ask(balancer.port, "GET", "/", key=key).status == 200
    assert {origin.name for origin in servers if origin.seen} == {"server1", "server2", "server3"}
    # Connections to servers were used again.
    assert all(len({request.connection for request in origin.seen}) < len(origin.seen) / 4 for origin in servers)


def test_pipelined_requests(balancer: Balancer, key: str) -> None:
    """Requests that come ahead on a connection are answered in order, and the end of what is sent is no end of it."""
    heads = [f"GET /size/{size} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n" for size in range(1, 51)]
    client = connected(balancer)
    client.sendall("".join(heads).encode())
    client.shutdown(socket.SHUT_WR)
    with client.makefile("rb") as stream:
        for size in range(1, 51):
            assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
            while (line := stream.readline()) != b"\r\n":
                assert line
            assert len(stream.read(size)) == size
        assert stream.read() == b""


@pytest.mark.parametrize("path", ["size", "chunks"])
def test_download_that_is_read_late(balancer: Balancer, key: str, servers: Servers, path: str) -> None:
    """A client that does not read stops the server, memory stays flat, and then all of the body comes."""
    balancer.forget_peak()
    before = balancer.rss()
    client = connected(balancer)
    client.sendall(f"GET /{path}/{BODY_BYTES} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode())

    def sent() -> int:
        return sum(origin.sent for origin in servers)

    wait_until(lambda: sent() > 0 and stands_still(sent), what="the server stops")
    assert sent() < UNDERWAY_BYTES
    # Others are served meanwhile.
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    assert read_response(client) == (BODY_BYTES, content_hash(BODY_BYTES))
    assert balancer.peak_rss() - before < GROWTH_BYTES


def test_upload(balancer: Balancer, key: str) -> None:
    """A large body reaches the server as it was sent."""
    client = connected(balancer)
    head = f"POST / HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    client.sendall(head.encode())
    for block in blocks(BODY_BYTES):
        client.sendall(block)
    response = http.client.HTTPResponse(client)
    response.begin()
    got = json.loads(response.read())
    assert (got["bytes"], got["sha256"]) == (BODY_BYTES, content_hash(BODY_BYTES))


@pytest.mark.parametrize("balancer", [("epoll",)], indirect=True, ids=["poll"])
def test_client_that_leaves_while_it_is_not_read(balancer: Balancer, key: str, servers: Servers) -> None:
    """A client that has sent requests ahead and goes is noticed, though it is not read: its server is free again."""
    head = f"GET /drip/40 HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode()
    client = connected(balancer)
    client.sendall(head)
    wait_until(lambda: any(origin.seen for origin in servers), what="the request at a server")
    # More than is read ahead.
    client.setblocking(False)
    try:
        while client.send(head * 1000):
            pass
    except BlockingIOError:
        pass
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert in_flight(balancer) == 1
    client.close()
    wait_until(lambda: in_flight(balancer) == 0, 20, "the end of the exchange")


def in_flight(balancer: Balancer) -> int:
    shown = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    return sum(server["in_flight"] for server in shown)


def test_unix_socket_and_slow_clients(balancer: Balancer, key: str) -> None:
    """A Unix socket is served, and deadlines are met."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(str(balancer.directory / "s"))
    client.sendall(f"GET /size/{MIB} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode())
    assert read_response(client) == (MIB, content_hash(MIB))
    client.sendall(b"GET / HT")
    received = b""
    while piece := client.recv(65536):
        received += piece
    assert received.startswith(b"HTTP/1.1 408 ")


def test_end(balancer: Balancer, key: str) -> None:
    """On SIGTERM what is under way is finished, and the exit status is 0."""
    client = connected(balancer)
    client.sendall(f"GET /chunks/{BODY_BYTES} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode())
    client.recv(1)
    balancer.terminate()
    try:
        digest = hashlib.sha256()
        while data := client.recv(1024 * 1024):
            digest.update(data)
        assert balancer.wait() == 0
    finally:
        balancer.kill()
        balancer.start()
