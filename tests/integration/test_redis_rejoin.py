"""Real balancers come back from an outage of their Redis together, and the law holds in every window through it.

The outages that all balancers notice at once are in bench/exactness.py, which test_exactness.py runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import pytest

from bench.bucket_law import Asking, Bucket, fullest_window
from bench.hammer import Hammer, Seen, Startup
from bench.shared_buckets import SharedBuckets, metric
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.redis_server import MISSING
from tests.integration.relay import CountingRelay
from twisted_lb.stores.redis.instances import LEASE_SECONDS

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

BUSY = Bucket(100, 150.0)
BALANCERS = 3
CONNECTIONS = 16
PAUSE_SECONDS = 0.01


@pytest.fixture
def shared() -> Iterator[SharedBuckets]:
    with SharedBuckets([{}] * BALANCERS) as shared:
        yield shared
        for balancer in shared.balancers:
            assert "Traceback" not in balancer.log(), balancer.log()


@pytest.fixture
def key(shared: SharedBuckets) -> str:
    return known_key(shared)


def known_key(shared: SharedBuckets) -> str:
    """A key that each balancer has seen."""
    key = shared.create("busy", BUSY)
    shared.wait_until_known()
    for port in shared.ports:
        assert ask(port, "GET", "/", key=key).status == 200
    time.sleep(BUSY.capacity / BUSY.rate)
    return key


def hammer(ports: Sequence[int], key: str, seconds: float) -> Hammer:
    return Hammer(Startup(ports, [key], [1], CONNECTIONS, seconds, PAUSE_SECONDS))


def is_up(balancer: Balancer) -> bool:
    return metric(balancer, "store_up") == 1


def readiness(balancer: Balancer) -> dict[str, object]:
    told: dict[str, object] = json.loads(ask(balancer.admin_port, "GET", "/readyz").body)
    return told


def check_law(*loads: list[Seen]) -> None:
    """All that these loads saw together is lawful, within one token a balancer; and it was nearly all of the law."""
    assert statuses_within_law(*loads) == {200, 429}


def statuses_within_law(*loads: list[Seen]) -> set[int]:
    """The statuses of these loads, which together are lawful."""
    seen = [one for load in loads for one in load]
    askings = [Asking(one.sent, one.answered, one.status == 200) for one in seen]
    assert fullest_window(askings, BUSY.rate) <= BUSY.capacity + BALANCERS
    return {one.status for one in seen}


def test_a_balancer_that_is_dead_is_waited_for(shared: SharedBuckets, key: str) -> None:
    """Where one dies in the outage, the others stay on their shares until its lease is over, and serve all keys."""
    dead, *others = shared.balancers
    new = shared.create("new", Bucket(60, 0.0))
    with hammer([other.port for other in others], key, LEASE_SECONDS + 5) as load:
        load.sleep_until(1.0)
        shared.redis.kill()
        dead.kill()
        time.sleep(0.5)
        shared.start_redis()
        back = time.monotonic()
        wait_until(lambda: all("waited for" in str(readiness(other)["reason"]) for other in others), what="connected")
        assert not any(is_up(other) for other in others)
        assert all(readiness(other)["degraded"] for other in others)
        # Of a key that they have not seen each has a third.
        for other in others:
            statuses = [ask(other.port, "GET", "/", key=new).status for _ in range(25)]
            assert statuses == [200] * 20 + [429] * 5
            assert ask(other.port, "GET", "/", key="nobody").status == 401
        wait_until(lambda: all(map(is_up, others)), LEASE_SECONDS + 60, "on Redis again")
        assert time.monotonic() - back > LEASE_SECONDS - 2
        check_law(load.finish())
    assert others[0].tokens(new) == 20
    shared.balancers.remove(dead)
    dead.close()


def test_a_balancer_that_has_not_noticed() -> None:
    """An idle balancer whose connection lasts takes nothing of what the others, who had none, have spent meanwhile."""
    with SharedBuckets([{}]) as shared:
        [idle] = shared.balancers
        relay = CountingRelay(shared.redis.port).start()
        url = shared.redis.url.replace(f":{shared.redis.port}/", f":{relay.port}/")
        others = [shared.join({}, "--redis-url", url) for _ in range(BALANCERS - 1)]
        key = known_key(shared)
        # On a busy machine it may have heard of the outage from Redis before it is asked, or the load may be too small
        # to be limited: then once more.
        for _ in range(5):
            with hammer([other.port for other in others], key, 4.0) as load:
                load.sleep_until(1.0)
                relay.cut()
                wait_until(lambda: not any(map(is_up, others)), what="they notice")
                time.sleep(BUSY.capacity / BUSY.rate)
                relay.mend()
                wait_until(lambda: returning(shared) > 0, what="they come back")
                # At once: a process takes a while to begin.
                first = seen_by(idle, key)
                with hammer([idle.port], key, 1.0) as late:
                    unnoticed = late.finish()
                statuses = statuses_within_law(load.finish(), [first, *unnoticed])
                assert statuses <= {200, 429}
            wait_until(lambda: all(map(is_up, shared.balancers)), what="all on Redis again")
            # Its takings were decided by itself, but not those that Redis answered.
            by_itself = metric(idle, 'decisions_total{outcome="admitted"}')
            if by_itself and 429 in statuses:
                break
            time.sleep(BUSY.capacity / BUSY.rate)
        assert metric(idle, "store_outages") == 0 < by_itself
        assert 429 in statuses
        relay.stop()


def returning(shared: SharedBuckets) -> int:
    """How many balancers are coming back from an outage."""
    return int(shared.redis.command("ZCARD", "tokenlb:returning")[1:])


def seen_by(balancer: Balancer, key: str) -> Seen:
    """One request."""
    sent = time.monotonic()
    status = ask(balancer.port, "GET", "/", key=key).status
    return Seen(0, 0, status, -1, sent, time.monotonic())


def test_a_balancer_that_is_new(shared: SharedBuckets, key: str) -> None:
    """A balancer that starts while Redis is away takes nothing that the others have spent meanwhile."""
    *others, new = shared.balancers
    new.terminate()
    new.wait()
    with hammer([other.port for other in others], key, 6.0) as load:
        load.sleep_until(1.0)
        shared.redis.kill()
        new.start_not_ready()
        shared.start_redis()
        with hammer([new.port], key, 2.5) as early:
            seen = [one for one in early.finish() if one.status != 503]
        assert 200 in {one.status for one in seen}
        check_law(load.finish(), seen)


def test_one_alone_is_back_at_once() -> None:
    """A balancer without others waits for nobody."""
    with SharedBuckets([{}]) as shared:
        [balancer] = shared.balancers
        for _ in range(3):
            shared.redis.kill()
            wait_until(lambda: not is_up(balancer), what="it notices")
            shared.start_redis()
            back = time.monotonic()
            wait_until(lambda: is_up(balancer), what="on Redis again")
            assert time.monotonic() - back < LEASE_SECONDS - 1
