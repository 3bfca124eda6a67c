"""A real server behind the balancer, with threads and sockets; the path of a request selects what it does.

    /size/N     N bytes with a Content-Length           /chunks/N   the same, chunked
    /slow/S     answers after S seconds                 /drip/S     head and one half, S seconds, the other half
    /held       answers when `answering` is set, which it is from the beginning
    any other   `Server NAME answer`

A request with a body is answered with what was received, as JSON, whatever the path.
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple

from tests.integration.redis_server import free_port

BLOCK_BYTES = 1024 * 1024
# What bodies are made of.  Its length is no power of two, so that a lost block shows in the hash.
_PATTERN = bytes(range(251)) * (BLOCK_BYTES // 251 + 1)
_WAIT_SECONDS = 120.0
# For a request once it has begun, and for the first one of a connection at least.
_REQUEST_SECONDS = 60.0
_FIRST_SECONDS = 2.0


class Seen(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    fields: list[tuple[str, str]]
    connection: int  # which of the server's connections, from 1

    def field(self, name: str) -> str | None:
        """The value of the first field of this name."""
        return next((value for field, value in self.fields if field.lower() == name.lower()), None)


class Handshake(NamedTuple):
    """A handshake of TLS that was complete."""

    resumed: bool
    server_name: str | None  # that the client has sent
    version: str
    protocol: str | None  # of ALPN
    subject: str  # of the client's certificate, or ""


class Origin:
    """One server on a port of its own; `stop` and `start` take it away and bring it back."""

    def __init__(
        self,
        name: str,
        idle_seconds: float = 60.0,
        close_silently: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """A connection is closed when it has been idle for `idle_seconds`, or with no word after each response.

        The latter is `close_silently`.  For its first request it has _FIRST_SECONDS at least.

        With `tls` it speaks TLS; the attribute can be changed for the connections that follow.
        """
        self.name = name
        self.tls = tls
        self.handshakes: list[Handshake] = []
        self.port = free_port()
        self.idle_seconds = idle_seconds
        self.close_silently = close_silently
        self.seen: list[Seen] = []
        self.cut: list[str] = []  # paths of those whose connection has ended before they were answered
        self.connections = 0
        self.closed = 0
        self.sent = 0  # bytes of content
        self.received = 0  # bytes of content
        self.reading = threading.Event()  # while it is clear, no request body is read
        self.reading.set()
        self.answering = threading.Event()
        self.answering.set()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections and end those that are open."""
        server, self._server = self._server, None
        self.reading.set()
        self.answering.set()
        if server is not None:
            server.shutdown()
            server.server_close()
            server.end_connections()

    def forget(self) -> None:
        """Count from zero again."""
        self.seen.clear()
        self.cut.clear()
        self.handshakes.clear()
        self.sent = self.received = 0


class Servers:
    """N servers, and the servers.yaml that names them."""

    def __init__(self, count: int = 3, **behaviour: Any) -> None:
        self.all = [Origin(f"server{number}", **behaviour) for number in range(1, count + 1)]

    def __getitem__(self, index: int) -> Origin:
        return self.all[index]

    def __iter__(self) -> Iterator[Origin]:
        return iter(self.all)

    def start(self) -> Servers:
        """Start those that do not run."""
        for origin in self.all:
            if not origin.running:
                origin.start()
        return self

    def stop(self) -> None:
        """Stop all."""
        for origin in self.all:
            origin.stop()

    def forget(self) -> None:
        """All count from zero again."""
        for origin in self.all:
            origin.forget()

    def hold(self) -> None:
        """/held is not answered until `release`."""
        for origin in self.all:
            origin.answering.clear()

    def release(self) -> None:
        """Answer what is held."""
        for origin in self.all:
            origin.answering.set()

    def paths(self) -> list[str]:
        """The paths of the requests that have arrived."""
        return [one.path for origin in self.all for one in origin.seen]

    def yaml(self, balancer: str = "round_robin") -> str:
        """The text of servers.yaml."""
        lines = [f"  - {{name: {origin.name}, url: {json.dumps(origin.url)}}}" for origin in self.all]
        return "\n".join([f"balancer: {balancer}", "servers:", *lines, ""])


def content_hash(size: int) -> str:
    """SHA-256 of the first `size` bytes that a server sends or a client uploads here."""
    digest = hashlib.sha256()
    for block in blocks(size):
        digest.update(block)
    return digest.hexdigest()


