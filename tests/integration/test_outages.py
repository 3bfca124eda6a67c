"""Redis goes away under load, in each way that there is, and comes back: what clients and operators see of it.

Four balancers share one Redis with a password and a database of its own: two with ON_STORE_ERROR=local, one with deny
and one with allow.  All is played once for each kind of outage; the tests look at what was seen.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from bench.bucket_law import Bucket
from bench.hammer import Hammer, Seen, Startup
from bench.shared_buckets import PASSWORD, SharedBuckets, metric
from tests.integration.processes import WAIT_SECONDS, Balancer, ask, wait_until
from tests.integration.redis_server import MISSING
from twisted_lb.interfaces import MICROTOKENS

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

MODES = ("local", "local", "deny", "allow")
LOCAL, DENY, ALLOW = (0, 1), 2, 3
FAULTS = ("kill -9", "restart", "SIGSTOP", "refuse")

CONNECTIONS = 16
PAUSE_SECONDS = 0.004
BEFORE_SECONDS, AWAY_SECONDS, AFTER_SECONDS = 0.4, 0.9, 1.4
# Of a request, with a deadline of 0.1 s; and from the return of Redis.  On a busy machine an outage is played again,
# ATTEMPTS times at most: what is said of time has to be so once.
SLOWEST_SECONDS = 1.0
RECOVERY_SECONDS = 1.3  # less than AFTER_SECONDS
ENOUGH = 500  # requests
ATTEMPTS = 4

# Buckets without refill, so that what was taken from them can be counted.
PLENTY = Bucket(1_000_000_000, 0.0)
FIXED = Bucket(40, 0.0)


@dataclass
class Outage:
    """What was seen of one outage."""

    seen: list[Seen] = field(default_factory=list)  # of the load, whose keys are in use all the time
    harmed: float = 0.0  # on the clock of `seen`
    down: float = 0.0  # every balancer has noticed
    mended: float = 0.0
    unknown: list[list[int]] = field(default_factory=list)  # of each balancer, statuses of keys that it does not know
    share: list[int] = field(default_factory=list)  # what each balancer of LOCAL has admitted of one key
    left: int = -1  # tokens of that key when Redis is back
    ready: list[tuple[int, bool, str]] = field(default_factory=list)  # /readyz of each balancer in the outage
    ready_again: list[tuple[int, bool, str]] = field(default_factory=list)
    recovery: list[float] = field(default_factory=list)  # of each balancer, seconds
    told: list[list[str]] = field(default_factory=list)  # what the log of each balancer says of Redis
    outages: list[float] = field(default_factory=list)  # more than before, by the metrics
    decided: list[float] = field(default_factory=list)  # without Redis, more than before, by the metrics
    up: list[tuple[float, float]] = field(default_factory=list)  # tokenlb_store_up in the outage and after it
    charged: float = -1.0  # tokens that Redis has taken for the load
    calls: int = -1  # scripts that Redis ran in the second after its return
    asked: int = -1  # requests that were made in that second

    def slowest(self) -> float:
        """Seconds of the slowest request from the beginning of the outage on."""
        return max(one.answered - one.sent for one in self.seen if one.answered > self.harmed)

    def in_time(self) -> bool:
        """Whether the machine did little else: Redis was away once, and everybody had time to ask."""
        quick = self.slowest() < SLOWEST_SECONDS and max(self.recovery) < RECOVERY_SECONDS
        return quick and len(self.seen) > ENOUGH and self.outages == [1] * len(MODES)

    def statuses(self, balancer: int, since: float = 0.0, until: float = float("inf")) -> set[int]:
        """Of the load at one balancer."""
        return {one.status for one in self.seen if one.port == balancer and since < one.sent < until}


class _Refusing:
    """Closes Redis' port and its clients' connections; Redis itself goes on, and so does this one connection."""

    def __init__(self, shared: SharedBuckets) -> None:
        self._port = shared.redis.port
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        self._tell(f"AUTH {PASSWORD}")

    def close(self) -> None:
        self._tell("CONFIG SET port 0")
        self._tell("CLIENT KILL TYPE normal SKIPME yes")

    def open(self) -> None:
        self._tell(f"CONFIG SET port {self._port}")
        self._socket.close()

    def _tell(self, command: str) -> None:
        self._socket.sendall(command.encode() + b"\r\n")
        assert self._socket.recv(100)[:1] in b"+:", command


def harm(shared: SharedBuckets, fault: str) -> Callable[[], None]:
    """Take Redis away; what is returned brings it back."""
    if fault == "SIGSTOP":
        shared.redis.pause()
        return shared.redis.resume
    if fault == "refuse":
        refusing = _Refusing(shared)
        refusing.close()
        return refusing.open
    (shared.redis.kill if fault == "kill -9" else shared.redis.stop)()
    return shared.start_redis


def readiness(balancer: Balancer) -> tuple[int, bool, str]:
    """The status of /readyz, whether it says degraded, and the reason."""
    answer = ask(balancer.admin_port, "GET", "/readyz")
    told = json.loads(answer.body)
    return answer.status, told["degraded"], told["reason"]


def decisions(balancer: Balancer) -> float:
    """What was decided without Redis so far."""
    return metric(balancer, 'decisions_total{outcome="admitted"}')


def level_of(shared: SharedBuckets, keys: list[str]) -> int:
    """Microtokens in these buckets together."""
    return sum(shared.stored(key).level for key in keys)


def drain(balancer: Balancer, key: str) -> int:
    """How many requests are admitted before one is not; 60 at most."""
    for count in range(60):
        if ask(balancer.port, "GET", "/", key=key).status != 200:
            return count
    return 60


def recoveries(shared: SharedBuckets, key: str, since: float) -> list[float]:
    """Seconds until each balancer knows a key that it has never seen."""
    times = [0.0] * len(MODES)
    while not all(times):
        assert time.monotonic() < since + WAIT_SECONDS, f"not back: {times}"
        for number, balancer in enumerate(shared.balancers):
            if not times[number] and ask(balancer.port, "GET", "/", key=key).status == 200:
                times[number] = time.monotonic() - since
        time.sleep(0.005)
    return times


def play_in_time(shared: SharedBuckets, fault: str, plenty: list[str]) -> Outage:
    """One outage, played again where the machine did something else meanwhile."""
    for attempt in range(ATTEMPTS):
        outage = play(shared, f"{fault} {attempt}", fault, plenty)
        if outage.in_time():
            break
    return outage


def play(shared: SharedBuckets, name: str, fault: str, plenty: list[str]) -> Outage:
    """One outage."""
    outage = Outage()
    balancers = shared.balancers
    wait_until(lambda: all(metric(balancer, "store_up") == 1 for balancer in balancers), what="all are on Redis")
    shared.wait_until_known()
    known, unseen, polled = (shared.create(f"{what} {name}", FIXED) for what in ("known", "unseen", "polled"))
    for balancer in balancers:
        assert ask(balancer.port, "GET", "/", key=known).status == 200
    logs = [len(balancer.log()) for balancer in balancers]
    before = [(metric(balancer, "store_outages"), decisions(balancer)) for balancer in balancers]
    level = level_of(shared, plenty)
    seconds = BEFORE_SECONDS + AWAY_SECONDS + AFTER_SECONDS
    with Hammer(Startup(shared.ports, plenty, [1] * len(plenty), CONNECTIONS, seconds, PAUSE_SECONDS)) as hammer:
        hammer.sleep_until(BEFORE_SECONDS)
        outage.harmed = time.monotonic()
        mend = harm(shared, fault)
        try:
            wait_until(lambda: all(metric(balancer, "store_up") == 0 for balancer in balancers), what="they notice")
            outage.down = time.monotonic()
            up = [metric(balancer, "store_up") for balancer in balancers]
            outage.ready = [readiness(balancer) for balancer in balancers]
            outage.unknown = [
                [ask(balancer.port, "GET", "/", key=key).status for key in (unseen, str(uuid4()))]
                for balancer in balancers
            ]
            outage.share = [drain(balancers[number], known) for number in LOCAL]
            hammer.sleep_until(BEFORE_SECONDS + AWAY_SECONDS)
        finally:
            mend()
        outage.mended = time.monotonic()
        calls = shared.script_calls()
        outage.recovery = recoveries(shared, polled, outage.mended)
        time.sleep(max(outage.mended + 1.0 - time.monotonic(), 0))
        outage.calls, second_over = shared.script_calls() - calls, time.monotonic()
        outage.seen = hammer.finish()
    outage.charged = (level - level_of(shared, plenty)) / MICROTOKENS
    outage.asked = sum(outage.mended < one.answered < second_over for one in outage.seen)
    outage.left = balancers[0].tokens(known)
    outage.ready_again = [readiness(balancer) for balancer in balancers]
    outage.up = list(zip(up, [metric(balancer, "store_up") for balancer in balancers], strict=True))
    for balancer, log, (outages, decided) in zip(balancers, logs, before, strict=True):
        outage.told.append([line for line in balancer.log()[log:].splitlines() if "Redis" in line])
        outage.outages.append(metric(balancer, "store_outages") - outages)
        outage.decided.append(decisions(balancer) - decided)
    print(
        f"{name}: slowest request {outage.slowest():.3f} s, noticed in {outage.down - outage.harmed:.3f} s, recovery "
        f"{max(outage.recovery):.3f} s, {outage.calls} scripts for {outage.asked} requests in the first second, "
        f"{outage.charged:.0f} charged"
    )
    return outage


@pytest.fixture(scope="module")
def outages() -> Iterator[dict[str, Outage]]:
    """All of them, one after another, with the same balancers."""
    with SharedBuckets([{"ON_STORE_ERROR": mode} for mode in MODES]) as shared:
        plenty = [shared.create(f"plenty{number}", PLENTY) for number in range(5)]
        shared.wait_until_known()
        # Each key is known to each balancer.
        Hammer(Startup(shared.ports, plenty, [1] * len(plenty), CONNECTIONS, 0.3)).finish()
        played = {fault: play_in_time(shared, fault, plenty) for fault in FAULTS}
        yield played
        for balancer in shared.balancers:
            assert "Traceback" not in balancer.log(), balancer.log()


@pytest.fixture(params=FAULTS)
def outage(request: pytest.FixtureRequest, outages: dict[str, Outage]) -> Outage:
    """Each in turn."""
    return outages[request.param]


def test_no_request_waits_for_redis(outage: Outage) -> None:
    """The first requests wait for the deadline, all others for nothing; and each gets an answer."""
    assert len(outage.seen) > ENOUGH
    assert outage.slowest() < SLOWEST_SECONDS
    assert not [one for one in outage.seen if not one.status]


def test_local_serves_the_keys_in_use(outage: Outage) -> None:
    """With ON_STORE_ERROR=local the clients whose keys are in use notice nothing."""
    for number in LOCAL:
        assert outage.statuses(number) == {200}


def test_local_divides_the_bucket_by_the_live_balancers(outage: Outage) -> None:
    """Of the 39 and 38 tokens that each saw last it admits a quarter, 9 each; Redis hears of these 18 once."""
    assert outage.share == [9, 9]
    assert outage.left == FIXED.capacity - len(MODES) - 18


def test_deny_refuses_and_allow_admits(outage: Outage) -> None:
    """With deny all is 503 until Redis is back, and with allow keys in use are 200."""
    assert outage.statuses(DENY, outage.down, outage.mended) == {503}
    assert outage.statuses(DENY, outage.mended + outage.recovery[DENY]) == {200}
    assert outage.statuses(ALLOW) == {200}


def test_keys_that_are_not_known_are_refused(outage: Outage) -> None:
    """A key that a balancer has not seen lately is 503 in every mode, whether it exists or not."""
    assert outage.unknown == [[503, 503]] * len(MODES)


def test_operators_are_told_once(outage: Outage) -> None:
    """Each balancer's log has one line when Redis goes and one when it is back."""
    for went, came in outage.told:
        assert "trying again" in went
        assert "connected to Redis" in came


