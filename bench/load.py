"""The load and the servers behind the peers: load.c, which is compiled for the run, and how it is told what to do.

The requests are prepared in full beforehand, and varied in path, query and key, so that no peer may profit from seeing
the same bytes twice.  They come from a fixed seed, so every peer and every run sees the same sequence.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bench.machine import free_port
from bench.stage import Running, Stage, StageError

REQUEST_COUNT = 4000  # prepared requests; each key is used this often divided by the number of keys
SERVER_NAMES = ("server1", "server2", "server3")
CONTROL_SECONDS = 60.0  # for the load's answer to a command
SOURCE = Path(__file__).with_name("load.c")

USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
HEADER_SETS: dict[str, tuple[str, ...]] = {
    # What a client library sends.
    "client": (f"User-Agent: {USER_AGENT}", "Accept: application/json", "Accept-Encoding: gzip, deflate, br"),
    # What a browser's fetch() sends from a page of another origin.
    "browser": (
        f"User-Agent: {USER_AGENT}",
        "Accept: application/json, text/plain, */*",
        "Accept-Language: en-US,en;q=0.7,de;q=0.3",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Origin: https://app.example.com",
        "Connection: keep-alive",
        "Referer: https://app.example.com/dashboard/orders?range=30d",
        "Sec-Fetch-Dest: empty",
        "Sec-Fetch-Mode: cors",
        "Sec-Fetch-Site: cross-site",
        "Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=essential",
        "Cache-Control: no-cache",
        "Pragma: no-cache",
    ),
}


class Tls(Enum):
    """How the clients connect; the values are those of load.c."""

    NONE = 0
    KEPT = 1  # with TLS
    NEW = 2  # the same, with a connection and a full handshake for each request


@dataclass(frozen=True)
class LoadResult:
    """What the load counted.  Times are microseconds."""

    requests: int
    duration_us: int
    bytes: int  # of the bodies
    p50_us: int
    p99_us: int
    status: int  # answers with a status of 400 or more
    connect: int  # connections that could not be opened; the load goes on without them
    read: int  # connections that ended early, and answers that could not be read
    timeout: int  # connections without an answer for ten seconds, or since the start

    @property
    def errors(self) -> int:
        """Every request that did not get its answer, whatever the reason."""
        return self.status + self.connect + self.read + self.timeout

    @property
    def requests_per_second(self) -> float:
        """Completed requests over the time that it took."""
        return self.requests * 1e6 / self.duration_us


class LoadRun:
    """A load that is on, from `Load.run`."""

    def __init__(self, connection: socket.socket, load: Running) -> None:
        self._connection = connection
        self._load = load

    def reset(self) -> None:
        """Forget what was counted so far: the end of the warm-up."""
        self._connection.sendall(b"reset\n")

    def stop(self) -> LoadResult:
        """End the load and return what it has counted.  Raises StageError when the load has failed."""
        try:
            self._connection.sendall(b"stop\n")
            line = self._connection.makefile("rb").readline()
        except OSError as error:
            raise StageError(f"the load does not answer: {error!r}\n{self._load.log_tail()}") from error
        if not line:
            raise StageError(f"the load has failed:\n{self._load.log_tail()}")
        return LoadResult(**json.loads(line))


@dataclass(frozen=True)
class Load:
    """The process that is both the clients and the servers."""

    running: Running
    control_port: int
    server_ports: tuple[int, ...]
    has_tls: bool = False

    @contextmanager
    def run(self, port: int, connections: int, requests_file: Path, tls: Tls = Tls.NONE) -> Iterator[LoadRun]:
        """Load 127.0.0.1:port until `stop`, or the end of the `with`.  Raises StageError where it has no TLS."""
        if tls is not Tls.NONE and not self.has_tls:
            raise StageError("the load has no TLS: the headers of OpenSSL are missing (apt-get install libssl-dev)")
        with socket.create_connection(("127.0.0.1", self.control_port), timeout=CONTROL_SECONDS) as connection:
            connection.sendall(f"tls {tls.value}\n".encode())
            connection.sendall(f"run {port} {connections} {requests_file}\n".encode())
            yield LoadRun(connection, self.running)


def start_load(stage: Stage, cores: str) -> Load:
    """Compile and start it.  Raises StageError when there is no C compiler, or the program does not come up."""
    program = stage.path / "load"
    argv = ["cc", "-O2", "-o", str(program), str(SOURCE)]
    with_tls = [*argv, "-DWITH_TLS", "-lssl", "-lcrypto"]
    has_tls = not subprocess.run(with_tls, capture_output=True, text=True, check=False).returncode
    compiled = subprocess.run(with_tls if has_tls else argv, capture_output=True, text=True, check=False)
    if compiled.returncode:
        raise StageError(f"cc could not compile {SOURCE.name}:\n{compiled.stderr}")
    control_port = free_port()
    server_ports: list[int] = []
    argv = [str(program), str(control_port)]
    for name in SERVER_NAMES:
        server_ports.append(free_port())
        argv += [str(server_ports[-1]), name]
    running = stage.start("load", argv, cores, stage.path, control_port)
    return Load(running, control_port, tuple(server_ports), has_tls)


def prepare_requests(keys: Sequence[str], port: int, header_set: str) -> list[bytes]:
    """REQUEST_COUNT requests, the keys in an order that does not repeat from round to round."""
    chance = random.Random(20240229)
    order: list[str] = []
    while len(order) < REQUEST_COUNT:
        order.extend(chance.sample(keys, len(keys)))
    rest = "".join(f"{line}\r\n" for line in HEADER_SETS[header_set])
    return [
        f"GET {_target(chance)} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{rest}Authorization: {key}\r\n\r\n".encode()
        for key in order[:REQUEST_COUNT]
    ]


def _target(chance: random.Random) -> str:
    """A path as an API has them: some short, some deep, some with a query."""
    item = chance.randrange(1, 1_000_000)
    return chance.choice(
        (
            f"/api/v1/users/{item}",
            f"/api/v1/users/{item}/orders?page={chance.randrange(1, 50)}&per_page=25",
            f"/api/v2/search?q=item-{item}&sort=-created_at&fields=id,name,price",
            f"/static/img/{item:06x}.png",
            f"/catalog/{chance.choice(('books', 'music', 'garden', 'tools'))}/{item}/reviews",
            f"/r/{item:x}",
        )
    )


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """Write the file that the load reads."""
    path.write_bytes(b"".join(request + b"\0" for request in requests))
