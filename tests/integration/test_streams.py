"""Bytes passed on as they come, by a client and a server that the test plays step by step on real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from select import select
from typing import Any

import pytest

from tests.integration.conftest import assert_calm
from tests.integration.processes import Balancer

SECONDS = 60.0


class Peer:
    """One end of a connection; what it waits for must come within SECONDS."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SECONDS)
        self._connection = connection
        self._unread = b""

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def read_to(self, mark: bytes) -> bytes:
        """All up to and with `mark`."""
        while mark not in self._unread:
            data = self._connection.recv(65536)
            assert data, f"{mark!r} does not come after {self._unread!r}"
            self._unread += data
        end = self._unread.index(mark) + len(mark)
        read, self._unread = self._unread[:end], self._unread[end:]
        return read

    def read_head(self) -> bytes:
        return self.read_to(b"\r\n\r\n")

    def end(self) -> None:
        """Say that nothing more is sent."""
        self._connection.shutdown(socket.SHUT_WR)

    def read_end(self) -> bytes:
        """All until the other side ends the connection in order."""
        while data := self._connection.recv(65536):
            self._unread += data
        return self._unread

    def fileno(self) -> int:
        return self._connection.fileno()

    def spoken_to(self) -> bool:
        """Whether bytes wait here, and not the end."""
        try:
            return bool(self._connection.recv(1, socket.MSG_PEEK))
        except ConnectionError:
            return False

    def close(self) -> None:
        self._connection.close()


class Stage:
    """A balancer, and the socket of the one server that it knows."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._clients: list[Peer] = []
        self._servers: list[Peer] = []
        self.balancer = Balancer(f"servers: [{{name: a, url: 'http://127.0.0.1:{self._listening.getsockname()[1]}'}}]")

    def start(self) -> None:
        self.balancer.start()
        self.key = self.balancer.create_user("user1", 1000).encode()

    def client(self) -> Peer:
        """A new client."""
        self._clients.append(Peer(socket.create_connection(("127.0.0.1", self.balancer.port), timeout=SECONDS)))
        return self._clients[-1]

    def server(self) -> Peer:
        """The server's end of the connection, old or new, on which a request comes."""
        while True:
            watched: list[Any] = [self._listening, *self._servers]
            ready = select(watched, [], [], SECONDS)[0]
            assert ready, "no request comes"
            for one in ready:
                if one is self._listening:
                    self._servers.append(Peer(self._listening.accept()[0]))
                elif one.spoken_to():
                    assert isinstance(one, Peer)
                    return one
                else:
                    self._servers.remove(one)
                    one.close()

    def clear(self) -> None:
        """End all connections."""
        for peer in self._clients + self._servers:
            peer.close()
        self._clients.clear()
        self._servers.clear()

    def close(self) -> None:
        self.clear()
        self._listening.close()
        self.balancer.close()

    def head(self, line: bytes, *fields: bytes) -> bytes:
        """A request's head with the key."""
        return b"\r\n".join([line, b"Host: a.test", b"X-API-Key: " + self.key, *fields, b"", b""])


@pytest.fixture(scope="module")
def running_stage() -> Iterator[Stage]:
    """One balancer for all tests."""
    stage = Stage()
    try:
        stage.start()
        yield stage
        assert_calm(stage.balancer)
    finally:
        stage.close()


@pytest.fixture
def stage(running_stage: Stage) -> Iterator[Stage]:
    """The connections of one test end with it."""
    yield running_stage
    running_stage.clear()


