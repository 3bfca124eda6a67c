"""Slow and greedy peers at a running balancer: many of them do not affect others, and each limit has its response."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.integration.conftest import Start, assert_calm
from tests.integration.processes import Balancer, wait_until
from tests.integration.raw_client import PATIENCE_SECONDS, exchange
from tests.integration.raw_server import RawServer, Script, answer
from twisted_lb.app.rlimit import raise_open_files, shortage

IDLE_CONNECTIONS = 5_000
SLOW_CONNECTIONS = 1_000
BATCH = 100
ASKED = 500
# What a machine with something else to do may make of a p99; the worst that a tied-up process does is seconds.
UNCHANGED_FACTOR = 10.0
UNCHANGED_SECONDS = 0.25
# Measured: 1,425 bytes.
MAX_IDLE_BYTES = 1_700
# Of one client that asks and does not read.
MAX_ASKING_BYTES = 4 * 1024 * 1024

LIMITS = {
    "HEAD_TIMEOUT": "1s",
    "BODY_TIMEOUT": "1s",
    "MIN_BODY_RATE": "1000",
    "SEND_TIMEOUT": "1s",
    "KEEPALIVE_TIMEOUT": "2s",
    "KEEPALIVE_REQUESTS": "3",
    "MAX_HEAD_BYTES": "4k",
    "MAX_TARGET_BYTES": "256",
    "MAX_HEADER_FIELDS": "20",
    "MAX_BODY_BYTES": "10000",
    "UPSTREAM_TIMEOUT": "2s",
}
# A deadline is met late by at most two ticks of 0.25 s; the rest is for a busy machine, and less than each default.
LATE_SECONDS = 8.0
LATE_CONNECT_SECONDS = 4.5


@pytest.fixture(scope="module")
def balancer(raw: RawServer) -> Iterator[Balancer]:
    """A balancer with low limits."""
    balancer = Balancer(servers(raw.port), environment=LIMITS)
    try:
        yield balancer.start()
        assert_calm(balancer)
    finally:
        balancer.close()


@pytest.fixture(scope="module")
def key(balancer: Balancer) -> bytes:
    """A key of this balancer."""
    return new_key(balancer)


@pytest.fixture(autouse=True)
def forgetful(raw: RawServer) -> None:
    """Each test begins with nothing recorded."""
    raw.forget()


def servers(*ports: int) -> str:
    """A servers.yaml."""
    return "servers:\n" + "".join(f"  - {{name: s{port}, url: 'http://127.0.0.1:{port}'}}\n" for port in ports)


def new_key(balancer: Balancer) -> bytes:
    """The key of a user with many tokens."""
    return balancer.create_user("slow", 1_000_000, 1_000_000).encode()


def get(key: bytes, target: bytes = b"/", *lines: bytes) -> bytes:
    """A right request."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a.test", b"X-API-Key: " + key, *lines, b"", b""])


def post(key: bytes, body: bytes, *lines: bytes) -> bytes:
    """A request with these framing fields and this much of its body."""
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a.test", b"X-API-Key: " + key, *lines, b"", body])


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    """A connection from this loopback address."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS, (source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def served(connection: socket.socket, key: bytes) -> bool:
    """Whether a request on this connection gets 200; else it gets 503."""
    connection.sendall(get(key))
    received = connection.recv(65536)
    assert received.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")), received
    return received.startswith(b"HTTP/1.1 200 ")


def read_to_end(connection: socket.socket) -> bytes:
    """All that still comes."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        """An end as well."""
    return received


def trickle(port: int, begin: bytes, drop: bytes) -> tuple[bytes, float]:
    """Send `begin`, then `drop` twenty times a second; what came back, and the seconds until it did."""
    with connect(port) as connection:
        began = time.monotonic()
        connection.sendall(begin)
        while not select.select([connection], [], [], 0.05)[0]:
            assert time.monotonic() - began < PATIENCE_SECONDS
            connection.sendall(drop)
        return read_to_end(connection), time.monotonic() - began


@dataclass
class Measured:
    """How a normal client fares."""

    p99: float  # seconds
    errors: int


def measure(port: int, key: bytes) -> Measured:
    """One request after the other, on one connection."""
    seconds = []
    errors = 0
    wanted = answer(b"asked /normal").partition(b"\r\n\r\n")[2]
    with connect(port) as connection:
        for _ in range(ASKED):
            began = time.perf_counter()
            connection.sendall(get(key, b"/normal"))
            received = b""
            while not received.endswith(wanted):
                data = connection.recv(65536)
                if not data:
                    errors += 1
                    return Measured(0.0, errors)
                received += data
            errors += not received.startswith(b"HTTP/1.1 200 ")
            seconds.append(time.perf_counter() - began)
    return Measured(sorted(seconds)[ASKED * 99 // 100], errors)


def readable(connections: list[socket.socket]) -> int:
    """How many of them have been sent something, or the end."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(poll.poll(0))


