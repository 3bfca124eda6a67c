"""What a paying client notices while others send as fast as they can what costs them nothing.

    python bench/floods.py                          every row: about two minutes
    python bench/floods.py --peers nginx,twisted_lb --floods no-key,tiny-chunks --connections 20

One client asks steadily, on one connection, through a proxy.  In each row many other connections send without a pause:

    none            nothing
    not-allowed     pipelined requests that the proxy refuses at once with 405
    no-key          pipelined requests without a key
    unknown-key     ... with a key that nobody has
    empty-bucket    ... with a key whose bucket is empty and is not refilled
    prefer-wait     ... the same, by a client that prefers to wait
    profile         ... for the bucket's level, which costs no token
    tiny-chunks     a body in chunks of one byte, without end
    empty-lines     empty lines, without end

nginx knows no keys: of these it is sent `none`, `not-allowed`, `tiny-chunks` and `empty-lines`.

    p50, p99, max   the paying client's times, in ms
    x none          p99 over that of the row `none` of the same peer
    sent            bytes per second that the flood got rid of
    health          changes of a server's health that the proxy has logged

The proxy has the first core and everything else the second one, where the paying client has the highest priority that
it is allowed to have.  Everything runs on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import machine
from bench.ground import start_ground
from bench.peers import PEERS
from bench.peers.interface import StartedPeer
from bench.stage import Stage, StageError, exit_on_signals

PAUSE_SECONDS = 0.005  # of the paying client between its requests
PIPELINED = 200  # requests in one write

NONE = "none"
OF_NGINX = (NONE, "not-allowed", "tiny-chunks", "empty-lines")
FLOODS = (*OF_NGINX, "no-key", "unknown-key", "empty-bucket", "prefer-wait", "profile")
HEAD = "peer                flood           p50 ms  p99 ms  max ms  x none   sent kB/s  health"


def request(target: str, key: str = "", *fields: str, method: str = "GET") -> bytes:
    """One request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *fields, *([f"Authorization: {key}"] if key else []), "", ""]
    return "\r\n".join(lines).encode()


def flood_of(peer: str, name: str, key: str, empty: str) -> tuple[bytes, bytes]:
    """What each connection sends at first, and then over and over."""
    if name == "tiny-chunks":
        return request("/upload", key, "Transfer-Encoding: chunked", method="POST"), b"1\r\nx\r\n" * 5000
    if name == "empty-lines":
        return b"", b"\r\n" * 10_000
    one = {
        "not-allowed": request("/", method="TRACE") if peer == "nginx" else request("/user/create"),
        "no-key": request("/"),
        "unknown-key": request("/", "x" * 36),
        "empty-bucket": request("/", empty),
        "prefer-wait": request("/", empty, "Prefer: wait=1"),
        "profile": request("/user/tokens/profile", key),
    }[name]
    return b"", one * PIPELINED


def flood(port: int, connections: int, seconds: float, first: bytes, again: bytes) -> int:
    """Send from all connections, which are opened anew when they end; the bytes that went out."""
    os.nice(39)
    end = time.monotonic() + seconds
    sent = 0
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:

        def connect() -> None:
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
            selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, bytearray(first + again))

        for _ in range(connections):
            connect()
        while time.monotonic() < end:
            for selected, events in selector.select(0.1):
                connection: socket.socket = selected.fileobj  # type: ignore[assignment]
                try:
                    if events & selectors.EVENT_READ and not connection.recv(65_536):
                        raise ConnectionError
                    if events & selectors.EVENT_WRITE:
                        count = connection.send(selected.data)
                        sent += count
                        del selected.data[:count]
                        if not selected.data:
                            selected.data.extend(again)
                except BlockingIOError:
                    pass
                except OSError:
                    selector.unregister(connection)
                    connection.close()
                    connect()
    return sent


def ask_steadily(port: int, key: str, seconds: float) -> list[float]:
    """The times of one client's requests, in seconds, sorted.  Raises StageError for any other answer than 200."""
    times = []
    end = time.monotonic() + seconds
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        while time.monotonic() < end:
            began = time.monotonic()
            connection.request("GET", "/", headers={"Authorization": key})
            answer = connection.getresponse()
            answer.read()
            times.append(time.monotonic() - began)
            if answer.status != 200:
                raise StageError(f"the paying client got {answer.status}")
            time.sleep(PAUSE_SECONDS)
    finally:
        connection.close()
    return sorted(times)


