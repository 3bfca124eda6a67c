"""The balancer as users run it: a real `twistd tokenlb` in a directory of its own, on free loopback ports."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.integration.redis_server import free_port

# Generous: on a busy machine the interpreter alone may take seconds.
START_SECONDS = 90.0
END_SECONDS = 60.0
# For what must happen, whenever that is: this ends a test that waits for something that does not.
WAIT_SECONDS = 60.0
# Why no process gets a wrong clock, or "" when it does.
MISSING_CLOCK = "" if shutil.which("faketime") else "no faketime; `apt-get install faketime` enables this"
# By default a Redis that is busy for 100 ms is away.
REDIS_DEADLINE = "2s"
PROJECT = Path(__file__).resolve().parents[2]


class Ended(NamedTuple):
    """A process that came to its end by itself."""

    status: int
    output: str


def wait_until(condition: Callable[[], object], seconds: float = WAIT_SECONDS, what: str = "the condition") -> None:
    """Look again and again until `condition()` is true.  Raises AssertionError when the time is up."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.01)


# Runs a program as systemd does (sd_listen_fds(3)) when it has a socket for it.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
more = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "public", "LISTEN_PID": str(os.getpid())}
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, **more})
"""


class Balancer:
    """A directory with a servers.yaml, and the process that is started in it."""

    def __init__(
        self,
        servers_yaml: str,
        *options: str,
        environment: Mapping[str, str] | None = None,
        listen: int | None = None,
        max_files: int | None = None,
        activated: socket.socket | None = None,
    ) -> None:
        """`options` are more options of the command line; `environment` is what it gets beside PATH, PYTHONPATH and
        REDIS_DEADLINE.

        `max_files` is how many open files the process may have; `activated` is a listening socket that it gets as
        from systemd.
        """
        self._prefix = [] if max_files is None else ["prlimit", f"--nofile={max_files}"]
        self._inherited: list[int] = []
        if activated is not None:
            self._inherited = [activated.fileno()]
            self._prefix += [sys.executable, "-c", ACTIVATE, str(activated.fileno())]
        self.port = listen or free_port()
        self.admin_port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="tokenlb-"))
        (self.directory / "servers.yaml").write_text(servers_yaml)
        self._options = options
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.directory / "balancer.log"
        self._log.touch()
        self._last_log = ""

    @property
    def url(self) -> str:
        """Where clients come."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """Where the operator comes."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that runs now."""
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        """The process that runs now."""
        return self.process.pid

    def workers(self) -> list[int]:
        """The processes that it has started."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def log(self) -> str:
        """All that was printed so far, by each process that ran here."""
        return self._log.read_text(errors="replace") if self._log.exists() else self._last_log

    def command(self) -> list[str]:
        """The command line."""
        return [*twistd(), "-n", "--pidfile=", "tokenlb", *self.options()]

    def options(self) -> list[str]:
        """Those of the program."""
        here = "interface=127.0.0.1"
        ports = ["--listen", f"tcp:{self.port}:{here}", "--admin-listen", f"tcp:{self.admin_port}:{here}"]
        return ["--servers", "servers.yaml", "--data-dir", "data", *ports, *self._options]

    def launch(self) -> None:
        """Start the process; it may not be ready yet."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
        environment |= {"REDIS_DEADLINE": REDIS_DEADLINE, **self._environment}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *self.command()],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self._inherited,
                # A group of its own, so that workers can be ended with it.
                start_new_session=True,
            )

    def start(self) -> Balancer:
        """Start the process, and wait until it is ready for traffic."""
        self.launch()
        return self.wait_ready()

    def start_not_ready(self) -> Balancer:
        """Start the process, and wait until it answers, ready for traffic or not."""
        self.launch()
        wait_until(self.answers, START_SECONDS, "an answer")
        return self

    def wait_ready(self) -> Balancer:
        """Wait until the process that was launched is ready for traffic.  Raises RuntimeError with what it printed."""
        give_up_at = time.monotonic() + START_SECONDS
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                text = self.log()
                self.close()
                raise RuntimeError(f"the balancer does not start:\n{text}")
            time.sleep(0.02)
        return self

    def run_to_end(self, seconds: float = START_SECONDS) -> Ended:
        """Start the process and wait for it to end by itself."""
        self.launch()
        return Ended(self.wait(seconds), self.log())

    def ready(self) -> bool:
        """Whether /readyz says so, and the public port is served."""
        try:
            return ask(self.admin_port, "GET", "/readyz").status == 200 and self.answers()
        except OSError:
            return False

    def answers(self) -> bool:
        """Whether the public port is served."""
        try:
            return ask(self.port, "GET", "/user/tokens/profile").status in (401, 503)
        except OSError:
            return False

    def create_user(self, name: str, capacity: int | None = None, rate: float | None = None) -> str:
        """A new user's API key."""
        wanted = {"name": name, "capacity": capacity, "rate_per_sec": rate}
        body = json.dumps({field: value for field, value in wanted.items() if value is not None})
        answer = ask(self.port, "POST", "/user/create", body.encode())
        assert answer.status == 200, answer
        return str(json.loads(answer.body)["api_key"])

    def tokens(self, key: str) -> int:
        """The whole tokens in the user's bucket."""
        answer = ask(self.port, "GET", "/user/tokens/profile", key=key)
        assert answer.status == 200, answer
        return int(json.loads(answer.body)["current_capacity"])

    def rss(self) -> int:
        """Bytes of memory in use now."""
        return self._memory("VmRSS")

    def peak_rss(self) -> int:
        """The most bytes of memory in use since `forget_peak`."""
        return self._memory("VmHWM")

    def forget_peak(self) -> None:
        """Begin to look for the peak anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _memory(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); `wait` tells when it has."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does (SIGKILL)."""
        self.process.kill()
        self.process.wait(END_SECONDS)

    def wait(self, seconds: float = END_SECONDS) -> int:
        """The exit status, once there is one.  Raises subprocess.TimeoutExpired."""
        return self.process.wait(seconds)

    def close(self) -> None:
        """End it and its workers, whatever they do, and remove its directory."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait(END_SECONDS)
        self._last_log = self.log()
        shutil.rmtree(self.directory, ignore_errors=True)


class Answer(NamedTuple):
    """A whole response."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    key: str | None = None,
    fields: Mapping[str, str] | None = None,
    seconds: float = WAIT_SECONDS,
) -> Answer:
    """One request with Python's http.client, on a connection of its own.  Raises OSError, also for no HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        return ask_on(connection, method, path, body, key, fields)
    finally:
        connection.close()


def ask_on(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    key: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection that may have carried others."""
    sent = {**({"Authorization": key} if key else {}), **({"Content-Type": "application/json"} if body else {})}
    try:
        connection.request(method, path, body, {**sent, **(fields or {})})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP response: {error!r}") from error


