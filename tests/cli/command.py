"""The command run in this process, with a server that has its answers ready."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from click.testing import CliRunner

from twisted_lb.cli.client import Place
from twisted_lb.cli.main import run

URL = "http://lb.test:9090"
TOKEN = "correct-horse-battery"
# A developer's own, which must not count.
UNSET = dict.fromkeys(("TOKENLB_URL", "TOKENLB_TOKEN", "ADMIN_LISTEN", "ADMIN_TOKEN", "ADMIN_TOKEN_FILE"))
SET = {**UNSET, "TOKENLB_URL": URL, "TOKENLB_TOKEN": TOKEN}


class Asked(NamedTuple):
    """A request."""

    method: str
    target: str
    fields: Mapping[str, str]
    body: Any


class Ran(NamedTuple):
    """What a run has left."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The document in standard output."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The document in standard error."""
        return json.loads(self.err)["error"]


def response(body: object = None, status: int = 200, **fields: str) -> bytes:
    """A whole response; bytes are the body as they are."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/json" if status < 300 else "application/problem+json"
    sent = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in fields.items()}}
    if "Transfer-Encoding" not in sent and "Content-Length" not in sent:
        sent["Content-Length"] = str(len(content))
    head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content


def problem(status: int, detail: str, **fields: str) -> bytes:
    """A problem document."""
    return response({"title": "X", "status": status, "detail": detail}, status, **fields)


class Server:
    """Gives its answers one after the other; an exception is raised when a connection is made in its turn."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []
        self.connections: list[tuple[Place, float, str | None]] = []

    def __call__(self, place: Place, seconds: float, ca_file: str | None) -> http.client.HTTPConnection:
        self.connections.append((place, seconds, ca_file))
        return _Connection(self, place.host or "localhost", place.port)

    def next(self) -> bytes:
        """The next answer, nothing after the last."""
        answer = self.answers.pop(0) if self.answers else b""
        assert isinstance(answer, bytes)
        return answer

    def refuse(self) -> None:
        """Raise the error of a connection, if it is that one's turn."""
        if self.answers and isinstance(self.answers[0], OSError):
            error = self.answers.pop(0)
            assert isinstance(error, OSError)
            raise error


class _Connection(http.client.HTTPConnection):
    def __init__(self, server: Server, host: str, port: int) -> None:
        super().__init__(host, port)
        self._server = server

    def connect(self) -> None:
        self._server.refuse()
        self.sock = _Socket(self._server)  # type: ignore[assignment]


class _Socket:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._sent = b""

    def sendall(self, data: bytes) -> None:
        self._sent += data

    def makefile(self, mode: str) -> io.BytesIO:
        head, _, body = self._sent.partition(b"\r\n\r\n")
        self._sent = b""
        first, *lines = head.decode().split("\r\n")
        method, target, _ = first.split(" ")
        fields = dict(line.split(": ", 1) for line in lines)
        is_json = fields.get("Content-Type") == "application/json"
        self._server.asked.append(Asked(method, target, fields, json.loads(body) if is_json else body))
        return io.BytesIO(self._server.next())

    def close(self) -> None:
        """Nothing to do."""


def ran(
    arguments: Sequence[str], server: Server, stdin: bytes = b"", environment: Mapping[str, str | None] = SET
) -> Ran:
    """Run the command."""
    with CliRunner().isolation(stdin, environment) as (out, err, _):
        status = run(arguments, server)
        return Ran(status, out.getvalue().decode(), err.getvalue().decode())
