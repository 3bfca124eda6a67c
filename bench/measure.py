"""One measurement: a peer under load for some seconds, and what it cost."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.ground import SERVER_NAMES, Ground
from bench.load import Tls
from bench.machine import cores_busy_seconds, cores_idle_seconds, cpu_seconds_of, parse_cores, process_tree
from bench.peers.interface import StartedPeer
from bench.stage import StageError

CHECK_REQUESTS = 2 * len(SERVER_NAMES)


@dataclass(frozen=True)
class Cores:
    """Who runs where, as core lists for taskset."""

    proxy: str
    load: str


@dataclass(frozen=True)
class Measurement:
    """A peer at a number of connections, once."""

    peer: str
    connections: int
    round: int
    requests: int
    errors: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us_per_request: float  # of the proxy and its children, user and system
    idle: float  # how much of the time the proxy's cores had nothing to do, 0 to 1
    others: float  # how much of a core programs outside the benchmark used, 0 to 1; the worse of the two sides
    script_calls_per_request: float | None  # None: the peer has no Redis
    redis_us_per_request: float  # CPU of the redis-server; 0: the peer has no Redis
    load: dict[str, int]  # what the load counted

    @property
    def cpu_us_with_redis(self) -> float:
        """CPU of the proxy and the redis-server together for a request, in microseconds."""
        return self.cpu_us_per_request + self.redis_us_per_request

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


class _CpuTimes:
    """CPU time of the proxy and of Redis, read in so little time that no request comes between it and the counting."""

    def __init__(self, started: StartedPeer, ground: Ground) -> None:
        self._proxy = process_tree(started.running.pid)
        self._redis = process_tree(ground.redis.running.pid)

    def read(self) -> tuple[float, float]:
        """Seconds so far: the proxy's, Redis's."""
        return cpu_seconds_of(self._proxy), cpu_seconds_of(self._redis)


@dataclass(frozen=True)
class _Clocks:
    """The counters that tell how far a measurement is to be trusted; milliseconds do not matter."""

    wall: float
    proxy_cores_busy: float
    proxy_cores_idle: float
    load_cores_busy: float
    proxy: float
    ground: float
    script_calls: int

    @classmethod
    def read(cls, started: StartedPeer, ground: Ground, cores: Cores) -> _Clocks:
        return cls(
            time.monotonic(),
            cores_busy_seconds(cores.proxy),
            cores_idle_seconds(cores.proxy),
            cores_busy_seconds(cores.load),
            started.running.cpu_seconds(),
            ground.cpu_seconds(),
            ground.redis.script_calls(),
        )


def check_answers(started: StartedPeer) -> None:
    """Raise StageError unless the peer answers 200 and reaches every server, so that figures are of the real thing."""
    seen: set[str] = set()
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=10.0)
    if started.tls is not Tls.NONE:
        # The certificate is one of the benchmark's own.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", started.port, timeout=10.0, context=context)
    try:
        for _ in range(CHECK_REQUESTS):
            connection.request("GET", "/check?of=answers", headers={"Authorization": started.keys[0]})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != 200:
                raise StageError(f"{started.running.name} answered {answer.status}: {text}")
            seen.add(text.strip())
    except (OSError, http.client.HTTPException) as error:
        raise StageError(f"{started.running.name} gave no answer: {error!r}") from error
    finally:
        connection.close()
    if missing := {f"Server {name} answer" for name in SERVER_NAMES} - seen:
        raise StageError(f"{started.running.name} never gave {sorted(missing)}, only {sorted(seen)}")


def measure(
    peer: str,
    started: StartedPeer,
    ground: Ground,
    cores: Cores,
    requests_file: Path,
    connections: int,
    seconds: int,
    warm_up: int,
    round_number: int,
    uses_redis: bool,
) -> Measurement:
    """Warm up, then load the peer for `seconds` and take the difference of every counter.

    Both are one load, so that the opening of the connections is not measured.  Raises StageError when the load fails,
    when nothing was answered, or when the peer did not survive.
    """
    cpu_times = _CpuTimes(started, ground)
    with ground.load.run(started.port, connections, requests_file, started.tls) as run:
        time.sleep(warm_up)
        before = _Clocks.read(started, ground, cores)
        proxy, redis = cpu_times.read()
        run.reset()
        time.sleep(seconds)
        after = _Clocks.read(started, ground, cores)
        proxy_after, redis_after = cpu_times.read()
        load = run.stop()
    started.running.check_alive()
    if not load.requests:
        raise StageError(f"{started.running.name} completed no request:\n{started.running.log_tail()}")
    wall = after.wall - before.wall
    proxy_side = after.proxy_cores_busy - before.proxy_cores_busy - (after.proxy - before.proxy)
    load_side = after.load_cores_busy - before.load_cores_busy - (after.ground - before.ground)
    idle = (after.proxy_cores_idle - before.proxy_cores_idle) / len(parse_cores(cores.proxy))
    # Of the time between the two readings, which is a little longer than that of the counting.
    script_calls = (after.script_calls - before.script_calls) / wall / load.requests_per_second
    return Measurement(
        peer=peer,
        connections=connections,
        round=round_number,
        requests=load.requests,
        errors=load.errors,
        requests_per_second=load.requests_per_second,
        p50_ms=load.p50_us / 1000,
        p99_ms=load.p99_us / 1000,
        cpu_us_per_request=(proxy_after - proxy) * 1e6 / load.requests,
        idle=idle / wall,
        others=max(0.0, proxy_side, load_side) / wall,
        script_calls_per_request=script_calls if uses_redis else None,
        redis_us_per_request=(redis_after - redis) * 1e6 / load.requests if uses_redis else 0.0,
        load=asdict(load),
    )
