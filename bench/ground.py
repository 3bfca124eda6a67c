"""What stands behind every peer: three static servers (load.c) and a redis-server, all on the load's cores."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from bench.load import SERVER_NAMES, Load, start_load
from bench.machine import free_port
from bench.stage import Running, Stage, StageError

__all__ = ["SERVER_NAMES", "Ground", "Redis", "nginx_argv", "nginx_user", "start_ground"]

# Commands of Redis that run a script; the calls that a script makes inside are counted by Redis under other names.
SCRIPT_COMMANDS = ("eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro")


@dataclass(frozen=True)
class Redis:
    """A redis-server that belongs to the run."""

    running: Running
    port: int

    @property
    def url(self) -> str:
        """What goes into REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def script_calls(self) -> int:
        """How many scripts clients have called so far."""
        calls = 0
        for line in self.ask("INFO", "commandstats").decode().splitlines():
            command, _, figures = line.removeprefix("cmdstat_").partition(":")
            if command in SCRIPT_COMMANDS:
                calls += int(figures.partition("calls=")[2].partition(",")[0])
        return calls

    def flush(self) -> None:
        """Forget everything, so that the next peer starts on an empty store."""
        self.ask("FLUSHALL")

    def ask(self, *command: str) -> bytes:
        """Send one command and return its reply.  Raises StageError for an error."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[Sequence[str]]) -> list[bytes]:
        """Send commands and return their replies, none of which may be an array.  Raises StageError for an error."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as connection:
            stream = connection.makefile("rwb")
            for command in commands:
                parts = [part.encode() for part in command]
                stream.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
            stream.flush()
            return [self._read_reply(stream, command) for command in commands]

    @staticmethod
    def _read_reply(stream: BufferedIOBase, command: Sequence[str]) -> bytes:
        """The text of a simple string or a number, or the body of a bulk string."""
        head = stream.readline().rstrip()
        if head.startswith(b"$"):
            return stream.read(int(head[1:]) + 2)[:-2]
        if head.startswith((b"+", b":")):
            return head[1:]
        raise StageError(f"redis-server answered {command[0]} with {head!r}")


@dataclass(frozen=True)
class Ground:
    """Where the peers find their servers and their Redis, and what loads them."""

    load: Load
    redis: Redis

    @property
    def server_ports(self) -> tuple[int, ...]:
        """Of the servers, on 127.0.0.1, in the order of SERVER_NAMES."""
        return self.load.server_ports

    def cpu_seconds(self) -> float:
        """CPU time of the clients, the servers and Redis so far, in seconds."""
        return self.load.running.cpu_seconds() + self.redis.running.cpu_seconds()


def nginx_argv(directory: Path, configuration: str) -> list[str]:
    """Write the configuration and return the command line that runs nginx on it, in the foreground."""
    file = directory / "nginx.conf"
    file.write_text(configuration)
    return ["nginx", "-p", f"{directory}/", "-e", str(directory / "error.log"), "-c", str(file)]


def nginx_user() -> str:
    """As root, nginx would give its workers to a user who cannot enter our directory; keep them."""
    return "user root;" if os.geteuid() == 0 else ""


def start_ground(stage: Stage, cores: str) -> Ground:
    """Start the load with its servers, and Redis; raises StageError when one does not come up."""
    load = start_load(stage, cores)
    directory, port = stage.directory("redis"), free_port()
    # No snapshots and no append-only file: a disk must not disturb the figures, and the store is thrown away.
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    running = stage.start("redis", [*argv, "--dir", str(directory)], cores, directory, port)
    return Ground(load, Redis(running, port))