def test_chunks_pass_both_ways_at_once(stage: Stage) -> None:
    """Each chunk arrives before the next is sent, the response runs before the request ends, and both have trailers."""
    client = stage.client()
    client.send(stage.head(b"POST /echo HTTP/1.1", b"Transfer-Encoding: chunked", b"Trailer: X-Sum", b"TE: trailers"))
    client.send(b"5\r\nfirst\r\n")
    server = stage.server()
    head = server.read_head().lower()
    assert head.startswith(b"post /echo http/1.1\r\n")
    assert b"\r\ntransfer-encoding: chunked\r\n" in head and b"content-length" not in head
    assert server.read_to(b"first\r\n") == b"5\r\nfirst\r\n"
    server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Total\r\n\r\n3\r\none\r\n")
    assert client.read_head().startswith(b"HTTP/1.1 200 OK\r\n")
    assert client.read_to(b"one\r\n") == b"3\r\none\r\n"
    for word in (b"second", b"third"):
        client.send(b"%x\r\n%b\r\n" % (len(word), word))
        assert server.read_to(word + b"\r\n") == b"%x\r\n%b\r\n" % (len(word), word)
        server.send(b"%x\r\n%b\r\n" % (len(word), word))
        assert client.read_to(word + b"\r\n") == b"%x\r\n%b\r\n" % (len(word), word)
    client.send(b"0\r\nX-Sum: 3\r\n\r\n")
    assert server.read_to(b"\r\n\r\n") == b"0\r\nX-Sum: 3\r\n\r\n"
    server.send(b"0\r\nX-Total: 3\r\n\r\n")
    assert client.read_to(b"\r\n\r\n") == b"0\r\nX-Total: 3\r\n\r\n"


def test_interim_responses_come_when_the_server_sends_them(stage: Stage) -> None:
    """103 and 100 reach the client before the final response, each when it is sent."""
    client = stage.client()
    client.send(stage.head(b"PUT /a HTTP/1.1", b"Content-Length: 4", b"Expect: 100-continue"))
    server = stage.server()
    assert b"\r\nexpect: 100-continue\r\n" in server.read_head().lower()
    server.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    assert client.read_head() == b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    server.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"body")
    assert server.read_to(b"body") == b"body"
    server.send(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
    assert client.read_head().startswith(b"HTTP/1.1 201 Created\r\n")
    assert client.read_to(b"ok") == b"ok"


def test_interim_responses_are_not_for_http_1_0(stage: Stage) -> None:
    """A client of HTTP/1.0 sees the final response only."""
    client = stage.client()
    client.send(stage.head(b"GET /a HTTP/1.0"))
    server = stage.server()
    server.read_head()
    server.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    answer = client.read_end()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nok")


def test_a_body_until_the_close_becomes_chunks(stage: Stage) -> None:
    """What an HTTP/1.0 server ends by closing is chunked to the client, whose connection goes on."""
    client = stage.client()
    for word in (b"first", b"second"):
        client.send(stage.head(b"GET /a HTTP/1.1"))
        server = stage.server()
        server.read_head()
        server.send(b"HTTP/1.0 200 OK\r\n\r\n" + word)
        assert b"\r\ntransfer-encoding: chunked\r\n" in client.read_head().lower()
        assert client.read_to(word) == b"%x\r\n%b" % (len(word), word)
        server.end()
        assert client.read_to(b"\r\n\r\n") == b"\r\n0\r\n\r\n"


def test_requests_that_come_ahead_are_answered_in_order(stage: Stage) -> None:
    """Three requests in one segment, the first with a body, get their three answers in this order."""
    client = stage.client()
    first = stage.head(b"POST /1 HTTP/1.1", b"Content-Length: 4") + b"body"
    client.send(first + stage.head(b"GET /2 HTTP/1.1") + stage.head(b"GET /3 HTTP/1.1"))
    for number, body in ((1, b"body"), (2, b""), (3, b"")):
        server = stage.server()
        assert b" /%d HTTP/1.1\r\n" % number in server.read_head()
        assert server.read_to(body) == body
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
        client.read_head()
        assert client.read_to(b"%d" % number) == b"%d" % number


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_response_cut_short_is_cut_for_the_client(stage: Stage, framing: bytes) -> None:
    """A server that leaves in the middle of a body leaves the client with an end before the body's own."""
    client = stage.client()
    client.send(stage.head(b"GET /a HTTP/1.1"))
    server = stage.server()
    server.read_head()
    server.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing + b"4\r\nhalf")
    client.read_to(b"half")
    server.end()
    assert client.read_end().strip() == b""


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_responses_without_a_body_keep_the_connections(stage: Stage, status: bytes) -> None:
    """After 204 and 304, which end with their heads, both connections carry the next exchange."""
    client = stage.client()
    client.send(stage.head(b"GET /a HTTP/1.1"))
    server = stage.server()
    server.read_head()
    server.send(b"HTTP/1.1 %b\r\nETag: x\r\n\r\n" % status)
    assert client.read_head().startswith(b"HTTP/1.1 " + status)
    client.send(stage.head(b"GET /b HTTP/1.1"))
    assert stage.server() is server
    assert server.read_head().startswith(b"GET /b HTTP/1.1\r\n")
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    client.read_head()
    assert client.read_to(b"ok") == b"ok"


