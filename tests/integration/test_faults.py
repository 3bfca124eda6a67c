"""The effect of failing servers on clients: the fastest rows of bench/faults.py."""

from __future__ import annotations

import shutil

import pytest

from bench.faults import Row, play
from bench.stage import Stage

# What is said of time has to be so once.
ATTEMPTS = 3

pytestmark = pytest.mark.skipif(not shutil.which("taskset"), reason="no taskset; `apt-get install util-linux` has it")


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """The rows by the first word of their names."""
    for _ in range(ATTEMPTS):
        with Stage() as stage:
            played = {row.name.split()[0]: row for row in play(stage, quick=True)}
        if in_time(played):
            break
    return played


def in_time(rows: dict[str, Row]) -> bool:
    """Whether the machine did little else."""
    enough = all(row.count("GET") > 100 for row in rows.values()) and rows["kill"].slowest < 1
    return enough and all(row.left is not None and row.left < 3 and row.returned is not None for row in rows.values())


@pytest.mark.parametrize("name", ["kill", "drain", "replace"])
def test_no_idempotent_request_fails(rows: dict[str, Row], name: str) -> None:
    """While a server is killed, drained or replaced under load, no GET fails, and the traffic leaves and comes back."""
    row = rows[name]
    assert row.count("GET") > 100
    failed = [one for one in row.asked if one.failed and one.method == "GET"]
    assert not failed
    assert row.left is not None and row.left < 3
    assert row.returned is not None


def test_a_planned_change_fails_nothing(rows: dict[str, Row]) -> None:
    """A server that is drained or replaced costs no request at all, not even one that must not be sent twice."""
    for name in ("drain", "replace"):
        assert rows[name].count("POST") > 10
        assert not [one for one in rows[name].asked if one.failed]


def test_a_killed_server_is_answered_for_by_others(rows: dict[str, Row]) -> None:
    """While a server is dead, its share of the requests is answered by the two others."""
    row = rows["kill"]
    assert {one.server for one in row.asked if not one.failed} == {"one", "two", "three"}
    assert row.slowest < 1
