"""A server of raw bytes: it records all that arrives, and sends scripted responses, valid or not.

A request for /script/NAME is answered with the script of this name, any other with `asked TARGET`.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass

from tests.integration.accepting import accepted
from tests.wire.strict_reader import Doubtful, Message, read_requests

MAX_RECORDED_BYTES = 256 * 1024
_IDLE_SECONDS = 30.0

KEEP, CLOSE, RESET = "keep", "close", "reset"
CUT = "cut"  # with TLS: close without close_notify


@dataclass(frozen=True)
class Script:
    """What is sent for one request: bytes, and pauses in seconds; and what becomes of the connection then."""

    steps: tuple[bytes | float, ...]
    end: str = KEEP


class RawServer:
    """Listens on a free loopback port from `start` to `stop`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.scripts: dict[str, Script] = {}
        self.greeting = b""  # sent to each connection before any request
        self.early = b""  # sent once a request's head is there, when its body is not
        self.recorded: list[bytearray] = []  # by connection
        self.requests: list[Message] = []
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._open: list[socket.socket] = []
        self._waiting: set[socket.socket] = set()  # nothing is there of what is read next
        self._answering: set[socket.socket] = set()
        # By target, requests to which all was sent that there was to send, or that could be sent.
        self.answered: Counter[str] = Counter()

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    @property
    def received(self) -> bytes:
        """All bytes since the last `forget`."""
        with self._lock:
            return b"".join(self.recorded)

    def forget(self) -> None:
        """Record anew, behind all that has arrived so far."""
        give_up_at = time.monotonic() + _IDLE_SECONDS
        while not self._all_is_read() and time.monotonic() < give_up_at:
            time.sleep(0.001)
        with self._lock:
            for record in self.recorded:
                record.clear()
            self.requests.clear()

    def _all_is_read(self) -> bool:
        if _readable(self._listening):
            return False
        others = [one for one in list(self._open) if one not in self._answering]
        # In this order: what was read between the two looks is not in the second.
        return not any(_readable(one) for one in others) and all(one in self._waiting for one in others)

    def start(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def stop(self) -> None:
        """End all connections too."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self) -> None:
        for connection in accepted(self._listening):
            connection.settimeout(_IDLE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(connection)
            record = bytearray()
            self.recorded.append(record)
            threading.Thread(target=self._serve, args=(connection, record), daemon=True).start()

    def _serve(self, connection: socket.socket, record: bytearray) -> None:
        pending = b""
        try:
            with connection:
                if self._tls is not None:
                    self._open.remove(connection)
                    connection = self._tls.wrap_socket(connection, server_side=True)
                    self._open.append(connection)
                if self.greeting:
                    connection.sendall(self.greeting)
                while data := self._read(connection):
                    with self._lock:
                        record += data[: MAX_RECORDED_BYTES - len(record)]
                    pending += data
                    try:
                        # A request that is not whole yet is doubtful, and stays so when it is wrong.
                        requests = read_requests(pending)
                    except Doubtful:
                        if self.early and b"\r\n\r\n" in pending:
                            connection.sendall(self.early)
                        continue
                    pending = b""
                    for request in requests:
                        self.requests.append(request)
                        if not self._answer(connection, request):
                            return
        except OSError:
            """The balancer ended the connection."""
        finally:
            if connection in self._open:
                self._open.remove(connection)

    def _read(self, connection: socket.socket) -> bytes:
        if not isinstance(connection, ssl.SSLSocket):
            self._waiting.add(connection)
            _readable(connection, _IDLE_SECONDS)
            self._waiting.discard(connection)
        return connection.recv(65536)

    def _answer(self, connection: socket.socket, request: Message) -> bool:
        """Whether the connection goes on."""
        method, target, _ = request.start
        name = target.decode().removeprefix("/script/")
        script = self.scripts.get(name)
        if script is None:
            script = Script((answer(b"asked " + target, method),))
        self._answering.add(connection)
        try:
            for step in script.steps:
                if isinstance(step, bytes):
                    connection.sendall(step)
                else:
                    time.sleep(step)
        finally:
            self.answered[target.decode()] += 1
            self._answering.discard(connection)
        if script.end == CLOSE and isinstance(connection, ssl.SSLSocket):
            connection.settimeout(0)
            try:
                connection.unwrap()
            except OSError:
                """Its close_notify is not awaited."""
        if script.end == CUT:
            connection.shutdown(socket.SHUT_WR)
        if script.end == RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return script.end == KEEP


def _readable(connection: socket.socket, seconds: float = 0.0) -> bool:
    """Whether something has arrived, or does so in this time: bytes, the end, or a connection."""
    try:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    except (OSError, ValueError):
        # It is closed.
        return False


def answer(content: bytes, method: bytes = b"GET") -> bytes:
    """A right response with this content."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(content)
    return head if method == b"HEAD" else head + content