def test_readyz_says_degraded(outage: Outage) -> None:
    """In the outage /readyz is 200 and degraded, but not ready with deny, and says why; afterwards it is as before."""
    for number, (status, degraded, reason) in enumerate(outage.ready):
        assert (status, degraded) == ((503, False) if number == DENY else (200, True))
        assert "Redis" in reason
        assert PASSWORD not in reason
    assert {(status, degraded) for status, degraded, _ in outage.ready_again} == {(200, False)}


def test_the_metrics_show_it(outage: Outage) -> None:
    """The metrics say that the store is away, that this was one outage, and what was decided without it."""
    assert outage.up == [(0, 1)] * len(MODES)
    assert outage.outages == [1] * len(MODES)
    assert all(outage.decided[number] > 50 for number in (*LOCAL, ALLOW))
    assert not outage.decided[DENY]


def test_it_is_over_soon_after_redis_is_back(outage: Outage) -> None:
    """A key that a balancer does not know is served soon after the return, on a machine that is not busy."""
    assert max(outage.recovery) < RECOVERY_SECONDS


def test_each_request_is_charged_once(outage: Outage) -> None:
    """Redis has taken a token for each admitted request, whoever admitted it, but for those that `allow` let pass.

    When it went away each connection had one request under way at most: of these a token may be spent twice.
    """
    admitted = sum(one.status == 200 for one in outage.seen) - outage.decided[ALLOW]
    assert 0 <= outage.charged - admitted <= CONNECTIONS


def test_redis_gets_no_backlog(outage: Outage) -> None:
    """In the second after its return Redis runs fewer scripts than requests are made: none of the outage is sent."""
    assert 0 < outage.calls < outage.asked + 20 * len(MODES)
