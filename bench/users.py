"""What many users cost: creation, look-up, paging and memory; a million in Redis, 100,000 in the embedded store.

    python bench/users.py                                   two minutes
    python bench/users.py --users 50000 --embedded 10000    a first look

The stores are driven in this process as the balancer drives them, CALLS at a time.  Each figure is taken with FEW users
and again with all of them: it should not move.

    created/s       users that are created in a second, and the CPU time in us that each costs Redis
    take            one look-up with its token, of users at random: CPU time in us here and in Redis, many at a time;
                    milliseconds of one alone
    page            a page of LARGEST_PAGE users, all pages one after another: milliseconds, and CPU time in ms of Redis

Redis' own CPU time is what INFO commandstats counts.  Creation over HTTP is one request after another through a real
balancer, with all users there.  Redis runs without its append-only file; the embedded store syncs each creation to the
disk, so its rate is that of the disk.  Everything runs on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from twisted.internet.defer import Deferred, gatherResults  # noqa: E402
from twisted.internet.task import react  # noqa: E402
from twisted.internet.threads import deferToThread  # noqa: E402

from bench.quick_server import QuickOrigin  # noqa: E402
from bench.stage import exit_on_signals  # noqa: E402
from tests.integration.processes import Balancer  # noqa: E402
from tests.integration.redis_server import RedisServer, free_port  # noqa: E402
from twisted_lb.interfaces import Account, Taken  # noqa: E402
from twisted_lb.stores.redis.store import RedisStore  # noqa: E402
from twisted_lb.stores.sqlite.store import EmbeddedStore, steady_clock  # noqa: E402

CALLS = 64  # at a time
FEW = 1000
SAMPLE = 2000  # creations and look-ups of one figure
TAKES = 20_000
LARGEST_PAGE = 200
MIB = 1024 * 1024


@dataclass
class Figures:
    """What was measured with this many users."""

    store: str
    users: int
    created: float = 0.0  # in a second
    create_us: float = 0.0  # Redis
    take_us: float = 0.0
    take_redis_us: float = 0.0
    alone: list[float] = field(default_factory=list)  # seconds
    pages: list[float] = field(default_factory=list)  # seconds
    page_redis_ms: float = 0.0

    @property
    def cells(self) -> list[str]:
        """The row as it is printed."""
        create = [f"{self.created:,.0f}", f"{self.create_us:.1f}"]
        take = [f"{self.take_us:.1f}", f"{self.take_redis_us:.2f}", *_milliseconds(self.alone)]
        return [self.store, f"{self.users:,}", *create, *take, *_milliseconds(self.pages), f"{self.page_redis_ms:.3f}"]


GROUPS = ["", "", "create", "", "take", "", "alone", "", "page", "", ""]
HEAD = ["store", "users", "a second", "us Redis", "us here", "us Redis", "p50 ms", "p99 ms", "p50 ms", "p99 ms"]
HEAD += ["ms Redis"]


class _Asker:
    """Waits for one answer."""

    def __init__(self) -> None:
        self.answer: Deferred[None] = Deferred()

    def bucket_answered(self, taken: Taken | None) -> None:
        assert taken is not None and taken.admitted
        self.answer.callback(None)

    def bucket_unavailable(self, reason: str) -> None:
        self.answer.errback(RuntimeError(reason))


class Users:
    """Users in one store."""

    def __init__(self, name: str, store: Any, redis: RedisServer | None) -> None:
        self._name = name
        self._store = store
        self._redis = redis
        self.count = 0

    async def create(self, count: int) -> None:
        """So many more."""
        first, self.count = self.count, self.count + count

        async def one(number: int) -> None:
            await self._store.create(digest(first + number), Account(f"user{first + number:08d}", 5, 1.0))

        await _spread(count, one)

    async def measure(self) -> Figures:
        """All figures, with the users that are there, and a few more."""
        figures = Figures(self._name, self.count)
        self._redis_seconds()
        began = time.monotonic()
        await self.create(SAMPLE)
        figures.created = SAMPLE / (time.monotonic() - began)
        figures.create_us = self._redis_seconds() / SAMPLE * 1e6
        chosen = random.Random(1).choices(range(self.count), k=TAKES)
        used = _cpu_seconds()
        await _spread(TAKES, lambda number: self._take(chosen[number]))
        figures.take_us = (_cpu_seconds() - used) / TAKES * 1e6
        figures.take_redis_us = self._redis_seconds() / TAKES * 1e6
        for number in range(SAMPLE):
            began = time.monotonic()
            await self._take(random.randrange(self.count))
            figures.alone.append(time.monotonic() - began)
        self._redis_seconds()
        figures.pages = await self._all_pages()
        figures.page_redis_ms = self._redis_seconds() / len(figures.pages) * 1e3
        return figures

    async def _take(self, number: int) -> None:
        receiver = _Asker()
        # Without a cost a bucket of 5 tokens is enough for any number of look-ups; it is written all the same.
        self._store.take(digest(number), receiver, 0)
        await receiver.answer

    async def _all_pages(self) -> list[float]:
        """Seconds of each page.  Every user is on one, once and in order."""
        times, after, seen, more = [], "", 0, True
        while more:
            began = time.monotonic()
            page = await self._store.page(after, LARGEST_PAGE)
            times.append(time.monotonic() - began)
            names = [profile.account.name for profile in page.profiles]
            assert names == sorted(names) and names[0] > after, names
            after, seen, more = page.more_after or "", seen + len(names), page.more_after is not None
        assert seen == self.count, f"{seen} of {self.count} users on the pages"
        return times

    def _redis_seconds(self) -> float:
        """CPU time that Redis has spent on scripts since the last call of this."""
        if self._redis is None:
            return 0.0
        text = self._redis.command("INFO", "commandstats").decode()
        self._redis.command("CONFIG", "RESETSTAT")
        return sum(map(int, re.findall(r"^cmdstat_eval(?:sha)?:calls=\d+,usec=(\d+)", text, re.MULTILINE))) / 1e6


async def in_redis(reactor: Any, users: int, tell: Callable[[Figures], None]) -> list[str]:
    """The rows of Redis; the lines about memory and HTTP."""
    redis = RedisServer()
    redis.start()
    try:
        store = RedisStore(redis.url, reactor)
        await store.start()
        them = Users("Redis", store, redis)
        empty = _memory(redis)
        await them.create(FEW)
        tell(await them.measure())
        await them.create(users - them.count)
        memory = _memory(redis) - empty
        account = int(redis.command("MEMORY", "USAGE", f"tokenlb:{{{digest(0)}}}")[1:])
        names = int(redis.command("MEMORY", "USAGE", "tokenlb:names", "SAMPLES", "0")[1:])
        lines = [
            f"Redis: {memory / MIB:,.0f} MiB for {users:,} users, {memory / users:.0f} bytes for each: a hash of "
            f"{account}, {names / users:.0f} in the set of names, and Redis' table of keys"
        ]
        tell(await them.measure())
        lines.append(await deferToThread(over_http, redis))
        await store.stop()
        return lines
    finally:
        redis.close()


def over_http(redis: RedisServer) -> str:
    """Creation through a balancer."""
    origin = QuickOrigin(free_port())
    # Creating users costs the client's address tokens, which is not what is measured.
    balancer = Balancer(origin.servers_yaml, "--redis-url", redis.url, environment={"ADDRESS_CAPACITY": "0"})
    try:
        balancer.start()
        connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=10)
        times = []
        for number in range(SAMPLE):
            body = json.dumps({"name": f"http{number}"})
            began = time.monotonic()
            connection.request("POST", "/user/create", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            times.append(time.monotonic() - began)
            assert answer.status == 200, text
        connection.close()
    finally:
        balancer.close()
        origin.close()
    median, slow = _milliseconds(times)
    rate = len(times) / sum(times)
    return f"POST /user/create: {rate:,.0f} a second, one after another; p50 {median} ms, p99 {slow} ms"


async def embedded(reactor: Any, users: int, tell: Callable[[Figures], None]) -> list[str]:
    """The rows of the embedded store; the line about memory and the start."""
    directory = Path(tempfile.mkdtemp(prefix="tokenlb-users-"))
    try:
        store = EmbeddedStore(str(directory), steady_clock(), reactor)
        store.start()
        them = Users("embedded", store, None)
        await them.create(FEW)
        tell(await them.measure())
        before = _rss()
        await them.create(users - them.count)
        grown = (_rss() - before) / (users - FEW - SAMPLE)
        tell(await them.measure())
        await store.stop()
        size = sum(file.stat().st_size for file in directory.iterdir()) / them.count
        began = time.monotonic()
        store = EmbeddedStore(str(directory), steady_clock(), reactor)
        store.start()
        seconds = time.monotonic() - began
        await store.stop()
        return [
            f"embedded: {grown:.0f} bytes of memory for each user and {size:.0f} on the disk; a start with "
            f"{them.count:,} users takes {seconds:.2f} s"
        ]
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def digest(number: int) -> str:
    """Of the key of a user."""
    return sha256(b"%d" % number).hexdigest()


async def _spread(count: int, one: Callable[[int], Awaitable[None]]) -> None:
    """Await `one` of each number below `count`, CALLS at a time."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await one(number)

    await gatherResults([Deferred.fromCoroutine(work()) for _ in range(CALLS)])


