"""What stands behind every peer: three static nginx servers and a redis-server, all on the load's cores."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from bench.machine import free_port
from bench.stage import Running, Stage, StageError

SERVER_NAMES = ("server1", "server2", "server3")

# Commands of Redis that run a script; the calls that a script makes inside are counted by Redis under other names.
SCRIPT_COMMANDS = ("eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro")

STATIC_SERVER = """
{user}
daemon off;
master_process off;
pid nginx.pid;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    # A server that closed connections during a measurement would charge its peers for opening new ones.
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    default_type text/plain;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "Server {name} answer\\n"; }}
    }}
}}
"""


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
        for line in self._ask(b"INFO commandstats").decode().splitlines():
            command, _, figures = line.removeprefix("cmdstat_").partition(":")
            if command in SCRIPT_COMMANDS:
                calls += int(figures.partition("calls=")[2].partition(",")[0])
        return calls

    def flush(self) -> None:
        """Forget everything, so that the next peer starts on an empty store."""
        self._ask(b"FLUSHALL")

    def _ask(self, command: bytes) -> bytes:
        """Send one inline command and return its reply: the text of a simple string, or the body of a bulk string."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as connection:
            stream = connection.makefile("rwb")
            stream.write(command + b"\r\n")
            stream.flush()
            head = stream.readline().rstrip()
            if head.startswith(b"$"):
                return stream.read(int(head[1:]))
            if head.startswith(b"+"):
                return head[1:]
            raise StageError(f"redis-server answered {command!r} with {head!r}")


@dataclass(frozen=True)
class Ground:
    """Where the peers find their servers and their Redis."""

    server_ports: tuple[int, ...]
    redis: Redis
    servers: tuple[Running, ...]

    def cpu_seconds(self) -> float:
        """CPU time of the servers and Redis so far, in seconds."""
        return sum(running.cpu_seconds() for running in (*self.servers, self.redis.running))


def nginx_argv(directory: Path, configuration: str) -> list[str]:
    """Write the configuration and return the command line that runs nginx on it, in the foreground."""
    file = directory / "nginx.conf"
    file.write_text(configuration)
    return ["nginx", "-p", f"{directory}/", "-e", str(directory / "error.log"), "-c", str(file)]


def nginx_user() -> str:
    """As root, nginx would give its workers to a user who cannot enter our directory; keep them."""
    return "user root;" if os.geteuid() == 0 else ""


def start_ground(stage: Stage, cores: str) -> Ground:
    """Start the servers and Redis on the stage; raises StageError when one does not come up."""
    ports: list[int] = []
    servers: list[Running] = []
    for name in SERVER_NAMES:
        directory, port = stage.directory(name), free_port()
        configuration = STATIC_SERVER.format(user=nginx_user(), port=port, name=name)
        servers.append(stage.start(name, nginx_argv(directory, configuration), cores, directory, port))
        ports.append(port)
    directory, port = stage.directory("redis"), free_port()
    # No snapshots and no append-only file: a disk must not disturb the figures, and the store is thrown away.
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    running = stage.start("redis", [*argv, "--dir", str(directory)], cores, directory, port)
    return Ground(tuple(ports), Redis(running, port), tuple(servers))