def test_a_client_that_leaves_frees_the_server(stage: Stage) -> None:
    """A client that goes away may only have said its last; the next bytes show that it left, and end the server's side.

    (RFC 9112 section 9.6 lets a client close its sending half and wait.)
    """
    client = stage.client()
    client.send(stage.head(b"GET /a HTTP/1.1"))
    server = stage.server()
    server.read_head()
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf")
    client.read_to(b"half")
    client.close()
    with pytest.raises(ConnectionError):
        for _ in range(6000):
            server.send(b"more")
            time.sleep(0.01)


@pytest.mark.parametrize("framing", ["chunked", "until close", "HTTP/1.0", "length"])
def test_events_arrive_one_by_one(stage: Stage, framing: str) -> None:
    """Server-sent events arrive when each is sent, and the head before the first, however the server frames them."""
    client = stage.client()
    client.send(stage.head(b"GET /events HTTP/1.1", b"Accept: text/event-stream"))
    server = stage.server()
    server.read_head()
    version = b"HTTP/1.0" if framing == "HTTP/1.0" else b"HTTP/1.1"
    frame = {"chunked": b"Transfer-Encoding: chunked\r\n", "length": b"Content-Length: 1000\r\n"}.get(framing, b"")
    server.send(version + b" 200 OK\r\nContent-Type: text/event-stream\r\n" + frame + b"\r\n")
    assert b"\r\nContent-Type: text/event-stream\r\n" in client.read_head()
    for event in (b"data: first\n\n", b": a comment\n\n", b"id: 2\ndata: second\n\n"):
        # Also in two pieces, of which neither waits for the other.
        for piece in (event, event[:5], event[5:]):
            server.send(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            assert client.read_to(piece).endswith(piece)


def test_a_long_poll_is_answered_when_there_is_something(stage: Stage) -> None:
    """A response that comes late comes at once when it comes, and the next poll goes on with both connections."""
    client = stage.client()
    for news in (b"first", b"second"):
        client.send(stage.head(b"GET /poll HTTP/1.1"))
        server = stage.server()
        server.read_head()
        time.sleep(0.3)
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(news), news))
        client.read_head()
        assert client.read_to(news) == news


UPGRADE = (b"Upgrade: raw/1", b"Connection: Upgrade")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw/1\r\nConnection: Upgrade\r\n\r\n"


def test_a_tunnel_passes_bytes_and_the_ends_of_both_directions(stage: Stage) -> None:
    """After a 101 bytes pass as they come; each side may end its direction, and still gets all of the other one."""
    client = stage.client()
    client.send(stage.head(b"GET /raw HTTP/1.1", *UPGRADE) + b"early")
    server = stage.server()
    assert b"\r\nUpgrade: raw/1\r\nConnection: Upgrade\r\n" in server.read_head()
    server.send(SWITCHED + b"hello")
    assert b"\r\nUpgrade: raw/1\r\n" in client.read_head()
    assert (client.read_to(b"hello"), server.read_to(b"early")) == (b"hello", b"early")
    for _ in range(3):
        client.send(b"ping")
        assert server.read_to(b"ping") == b"ping"
        server.send(b"pong")
        assert client.read_to(b"pong") == b"pong"
    client.end()
    assert server.read_end() == b""
    server.send(b"the last word")
    server.end()
    assert client.read_end() == b"the last word"


def test_a_tunnel_ends_behind_all_that_was_sent(stage: Stage) -> None:
    """What a client has sent before its end arrives, also at a server that has ended its direction and reads late."""
    client = stage.client()
    client.send(stage.head(b"GET /raw HTTP/1.1", *UPGRADE))
    server = stage.server()
    server.read_head()
    server.send(SWITCHED)
    server.end()
    client.read_head()
    assert client.read_end() == b""
    content = b"x" * 8_000_000
    sending = threading.Thread(target=lambda: (client.send(content), client.end()))
    sending.start()
    time.sleep(0.5)
    assert len(server.read_end()) == len(content)
    sending.join()
