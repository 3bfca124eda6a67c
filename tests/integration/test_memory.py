"""A slow peer on one side stops the other side, so that memory stays flat for a body of any size."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from tests.integration import curl
from tests.integration.origin import Servers, blocks, content_hash
from tests.integration.processes import Balancer, wait_until

MIB = 1024 * 1024
BODY_BYTES = 256 * MIB
# What the process may grow, and what may be on its way in four socket buffers and our own.
GROWTH_BYTES = 16 * MIB
UNDERWAY_BYTES = 48 * MIB
STILL_SECONDS = 0.5


@pytest.fixture(scope="module")
def store_options() -> Iterator[tuple[str, ...]]:
    """What is shown here has nothing to do with the store."""
    yield ()


@pytest.fixture(scope="module")
def body_hash() -> str:
    """Of the whole body."""
    return content_hash(BODY_BYTES)


def connected(balancer: Balancer) -> socket.socket:
    """A client's connection with small buffers."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
    client.settimeout(120)
    client.connect(("127.0.0.1", balancer.port))
    return client


def stands_still(count: Callable[[], int]) -> bool:
    """Whether what `count()` says does not change any more."""
    before = count()
    time.sleep(STILL_SECONDS)
    return before == count()


def read_response(client: socket.socket) -> tuple[int, str]:
    """The size and the hash of the content of the response that comes next."""
    response = http.client.HTTPResponse(client)
    response.begin()
    digest = hashlib.sha256()
    size = 0
    while data := response.read1(256 * 1024):
        size += len(data)
        digest.update(data)
    return size, digest.hexdigest()


@pytest.mark.parametrize("kind", ["size", "chunks"])
def test_a_client_that_does_not_read_stops_the_server(
    balancer: Balancer, servers: Servers, body_hash: str, kind: str
) -> None:
    """Of a body of 256 MiB little leaves the server before the client reads; then all arrives; memory is flat."""
    key = balancer.create_user(f"user-{uuid4()}", 5, 0)
    with connected(balancer) as client:
        balancer.forget_peak()
        before = balancer.rss()
        head = f"GET /{kind}/{BODY_BYTES} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n"
        client.sendall(head.encode())

        def sent() -> int:
            return sum(origin.sent for origin in servers.all)

        wait_until(lambda: sent() > 0 and stands_still(sent), what="the server stops")
        assert sent() < UNDERWAY_BYTES
        # Others are served meanwhile.
        assert balancer.tokens(key) == 4
        assert read_response(client) == (BODY_BYTES, body_hash)
        assert balancer.peak_rss() - before < GROWTH_BYTES


@pytest.mark.parametrize("chunked", [False, True])
def test_a_server_that_does_not_read_stops_the_client(
    balancer: Balancer, servers: Servers, body_hash: str, chunked: bool
) -> None:
    """Of an upload of 256 MiB little leaves the client before the server reads; then all arrives; memory is flat."""
    key = balancer.create_user(f"user-{uuid4()}", 5, 0)
    for origin in servers.all:
        origin.reading.clear()
    sent = [0]
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {BODY_BYTES}"

    def upload(client: socket.socket) -> None:
        client.sendall(f"POST / HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n{framing}\r\n\r\n".encode())
        for block in blocks(BODY_BYTES):
            if chunked:
                client.sendall(b"%x\r\n" % len(block))
            client.sendall(block)
            if chunked:
                client.sendall(b"\r\n")
            sent[0] += len(block)
        if chunked:
            client.sendall(b"0\r\n\r\n")

    try:
        with connected(balancer) as client:
            balancer.forget_peak()
            before = balancer.rss()
            sender = threading.Thread(target=upload, args=(client,), daemon=True)
            sender.start()
            wait_until(lambda: sent[0] > 0 and stands_still(lambda: sent[0]), what="the client stops")
            assert sent[0] < UNDERWAY_BYTES
            for origin in servers.all:
                origin.reading.set()
            sender.join(120)
            response = http.client.HTTPResponse(client)
            response.begin()
            received = json.loads(response.read())
            assert response.status == 200
            assert (received["bytes"], received["sha256"]) == (BODY_BYTES, body_hash)
            assert balancer.peak_rss() - before < GROWTH_BYTES
    finally:
        for origin in servers.all:
            origin.reading.set()


@pytest.mark.skipif(bool(curl.MISSING), reason=curl.MISSING)
@pytest.mark.parametrize("direction", ["down", "up"])
def test_curl_moves_a_gibibyte(balancer: Balancer, servers: Servers, direction: str) -> None:
    """1 GiB passes at full speed in each direction, uploaded in chunks, and memory is flat."""
    key = balancer.create_user(f"user-{uuid4()}", 5, 0)
    balancer.forget_peak()
    before = balancer.rss()
    command = ["curl", "-q", "--noproxy", "*", "--silent", "--max-time", "300", "-H", f"Authorization: {key}"]
    if direction == "down":
        command += ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"]
        done = subprocess.run(
            [*command, f"{balancer.url}/size/{1024 * MIB}"], capture_output=True, text=True, timeout=320
        )
        assert done.stdout == f"200 {1024 * MIB}", done
    else:
        with subprocess.Popen(["head", "-c", "1G", "/dev/zero"], stdout=subprocess.PIPE) as source:
            command += ["--request", "POST", "--upload-file", "-"]
            done = subprocess.run(
                [*command, balancer.url], stdin=source.stdout, capture_output=True, text=True, timeout=320
            )
        assert json.loads(done.stdout)["bytes"] == 1024 * MIB
    assert balancer.peak_rss() - before < GROWTH_BYTES
