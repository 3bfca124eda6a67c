"""One measurement: a peer under load for some seconds, and what it cost."""

from __future__ import annotations

import http.client
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.ground import SERVER_NAMES, Ground
from bench.load import LoadResult, run_wrk
from bench.machine import cores_busy_seconds
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
    busy: float  # how much of its core the proxy used, 0 to 1
    others: float  # how much of a core programs outside the benchmark used, 0 to 1; the worse of the two sides
    script_calls_per_request: float | None  # None: the peer has no Redis
    redis_us_per_request: float | None  # CPU of the redis-server
    load: dict[str, int]  # what wrk printed

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Clocks:
    """Every counter that a measurement takes the difference of."""

    wall: float
    proxy: float
    proxy_cores: float
    load_cores: float
    ground: float
    wrk: float
    redis: float
    script_calls: int

    @classmethod
    def read(cls, started: StartedPeer, ground: Ground, cores: Cores) -> _Clocks:
        return cls(
            time.monotonic(),
            started.running.cpu_seconds(),
            cores_busy_seconds(cores.proxy),
            cores_busy_seconds(cores.load),
            ground.cpu_seconds(),
            _ended_children_seconds(),
            ground.redis.running.cpu_seconds(),
            ground.redis.script_calls(),
        )


def _ended_children_seconds() -> float:
    """CPU time of all our children that have ended; between two readings around a run of wrk, that is wrk's."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def check_answers(started: StartedPeer) -> None:
    """Raise StageError unless the peer answers 200 and reaches every server, so that figures are of the real thing."""
    seen: set[str] = set()
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=10.0)
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

    Raises StageError when wrk fails, when nothing was answered, or when the peer did not survive.
    """
    run_wrk(cores.load, started.port, connections, warm_up, requests_file)
    before = _Clocks.read(started, ground, cores)
    load = run_wrk(cores.load, started.port, connections, seconds, requests_file)
    after = _Clocks.read(started, ground, cores)
    started.running.check_alive()
    if not load.requests:
        raise StageError(f"{started.running.name} completed no request:\n{started.running.log_tail()}")
    return _difference(peer, connections, round_number, load, before, after, uses_redis)


def _difference(
    peer: str, connections: int, round_number: int, load: LoadResult, before: _Clocks, after: _Clocks, uses_redis: bool
) -> Measurement:
    wall, proxy = after.wall - before.wall, after.proxy - before.proxy
    script_calls = (after.script_calls - before.script_calls) / load.requests
    load_cores = (after.ground - before.ground) + (after.wrk - before.wrk)
    proxy_side = after.proxy_cores - before.proxy_cores - proxy
    load_side = after.load_cores - before.load_cores - load_cores
    redis_us = (after.redis - before.redis) * 1e6 / load.requests
    return Measurement(
        peer=peer,
        connections=connections,
        round=round_number,
        requests=load.requests,
        errors=load.errors,
        requests_per_second=load.requests_per_second,
        p50_ms=load.p50_us / 1000,
        p99_ms=load.p99_us / 1000,
        cpu_us_per_request=proxy * 1e6 / load.requests,
        busy=proxy / wall,
        others=max(0.0, proxy_side, load_side) / wall,
        script_calls_per_request=script_calls if uses_redis else None,
        redis_us_per_request=redis_us if uses_redis else None,
        load=asdict(load),
    )
