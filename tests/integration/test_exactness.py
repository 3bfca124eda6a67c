"""The bound of the bucket over real balancers that share one Redis: the fast rows of bench/exactness.py."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from bench.bucket_law import Asking, fullest_window
from bench.exactness import AWAY_SECONDS, MOST_SCRIPTS_QUICK, OTHERS, Row, play
from tests.integration.processes import MISSING_CLOCK, wrong_clock
from tests.integration.redis_server import MISSING

NEEDED = pytest.mark.skipif(bool(MISSING or MISSING_CLOCK), reason=MISSING or MISSING_CLOCK)


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """The rows by their names."""
    return {row.name: row for row in play(quick=True)}


def ideal(capacity: int, rate: float, seconds: float) -> list[Asking]:
    """What a client sees who asks a bucket a thousand times a second: each token is taken 0 to 4 ms after `sent`."""
    chance = random.Random(5)
    level, askings = float(capacity), []
    for number in range(round(seconds * 1000)):
        taken = number / 1000
        admitted = level >= 1
        askings.append(Asking(taken - chance.random() * 0.002, taken + chance.random() * 0.002, admitted))
        level = min(level - admitted + rate * 0.001, capacity)
    return askings


def test_the_check_passes_a_bucket_and_finds_one_that_is_wrong() -> None:
    """What an exact bucket admits is lawful in all windows; one that is full again once is found out."""
    right = ideal(20, 100.0, 2.0)
    assert 19 < fullest_window(right, 100.0) <= 20
    refilled = [*right, *(Asking(one.sent + 2, one.answered + 2, one.admitted) for one in right)]
    assert fullest_window(refilled, 100.0) > 35


@pytest.mark.skipif(bool(MISSING_CLOCK), reason=MISSING_CLOCK)
def test_a_wrong_clock_is_wrong() -> None:
    """The balancer whose clock is wrong does have a wrong clock, and can measure durations all the same."""
    program = "import time; print(time.time(), time.monotonic())"
    output = subprocess.run([sys.executable, "-c", program], env=wrong_clock("+60s"), capture_output=True, text=True)
    wall, other = map(float, output.stdout.split())
    assert 50 < wall - time.time() < 70
    assert abs(other - time.monotonic()) < 10


@NEEDED
@pytest.mark.parametrize("name", ["load", "restart", "kill -9", "pause"])
def test_no_bucket_admits_more_than_its_law(rows: dict[str, Row], name: str) -> None:
    """200 connections on 51 keys get no more than capacity + rate * t, in any window, and 99 % of it while Redis runs.

    The clock of one balancer is wrong, scripts are flushed and a policy is changed meanwhile.  In the other rows Redis
    is restarted or stands still: one token a balancer more, and 97 %.
    """
    row = rows[name]
    assert not row.problems
    # It was a load, and it was limited.
    assert row.requests > row.admitted > 500
    assert row.seconds > AWAY_SECONDS


@NEEDED
def test_a_script_call_serves_many_requests(rows: dict[str, Row]) -> None:
    """Under load Redis runs at most one script for two admitted requests, whatever else the machine does."""
    assert 0 < rows["load"].scripts <= MOST_SCRIPTS_QUICK


@NEEDED
def test_every_key_was_limited(rows: dict[str, Row]) -> None:
    """Nearly all keys kept asking for more than their buckets had, so that 99 % of the law was theirs."""
    assert rows["load"].kept_asking >= 0.9 * (OTHERS + 1)
    assert rows["load"].first_share > 0.985


@NEEDED
def test_a_bucket_that_idles_is_refilled_exactly(rows: dict[str, Row]) -> None:
    """After a drained bucket has idled, its level is what the rate has refilled, to the microtoken, at any balancer."""
    assert not rows["idle"].problems


@NEEDED
@pytest.mark.parametrize("name", ["restart", "kill -9", "pause"])
def test_keys_that_are_in_use_do_not_notice_an_outage(rows: dict[str, Row], name: str) -> None:
    """While Redis is restarted or stands still, keys that are in use get 200 and 429 and nothing else."""
    assert not rows[name].failures
