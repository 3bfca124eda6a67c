"""Large bodies that pass within the kernel: every byte arrives, and every end is detected."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from hashlib import sha256

import pytest

from tests.integration.conftest import Start
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.raw_server import CLOSE, KEEP, RESET, RawServer, Script
from twisted_lb.network.splice import AVAILABLE, MAX_SPARE_PIPES, MIN_BYTES, most_at_a_time

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this system has no splice(2)")

SIZE = 24 * 1024 * 1024 + 7
CONTENT = os.urandom(1024 * 1024) * (SIZE // (1024 * 1024)) + b"the end"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsmall"

SCRIPTS = {
    "whole": Script((OK % SIZE, CONTENT)),
    "paused": Script((OK % SIZE + CONTENT[: SIZE // 2], 0.05, CONTENT[SIZE // 2 :])),
    "smallest": Script((OK % MIN_BYTES + CONTENT[:MIN_BYTES],)),
    "just_larger": Script((OK % (MIN_BYTES + 1) + CONTENT[: MIN_BYTES + 1],)),
    "surplus": Script((OK % SIZE, CONTENT, SMALL), KEEP),
    "cut": Script((OK % SIZE + CONTENT[: SIZE // 2],), CLOSE),
    "reset": Script((OK % SIZE + CONTENT[: SIZE // 2],), RESET),
    "nearly_whole": Script((OK % SIZE + CONTENT[:-1],), CLOSE),
}


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    server = RawServer().start()
    server.scripts.update(SCRIPTS)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def balancer(server: RawServer) -> Iterator[Balancer]:
    # What the scripts cut is not to eject the only server.
    text = f"ejection: {{consecutive_failures: 1000}}\nservers: [{{name: a, url: 'http://127.0.0.1:{server.port}'}}]\n"
    balancer = Balancer(text)
    try:
        yield balancer.start()
    finally:
        balancer.close()


@pytest.fixture(scope="module")
def key(balancer: Balancer) -> str:
    return balancer.create_user("user", 10_000, 10_000)


def pipes(balancer: Balancer) -> int:
    """How many ends of pipes the process has."""
    directory = f"/proc/{balancer.process.pid}/fd"
    count = 0
    for name in os.listdir(directory):
        try:
            count += os.readlink(f"{directory}/{name}").startswith("pipe:")
        except FileNotFoundError:
            """It was closed meanwhile."""
    return count


def in_flight(balancer: Balancer) -> int:
    """How many requests the server has."""
    [described] = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    count: int = described["in_flight"]
    return count


def request(key: str, name: str) -> bytes:
    return f"GET /script/{name} HTTP/1.1\r\nHost: a.test\r\nX-API-Key: {key}\r\n\r\n".encode()


def read_content(connection: socket.socket) -> bytes:
    """The content of one response, or what comes of it before the connection ends."""
    received = bytearray()
    length = None
    while length is None or len(received) < length:
        try:
            data = connection.recv(1 << 18)
        except ConnectionResetError:
            break
        if not data:
            break
        received += data
        if length is None and b"\r\n\r\n" in received:
            head, _, rest = bytes(received).partition(b"\r\n\r\n")
            [line] = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            length = int(line.partition(b":")[2])
            received = bytearray(rest)
    return bytes(received)


@pytest.mark.parametrize("name", ["whole", "paused", "smallest", "just_larger", "surplus"])
def test_every_byte(server: RawServer, balancer: Balancer, key: str, name: str) -> None:
    """The client gets the content, byte for byte, and its connection goes on; also when it reads in pieces."""
    whole = b"".join(step for step in SCRIPTS[name].steps if isinstance(step, bytes))
    length = int(whole.partition(b"Content-Length: ")[2].partition(b"\r")[0])
    content = whole.partition(b"\r\n\r\n")[2][:length]
    with socket.create_connection(("127.0.0.1", balancer.port), 120) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        for _ in range(2):
            connection.sendall(request(key, name))
            assert sha256(read_content(connection)).digest() == sha256(content).digest()


def test_in_the_kernel(server: RawServer, balancer: Balancer, key: str) -> None:
    """A large body takes a pipe while it is under way, one that is not read keeps it, and none is left when all end."""
    before = pipes(balancer)
    connections = [socket.create_connection(("127.0.0.1", balancer.port), 120) for _ in range(MAX_SPARE_PIPES + 4)]
    for connection in connections:
        connection.sendall(request(key, "whole"))
    wait_until(lambda: pipes(balancer) >= before + 2 * len(connections) - 2 * MAX_SPARE_PIPES, what="pipes are used")
    assert ask(balancer.port, "GET", "/small", key=key).status == 200
    for connection in connections:
        connection.close()
    wait_until(lambda: pipes(balancer) <= before + 2 * MAX_SPARE_PIPES, what="the pipes are closed")


@pytest.mark.parametrize("name", ["cut", "reset", "nearly_whole"])
def test_server_that_dies(server: RawServer, balancer: Balancer, key: str, name: str) -> None:
    """A response that is cut is cut for the client too, which gets no other byte in place of those that are missing."""
    with socket.create_connection(("127.0.0.1", balancer.port), 120) as connection:
        connection.sendall(request(key, name))
        content = read_content(connection)
        assert len(content) < SIZE
        assert CONTENT.startswith(content)
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass
    assert ask(balancer.port, "GET", "/small", key=key).status == 200


def test_client_that_leaves(server: RawServer, balancer: Balancer, key: str) -> None:
    """The connection to the server ends with that of the client, and the next requests are served."""
    for read in (0, 1 << 20):
        with socket.create_connection(("127.0.0.1", balancer.port), 120) as connection:
            connection.sendall(request(key, "whole"))
            while read > 0:
                read -= len(connection.recv(1 << 16))
        assert ask(balancer.port, "GET", "/small", key=key).status == 200
    wait_until(lambda: in_flight(balancer) == 0, what="no request is under way")


def test_slow_client(server: RawServer, new_balancer: Start) -> None:
    """A client that reads nothing for SEND_TIMEOUT is cut; one that reads a little in each is not."""
    text = f"servers: [{{name: a, url: 'http://127.0.0.1:{server.port}'}}]\n"
    balancer = new_balancer(text, environment={"SEND_TIMEOUT": "3s"}).start()
    key = balancer.create_user("user", 100, 100)
    with (
        socket.create_connection(("127.0.0.1", balancer.port), 120) as reading,
        socket.create_connection(("127.0.0.1", balancer.port), 120) as silent,
    ):
        for connection in (reading, silent):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            connection.sendall(request(key, "whole"))
        content = read_content(reading)
        assert sha256(content).digest() == sha256(CONTENT).digest()
        wait_until(lambda: in_flight(balancer) == 0, what="the silent client is cut")
        assert len(read_content(silent)) < SIZE


def test_few_files(server: RawServer, new_balancer: Start) -> None:
    """A process that may open few files has them for connections: no request is refused for a pipe."""
    text = f"servers: [{{name: a, url: 'http://127.0.0.1:{server.port}'}}]\n"
    balancer = new_balancer(text, max_files=256).start()
    key = balancer.create_user("user", 1000, 1000)
    before = pipes(balancer)
    connections = [socket.create_connection(("127.0.0.1", balancer.port), 120) for _ in range(60)]
    for connection in connections:
        connection.sendall(request(key, "whole"))
    wait_until(lambda: in_flight(balancer) == len(connections), what="all are under way")
    assert pipes(balancer) <= before + 2 * most_at_a_time(256)
    for connection in connections:
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.close()
