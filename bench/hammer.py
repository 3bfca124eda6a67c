"""Clients that ask without a pause, and what each of them saw.

Strategy: a process of its own (`python bench/hammer.py`, a plan as JSON on standard input) holds all connections in one
epoll loop.  Each connection carries one request at a time.  A request is noted with the time just before it was sent
and the time just after its answer had arrived, on the clock that all processes of a machine share (CLOCK_MONOTONIC).
At the end the columns go to standard output as plain arrays.
"""

from __future__ import annotations

import json
import random
import select
import socket
import subprocess
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

PATIENCE_SECONDS = 60.0  # for the last answers
_START_SECONDS = 30.0
_COLUMNS = ("H", "H", "H", "q", "d", "d")  # the array's codes, in the order of Seen
_LIMIT = b"\r\nX-RateLimit-Limit: "
_LENGTH = b"\r\nContent-Length: "


@dataclass(frozen=True)
class Startup:
    """Who asks whom for what."""

    ports: Sequence[int]  # of the balancers; connections are spread over them
    keys: Sequence[str]
    weights: Sequence[int]  # how often each key is used, relative to the others
    connections: int
    seconds: float
    pause: float = 0.0  # of a connection between an answer and its next request


class Seen(NamedTuple):
    """One request and its answer."""

    key: int  # which of the plan's keys
    port: int  # which of the plan's ports
    status: int  # 0: the connection ended without an answer
    limit: int  # X-RateLimit-Limit; -1 where there is none
    sent: float
    answered: float


class Hammer:
    """The process.  `with` ends it, whatever it does."""

    def __init__(self, plan: Startup) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._popen.pid
        self._seconds = plan.seconds + PATIENCE_SECONDS + _START_SECONDS
        assert self._popen.stdin and self._popen.stdout
        self._popen.stdin.write(json.dumps(asdict(plan)).encode())
        self._popen.stdin.close()
        self._popen.stdin = None
        # It says when the first request is about to leave.
        self.began = array("d", self._popen.stdout.read(8))[0]

    def __enter__(self) -> Hammer:
        return self

    def __exit__(self, *raised: object) -> None:
        self._popen.kill()
        self._popen.communicate()

    def sleep_until(self, seconds: float) -> None:
        """Return when it has asked for that long."""
        time.sleep(max(self.began + seconds - time.monotonic(), 0))

    def finish(self) -> list[Seen]:
        """Wait for its end."""
        data, _ = self._popen.communicate(timeout=self._seconds)
        assert self._popen.returncode == 0, "the load has failed"
        return list(_decoded(data))


class _Connection:
    """A client; its socket may be a new one now and then."""

    def __init__(self, port: int, address: tuple[str, int]) -> None:
        self.port = port
        self.address = address
        self.key = 0
        self.sent = 0.0
        self.asking = False  # an answer is awaited
        self.received = b""

    def open(self) -> int:
        """A new socket; its file descriptor."""
        self.socket = socket.create_connection(self.address, timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.received = b""
        return self.socket.fileno()


class _Load:
    """All clients of a plan."""

    def __init__(self, plan: Startup) -> None:
        self._plan = plan
        self._requests = [
            f"GET /{number} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n".encode()
            for number, key in enumerate(plan.keys)
        ]
        self._order = [index for index, weight in enumerate(plan.weights) for _ in range(weight)]
        random.Random(1).shuffle(self._order)
        self._next = 0
        self._epoll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._waiting = 0
        self._resting: deque[tuple[float, _Connection]] = deque()
        self.columns: list[array[Any]] = [array(code) for code in _COLUMNS]

    def run(self) -> None:
        """Ask until the time is up, and wait for the last answers."""
        for number in range(self._plan.connections):
            port = number % len(self._plan.ports)
            self._connect(_Connection(port, ("127.0.0.1", self._plan.ports[port])))
        began = time.monotonic()
        sys.stdout.buffer.write(array("d", [began]).tobytes())
        sys.stdout.buffer.flush()
        until = began + self._plan.seconds
        for connection in list(self._open.values()):
            self._ask(connection)
        while self._waiting or (self._resting and time.monotonic() < until):
            now = time.monotonic()
            if now > until + PATIENCE_SECONDS:
                raise TimeoutError(f"{self._waiting} requests are not answered")
            timeout = max(self._resting[0][0] - now, 0) if self._resting else 1.0
            for descriptor, _ in self._epoll.poll(timeout):
                self._readable(self._open[descriptor], until)
            now = time.monotonic()
            while self._resting and self._resting[0][0] <= now < until:
                self._ask(self._resting.popleft()[1])

    def _connect(self, connection: _Connection) -> None:
        descriptor = connection.open()
        self._open[descriptor] = connection
        self._epoll.register(descriptor, select.EPOLLIN)

    def _reconnect(self, connection: _Connection) -> None:
        del self._open[connection.socket.fileno()]
        connection.socket.close()
        self._connect(connection)

    def _ask(self, connection: _Connection) -> None:
        connection.key = self._order[self._next]
        self._next = (self._next + 1) % len(self._order)
        request = self._requests[connection.key]
        self._waiting += 1
        connection.asking = True
        connection.sent = time.monotonic()
        try:
            sent = connection.socket.send(request)
        except OSError:
            return  # the end of the connection is read next
        assert sent == len(request)

    def _readable(self, connection: _Connection, until: float) -> None:
        try:
            data = connection.socket.recv(65536)
        except OSError:
            data = b""
        asked = connection.asking
        if not data:
            self._reconnect(connection)
            if not asked:
                return
            self._answered(connection, 0, -1)
        else:
            connection.received += data
            head, end, content = connection.received.partition(b"\r\n\r\n")
            if not end or len(content) < _number(head, _LENGTH):
                return
            connection.received = b""
            self._answered(connection, int(head[9:12]), _number(head, _LIMIT))
            if b"\r\nConnection: close" in head:
                self._reconnect(connection)
        if self._plan.pause:
            self._resting.append((time.monotonic() + self._plan.pause, connection))
        elif time.monotonic() < until:
            self._ask(connection)

    def _answered(self, connection: _Connection, status: int, limit: int) -> None:
        answered = time.monotonic()
        self._waiting -= 1
        connection.asking = False
        row = (connection.key, connection.port, status, limit, connection.sent, answered)
        for column, value in zip(self.columns, row, strict=True):
            column.append(value)


def _number(head: bytes, field: bytes) -> int:
    start = head.find(field)
    if start < 0:
        return -1
    start += len(field)
    end = head.find(b"\r\n", start)
    return int(head[start:] if end < 0 else head[start:end])


def _decoded(data: bytes) -> Iterator[Seen]:
    columns: list[array[Any]] = [array(code) for code in _COLUMNS]
    count = len(data) // sum(column.itemsize for column in columns)
    start = 0
    for column in columns:
        end = start + count * column.itemsize
        column.frombytes(data[start:end])
        start = end
    return map(Seen._make, zip(*columns, strict=True))


if __name__ == "__main__":
    load = _Load(Startup(**json.loads(sys.stdin.buffer.read())))
    load.run()
    for column in load.columns:
        column.tofile(sys.stdout.buffer)