def blocks(size: int) -> Iterator[memoryview]:
    """The same bytes in blocks."""
    whole = memoryview(_PATTERN)[:BLOCK_BYTES]
    for _ in range(size // BLOCK_BYTES):
        yield whole
    if size % BLOCK_BYTES:
        yield whole[: size % BLOCK_BYTES]


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", origin.port), _Answering)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        self.origin.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)
        self.origin.closed += 1

    def end_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news."""


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # a response's head and a short body are one write
    server: _Server

    def setup(self) -> None:
        self.origin = self.server.origin
        self._connection_number = self.origin.connections
        if self.origin.tls is not None:
            self.request.settimeout(_REQUEST_SECONDS)
            self.request = self._secured(self.origin.tls)
        super().setup()
        self._served = 0

    def _secured(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        names: list[str | None] = []
        context.sni_callback = lambda connection, name, _: names.append(name)
        made = context.wrap_socket(self.request, server_side=True)
        certificate = made.getpeercert() or {}
        subject = [value for part in certificate.get("subject", ()) for _, value in part]  # type: ignore[attr-defined]
        handshake = Handshake(
            bool(made.session_reused), *names[-1:] or [None], str(made.version()), made.selected_alpn_protocol(),
            ", ".join(map(str, subject)),
        )
        self.origin.handshakes.append(handshake)
        return made

    def finish(self) -> None:
        super().finish()
        if isinstance(self.request, ssl.SSLSocket):
            try:
                self.request.settimeout(0)
                self.request.unwrap()
            except OSError:
                """Its close_notify is not awaited."""

    def handle_one_request(self) -> None:
        idle = self.origin.idle_seconds
        self.connection.settimeout(idle if self._served else max(idle, _FIRST_SECONDS))
        super().handle_one_request()
        self._served += 1

    def parse_request(self) -> bool:
        self.connection.settimeout(_REQUEST_SECONDS)
        return super().parse_request()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to say."""

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        self.wfile.flush()
        return True

    def _answer_or_note(self) -> None:
        try:
            self._answer()
        except OSError:
            self.origin.cut.append(self.path)
            raise

    def _answer(self) -> None:
        origin = self.origin
        origin.seen.append(Seen(self.command, self.path, list(self.headers.items()), self._connection_number))
        kind, _, argument = self.path.partition("?")[0].lstrip("/").partition("/")
        if "content-length" in self.headers or "transfer-encoding" in self.headers:
            self._receive()
        elif kind == "size":
            self._whole(int(argument))
        elif kind == "chunks":
            self._chunked(int(argument))
        elif kind == "slow":
            time.sleep(float(argument))
            self._text(f"Server {origin.name} answer")
        elif kind == "held":
            origin.answering.wait(_WAIT_SECONDS)
            self._text(f"Server {origin.name} answer")
        elif kind == "drip":
            self._drip(float(argument))
        else:
            self._text(f"Server {origin.name} answer")
        self.wfile.flush()
        if origin.close_silently:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _answer_or_note

    def _head(self, *fields: tuple[str, str]) -> None:
        self.send_response(200)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()

    def _text(self, text: str, content_type: str = "text/plain") -> None:
        body = text.encode()
        self._head(("Content-Type", content_type), ("Content-Length", str(len(body))))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _whole(self, size: int) -> None:
        self._head(("Content-Length", str(size)))
        for block in blocks(0 if self.command == "HEAD" else size):
            self.wfile.write(block)
            self.origin.sent += len(block)

    def _chunked(self, size: int) -> None:
        self._head(("Transfer-Encoding", "chunked"))
        for block in blocks(size):
            self.wfile.write(b"%x\r\n" % len(block))
            self.wfile.write(block)
            self.wfile.write(b"\r\n")
            self.origin.sent += len(block)
        self.wfile.write(b"0\r\n\r\n")

    def _drip(self, seconds: float) -> None:
        self._head(("Content-Length", "10"))
        self.wfile.write(b"first")
        self.wfile.flush()
        time.sleep(seconds)
        self.wfile.write(b"other")

    def _receive(self) -> None:
        digest = hashlib.sha256()
        before = self.origin.received
        self.origin.reading.wait(_WAIT_SECONDS)
        if self.headers.get("transfer-encoding"):
            while size := int(self.rfile.readline(), 16):
                self._take(size, digest)
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
        else:
            self._take(int(self.headers["content-length"]), digest)
        got = {"server": self.origin.name, "bytes": self.origin.received - before, "sha256": digest.hexdigest()}
        self._text(json.dumps(got), "application/json")

    def _take(self, size: int, digest: Any) -> None:
        while size:
            data = self.rfile.read1(min(size, 256 * 1024))
            if not data:
                raise ConnectionError("the body ended early")
            size -= len(data)
            self.origin.received += len(data)
            digest.update(data)