def wrong_clock(faketime: str, monotonic: bool = False) -> dict[str, str]:
    """The environment of a process whose clock is wrong as libfaketime writes it, such as "+60s" or "+0s x1.5".

    `monotonic`: so is the clock that only measures durations.  Raises RuntimeError where libfaketime is not installed.
    """
    fields = {"LD_PRELOAD": _faketime_library(), "FAKETIME": faketime}
    return fields if monotonic else {**fields, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@cache
def _faketime_library() -> str:
    # Only the program knows where its library is.  It fails when shared memory has the name that it wants, which holds
    # its process id, and is left behind by a process that was killed.
    for _ in range(5):
        try:
            asked = subprocess.run(["faketime", "-f", "+0s", "env"], capture_output=True, text=True, timeout=60)
        except FileNotFoundError:
            break
        for line in asked.stdout.splitlines():
            if line.startswith("LD_PRELOAD="):
                return line.partition("=")[2]
    raise RuntimeError(MISSING_CLOCK)


class Asking(threading.Thread):
    """A request that takes its time; `status` when there is an answer, None where the connection ends without one."""

    def __init__(self, balancer: Balancer, key: str, path: str) -> None:
        super().__init__(daemon=True)
        self.status: int | None = None
        self._arguments: Any = (balancer.port, "GET", path, None, key)
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            self.status = ask(*self._arguments).status


def twistd() -> list[str]:
    """The command that is twistd in this environment."""
    script = Path(sys.executable).with_name("twistd")
    return [sys.executable, str(script) if script.exists() else str(shutil.which("twistd"))]
