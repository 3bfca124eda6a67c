"""Real redis-servers and sentinels of a test's own: on free loopback ports, in temporary directories."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

START_SECONDS = 60.0

# Not the one that hypothesis seeds.
_random = random.SystemRandom()
_given: set[int] = set()

# Why the tests that need it are skipped, or "" when they run.
MISSING = "" if shutil.which("redis-server") else "no redis-server; `apt-get install redis-server` enables this"


def free_port() -> int:
    """A loopback port that nobody listens on, and that is nobody's own at the end of a connection.

    It is below those that the kernel gives away; test processes that run side by side have ports of their own, and
    each is given once: it may be a while before somebody listens on it.
    """
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = _random.randrange(10_000 + number, 32_000, processes)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                # At all addresses: some servers of a test are at 127.0.0.2 as well.
                probe.bind(("", port))
            except OSError:
                continue
        _given.add(port)
        return port


class Tls(NamedTuple):
    """The PEM files of a server that speaks TLS and nothing else."""

    ca_file: str
    cert_file: str
    key_file: str
    clients_too: bool = False  # whether it wants a certificate of its clients

    def options(self) -> list[str]:
        """For redis-server, as server and as client of others."""
        return [
            *("--tls-cert-file", self.cert_file, "--tls-key-file", self.key_file, "--tls-ca-cert-file", self.ca_file),
            *("--tls-auth-clients", "yes" if self.clients_too else "no", "--tls-replication", "yes"),
        ]

    def wrap(self, connection: socket.socket) -> socket.socket:
        """The client's side of TLS."""
        context = ssl.create_default_context(cafile=self.ca_file)
        # What a wrong certificate does is tested with our own client.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(self.cert_file, self.key_file)
        return context.wrap_socket(connection)


class RedisProcess:
    """A process of redis-server; the data and the port stay the same from one start to the next."""

    def __init__(self, password: str | None, tls: Tls | None) -> None:
        self.port = free_port()
        self._password = password
        self._tls = tls
        self._directory = tempfile.mkdtemp(prefix="tokenlb-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as plain:
            connection = self._tls.wrap(plain) if self._tls else plain
            with connection:
                for introduction in self._introductions():
                    connection.sendall(_encoded(*introduction))
                    connection.recv(65536)
                connection.sendall(_encoded(*words))
                return connection.recv(65536)

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

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _listening(self) -> list[str]:
        ports = ["--port", "0", "--tls-port", str(self.port)] if self._tls else ["--port", str(self.port)]
        return [*ports, *(self._tls.options() if self._tls else ()), "--bind", "127.0.0.1", "--dir", self._directory]

    def _introductions(self) -> list[tuple[str, ...]]:
        return [("AUTH", self._password)] if self._password else []

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            if number != signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            process.wait(30)


class RedisServer(RedisProcess):
    """A redis-server, which may be a replica of another one and speak TLS only."""

    def __init__(
        self,
        password: str | None = None,
        appendonly: bool = False,
        db: int = 0,
        tls: Tls | None = None,
        replica_of: RedisServer | None = None,
    ) -> None:
        super().__init__(password, tls)
        self._appendonly = appendonly
        self._db = db
        self._master = replica_of

    @property
    def url(self) -> str:
        """The REDIS_URL of this server."""
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://{_credentials(self._password)}127.0.0.1:{self.port}/{self._db}"

    def change_password(self, password: str) -> None:
        """Demand another password from now on, also of those who are connected.  `url` follows."""
        self.command("CONFIG", "SET", "requirepass", password)
        self._password = password
        self.command("CLIENT", "KILL", "TYPE", "normal")

    def role(self) -> str:
        """ "master" or "slave", as Redis has it."""
        return self.command("ROLE").split(b"\r\n")[2].decode()

    def _command(self) -> list[str]:
        command = ["redis-server", *self._listening(), "--save", "", "--repl-diskless-sync-delay", "0"]
        command += ["--appendonly", "yes" if self._appendonly else "no", "--appendfsync", "always"]
        if self._password:
            command += ["--requirepass", self._password, "--masterauth", self._password]
        if self._master:
            command += ["--replicaof", "127.0.0.1", str(self._master.port)]
        return command

    def _introductions(self) -> list[tuple[str, ...]]:
        return [*super()._introductions(), *([("SELECT", str(self._db))] if self._db else [])]


class Sentinel(RedisProcess):
    """A sentinel of `master`, which calls it "mymaster"."""

    def __init__(
        self, master: RedisServer, master_password: str | None, password: str | None = None, tls: Tls | None = None
    ) -> None:
        super().__init__(password, tls)
        lines = [
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 2",
            "sentinel down-after-milliseconds mymaster 1000",
            "sentinel failover-timeout mymaster 4000",
        ]
        if master_password:
            lines.append(f"sentinel auth-pass mymaster {master_password}")
        if password:
            lines.append(f"requirepass {password}")
        self._file = Path(self._directory, "sentinel.conf")
        # Sentinels write what they learn into their file.
        self._file.write_text("\n".join(lines) + "\n")

    def _command(self) -> list[str]:
        return ["redis-server", str(self._file), "--sentinel", *self._listening()]


class Replicated:
    """One master, its replicas, and three sentinels that watch over them."""

    def __init__(
        self,
        password: str | None = None,
        db: int = 0,
        replicas: int = 1,
        sentinel_password: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        master = RedisServer(password, db=db, tls=tls)
        self.servers = [master, *(RedisServer(password, db=db, tls=tls, replica_of=master) for _ in range(replicas))]
        self.sentinels = [Sentinel(master, password, sentinel_password, tls) for _ in range(3)]
        scheme = "rediss+sentinel" if tls else "redis+sentinel"
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        self.url = f"{scheme}://{_credentials(password)}{hosts}/mymaster/{db}"

    def start(self) -> None:
        """Start all, and wait until a failover would succeed."""
        for server in self.servers:
            server.start()
        replicas = b"connected_slaves:%d\r" % (len(self.servers) - 1)
        _until(lambda: replicas in self.servers[0].command("INFO", "replication"), "the replicas follow")
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            _until(lambda: b"+OK 3 usable" in sentinel.command("SENTINEL", "CKQUORUM", "mymaster"), "quorum")
            known = b"*%d\r\n" % (len(self.servers) - 1)
            _until(lambda: sentinel.command("SENTINEL", "REPLICAS", "mymaster").startswith(known), "replicas known")

    def close(self) -> None:
        """End all."""
        for process in (*self.sentinels, *self.servers):
            process.close()


def _credentials(password: str | None) -> str:
    return f":{quote(password, safe='')}@" if password else ""


def _until(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"not within {START_SECONDS:g} s: {what}")
        time.sleep(0.05)


def _encoded(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
