"""Mirrors on real sockets: the copies are the requests, and no mirror, however bad, has an effect on the client."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product

import pytest

from tests.integration.accepting import accepted
from tests.integration.conftest import Start
from tests.integration.origin import Origin, Servers
from tests.integration.processes import Balancer, ask, ask_on, wait_until
from tests.integration.raw_server import RawServer
from tests.integration.test_reload import rewrite
from tests.wire.strict_reader import Message

CONTENT = bytes(range(256)) * 400
LARGE = 20_000_000


class BadMirror:
    """Listens, and does one thing with each connection; `end` ends it."""

    def __init__(self, act: Callable[[socket.socket], object]) -> None:
        self.connections = 0
        self._act = act
        self._ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        for connection in accepted(self._listening):
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._act(connection)
            except OSError:
                """The balancer has ended the connection."""

    def end(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def hangs(connection: socket.socket) -> None:
    """Reads nothing, until the other side gives up."""
    connection.settimeout(60)
    while connection.recv(1, socket.MSG_PEEK):
        time.sleep(0.1)
        connection.getpeername()


def is_silent(connection: socket.socket) -> None:
    """Reads everything, and does not answer."""
    connection.settimeout(60)
    while connection.recv(1 << 20):
        pass


def cuts(connection: socket.socket) -> None:
    """Closes the connection with a reset, within the request."""
    connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def floods(connection: socket.socket) -> None:
    """Responds without an end, whatever is sent."""
    connection.settimeout(60)
    connection.recv(100)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def babbles(connection: socket.socket) -> None:
    """Sends what is not HTTP."""
    connection.sendall(b"\0" * 1000)
    is_silent(connection)


def yaml_of(origin: Origin, mirror_port: int, more: str = "") -> str:
    pools = f"  main: {{servers: [{{url: '{origin.url}'}}]}}\n"
    pools += f"  shadow: {{servers: [{{url: 'http://127.0.0.1:{mirror_port}'}}], ejection: false}}\n"
    return f"pools:\n{pools}routes:\n- {{pool: main, mirror: shadow{more}}}\n"


def outcomes(balancer: Balancer) -> dict[str, int]:
    """The copies, by how they have ended."""
    text = ask(balancer.admin_port, "GET", "/metrics").body.decode()
    lines = [line for line in text.splitlines() if line.startswith("tokenlb_mirror_copies_total")]
    return {line.split('"')[1]: int(float(line.rpartition(" ")[2])) for line in lines}


@pytest.fixture
def mirror() -> Iterator[RawServer]:
    mirror = RawServer().start()
    yield mirror
    mirror.stop()


def copied(mirror: RawServer, count: int) -> list[Message]:
    """So many requests at the mirror."""
    wait_until(lambda: len(mirror.requests) >= count, what=f"{count} copies")
    assert len(mirror.requests) == count
    return mirror.requests


def test_content(new_balancer: Start, servers: Servers, mirror: RawServer) -> None:
    """Contents of a known length, and chunked ones in pieces, are the same for the server and its mirror."""
    balancer = new_balancer(yaml_of(servers[0], mirror.port)).start()
    key = balancer.create_user("user1", 1000, 0)
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    sizes = (0, 1, 1000, len(CONTENT))
    for size in sizes:
        answer = ask_on(connection, "POST", f"/length/{size}", CONTENT[:size], key)
        assert json.loads(answer.body)["bytes"] == size, answer.body
        pieces = [CONTENT[:size][start : start + 7001] for start in range(0, size, 7001)]
        connection.request("POST", f"/chunks/{size}", iter(pieces), {"Authorization": key}, encode_chunked=True)
        answered = json.loads(connection.getresponse().read())
        assert answered["bytes"] == size
    # Copies are under way at the same time, and may overtake each other.
    by_target = {message.start[1]: message for message in copied(mirror, 2 * len(sizes))}
    for kind, size in product((b"length", b"chunks"), sizes):
        message = by_target[b"/%b/%d" % (kind, size)]
        assert message.start[0] == b"POST"
        assert message.body == CONTENT[:size]
        fields = {name.lower(): value for name, value in message.fields}
        assert fields[b"x-mirrored-from"] == b"main" and fields[b"x-consumer-username"] == b"user1"
        assert key.encode() not in b"".join(value for _, value in message.fields)
    wait_until(lambda: outcomes(balancer) == {"mirrored": 2 * len(sizes)}, what="all are counted")
    assert balancer.tokens(key) == 1000 - 2 * len(sizes)


@pytest.mark.parametrize("act", [hangs, is_silent, cuts, floods, babbles, None])
def test_bad_mirrors(new_balancer: Start, servers: Servers, act: Callable[[socket.socket], object] | None) -> None:
    """A mirror that hangs, cuts, floods, or is down: each response is that of the server, and none is late for it."""
    bad = BadMirror(act or cuts)
    if act is None:
        bad.end()
    environment = {"UPSTREAM_TIMEOUT": "2s"}
    balancer = new_balancer(yaml_of(servers[0], bad.port), environment=environment).start()
    try:
        key = balancer.create_user("user1", 1000, 0)
        connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
        for _ in range(20):
            answer = ask_on(connection, "GET", "/", key=key)
            assert (answer.status, answer.body) == (200, b"Server server1 answer")
        large = CONTENT * (LARGE // len(CONTENT))
        answer = ask_on(connection, "POST", "/", large, key)
        assert json.loads(answer.body)["sha256"] == hashlib.sha256(large).hexdigest()
        answer = ask_on(connection, "GET", f"/size/{LARGE}", key=key)
        assert len(answer.body) == LARGE
        connection.close()
        wait_until(lambda: sum(outcomes(balancer).values()) == 22, what="the end of all copies")
        if act is not floods:
            assert "mirrored" not in outcomes(balancer)
        shown = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
        assert [(one["pool"], one["in_flight"]) for one in shown] == [("main", 0), ("shadow", 0)]
        assert [(one["failures"], one["state"]) for one in shown if one["pool"] == "main"] == [(0, "up")]
        assert balancer.tokens(key) == 1000 - 22
    finally:
        if act is not None:
            bad.end()


def test_stop(new_balancer: Start, servers: Servers) -> None:
    """At the stop nobody waits for copies."""
    bad = BadMirror(is_silent)
    try:
        balancer = new_balancer(yaml_of(servers[0], bad.port), environment={"DRAIN_SECONDS": "60"}).start()
        key = balancer.create_user("user1", 1000, 0)
        for _ in range(5):
            assert ask(balancer.port, "GET", "/", key=key).status == 200
        wait_until(lambda: bad.connections == 5, what="the copies")
        began = time.monotonic()
        balancer.terminate()
        assert balancer.wait() == 0
        assert time.monotonic() - began < 30
    finally:
        bad.end()


def test_workers_and_reload(
    new_balancer: Start, servers: Servers, mirror: RawServer, processes: tuple[str, ...]
) -> None:
    """Workers copy too, and a reload changes what is copied."""
    text = yaml_of(servers[0], mirror.port)
    balancer = new_balancer(text, *processes).start()
    key = balancer.create_user("user1", 1000, 0)
    for _ in range(8):
        assert ask(balancer.port, "GET", "/before", key=key).status == 200
    copied(mirror, 8)
    wait_until(lambda: outcomes(balancer) == {"mirrored": 8}, what="all are counted")
    rewrite(balancer, text.replace("mirror: shadow", "mirror: {pool: shadow, percent: 0}"))

    def is_copied() -> bool:
        before = len(mirror.requests)
        for _ in range(8):
            assert ask(balancer.port, "GET", "/after", key=key).status == 200
        time.sleep(0.1)
        return len(mirror.requests) > before

    wait_until(lambda: not is_copied(), what="requests without copies")
