"""Several workers, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.conftest import Start, assert_calm
from tests.integration.origin import Servers
from tests.integration.processes import Asking, Balancer, ask, wait_until
from tests.integration.redis_server import MISSING, RedisServer


def alive(pid: int) -> bool:
    """Whether one of its threads runs: the files of a process are closed when the last of them has ended."""
    try:
        stats = [task.joinpath("stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return False
    return any(stat.rpartition(") ")[2][0] not in "ZX" for stat in stats)


@pytest.fixture(scope="module")
def team(servers: Servers) -> Iterator[Balancer]:
    """A balancer with two workers, which serves all tests that leave it running with two."""
    if MISSING:
        pytest.skip(MISSING)
    redis = RedisServer()
    try:
        redis.start()
        balancer = Balancer(servers.yaml(), "--redis-url", redis.url, "--workers", "2")
        try:
            yield balancer.start()
            assert_calm(balancer)
        finally:
            balancer.close()
    finally:
        redis.close()


@pytest.fixture
def own_team(redis: RedisServer, servers: Servers, new_balancer: Start) -> Balancer:
    """A balancer with two workers, of a test alone."""
    redis.start()
    return new_balancer(servers.yaml(), "--redis-url", redis.url, "--workers", "2").start()


@pytest.fixture
def key(team: Balancer) -> str:
    """The key of a user with many tokens."""
    return team.create_user(f"user-{uuid4()}", 1000)


OWN = """
from twisted_lb.balancers.round_robin import RoundRobin

class Last(RoundRobin):
    def choices(self, request):
        return iter(list(super().choices(request))[-1:])
"""


def test_own_balancer(redis: RedisServer, servers: Servers, new_balancer: Start, tmp_path: Path) -> None:
    """Workers find a balancer of the user's own where the parent found it: beside the servers file."""
    (tmp_path / "own_last.py").write_text(OWN)
    (tmp_path / "pool.yaml").write_text(servers.yaml("own_last:Last"))
    redis.start()
    options = ("--servers", str(tmp_path / "pool.yaml"), "--redis-url", redis.url, "--workers", "2")
    balancer = new_balancer(servers.yaml(), *options).start()
    assert ask(balancer.port, "GET", "/", key=balancer.create_user("user1")).status == 200


def test_share_one_bucket(team: Balancer) -> None:
    """The requests that all workers admit together are those of one bucket."""
    key = team.create_user(f"user-{uuid4()}", 20, 0)
    statuses = [ask(team.port, "GET", "/", key=key).status for _ in range(40)]
    assert statuses.count(200) == 20 and statuses.count(429) == 20
    assert len(team.workers()) == 2


def test_share_one_bucket_at_once(team: Balancer) -> None:
    """Of 90 requests on connections of their own, a dozen at a time, one bucket of 33 admits 33."""
    key = team.create_user(f"user-{uuid4()}", 33, 0)
    with ThreadPoolExecutor(12) as clients:
        statuses = list(clients.map(lambda _: ask(team.port, "GET", "/", key=key).status, range(90)))
    assert (statuses.count(200), statuses.count(429)) == (33, 57)


def test_each_serves(team: Balancer, key: str) -> None:
    """While one worker is stopped in its tracks the other serves, API and servers, and the other way round."""
    for pid in team.workers():
        os.kill(pid, signal.SIGSTOP)
        try:
            assert [ask(team.port, "GET", "/", key=key).status for _ in range(10)] == [200] * 10
            assert team.create_user(f"user-{uuid4()}")
        finally:
            os.kill(pid, signal.SIGCONT)


def test_worker_that_dies_is_replaced(team: Balancer, key: str) -> None:
    """While one of two workers is dead requests are served, and soon there are two again."""
    victim, other = team.workers()
    os.kill(victim, signal.SIGKILL)
    for _ in range(20):
        assert ask(team.port, "GET", "/", key=key).status == 200
    wait_until(lambda: len(set(team.workers()) - {victim}) == 2, what="a new worker")
    assert other in team.workers()
    wait_until(lambda: "2 of 2 workers run" in str(ask(team.admin_port, "GET", "/readyz").body))


def test_worker_that_stops_by_itself(team: Balancer, key: str) -> None:
    """A worker that gets SIGTERM closes the port for itself only."""
    victim, _ = team.workers()
    os.kill(victim, signal.SIGTERM)
    wait_until(lambda: not alive(victim))
    for _ in range(20):
        assert ask(team.port, "GET", "/", key=key).status == 200
    wait_until(lambda: len(set(team.workers()) - {victim}) == 2, what="a new worker")
    wait_until(lambda: "2 of 2 workers run" in str(ask(team.admin_port, "GET", "/readyz").body))


def test_drain(own_team: Balancer, servers: Servers) -> None:
    """After SIGTERM a request under way is answered, and then no process is left."""
    pids = own_team.workers()
    asking = Asking(own_team, own_team.create_user("user1"), "/slow/1.5")
    wait_until(lambda: any(seen.path == "/slow/1.5" for server in servers for seen in server.seen))
    own_team.terminate()
    own_team.wait()
    asking.join(60)
    assert asking.status == 200
    assert not any(alive(pid) for pid in pids)