def _memory(redis: RedisServer) -> int:
    found = re.search(rb"used_memory:(\d+)", redis.command("INFO", "memory"))
    assert found
    return int(found[1])


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _cpu_seconds() -> float:
    return time.process_time()


def _milliseconds(seconds: Sequence[float]) -> list[str]:
    """The median and the 99th percentile."""
    ordered = sorted(seconds)
    return [f"{ordered[len(ordered) * percent // 100] * 1e3:.3f}" for percent in (50, 99)]


def line(cells: Sequence[str]) -> str:
    """One line of the table."""
    return f"{cells[0]:<9}" + "".join(f"{cell:>11}" for cell in cells[1:])


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench/users.py", description="What many users cost.")
    parser.add_argument("--users", type=int, default=1_000_000, help="in Redis")
    parser.add_argument("--embedded", type=int, default=100_000, help="in the embedded store")
    options = parser.parse_args(arguments)
    exit_on_signals()
    if min(options.users, options.embedded) < 10 * FEW:
        parser.error(f"at least {10 * FEW} users are needed")
    print(line(GROUPS))
    print(line(HEAD), flush=True)

    def tell(figures: Figures) -> None:
        print(line(figures.cells), flush=True)

    def run(reactor: Any) -> Deferred[None]:
        async def both() -> None:
            lines = await embedded(reactor, options.embedded, tell)
            lines += await in_redis(reactor, options.users, tell)
            print("\n".join(lines))

        return Deferred.fromCoroutine(both())

    react(run)


if __name__ == "__main__":
    main(sys.argv[1:])
