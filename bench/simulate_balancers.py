"""Compares the balancers without a network, on a simulated clock: python -m bench.simulate_balancers

The pool: 100 servers, each with one request in hand at a time and the others waiting in order.  Their
speeds lie evenly from 0.7 to 1.3 times the mean, and the slowest is ten times slower than the mean.  A request
takes an exponentially distributed time, 10 ms on a server of mean speed.  Requests of 5,000 users come
at random (a Poisson process) at a share of what all servers can do together.

All balancers see the same requests.  They know no speeds, except in the row that says so.
The latency of a request is its waiting and its service.  The seed is fixed: each run prints the same table.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator, Mapping
from random import Random
from typing import NamedTuple

from twisted.internet.task import Clock

from twisted_lb.backend import Backend
from twisted_lb.balancers.registry import make_balancer
from twisted_lb.interfaces import IBalancer, IResponseFields
from twisted_lb.testing import FakeRequest

SERVERS = 100
SLOWEST = 0.1  # of the mean speed
USERS = 5000
MEAN_SECONDS = 0.01
LOADS = (0.7, 0.9)
REQUESTS = 40_000
# The first ones find an empty pool, and are not counted.
WARM_UP = 0.25
SEED = 4


class Entrant(NamedTuple):
    """A row of the table."""

    title: str
    word: str
    options: Mapping[str, object] = {}
    weights: bool = False  # the weights are the speeds
    maxconn: int = 0


ENTRANTS = (
    Entrant("round_robin", "round_robin"),
    Entrant("round_robin, right weights", "round_robin", weights=True),
    Entrant("random", "random"),
    Entrant("least_conn", "least_conn"),
    Entrant("p2c", "p2c"),
    Entrant("ewma", "ewma"),
    Entrant("hash by consumer", "hash"),
    Entrant("hash, bound 100", "hash", {"bound": 100}),
    Entrant("sticky over least_conn", "sticky", {"secret": "not a secret here", "over": "least_conn"}),
    Entrant("first, maxconn 4", "first", maxconn=4),
)


class Server:
    """Serves one request after the other."""

    def __init__(self, clock: Clock, backend: Backend, speed: float) -> None:
        self.backend = backend
        self.speed = speed
        self.latencies: list[float] = []
        self._clock = clock
        self._waiting: deque[tuple[float, float, bool, object]] = deque()

    def asked(self, work: float, counts: bool, choices: object) -> None:
        """A request of `work` seconds at mean speed; as in the proxy, its `choices` live until it is served."""
        self.backend.in_flight += 1
        self._waiting.append((self._clock.seconds(), work, counts, choices))
        if len(self._waiting) == 1:
            self._serve()

    def _serve(self) -> None:
        self._clock.callLater(self._waiting[0][1] / self.speed, self._served)

    def _served(self) -> None:
        began, _, counts, _ = self._waiting.popleft()
        now = self._clock.seconds()
        self.backend.in_flight -= 1
        self.backend.answered(now - began, now)
        if counts:
            self.latencies.append(now - began)
        if self._waiting:
            self._serve()


class Outcome(NamedTuple):
    """What a balancer made of the load.  Seconds, and parts of all requests."""

    median: float
    p99: float
    longest: float
    slowest: float
    fastest: float


def simulate(entrant: Entrant, load: float, requests: int = REQUESTS) -> Outcome:
    """Send `requests` requests through a new pool."""
    clock = Clock()
    servers = pool(clock, entrant)
    balancer = make_balancer(entrant.word, entrant.options, clock.seconds, Random(SEED))
    balancer.backends_changed([server.backend for server in servers])
    of_backend = {server.backend: server for server in servers}
    chance = Random(SEED)
    gap = MEAN_SECONDS / (load * sum(server.speed for server in servers))
    jars: dict[int, bytes] = {}
    for number in range(requests):
        advance(clock, chance.expovariate(1 / gap))
        user = chance.randrange(USERS)
        backend, choices = choose(balancer, user, jars)
        of_backend[backend].asked(chance.expovariate(1 / MEAN_SECONDS), number >= WARM_UP * requests, choices)
        del choices
    while clock.calls:
        advance(clock, clock.calls[0].getTime() - clock.seconds())
    return outcome(servers)


def pool(clock: Clock, entrant: Entrant) -> list[Server]:
    """The servers, the slowest in the middle."""
    speeds = [0.7 + 0.6 * order / (SERVERS - 1) for order in range(SERVERS)]
    Random(SEED).shuffle(speeds)
    speeds[SERVERS // 2] = SLOWEST
    servers = []
    for order, speed in enumerate(speeds):
        weight = round(100 * speed) if entrant.weights else 1
        servers.append(Server(clock, Backend(f"s{order}", "127.0.0.1", 1, weight, entrant.maxconn), speed))
    return servers


def choose(balancer: IBalancer, user: int, jars: dict[int, bytes]) -> tuple[Backend, Iterator[Backend]]:
    """The first choice that is not full, or the first one; and the choices."""
    request = FakeRequest(user, headers={b"cookie": jars[user]} if user in jars else {})
    choices = balancer.choices(request)
    first: Backend = next(choices)
    backend: Backend | None = first
    while backend is not None and backend.full:
        backend = next(choices, None)
    chosen = backend or first
    if IResponseFields.providedBy(balancer):
        for _, value in balancer.response_fields(request, chosen):
            jars[user] = value.partition(b";")[0]
    return chosen, choices


def advance(clock: Clock, seconds: float) -> None:
    """Let time pass, with the clock at each call's own time when it is called."""
    until = clock.seconds() + seconds
    while clock.calls and clock.calls[0].getTime() <= until:
        clock.advance(max(0.0, clock.calls[0].getTime() - clock.seconds()))
    clock.advance(max(0.0, until - clock.seconds()))


def outcome(servers: list[Server]) -> Outcome:
    """The figures."""
    latencies = sorted(latency for server in servers for latency in server.latencies)
    by_speed = sorted(servers, key=lambda server: server.speed)
    count = len(latencies)
    return Outcome(
        latencies[count // 2],
        latencies[count * 99 // 100],
        latencies[-1],
        len(by_speed[0].latencies) / count,
        len(by_speed[-1].latencies) / count,
    )


def table(load: float, requests: int) -> str:
    """A table in Markdown."""
    lines = [
        f"| at {load:.0%} load | p50 ms | p99 ms | max ms | slowest server | fastest server |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for entrant in ENTRANTS:
        of = simulate(entrant, load, requests)
        times = " | ".join(f"{1000 * seconds:.0f}" for seconds in (of.median, of.p99, of.longest))
        lines.append(f"| {entrant.title} | {times} | {of.slowest:.2%} | {of.fastest:.2%} |")
    return "\n".join(lines)


def main() -> None:
    """Print a table for each load."""
    parser = argparse.ArgumentParser(description="Compare the balancers on a simulated pool.")
    parser.add_argument("--requests", type=int, default=REQUESTS, help=f"for each row [default: {REQUESTS}]")
    requests = parser.parse_args().requests
    speeds = [server.speed for server in pool(Clock(), ENTRANTS[0])]
    fair = [f"{speed / sum(speeds):.2%}" for speed in (min(speeds), max(speeds))]
    print(f"In proportion to its speed the slowest server would get {fair[0]} of the requests, the fastest {fair[1]}.")
    for load in LOADS:
        print(f"\n{table(load, requests)}")


if __name__ == "__main__":
    main()