def test_parent_that_is_killed(own_team: Balancer, servers: Servers) -> None:
    """The workers of a parent that is killed answer what they have begun, free the port, and end."""
    pids = own_team.workers()
    asking = Asking(own_team, own_team.create_user("user1"), "/slow/1.5")
    wait_until(lambda: any(seen.path == "/slow/1.5" for server in servers for seen in server.seen))
    own_team.kill()
    wait_until(lambda: refused(own_team), what="the port is free")
    asking.join(60)
    assert asking.status == 200
    wait_until(lambda: not any(alive(pid) for pid in pids), what="the workers end")


def refused(balancer: Balancer) -> bool:
    try:
        ask(balancer.port, "GET", "/user/tokens/profile")
    except OSError:
        return True
    return False


@pytest.fixture
def watched_team(redis: RedisServer, servers: Servers, new_balancer: Start) -> Balancer:
    """A balancer with two workers, of which one that gives no sign of life for three seconds is replaced."""
    redis.start()
    options = ("--redis-url", redis.url, "--workers", "2")
    return new_balancer(servers.yaml(), *options, environment={"WORKER_TIMEOUT": "3s", "DRAIN_SECONDS": "1s"}).start()


def test_worker_that_hangs_is_replaced(watched_team: Balancer) -> None:
    """A worker that is stopped in its tracks is told of, killed and replaced, and all is served again."""
    key = watched_team.create_user("user1", 1000)
    victim, other = watched_team.workers()
    # Each has answered once: until then it is given more time.
    assert json.loads(ask(watched_team.admin_port, "GET", "/servers").body)
    os.kill(victim, signal.SIGSTOP)
    told = re.compile(r"has not responded for \d+\.\d s and is killed")
    wait_until(lambda: told.search(watched_team.log()), what="a line in the log")
    wait_until(lambda: len(watched_team.workers()) == 2 and not alive(victim), what="another worker")
    assert other in watched_team.workers()
    assert [ask(watched_team.port, "GET", "/", key=key).status for _ in range(20)] == [200] * 20


ENDLESS = """
from twisted_lb.balancers.round_robin import RoundRobin

class Endless(RoundRobin):
    def choices(self, request):
        while request.target == b"/endless":
            pass
        return super().choices(request)
"""


@pytest.mark.parametrize("how", ["stopped", "endless"])
def test_hanging_worker_of_a_killed_parent(
    redis: RedisServer, servers: Servers, new_balancer: Start, tmp_path: Path, how: str
) -> None:
    """A worker that hangs when its parent is killed does not keep the port."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    (tmp_path / "pool.yaml").write_text(servers.yaml("endless:Endless"))
    redis.start()
    options = ("--servers", str(tmp_path / "pool.yaml"), "--redis-url", redis.url, "--workers", "2")
    environment = {"WORKER_TIMEOUT": "3s", "DRAIN_SECONDS": "1s"}
    team = new_balancer(servers.yaml(), *options, environment=environment).start()
    workers = team.workers()
    if how == "stopped":
        os.kill(workers[0], signal.SIGSTOP)
    else:
        key = team.create_user("user1")
        before = [cpu_of(pid) for pid in workers]
        Asking(team, key, "/endless")
        wait_until(lambda: any(cpu_of(pid) > used + 0.3 for pid, used in zip(workers, before)), what="a busy worker")
    team.kill()
    wait_until(lambda: not any(alive(pid) for pid in workers), what="the end of the workers")
    # The threads of a process may outlive its main thread by a moment, with the files.
    wait_until(lambda: can_listen(team.port), what="the port is free")


def can_listen(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("workers", [1, 2])
def test_hang_ups_at_the_start(redis: RedisServer, servers: Servers, new_balancer: Start, workers: int) -> None:
    """Hang-ups in the first seconds end neither the program nor a worker, and the file is read once it runs."""
    redis.start()
    balancer = new_balancer(servers.yaml(), "--redis-url", redis.url, "--workers", str(workers))
    balancer.launch()
    # Before this program's own code runs nothing can be done: the interpreter and Twisted are being loaded.
    wait_until(lambda: "twistd" in balancer.log() or handles_hang_ups(balancer.pid), what="the first line")
    for _ in range(100):
        os.killpg(balancer.pid, signal.SIGHUP)
        time.sleep(0.01)
    balancer.wait_ready()
    assert "is restarted" not in balancer.log()
    assert ": no change" in balancer.log()
    balancer.terminate()
    os.killpg(balancer.pid, signal.SIGHUP)
    assert balancer.wait() == 0


def handles_hang_ups(pid: int) -> bool:
    """Whether a process has a handler for SIGHUP."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught & 1 << signal.SIGHUP - 1)
