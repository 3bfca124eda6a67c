"""What an idle connection costs a running balancer, whatever its requests were like."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from tests.integration.conftest import Start
from tests.integration.raw_client import PATIENCE_SECONDS
from tests.integration.raw_server import RawServer
from tests.integration.test_slow_peers import connect, get, new_key, post, servers

CONNECTIONS = 300
WARM_UP = 60
LONG = 25_000
# Measured: 5 KiB, most of it the fragments that large requests leave in the heap; up to 6.5 KiB on a busy machine,
# where requests arrive in more pieces.  To keep the smallest of them would add 8 KB.
MAX_IDLE_BYTES = 9 * 1024


def large_requests(key: bytes, number: int) -> list[tuple[bytes, int]]:
    """Requests with the status of their answers; no two connections send the same ones."""
    mark = b"%d." % number
    filled = mark + b"x" * LONG
    body = b'{"name":"%b"}' % (b"n" * 60_000)
    call = (b"POST /user/create HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json", b"Content-Length: 60011")
    trailers = b"8000\r\n" + b"x" * 0x8000 + b"\r\n0\r\nA: " + b"t" * 15_000 + b"\r\n\r\n"
    return [
        (get(key, b"/", b"Cookie: " + filled), 200),
        (get(key, b"/", *(b"F%d: %b%b" % (field, mark, b"x" * 250) for field in range(90))), 200),
        (get(key, b"/", b"X-Forwarded-For: " + filled), 200),
        (get(key, b"/" + mark + b"t" * 8000), 200),
        (post(key, b"b" * 200_000, b"Content-Length: 200000"), 200),
        (post(key, trailers, b"Transfer-Encoding: chunked"), 200),
        (b"\r\n".join([*call, b"", body]), 400),
        (get(b"no-such-key", b"/", b"Cookie: " + filled), 401),
        (get(key, b"/", b"A: b").replace(b"Host: a.test", b"Host: " + mark + b"h" * 240), 200),
    ]


def send(connection: socket.socket, data: bytes, status: int) -> None:
    """Send a request and read its answer, which has a Content-Length."""
    connection.sendall(data)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65536) or pytest.fail(f"no answer, but {received!r}")
    head, _, content = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    [length] = [int(line.split()[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(content) < length:
        content += connection.recv(65536) or pytest.fail("the answer is not whole")


def test_idle_after_large_requests(raw: RawServer, new_balancer: Start) -> None:
    """A connection that has carried large requests of each kind is as small as any other once it is idle."""
    balancer = new_balancer(servers(raw.port), environment={"ADDRESS_CAPACITY": "100000"}).start()
    key = new_key(balancer)
    with ExitStack() as stack:
        memory = 0
        for number in range(WARM_UP + CONNECTIONS):
            if number == WARM_UP:
                memory = balancer.rss()
            connection = stack.enter_context(connect(balancer.port, "127.0.0.2"))
            connection.settimeout(PATIENCE_SECONDS)
            for data, status in large_requests(key, number):
                send(connection, data, status)
        assert (balancer.rss() - memory) / CONNECTIONS <= MAX_IDLE_BYTES
