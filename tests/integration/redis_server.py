"""A real redis-server of a test's own: on a free loopback port, in a temporary directory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from urllib.parse import quote

START_SECONDS = 10.0

# Why the tests that need it are skipped, or "" when they run.
MISSING = "" if shutil.which("redis-server") else "no redis-server; `apt-get install redis-server` enables this"


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """Starts and stops redis-server; the data and the port stay the same from one start to the next."""

    def __init__(self, password: str | None = None, appendonly: bool = False, db: int = 0) -> None:
        self.port = free_port()
        self._password = password
        self._appendonly = appendonly
        self._db = db
        self._directory = tempfile.mkdtemp(prefix="tokenlb-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The REDIS_URL of this server."""
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/{self._db}"

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory]
        command += ["--save", "", "--appendonly", "yes" if self._appendonly else "no", "--appendfsync", "always"]
        if self._password:
            command += ["--requirepass", self._password]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up_at = time.monotonic() + START_SECONDS
        while True:
            try:
                if self.command("PING").startswith(b"+PONG"):
                    return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.close()
                raise RuntimeError(f"redis-server does not start on port {self.port}")
            time.sleep(0.02)

    def command(self, *words: str) -> bytes:
        """Send one command on a connection of its own, and give the raw reply (its first 64 KiB)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if self._password:
                connection.sendall(_encoded("AUTH", self._password))
                connection.recv(65536)
            if self._db:
                connection.sendall(_encoded("SELECT", str(self._db)))
                connection.recv(65536)
            connection.sendall(_encoded(*words))
            return connection.recv(65536)

    def change_password(self, password: str) -> None:
        """Demand another password from now on, also of those who are connected.  `url` follows."""
        self.command("CONFIG", "SET", "requirepass", password)
        self._password = password
        self.command("CLIENT", "KILL", "TYPE", "normal")

    def stop(self) -> None:
        """End it in order (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does (SIGKILL)."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop its execution: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its directory."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            if number != signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            process.wait(10)


def _encoded(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
