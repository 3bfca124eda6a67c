"""Starting and stopping processes: each pinned to its cores, in a directory that goes away, and with a certain end.

A Stage is a context manager.  Whatever it started is stopped when it closes: at the end of the run, by an error or by
Ctrl-C.  When the benchmark itself is killed, the kernel ends its children (PR_SET_PDEATHSIG, by setpriv).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.machine import cpu_seconds

READY_SECONDS = 60.0  # from the start of a process until it accepts a connection
STOP_SECONDS = 30.0  # from the polite signal until SIGKILL
LOG_TAIL_BYTES = 3000


class StageError(Exception):
    """A process did not start, or ended when it should not have; the message holds the end of its log."""


@dataclass(frozen=True)
class Running:
    """One process on the stage."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    stop_signal: signal.Signals

    @property
    def pid(self) -> int:
        """The id of the process, which also leads a process group of its own."""
        return self.popen.pid

    def cpu_seconds(self) -> float:
        """User and system time of the process and its descendants so far, in seconds."""
        return cpu_seconds(self.pid)

    def log_tail(self) -> str:
        """The end of what the process has printed."""
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()

    def check_alive(self) -> None:
        """Raise StageError when the process has ended."""
        if (status := self.popen.poll()) is not None:
            raise StageError(f"{self.name} ended with status {status}:\n{self.log_tail()}")


class Stage:
    """Everything that one part of the run has started; `with Stage() as stage` stops it all at the end."""

    def __init__(self) -> None:
        self._running: list[Running] = []
        self._directory = tempfile.TemporaryDirectory(prefix="tokenlb-bench-")
        self.path = Path(self._directory.name)

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for running in reversed(self._running):
                stop(running)
        finally:
            self._directory.cleanup()

    def directory(self, name: str) -> Path:
        """A new directory of that name on the stage."""
        path = self.path / name
        path.mkdir()
        return path

    def start(
        self,
        name: str,
        argv: Sequence[str],
        cores: str,
        cwd: Path,
        port: int = 0,
        env: dict[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> Running:
        """Start a program on the given cores.  With a port, return only when it accepts connections there.

        The environment is small on purpose: settings of the caller's shell must not reach a peer.
        Raises StageError when the program ends, or is not ready within READY_SECONDS.
        """
        inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
        guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        log = cwd / f"{name}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [*guard, "taskset", "-c", cores, *argv],
                cwd=cwd,
                env={**inherited, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Running(name, popen, log, stop_signal)
        self._running.append(running)
        if port:
            wait_for_port(running, port)
        return running


def wait_for_port(running: Running, port: int) -> None:
    """Return when the process accepts a connection on 127.0.0.1:port; raise StageError when it does not in time."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        running.check_alive()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.02)
    raise StageError(f"{running.name} did not listen on port {port} in {READY_SECONDS:.0f} s:\n{running.log_tail()}")


def stop(running: Running) -> None:
    """Ask the process to end, insist after STOP_SECONDS, and leave none of its process group behind."""
    if running.popen.poll() is None:
        running.popen.send_signal(running.stop_signal)
        try:
            running.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(running.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # the usual case: the whole group has ended
    running.popen.wait()


def exit_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into SystemExit, so that they unwind and stop everything as Ctrl-C does."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
