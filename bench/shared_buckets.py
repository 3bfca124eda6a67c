"""Some balancers, the Redis that they share, and one server behind them: what is tried out in `bench/exactness.py`.

The balancers and Redis are those of the integration tests: whole programs, started as an operator starts them.
They share one core, and what stands for the rest of the world has the other: so it is the balancers that are
hammered, and not the clients that are slow.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from bench.bucket_law import Bucket
from bench.quick_server import QuickOrigin
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer, free_port

PASSWORD = "p@ss:/word"
DATABASE = 3


# With one core for all, nothing is gained by pinning.
CORES = sorted(os.sched_getaffinity(0))
BALANCER_CORE, CLIENT_CORE = {CORES[0]}, {CORES[-1]}


class Stored(NamedTuple):
    """A bucket as Redis keeps it."""

    level: int  # microtokens
    stamp: int  # microseconds


class SharedBuckets:
    """All processes.  `with` ends them."""

    def __init__(self, environments: Sequence[Mapping[str, str]], options: Sequence[str] = ()) -> None:
        """One balancer for each environment; REDIS_DEADLINE is what it is by default."""
        self.redis = RedisServer(PASSWORD, appendonly=True, db=DATABASE)
        port = free_port()
        self._origin = QuickOrigin(port)
        os.sched_setaffinity(self._origin.pid, CLIENT_CORE)
        self._options = ("--redis-url", self.redis.url, *options)
        self.balancers = [self._balancer(environment) for environment in environments]

    def __enter__(self) -> SharedBuckets:
        try:
            self.start_redis()
            for balancer in self.balancers:
                self._launch(balancer)
            for balancer in self.balancers:
                balancer.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        for balancer in self.balancers:
            balancer.close()
        self.redis.close()
        self._origin.close()

    @property
    def ports(self) -> list[int]:
        """Of the balancers."""
        return [balancer.port for balancer in self.balancers]

    def start_redis(self) -> None:
        """Start Redis, with the appendfsync that an append-only file has by default."""
        self.redis.start()
        os.sched_setaffinity(self.redis.pid, BALANCER_CORE)
        self.redis.command("CONFIG", "SET", "appendfsync", "everysec")

    def join(self, environment: Mapping[str, str], *options: str) -> Balancer:
        """One more balancer, with options beside those that all have."""
        balancer = self._balancer(environment, *options)
        self.balancers.append(balancer)
        self._launch(balancer)
        return balancer.wait_ready()

    def leave(self, balancer: Balancer) -> None:
        """One balancer ends in order, and is no more."""
        self.balancers.remove(balancer)
        balancer.terminate()
        balancer.wait()
        balancer.close()

    def know_each_other(self) -> bool:
        """Whether each balancer knows how many there are."""
        return all(metric(balancer, "instances") == len(self.balancers) for balancer in self.balancers)

    def wait_until_known(self) -> None:
        """Wait for that: each says so twice a second."""
        wait_until(self.know_each_other, 15, "every balancer knows of the others")

    def create(self, name: str, bucket: Bucket) -> str:
        """The key of a new user."""
        return self.balancers[0].create_user(name, bucket.capacity, bucket.rate)

    def script_calls(self) -> int:
        """Scripts that Redis has run since it was started."""
        text = self.redis.command("INFO", "commandstats").decode()
        return sum(int(count) for count in re.findall(r"^cmdstat_eval(?:sha)?:calls=(\d+)", text, re.MULTILINE))

    def stored(self, key: str) -> Stored:
        """A key's bucket, as it was written last."""
        digest = sha256(key.encode()).hexdigest()
        reply = self.redis.command("HMGET", f"tokenlb:{{{digest}}}", "level", "stamp").split(b"\r\n")
        return Stored(int(reply[2]), int(reply[4]))

    def _balancer(self, environment: Mapping[str, str], *options: str) -> Balancer:
        environment = {"REDIS_DEADLINE": "100ms", **environment}
        return Balancer(self._origin.servers_yaml, *self._options, *options, environment=environment)

    def _launch(self, balancer: Balancer) -> None:
        balancer.launch()
        os.sched_setaffinity(balancer.pid, BALANCER_CORE)


def metric(balancer: Balancer, name: str) -> float:
    """The value of the first metric whose name ends so; -1.0 where there is none."""
    text = ask(balancer.admin_port, "GET", "/metrics").body.decode()
    found = re.search(rf"^\w*{name}(?:_total)?(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else -1.0


def change(balancer: Balancer, key: str, bucket: Bucket) -> None:
    """Give a key another policy, through this balancer."""
    body = json.dumps({"capacity": bucket.capacity, "rate_per_sec": bucket.rate}).encode()
    answer = ask(balancer.port, "POST", "/user/tokens/change", body, key)
    assert answer.status == 200, answer
