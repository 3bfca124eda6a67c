"""The running program while the disk of its embedded store fails, and what is there after kill -9."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, wait_until

USER = b'{"name": "late"}'


def readiness(balancer: Balancer) -> tuple[int, dict[str, Any]]:
    answer = ask(balancer.admin_port, "GET", "/readyz")
    return answer.status, json.loads(answer.body)


def metric(balancer: Balancer, name: str) -> float:
    lines = ask(balancer.admin_port, "GET", "/metrics").body.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def degraded(balancer: Balancer) -> bool:
    status, said = readiness(balancer)
    assert (status, said["ready"]) == (200, True)
    return bool(said["degraded"])


def assert_goes_on_from_memory(balancer: Balancer, key: str) -> None:
    """What a client and an operator meet while nothing can be written."""
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    answer = ask(balancer.port, "POST", "/user/create", USER)
    assert (answer.status, answer.fields["content-type"]) == (503, "application/problem+json")
    assert "cannot be stored now" in json.loads(answer.body)["detail"]
    assert (metric(balancer, "tokenlb_store_up"), metric(balancer, "tokenlb_store_outages_total")) == (0, 1)
    assert metric(balancer, "tokenlb_store_write_errors_total") >= 1
    assert "database" in readiness(balancer)[1]["reason"]
    assert balancer.log().count("Accounts and levels cannot be written") == 1


def remove(balancer: Balancer) -> None:
    shutil.rmtree(balancer.directory / "data")


def empty(balancer: Balancer) -> None:
    os.truncate(balancer.directory / "data" / "tokenlb.sqlite3", 0)


def overwrite(balancer: Balancer) -> None:
    with open(balancer.directory / "data" / "tokenlb.sqlite3", "wb") as file:
        file.write(os.urandom(100_000))


@pytest.mark.parametrize("act", [remove, empty, overwrite])
def test_files_that_are_lost(new_balancer: Start, servers: Servers, act: Callable[[Balancer], None]) -> None:
    """Files that are removed, emptied or overwritten are noticed without any traffic, and made anew from memory."""
    balancer = new_balancer(servers.yaml()).start()
    keys = [balancer.create_user(f"user{number}", 10, 0) for number in range(5)]
    assert ask(balancer.port, "GET", "/", key=keys[0]).status == 200
    act(balancer)
    wait_until(lambda: degraded(balancer), what="degraded")
    assert_goes_on_from_memory(balancer, keys[0])
    wait_until(lambda: not degraded(balancer), what="recovered")
    assert metric(balancer, "tokenlb_store_up") == 1
    assert "All 5 accounts were written to a new database" in balancer.log()
    keys.append(balancer.create_user("late", 10, 0))
    balancer.kill()
    balancer.start()
    assert [balancer.tokens(key) for key in keys] == [8, 10, 10, 10, 10, 10]


def test_a_full_disk(new_balancer: Start, servers: Servers) -> None:
    """A disk that takes no more makes the program degraded until it does, and what was in memory is written then."""
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user("user", 100, 0)
    log = balancer.directory / "data" / "tokenlb.sqlite3-wal"
    number = 0
    while log.stat().st_size < 200_000:
        number += 1
        balancer.create_user(f"user{number}")
    # No file may grow beyond what the write-ahead log has; the program's own log is shorter.
    resource.prlimit(balancer.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, resource.RLIM_INFINITY))
    assert ask(balancer.port, "POST", "/user/create", USER).status == 503
    assert degraded(balancer)
    assert_goes_on_from_memory(balancer, key)
    resource.prlimit(balancer.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_until(lambda: not degraded(balancer), what="recovered")
    assert balancer.tokens(key) == 99
    balancer.kill()
    balancer.start()
    assert balancer.tokens(key) == 99
    balancer.create_user("late")


def test_the_end(new_balancer: Start, servers: Servers) -> None:
    """A stop writes a database anew that was removed a moment before; one that cannot is critical."""
    balancer = new_balancer(servers.yaml()).start()
    key = balancer.create_user("user", 10, 0)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    remove(balancer)
    balancer.terminate()
    assert balancer.wait() == 0
    balancer.start()
    assert balancer.tokens(key) == 9
    remove(balancer)
    (balancer.directory / "data").touch()
    balancer.process.send_signal(signal.SIGTERM)
    assert balancer.wait() == 0
    assert "the 1 accounts, which only this process had, are lost" in balancer.log()


def test_a_start_on_an_empty_file(new_balancer: Start, servers: Servers) -> None:
    """A database of 0 bytes ends the start with its path, and without a traceback."""
    balancer = new_balancer(servers.yaml())
    (balancer.directory / "data").mkdir()
    (balancer.directory / "data" / "tokenlb.sqlite3").touch()
    ended = balancer.run_to_end()
    assert ended.status == 1
    assert "DATA_DIR (option --data-dir): the database" in ended.output and "is empty (0 bytes)" in ended.output
