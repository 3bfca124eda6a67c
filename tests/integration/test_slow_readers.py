"""Clients that request much and do not read it: servers time out, and no other client is affected."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.integration.conftest import Start
from tests.integration.processes import Balancer, ask, wait_until

CONTENT_BYTES = 60_000_000  # more than all buffers on the way
SEND_TIMEOUT = 0.7
CLIENTS = 8
RULES = "ejection: {consecutive_failures: 1, minimum_requests: 2, base_time: 1h, max_time: 1h}\nservers:\n"


class ServerThatGivesUp:
    """Sends a large response for each request, and closes when nothing of it was taken for SEND_TIMEOUT seconds."""

    def __init__(self, chunked: bool, reset: bool) -> None:
        self.gave_up = 0
        self._chunked = chunked
        self._reset = reset
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        size = CONTENT_BYTES
        framing = b"Transfer-Encoding: chunked" if self._chunked else b"Content-Length: %d" % size
        first = b"%x\r\n" % size if self._chunked else b""
        last = b"\r\n0\r\n\r\n" if self._chunked else b""
        with connection:
            while connection.recv(65_536):
                connection.settimeout(SEND_TIMEOUT)
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n%b" % (framing, first))
                    for _ in range(100):
                        connection.sendall(bytes(size // 100))
                    connection.sendall(last)
                except TimeoutError:
                    self.gave_up += 1
                    if self._reset:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                except OSError:
                    return


def slow_client(stack: ExitStack, balancer: Balancer, key: str) -> socket.socket:
    """A client that has asked and reads nothing."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", balancer.port), 120))
    connection.sendall(f"GET / HTTP/1.1\r\nHost: a.test\r\nX-API-Key: {key}\r\n\r\n".encode())
    return connection


def read_to_end(connection: socket.socket) -> int:
    """How many bytes still come."""
    count = 0
    try:
        while data := connection.recv(1 << 20):
            count += len(data)
    except ConnectionResetError:
        """An end as well."""
    return count


def leave(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize(
    ("chunked", "reset", "then"),
    [(False, False, read_to_end), (True, False, read_to_end), (False, True, read_to_end), (True, True, leave)],
)
def test_servers_are_not_blamed(
    chunked: bool, reset: bool, then: Callable[[socket.socket], object], new_balancer: Start
) -> None:
    """Clients that read nothing until their server has given up, then read on or leave, cost no server anything."""
    servers = [ServerThatGivesUp(chunked, reset) for _ in range(2)]
    listed = "".join(f"  - {{name: s{one.port}, url: 'http://127.0.0.1:{one.port}'}}\n" for one in servers)
    balancer = new_balancer(RULES + listed).start()
    key = balancer.create_user("user", 1000, 1000)
    try:
        with ExitStack() as stack:
            clients = [slow_client(stack, balancer, key) for _ in range(CLIENTS)]
            wait_until(lambda: sum(one.gave_up for one in servers) == CLIENTS, what="all servers give up")
            time.sleep(0.3)
            for client in clients:
                then(client)
        wait_until(lambda: all(not one["in_flight"] for one in shown(balancer)), what="all exchanges are over")
        assert [one["failures"] for one in shown(balancer)] == [0, 0]
        assert "is ejected" not in balancer.log()
        if then is read_to_end:
            assert "the client was too slow to take the response" in balancer.log()
    finally:
        for one in servers:
            one.close()


def shown(balancer: Balancer) -> list[dict[str, object]]:
    """What the admin listener says of the servers."""
    servers: list[dict[str, object]] = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    return servers