def test_a_crowd_of_slow_and_idle_peers(raw: RawServer, new_balancer: Start) -> None:
    """5,000 idle and 1,000 slowloris connections leave a normal client's p99 and errors as they were, and are small."""
    if shortage(raise_open_files(), (IDLE_CONNECTIONS + SLOW_CONNECTIONS) // 2 + BATCH):
        pytest.skip("this process may have too few open files for the crowd: ulimit -n 8192")
    balancer = new_balancer(servers(raw.port), environment={"HEAD_TIMEOUT": "5m", "KEEPALIVE_TIMEOUT": "5m"}).start()
    key = new_key(balancer)
    measure(balancer.port, key)
    before = measure(balancer.port, key)
    with ExitStack() as stack:
        memory = balancer.rss()
        idle: list[socket.socket] = []
        for _ in range(IDLE_CONNECTIONS // BATCH):
            batch = [stack.enter_context(connect(balancer.port)) for _ in range(BATCH)]
            for connection in batch:
                connection.sendall(get(key))
            for connection in batch:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            idle += batch
        memory = balancer.rss() - memory
        slow = [stack.enter_context(connect(balancer.port)) for _ in range(SLOW_CONNECTIONS)]
        for connection in slow:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a.test\r\nCookie: ")
        during = []
        for _ in range(3):
            for connection in slow:
                connection.send(b"a")
            during.append(measure(balancer.port, key))
        assert readable(slow + idle) == 0, "none was answered, none was closed"
    assert (before.errors, [one.errors for one in during]) == (0, [0, 0, 0])
    p99 = sorted(one.p99 for one in during)[1]
    assert p99 <= max(before.p99 * UNCHANGED_FACTOR, UNCHANGED_SECONDS), (before, during)
    assert memory / IDLE_CONNECTIONS <= MAX_IDLE_BYTES, memory / IDLE_CONNECTIONS


def test_a_slow_head(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A head that is not whole in HEAD_TIMEOUT is 408, however steadily it comes, and reaches no server."""
    received, seconds = trickle(balancer.port, get(key)[:-4] + b"\r\nA: ", b"a")
    assert received.startswith(b"HTTP/1.1 408 ") and b"\r\nConnection: close\r\n" in received
    assert 1.0 <= seconds < LATE_SECONDS
    assert raw.received == b""


def test_a_silent_client(balancer: Balancer) -> None:
    """A new connection that says nothing is closed after HEAD_TIMEOUT without a word."""
    began = time.monotonic()
    got = exchange(balancer.port, b"", to_end=True)
    assert (got.status, got.ended) == (0, True)
    assert 1.0 <= time.monotonic() - began < LATE_SECONDS


def test_empty_lines(balancer: Balancer) -> None:
    """Empty lines before a request win no time."""
    received, seconds = trickle(balancer.port, b"\r\n", b"\r\n")
    assert (received, seconds < LATE_SECONDS) == (b"", True)


@pytest.mark.parametrize("framing", [b"Content-Length: 5000", b"Transfer-Encoding: chunked"])
def test_a_slow_body(framing: bytes, balancer: Balancer, key: bytes) -> None:
    """A body that does not go on by MIN_BODY_RATE in BODY_TIMEOUT is 408, though each moment brings a byte."""
    drop = b"a" if framing.startswith(b"C") else b"1\r\na\r\n"
    received, seconds = trickle(balancer.port, post(key, b"", framing), drop)
    assert received.startswith(b"HTTP/1.1 408 ") and b"\r\nConnection: close\r\n" in received
    assert 1.0 <= seconds < LATE_SECONDS


def test_a_body_in_time(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A body that goes on fast enough may take longer than BODY_TIMEOUT."""
    begin = post(key, b"", b"Content-Length: 10000", b"Connection: close")
    for _ in range(3):
        raw.forget()
        received, seconds = trickle(balancer.port, begin, b"a" * 250)
        # On a busy machine this process may not go on fast enough.
        if received.startswith(b"HTTP/1.1 200 "):
            break
    assert received.startswith(b"HTTP/1.1 200 ")
    assert seconds > 1.75
    assert raw.requests[0].body == b"a" * 10_000


def test_an_idle_connection(balancer: Balancer, key: bytes) -> None:
    """A connection without a next request is closed after KEEPALIVE_TIMEOUT, and not before."""
    with connect(balancer.port) as connection:
        connection.sendall(get(key))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        assert read_to_end(connection) == b""
        assert 2.0 <= time.monotonic() - began < LATE_SECONDS


def test_a_client_that_does_not_read(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A client that does not read its response for SEND_TIMEOUT is cut, and its server let go."""
    size = 64 * 1024 * 1024
    raw.scripts["long"] = Script((b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"a" * size))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(("127.0.0.1", balancer.port))
        connection.sendall(get(key, b"/script/long"))
        began = time.monotonic()
        poll = select.poll()
        poll.register(connection, 0)  # errors and the end only
        assert poll.poll(PATIENCE_SECONDS * 1000)
        assert 1.0 <= time.monotonic() - began < LATE_SECONDS + 2
        assert len(read_to_end(connection)) < size


def test_answers_that_are_not_read(raw: RawServer, new_balancer: Start) -> None:
    """A client that asks on and on and reads no answer is read no more, costs no memory, and is cut."""
    settings = {"SEND_TIMEOUT": "1s", "LINGERING_TIME": "1s", "KEEPALIVE_REQUESTS": "1000000000"}
    balancer = new_balancer(servers(raw.port), environment=settings).start()
    memory = balancer.rss()
    balancer.forget_peak()
    asked = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n" * 1000
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(("127.0.0.1", balancer.port))
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        with pytest.raises(ConnectionError):
            while time.monotonic() < give_up_at:
                connection.sendall(asked)
    assert balancer.peak_rss() - memory < MAX_ASKING_BYTES


def test_a_silent_server(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A server that does not begin its response in UPSTREAM_TIMEOUT makes a 504; the client's connection goes on."""
    raw.scripts["silent"] = Script((20.0,))
    with connect(balancer.port) as connection:
        began = time.monotonic()
        connection.sendall(get(key, b"/script/silent"))
        received = connection.recv(65536)
        assert received.startswith(b"HTTP/1.1 504 ") and b"Connection: close" not in received
        assert 2.0 <= time.monotonic() - began < LATE_SECONDS
        connection.sendall(get(key))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_server_that_takes_no_connection(raw: RawServer, new_balancer: Start) -> None:
    """After CONNECT_TIMEOUT the next server is asked; when there is none, the answer is 503 and the token is back."""
    with ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            # The queue of a port that accepts nobody is full after these; the next wait.
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        second = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        ports = deaf.getsockname()[1], second.getsockname()[1]
        second.close()
        balancer = new_balancer(servers(ports[0], raw.port), environment={"CONNECT_TIMEOUT": "500ms"}).start()
        key = new_key(balancer)
        began = time.monotonic()
        for _ in range(2):
            assert exchange(balancer.port, get(key)).status == 200
        assert 0.5 <= time.monotonic() - began < LATE_CONNECT_SECONDS
        alone = new_balancer(servers(*ports), environment={"CONNECT_TIMEOUT": "500ms"}).start()
        key = alone.create_user("alone", 5, 0).encode()
        assert exchange(alone.port, get(key)).status == 503
        assert alone.tokens(key.decode()) == 5


def test_a_long_body(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A body whose Content-Length is above MAX_BODY_BYTES is 413 before a byte of it is read or asked for."""
    data = post(key, b"", b"Content-Length: 10001", b"Expect: 100-continue")
    got = exchange(balancer.port, data)
    assert (got.status, got.interim) == (413, [])
    assert exchange(balancer.port, data, to_end=True).ended
    assert raw.received == b""


def test_a_long_body_in_chunks(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A chunked body is 413 as soon as there is more of it than MAX_BODY_BYTES; no server gets a whole request."""
    data = post(key, b"1388\r\n" + b"a" * 5000 + b"\r\n", b"Transfer-Encoding: chunked")
    got = exchange(balancer.port, data + b"1389\r\n" + b"a" * 5001, to_end=True)
    assert (got.status, got.ended, raw.requests) == (413, True, [])


def test_the_longest_body(balancer: Balancer, raw: RawServer, key: bytes) -> None:
    """A body of MAX_BODY_BYTES is passed on."""
    assert exchange(balancer.port, post(key, b"a" * 10_000, b"Content-Length: 10000")).status == 200
    assert raw.requests[0].body == b"a" * 10_000


@pytest.mark.parametrize(
    ("target", "lines", "status"),
    [
        (b"/" + b"a" * 255, (), 200),
        (b"/" + b"a" * 256, (), 414),
        (b"/", (b"A: b",) * 18, 200),
        (b"/", (b"A: b",) * 19, 431),
        (b"/", (b"A: " + b"b" * 3900,), 200),
        (b"/", (b"A: " + b"b" * 4100,), 431),
    ],
)
def test_a_large_head(
    target: bytes, lines: tuple[bytes, ...], status: int, balancer: Balancer, raw: RawServer, key: bytes
) -> None:
    """A target above MAX_TARGET_BYTES is 414; more fields or bytes than allowed are 431; and the connection ends."""
    got = exchange(balancer.port, get(key, target, *lines), to_end=status != 200)
    assert (got.status, got.ended, len(raw.requests)) == (status, status != 200, int(status == 200))


def test_requests_on_one_connection(balancer: Balancer, key: bytes) -> None:
    """The last of KEEPALIVE_REQUESTS is answered with Connection: close, and the connection ends."""
    with connect(balancer.port) as connection:
        for number in range(3):
            connection.sendall(get(key))
            received = connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 200 ")
            assert (b"\r\nConnection: close\r\n" in received) == (number == 2)
        assert read_to_end(connection) == b""


@pytest.mark.parametrize("setting", ["MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_ADDRESS"])
def test_connections(setting: str, raw: RawServer, new_balancer: Start) -> None:
    """One too many while all are busy is 503, closed; another address has its own number; and a place is given back."""
    raw.scripts["slow"] = Script((30.0,))
    balancer = new_balancer(
        servers(raw.port), environment={"MAX_CONNECTIONS_PER_ADDRESS": "0", setting: "3"}
    ).start()
    key = new_key(balancer)
    with ExitStack() as stack:
        for number in range(1, 4):
            busy = stack.enter_context(connect(balancer.port))
            busy.sendall(get(key, b"/script/slow"))
            wait_until(lambda: raw.received.count(b"/script/slow") == number, what="the server has the request")
        with connect(balancer.port) as refused:
            received = read_to_end(refused)
        assert received.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: 1\r\n" in received
        with connect(balancer.port, "127.0.0.2") as other:
            assert served(other, key) == (setting != "MAX_CONNECTIONS")
    wait_until(lambda: exchange(balancer.port, get(key)).status == 200, what="there is room again")