def create_empty(port: int) -> str:
    """The key of a bucket that is empty and stays so."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    body = json.dumps({"name": "empty", "capacity": 1, "rate_per_sec": 0})
    connection.request("POST", "/user/create", body, {"Content-Type": "application/json"})
    key = str(json.loads(connection.getresponse().read())["api_key"])
    connection.request("GET", "/", headers={"Authorization": key})
    connection.getresponse().read()
    connection.close()
    return key


def print_row(peer: str, started: StartedPeer, name: str, empty: str, options: argparse.Namespace) -> None:
    """Measure one row, and print it."""
    sender = None
    if name != NONE:
        first, again = flood_of(peer, name, started.keys[0], empty)
        argv = [sys.executable, __file__, "--flood", str(started.port), str(options.connections)]
        argv += [str(options.seconds + 1), first.hex() or "-", again.hex()]
        sender = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
    times = ask_steadily(started.port, started.keys[1], options.seconds)
    sent = int(sender.communicate(timeout=60)[0]) if sender is not None else 0
    p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(f"{peer:<20}{name:<14}{1e3 * p50:>8.1f}{1e3 * p99:>8.1f}{1e3 * times[-1]:>8.1f}", end="")
    options.none.setdefault(peer, p99)
    print(f"{p99 / options.none[peer]:>8.1f}{sent / (options.seconds + 1) / 1e3:>12.0f}{health_events(started):>8}")
    sys.stdout.flush()


def health_events(started: StartedPeer) -> int:
    """What the proxy has logged of its servers."""
    log = started.running.log.read_text(errors="replace")
    return sum(" server s" in line and ("down" in line or "ejected" in line) for line in log.splitlines())


def measure(peer: str, options: argparse.Namespace) -> None:
    """All rows of one peer."""
    with Stage() as stage:
        ground = start_ground(stage, options.load_core)
        started = PEERS[peer].start(stage, ground, options.proxy_core)
        empty = create_empty(started.port) if peer != "nginx" else ""
        for name in (NONE, *(name for name in options.floods if name != NONE)):
            if peer == "nginx" and name not in OF_NGINX:
                continue
            print_row(peer, started, name, empty, options)
            started.running.check_alive()


def main(arguments: Sequence[str]) -> int:
    """Print the table; the exit status."""
    if arguments[:1] == ["--flood"]:
        port, connections, seconds, first, again = arguments[1:]
        first_bytes = bytes.fromhex(first) if first != "-" else b""
        print(flood(int(port), int(connections), float(seconds), first_bytes, bytes.fromhex(again)))
        return 0
    parser = argparse.ArgumentParser(prog="bench/floods.py", description="What a paying client notices of floods.")
    parser.add_argument("--peers", default="nginx,twisted_lb,twisted_lb+redis", metavar="NAME,NAME")
    parser.add_argument("--floods", default=",".join(FLOODS), metavar="NAME,NAME")
    parser.add_argument("--connections", type=int, default=50, help="of the flood (default 50)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row (default 4)")
    parser.add_argument("--proxy-core", default="0")
    parser.add_argument("--load-core", default="1")
    options = parser.parse_args(arguments)
    options.none = {}
    options.floods = options.floods.split(",")
    for name in options.floods:
        if name not in FLOODS:
            parser.error(f"no flood {name!r}; there are {', '.join(FLOODS)}")
    options.peers = options.peers.split(",")
    for name in options.peers:
        if name not in PEERS:
            parser.error(f"no peer {name!r}; there are {', '.join(PEERS)}")
    exit_on_signals()
    try:
        machine.require_programs(("nginx", "redis-server", "taskset"))
        os.sched_setaffinity(0, {int(options.load_core)})
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)
        print(HEAD, flush=True)
        for peer in options.peers:
            measure(peer, options)
    except (machine.MachineError, StageError) as error:
        print(f"bench/floods.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
