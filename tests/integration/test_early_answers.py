"""Servers that answer before a request is complete: the client gets that response, and nothing is sent twice."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.integration.accepting import accepted
from tests.integration.conftest import assert_calm
from tests.integration.processes import Balancer

UPLOADS = 40
INTERIMS = {
    "": b"",
    "100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "103": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
}


class EagerServer:
    """Acts on each head and answers at once; then it reads the body, or closes.  `acted` counts the targets."""

    def __init__(self) -> None:
        self.acted: Counter[str] = Counter()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        for connection in accepted(self._listening):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        with connection:
            try:
                while True:
                    while b"\r\n\r\n" not in data:
                        more = connection.recv(65_536)
                        if not more:
                            return
                        data += more
                    head, _, data = data.partition(b"\r\n\r\n")
                    target = head.split(b" ")[1].decode()
                    self.acted[target] += 1
                    kind = target.split("/")[1]
                    connection.sendall(INTERIMS.get(kind, b""))
                    if head.startswith(b"GET"):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                        continue
                    closing = b"Connection: close\r\n" if kind == "close" else b""
                    connection.sendall(b"HTTP/1.1 413 Content Too Large\r\n%bContent-Length: 2\r\n\r\nno" % closing)
                    chunked = b"Transfer-Encoding: chunked" in head
                    size = 0 if chunked else int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                    while len(data) < size or (chunked and not data.endswith(b"0\r\n\r\n")):
                        more = connection.recv(65_536)
                        if not more:
                            return
                        data += more
                    data = b"" if chunked else data[size:]
                    if closing:
                        return
            except OSError:
                return


@pytest.fixture(scope="module")
def server() -> Iterator[EagerServer]:
    server = EagerServer()
    yield server
    server.close()


def upload(port: int, key: str, target: str, size: int, pieces: int, chunked: bool) -> int:
    """GET something on a connection, then POST a body in pieces on the same one; the status of the POST."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fields = f"Host: a\r\nAuthorization: {key}\r\n"
        connection.sendall(f"GET /warm{target} HTTP/1.1\r\n{fields}\r\n".encode())
        reading = connection.makefile("rb")
        assert next_status(reading) == 200
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        connection.sendall(f"POST {target} HTTP/1.1\r\n{fields}{framing}\r\n\r\n".encode())
        piece = b"x" * (size // pieces)
        try:
            for _ in range(pieces):
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        except OSError:
            # The answer has come, and the connection is closed.
            pass
        status = next_status(reading)
        while status < 200:
            status = next_status(reading)
        return status


def next_status(reading: object) -> int:
    """The status of the next response, whose content is read."""
    line: bytes = reading.readline()  # type: ignore[attr-defined]
    length = 0
    while (field := reading.readline()) not in (b"\r\n", b""):  # type: ignore[attr-defined]
        if field.lower().startswith(b"content-length:"):
            length = int(field.split(b":")[1])
    reading.read(length)  # type: ignore[attr-defined]
    return int(line.split(b" ")[1]) if line else 0


@pytest.fixture(scope="module")
def balancer(server: EagerServer) -> Iterator[Balancer]:
    balancer = Balancer(f"servers: [{{name: eager, url: 'http://127.0.0.1:{server.port}'}}]\n")
    try:
        yield balancer.start()
        assert_calm(balancer)
    finally:
        balancer.close()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", ["plain", "close", "100", "103"])
def test_each_upload_is_acted_on_once(balancer: Balancer, server: EagerServer, kind: str, chunked: bool) -> None:
    """The client gets the server's own status, and the server gets each request once, however the body comes."""
    key = balancer.create_user(f"user-{uuid4()}", 1_000_000, 1000)
    ours = uuid4()
    for size, pieces in ((45_000, 15), (20_000, 1), (64_000, 1000), (600_000, 20)):
        statuses: Counter[int] = Counter()
        for number in range(UPLOADS):
            statuses[upload(balancer.port, key, f"/{kind}/{size}/{pieces}/{number}/{ours}", size, pieces, chunked)] += 1
        assert statuses == {413: UPLOADS}, (size, pieces)
    assert [target for target, count in server.acted.items() if str(ours) in target and count != 1] == []
