"""Two more measurements of a peer: the CPU time of large responses, and the memory of idle connections."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass

from bench.ground import Ground
from bench.load import write_requests
from bench.machine import cores_busy_seconds, cpu_seconds_of, process_tree, resident_bytes
from bench.measure import Cores
from bench.peers.interface import StartedPeer
from bench.stage import Stage, StageError

BODY_BYTES = 64 * 2**20  # of a response
BODY_CONNECTIONS = 4
IDLE_CONNECTIONS = 5000
SETTLING_REQUESTS = 200  # on one connection before the memory is read, so that first uses are not charged to the idle
SETTLING_SECONDS = 0.5


@dataclass(frozen=True)
class MoreMeasurement:
    """What a peer costs beside small requests, once.  None: not measured."""

    peer: str
    round: int
    cpu_seconds_per_gb: float | None = None  # of the proxy; a GB is 10**9 bytes of responses
    gb_per_second: float | None = None
    others: float | None = None  # how much of the proxy's core programs outside the benchmark used
    kib_per_idle_connection: float | None = None


def measure_bodies(
    peer: str, started: StartedPeer, ground: Ground, cores: Cores, stage: Stage, seconds: int, round_number: int
) -> MoreMeasurement:
    """Fetch responses of 64 MiB over four connections for that long.  Raises StageError when one fails."""
    requests_file = stage.path / "body-requests"
    head = f"GET /bytes/{BODY_BYTES} HTTP/1.1\r\nHost: 127.0.0.1:{started.port}\r\nAuthorization: "
    write_requests(requests_file, [f"{head}{key}\r\n\r\n".encode() for key in started.keys[:100]])
    with ground.load.run(started.port, BODY_CONNECTIONS, requests_file, started.tls) as run:
        time.sleep(0.5)
        pids = process_tree(started.running.pid)
        busy = cores_busy_seconds(cores.proxy)
        cpu = cpu_seconds_of(pids)
        run.reset()
        time.sleep(seconds)
        busy = cores_busy_seconds(cores.proxy) - busy
        cpu = cpu_seconds_of(pids) - cpu
        load = run.stop()
    started.running.check_alive()
    if not load.bytes or load.status or load.connect or load.read:
        raise StageError(f"{started.running.name}: large responses: {load}")
    gigabytes = load.bytes / 1e9
    return MoreMeasurement(
        peer,
        round_number,
        cpu_seconds_per_gb=cpu / gigabytes,
        gb_per_second=gigabytes * 1e6 / load.duration_us,
        others=max(0.0, busy - cpu) / seconds,
    )


def measure_idle(peer: str, started: StartedPeer, round_number: int) -> MoreMeasurement:
    """Open 5,000 connections, ask once on each, and see how the memory has grown.  For a peer just started.

    Raises StageError when a request fails.
    """
    head = f"GET /idle HTTP/1.1\r\nHost: 127.0.0.1:{started.port}\r\nAuthorization: "
    request = f"{head}{started.keys[0]}\r\n\r\n".encode()
    with ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", started.port), timeout=10.0))

        try:
            first = connect()
            for _ in range(SETTLING_REQUESTS):
                if not _ask(first, request):  # twisted.web.proxy closes its connections
                    first = connect()
            time.sleep(SETTLING_SECONDS)
            before = resident_bytes(started.running.pid)
            kept = sum(_ask(connect(), request) for _ in range(IDLE_CONNECTIONS))
            time.sleep(SETTLING_SECONDS)
            after = resident_bytes(started.running.pid)
        except OSError as error:
            raise StageError(f"{started.running.name}: idle connections: {error!r}") from error
    growth = (after - before) / 1024 / IDLE_CONNECTIONS if kept == IDLE_CONNECTIONS else None
    return MoreMeasurement(peer, round_number, kib_per_idle_connection=growth)


def _ask(connection: socket.socket, request: bytes) -> bool:
    """Send a request and read its answer, which is short.  False when the connection is closed after it."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b" answer\n"):
        part = connection.recv(4096)
        if not part:
            raise ConnectionError(f"closed after {answer!r}")
        answer += part
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(answer.decode(errors="replace"))
    return b"\r\nconnection: close" not in answer.lower()
