"""What clients notice when servers fail, hang, and are replaced: a table.

    python bench/faults.py              every row: about a minute
    python bench/faults.py --quick      the three quickest rows

Several clients ask steadily, nine GETs to one POST, through a balancer with three servers.  In each row something
happens to one of them (or to all), and is made good again some seconds later.

    GETs, failed    idempotent requests, and those of them that were answered 5xx or not at all
    POSTs, failed   the same for requests that must not be sent twice
    retried         requests that the balancer sent once more, after they had been sent in vain; those to which a
                    server refused the connection go to the next one without being counted
    slowest         the longest time to an answer of a GET
    left            seconds from the fault until the server got no more requests; "-": it did not stop getting them
    returned        seconds from the repair until it answered again

A server that hangs costs the requests that it has the time of UPSTREAM_TIMEOUT, and no more once it is found out.  A
response of 500 is an answer: it goes to the client, and only ejection and health checks help.  Everything runs on
127.0.0.1 and ends by itself.  Exit status 1 when a GET failed in a row that a retry can save.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.machine import free_port
from bench.peers.tokenlb import create_keys
from bench.stage import Running, Stage, StageError, exit_on_signals

CHECKOUT = Path(__file__).resolve().parent.parent
ALL_CORES = f"0-{(os.cpu_count() or 1) - 1}"

CLIENTS = 8
PAUSE_SECONDS = 0.01  # of a client between its requests
POST_EVERY = 10
BEFORE_SECONDS = 0.5
FAULT_SECONDS = 4.0
RETURN_SECONDS = 12.0  # how long the return of a server is waited for
QUIET_SECONDS = 0.4  # without a request: the traffic has left
LOOK_SECONDS = 0.02
SWAP_SECONDS = 2.0  # between the replacements of two servers: the balancer looks at its file twice a second

SETTINGS = {"UPSTREAM_TIMEOUT": "1s", "CONNECT_TIMEOUT": "1s"}
FLEET = """\
health_check: {path: /health, interval: 500ms, timeout: 500ms, fails: 2, passes: 1}
ejection: {base_time: 1s}
servers:
"""


@dataclass(frozen=True)
class Asked:
    """One request of a client."""

    at: float  # when the answer was there, on the monotonic clock
    seconds: float
    method: str
    status: int  # 0: no answer
    server: str

    @property
    def failed(self) -> bool:
        """Whether a person would call it an error of the service."""
        return not self.status or self.status >= 500


@dataclass
class Row:
    """What happened in one row of the table."""

    name: str
    saved: bool  # whether retries can save every idempotent request
    asked: list[Asked] = field(default_factory=list)
    retried: int = 0
    left: float | None = None
    returned: float | None = None

    def count(self, method: str, failed: bool = False) -> int:
        """Requests of this method, all or those that failed."""
        return sum(one.method == method and (one.failed or not failed) for one in self.asked)

    @property
    def slowest(self) -> float:
        """Seconds of the slowest GET."""
        return max((one.seconds for one in self.asked if one.method == "GET"), default=0.0)

    @property
    def cells(self) -> list[str]:
        """The row as it is printed."""
        counts = [self.count(method, failed) for method in ("GET", "POST") for failed in (False, True)]
        times = ["-" if value is None else f"{value:.2f}" for value in (self.left, self.returned)]
        return [self.name, *map(str, counts), str(self.retried), f"{self.slowest:.2f}", *times]


HEAD = ["fault", "GETs", "failed", "POSTs", "failed", "retried", "slowest s", "left s", "returned s"]


class Client(threading.Thread):
    """Asks steadily, on one connection as long as it lasts."""

    def __init__(self, port: int, key: str, number: int, asked: list[Asked]) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._key = key
        self._number = number
        self._asked = asked
        self.enough = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        number = self._number
        while not self.enough.wait(PAUSE_SECONDS):
            number += 1
            method = "GET" if number % POST_EVERY else "POST"
            began = time.monotonic()
            status, server = 0, ""
            try:
                body = b"x=1" if method == "POST" else None
                connection.request(method, f"/{number}", body, {"Authorization": self._key})
                response = connection.getresponse()
                status, server = response.status, response.read().decode().strip()
            except (OSError, http.client.HTTPException):
                connection.close()
            now = time.monotonic()
            self._asked.append(Asked(now, now - began, method, status, server))
        connection.close()


class Theatre:
    """The servers, the balancer before them, and the clients."""

    def __init__(self, stage: Stage) -> None:
        self.asked: list[Asked] = []
        self._stage = stage
        self._path = stage.directory("servers")
        self._ports: dict[str, int] = {}
        self._running: dict[str, Running] = {}
        self._weights: dict[str, int] = {}
        self.names = ["one", "two", "three"]
        for name in self.names:
            self.start(name)
        directory = stage.directory("balancer")
        self._file = directory / "servers.yaml"
        self.write(self.names)
        port, self._admin_port = free_port(), free_port()
        argv = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "tokenlb"]
        argv += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
        argv += ["--admin-listen", f"tcp:{self._admin_port}:interface=127.0.0.1"]
        argv += ["--servers", str(self._file), "--data-dir", str(directory / "data")]
        environment = {"PYTHONPATH": str(CHECKOUT), **SETTINGS}
        self.balancer = stage.start("twisted_lb", argv, ALL_CORES, directory, port, environment)
        (key,) = create_keys(port, 1)
        self._clients = [Client(port, key, number, self.asked) for number in range(CLIENTS)]
        for client in self._clients:
            client.start()

    def leave(self) -> None:
        """The clients go, and no server is left hanging."""
        for client in self._clients:
            client.enough.set()
        for client in self._clients:
            client.join(70)
        for running in self._running.values():
            self.signal(running, signal.SIGCONT)

    def start(self, name: str) -> None:
        """Start a server, on its old port if it had one."""
        port = self._ports.setdefault(name, free_port())
        self.mode(name, "ok")
        argv = [sys.executable, str(CHECKOUT / "bench" / "fault_server.py"), name, str(port), f"{name}.mode"]
        self._running[name] = self._stage.start(name, argv, ALL_CORES, self._path, port)

    def mode(self, name: str, mode: str) -> None:
        """Have a server behave like this."""
        # Written aside: a half-written mode must not be read.
        (self._path / "mode.new").write_text(mode)
        (self._path / "mode.new").replace(self._path / f"{name}.mode")

    def kill(self, name: str) -> None:
        """kill -9."""
        self.signal(self._running[name], signal.SIGKILL)
        self._running[name].popen.wait()

    def hang(self, name: str) -> None:
        """SIGSTOP: the kernel goes on accepting connections for it, and nobody answers."""
        self.signal(self._running[name], signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """SIGCONT."""
        self.signal(self._running[name], signal.SIGCONT)

    @staticmethod
    def signal(running: Running, number: signal.Signals) -> None:
        """Send a signal to a server that may be gone."""
        if running.popen.poll() is None:
            running.popen.send_signal(number)

    def write(self, names: Sequence[str], drained: str = "") -> None:
        """Another servers.yaml."""
        lines = [
            f"- {{name: {name}, url: 'http://127.0.0.1:{self._ports[name]}', weight: {int(name != drained)}}}\n"
            for name in names
        ]
        new = self._file.with_name("servers.new")
        new.write_text(FLEET + "".join(lines))
        new.replace(self._file)

    def servers(self) -> dict[str, dict[str, object]]:
        """GET /servers, by name."""
        connection = http.client.HTTPConnection("127.0.0.1", self._admin_port, timeout=60)
        try:
            connection.request("GET", "/servers")
            return {server["name"]: server for server in json.loads(connection.getresponse().read())}
        finally:
            connection.close()

    def sent(self, name: str) -> int:
        """The requests that the balancer has sent to a server."""
        return int(str(self.servers()[name]["requests"]))

    def retried(self) -> int:
        """The requests that the balancer has sent once more."""
        return sum(int(str(server["retries"])) for server in self.servers().values())

    def answers(self, name: str, since: float) -> list[float]:
        """When a server has answered, since then."""
        return [one.at for one in self.asked if one.at >= since and one.server == name and not one.failed]

    def quiet_after(self, name: str, began: float, until: float) -> float | None:
        """Seconds from `began` until the server got no request for a while; None when it got some all the time."""
        last, count = began, self.sent(name)
        while time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            now = self.sent(name)
            if now != count:
                last, count = time.monotonic(), now
            elif time.monotonic() - last >= QUIET_SECONDS:
                return last - began
        return None

    def answers_again(self, name: str, since: float) -> float | None:
        """Seconds until a server answers again."""
        while time.monotonic() < since + RETURN_SECONDS:
            if answers := self.answers(name, since):
                return answers[0] - since
            time.sleep(LOOK_SECONDS)
        return None

    def row(self, name: str, saved: bool, play: Callable[[Row], None]) -> Row:
        """One row of the table."""
        time.sleep(BEFORE_SECONDS)
        self.balancer.check_alive()
        row = Row(name, saved)
        first, retried = len(self.asked), self.retried()
        time.sleep(BEFORE_SECONDS)
        play(row)
        time.sleep(BEFORE_SECONDS)
        row.asked = self.asked[first:]
        row.retried = self.retried() - retried
        return row

    def fault(
        self, name: str, server: str, harm: Callable[[str], None], mend: Callable[[str], None], saved: bool = True
    ) -> Row:
        """A row in which one server is harmed, and mended."""

        def play(row: Row) -> None:
            began = time.monotonic()
            harm(server)
            row.left = self.quiet_after(server, began, began + FAULT_SECONDS)
            time.sleep(max(began + FAULT_SECONDS - time.monotonic(), 0))
            mended = time.monotonic()
            mend(server)
            again = self.answers_again(server, mended)
            row.returned = None if row.left is None else again

        return self.row(name, saved, play)

    def drained(self, server: str) -> Row:
        """A row in which one server gets weight 0, and its weight back."""

        def play(row: Row) -> None:
            began = time.monotonic()
            self.write(self.names, drained=server)
            row.left = self.quiet_after(server, began, began + FAULT_SECONDS)
            mended = time.monotonic()
            self.write(self.names)
            row.returned = self.answers_again(server, mended)

        return self.row("drain one (weight 0), and back", True, play)

    def replaced(self) -> Row:
        """A row in which all servers are replaced, one after another; the times are the longest of the three."""

        def play(row: Row) -> None:
            left, came = [], []
            for index, old in enumerate(list(self.names)):
                new = f"new-{old}"
                self.start(new)
                self.names[index] = new
                began = time.monotonic()
                self.write(self.names)
                time.sleep(SWAP_SECONDS)
                left.append(max(self.answers(old, began), default=began) - began)
                came.append(self.answers_again(new, began))
                self.kill(old)
            row.left = max(left)
            row.returned = None if None in came else max(one for one in came if one is not None)

        # The old servers take their counts with them: retries are those of the new ones.
        retried = self.retried()
        row = self.row("replace all three by a reload", True, play)
        row.retried = max(row.retried + retried, 0)
        return row


def play(stage: Stage, quick: bool, tell: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """All rows, or the quickest; `tell` gets each as soon as it is there.  Raises StageError."""
    theatre = Theatre(stage)
    mode, mend = theatre.mode, lambda server: theatre.mode(server, "ok")

    def so(name: str) -> Callable[[str], None]:
        return lambda server: mode(server, name)

    plays: list[tuple[bool, Callable[[], Row]]] = [
        (True, lambda: theatre.fault("kill -9, then restart", "one", theatre.kill, theatre.start)),
        (False, lambda: theatre.fault("SIGSTOP (hang), then SIGCONT", "two", theatre.hang, theatre.wake)),
        (False, lambda: theatre.fault("answers 500", "three", so("error"), mend, saved=False)),
        (False, lambda: theatre.fault("accepts and closes", "one", so("close"), mend)),
        (False, lambda: theatre.fault("answers slowly (0.3 s)", "two", so("slow"), mend)),
        (True, lambda: theatre.drained("three")),
        (True, theatre.replaced),
    ]
    rows = []
    try:
        for is_quick, one in plays:
            if is_quick or not quick:
                rows.append(one())
                tell(rows[-1])
    finally:
        theatre.leave()
    return rows


def line(cells: Sequence[str]) -> str:
    """One line of the table."""
    return f"{cells[0]:<32}" + "".join(f"{cell:>12}" for cell in cells[1:])


def main(arguments: Sequence[str]) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="bench/faults.py", description="What clients notice when servers fail.")
    parser.add_argument("--quick", action="store_true", help="only the three quickest rows")
    options = parser.parse_args(arguments)
    exit_on_signals()
    print(f"{CLIENTS} clients, three servers, {', '.join(f'{name}={value}' for name, value in SETTINGS.items())}")
    print(FLEET.rpartition("servers:")[0])
    print(line(HEAD), flush=True)
    try:
        with Stage() as stage:
            rows = play(stage, options.quick, lambda row: print(line(row.cells), flush=True))
    except StageError as error:
        print(f"bench/faults.py: {error}", file=sys.stderr)
        return 1
    lost = [row.name for row in rows if row.saved and row.count("GET", failed=True)]
    if lost:
        print(f"GETs failed that a retry could have saved: {', '.join(lost)}")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
