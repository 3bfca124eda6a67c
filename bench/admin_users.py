"""What many users with two keys each cost operators and clients: a million in Redis, 100,000 in the embedded store.

    python bench/admin_users.py                                     ten minutes
    python bench/admin_users.py --users 20000 --embedded 10000      a first look

Everything is asked over HTTP of a real balancer with one process, on 127.0.0.1, and ends by itself.  Redis is filled
with the script that creates users, many calls at a time, and the embedded store by imports.

    import          users in a second, in requests of 4 MiB at most
    page            200 users: at the beginning, in the middle and at the end
    search          a page of a search that finds nothing: it looks at 1,000 users
    key             GET /keys/KEY_ID
    take            a request with a key, one after another, of users at random; also while something else goes on,
                    where `longest` shows how long the event loop, or Redis, was busy with one thing
    export          users in a second, as fast as curl reads
    start           from the start of the process to readiness, and what --check takes
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hiredis  # noqa: E402

from bench.quick_server import QuickOrigin  # noqa: E402
from bench.stage import exit_on_signals  # noqa: E402
from tests.integration.processes import Balancer  # noqa: E402
from tests.integration.redis_server import RedisServer, free_port  # noqa: E402
from twisted_lb.stores.redis.scripts import RedisScript  # noqa: E402
from twisted_lb.users import key_id_of  # noqa: E402

MIB = 1024 * 1024
PIPELINED = 500  # creations
MORE = 10_000  # users that are imported into a Redis that has all others
IMPORTED = 5000  # users in one request
SAMPLE = 100  # of each figure
TAKES = 1000
LONGEST_SECONDS = 5.0  # of a measurement beside which something goes on
TOKEN = "s3cret"
CREATED_US = 1_795_000_000_000_000


def name(number: int) -> str:
    """Of a user."""
    return f"user{number:08d}"


def api_key(number: int, key: int) -> str:
    """One of the two keys of a user."""
    return f"key {key} of {number}"


def digest(number: int, key: int) -> str:
    """Of that key."""
    return sha256(api_key(number, key).encode()).hexdigest()


def label(number: int, key: int) -> str:
    """Of that key."""
    return f"label {number} {key}"


def record(number: int) -> bytes:
    """A user as a line of an import."""
    keys = [
        {"digest": digest(number, key), "label": label(number, key), "created_at": CREATED_US + number}
        for key in range(2)
    ]
    user = {"name": name(number), "capacity": 1000, "rate_per_sec": 100, "created_at": CREATED_US + number}
    return json.dumps({**user, "keys": keys}).encode() + b"\n"


def fill_redis(redis: RedisServer, users: int) -> float:
    """Create so many users; the seconds that it took."""
    script = RedisScript("create_user", None, "users")  # type: ignore[arg-type]
    reader = hiredis.Reader()
    with socket.create_connection(("127.0.0.1", redis.port)) as connection:

        def replies(count: int) -> None:
            for _ in range(count):
                while (reply := reader.gets()) is False:
                    reader.feed(connection.recv(1 << 20))
                assert not isinstance(reply, Exception), reply

        connection.sendall(script.load)
        replies(1)
        began = time.monotonic()
        for first in range(0, users, PIPELINED):
            commands = []
            for number in range(first, min(first + PIPELINED, users)):
                created = b"%d" % (CREATED_US + number)
                keys = []
                for key in range(2):
                    named = label(number, key).encode()
                    keys += [digest(number, key).encode(), b"active", b"0", named, created, b"0", b"0", b"0", b""]
                user = [b"1000", b"100", b"", b"active", b"", created]
                commands.append(script.command(b"1", name(number).encode(), *user, *keys, keys=0))
            connection.sendall(b"".join(commands))
            replies(len(commands))
        return time.monotonic() - began


class Operator:
    """A connection to the admin listener."""

    def __init__(self, balancer: Balancer) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", balancer.admin_port, timeout=600)

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        """What is answered."""
        self._connection.request("GET" if body is None else "POST", path, body, {"Authorization": f"Bearer {TOKEN}"})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, (path, answer.status, text[:300])
        return text

    def times(self, path: Callable[[], str], count: int = SAMPLE) -> list[float]:
        """The seconds of so many requests."""
        found = []
        for _ in range(count):
            asked = path()
            began = time.monotonic()
            self.ask(asked)
            found.append(time.monotonic() - began)
        return found

    def imported(self, first: int, count: int) -> float:
        """Import users; the seconds that it took."""
        seconds = 0.0
        for start in range(first, first + count, IMPORTED):
            body = b"".join(record(number) for number in range(start, min(start + IMPORTED, first + count)))
            began = time.monotonic()
            answers = self.ask("/import/users", body)
            seconds += time.monotonic() - began
            assert answers.count(b'"stored"') == answers.count(b"\n"), answers[:300]
        return seconds


class Figures:
    """What is measured with one balancer."""

    def __init__(self, balancer: Balancer, users: int) -> None:
        self._balancer = balancer
        self._users = users
        self._operator = Operator(balancer)

    def all(self) -> None:
        """Print all figures."""
        last = self._users - 250
        for where, after in (("beginning", ""), ("middle", name(self._users // 2)), ("end", name(last))):
            self._tell(f"page, {where}", self._operator.times(lambda: f"/users?limit=200&after={after}"))
        nowhere = f"after={name(self._users // 2)}&limit=200"
        for what in ("name=nobody", "key_id=key_0123456789abcdef", "label=nothing", "state=disabled"):
            times = self._operator.times(lambda: f"/users?{what}&{nowhere}", 50)
            self._tell(f"search, {what.partition('=')[0]}", times)
        self._tell("key", self._operator.times(lambda: f"/keys/{key_id_of(digest(random.randrange(self._users), 1))}"))
        self._tell("take", self._takes(lambda: False))
        with self._curl("/export/users") as (running, lines):
            began = time.monotonic()
            self._tell("take, during an export", self._takes(running))
            seconds = time.monotonic() - began
            print(f"export: {lines() / seconds:,.0f} users a second", flush=True)
        for what, work in (
            ("searches", lambda at: self._operator.ask(f"/users?name=nobody&{nowhere}")),
            ("pages", lambda at: self._operator.ask(f"/users?limit=200&after={name(self._users // 2)}")),
            ("an import", lambda at: self._operator.imported(self._users + MORE + 1000 * at, 1000)),
        ):
            self.tell_beside(what, work)

    def tell_beside(self, what: str, work: Callable[[int], object], times: int = 1000) -> None:
        """Take tokens while `work` is done again and again."""
        ended = threading.Event()

        def go_on() -> None:
            for at in range(times):
                if ended.is_set():
                    return
                work(at)

        worker = threading.Thread(target=go_on)
        worker.start()
        self._tell(f"take, during {what}", self._takes(worker.is_alive))
        ended.set()
        worker.join()

    @contextmanager
    def _curl(self, path: str) -> Iterator[tuple[Callable[[], bool], Callable[[], int]]]:
        """A download: whether it goes on, and how many lines have come."""
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "download"
            command = ["curl", "-s", "-o", str(file), "-H", f"Authorization: Bearer {TOKEN}"]
            process = subprocess.Popen([*command, f"{self._balancer.admin_url}{path}"])
            try:
                yield lambda: process.poll() is None, lambda: file.read_bytes().count(b"\n")
            finally:
                process.kill()
                process.wait()

    def _takes(self, running: Callable[[], bool]) -> list[float]:
        """Seconds of requests, TAKES of them, or as long as something runs."""
        connection = http.client.HTTPConnection("127.0.0.1", self._balancer.port, timeout=60)
        found: list[float] = []
        give_up_at = time.monotonic() + LONGEST_SECONDS
        while len(found) < TAKES or (running() and time.monotonic() < give_up_at):
            key = api_key(random.randrange(self._users), random.randrange(2))
            began = time.monotonic()
            connection.request("GET", "/", headers={"X-API-Key": key})
            answer = connection.getresponse()
            answer.read()
            found.append(time.monotonic() - began)
            assert answer.status == 200, answer.status
        connection.close()
        return found

    def _tell(self, what: str, seconds: Sequence[float]) -> None:
        ordered = sorted(seconds)
        parts = [f"{part} {ordered[min(len(ordered) - 1, len(ordered) * at // 100)] * 1e3:.2f}" for part, at in PARTS]
        print(f"{what}: {', '.join(parts)} ms", flush=True)


def prefer(*processes: int) -> None:
    """Run these, and this one, before all other programs, for figures as on a quiet machine."""
    for process in (*processes, os.getpid()):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(10))


PARTS = (("p50", 50), ("p99", 99), ("longest", 100))


def in_redis(users: int, preferred: bool) -> None:
    """The figures of Redis."""
    redis = RedisServer()
    redis.start()
    origin = QuickOrigin(free_port())
    balancer = Balancer(origin.servers_yaml, "--redis-url", redis.url, environment={"ADMIN_TOKEN": TOKEN})
    try:
        empty = _redis_memory(redis)
        seconds = fill_redis(redis, users)
        print(f"\nRedis: {users:,} users with two keys each; {users / seconds:,.0f} creations a second in Redis alone")
        memory = _redis_memory(redis) - empty
        print(f"memory of Redis: {memory / MIB:,.0f} MiB, {memory / users:,.0f} bytes a user", flush=True)
        balancer.start()
        if preferred:
            prefer(balancer.pid, redis.pid, origin.pid)
        print(f"memory of the balancer: {balancer.rss() / MIB:,.0f} MiB")
        figures = Figures(balancer, users)
        print(f"import: {MORE / Operator(balancer).imported(users, MORE):,.0f} users a second", flush=True)
        figures.all()

        def save(at: int) -> None:
            redis.command("BGSAVE")
            while b"rdb_bgsave_in_progress:1" in redis.command("INFO", "persistence"):
                time.sleep(0.05)

        figures.tell_beside("BGSAVE", save, 2)
        fork = re.search(rb"latest_fork_usec:(\d+)", redis.command("INFO", "stats"))
        assert fork is not None
        print(f"fork of BGSAVE: {int(fork[1]) / 1e3:.1f} ms")
        print(f"memory of the balancer at the end: {balancer.rss() / MIB:,.0f} MiB", flush=True)
    finally:
        balancer.close()
        redis.close()
        origin.close()


def embedded(users: int, preferred: bool) -> None:
    """The figures of the embedded store."""
    origin = QuickOrigin(free_port())
    balancer = Balancer(origin.servers_yaml, environment={"ADMIN_TOKEN": TOKEN})
    try:
        balancer.start()
        if preferred:
            prefer(balancer.pid, origin.pid)
        empty = balancer.rss()
        seconds = Operator(balancer).imported(0, users)
        print(f"\nembedded: {users:,} users with two keys each; import: {users / seconds:,.0f} users a second")
        memory = balancer.rss() - empty
        size = sum(file.stat().st_size for file in (balancer.directory / "data").iterdir())
        print(f"memory: {memory / MIB:,.0f} MiB, {memory / users:,.0f} bytes a user; {size / users:,.0f} on the disk")
        balancer.terminate()
        balancer.wait()
        began = time.monotonic()
        balancer.launch()
        while not balancer.ready():
            time.sleep(0.01)
        seconds = time.monotonic() - began
        print(f"start: {seconds:.2f} s until it is ready; {balancer.rss() / MIB:,.0f} MiB then", flush=True)
        if preferred:
            prefer(balancer.pid, origin.pid)
        Figures(balancer, users).all()
        balancer.kill()
        began = time.monotonic()
        subprocess.run([*balancer.command(), "--check"], cwd=balancer.directory, check=False, capture_output=True)
        print(f"--check: {time.monotonic() - began:.2f} s")
    finally:
        balancer.close()
        origin.close()


def _redis_memory(redis: RedisServer) -> int:
    found = re.search(rb"used_memory:(\d+)", redis.command("INFO", "memory"))
    assert found
    return int(found[1])


def main(arguments: Sequence[str]) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="bench/admin_users.py", description="What many users with two keys cost.")
    parser.add_argument("--users", type=int, default=1_000_000, help="in Redis")
    parser.add_argument("--embedded", type=int, default=100_000, help="in the embedded store")
    preferred = "run before all other programs, for a machine that is not quiet (SCHED_RR, needs root)"
    parser.add_argument("--preferred", action="store_true", help=preferred)
    options = parser.parse_args(arguments)
    if not shutil.which("curl"):
        parser.error("curl is needed")
    exit_on_signals()
    if options.embedded:
        embedded(options.embedded, options.preferred)
    if options.users:
        in_redis(options.users, options.preferred)


if __name__ == "__main__":
    main(sys.argv[1:])
