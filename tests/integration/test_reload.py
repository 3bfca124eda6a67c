"""Another servers.yaml while traffic flows, with real processes."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.integration.conftest import Start
from tests.integration.origin import Origin, Servers, content_hash
from tests.integration.processes import Balancer, ask, ask_on, wait_until
from tests.integration.redis_server import RedisServer

MIB = 1024 * 1024
DOWNLOAD_BYTES = 24 * MIB
USED = "was reloaded"
REFUSED = "was rejected, nothing changes"


def yaml_of(origins: Iterable[Origin], more: str = "") -> str:
    """A servers.yaml with these; `more` goes into each server."""
    lines = [f"  - {{name: {origin.name}, url: '{origin.url}'{more}}}" for origin in origins]
    return "\n".join(["servers:", *lines, ""])


def rewrite(balancer: Balancer, text: str, rename: bool = False) -> None:
    """Write servers.yaml, as an editor that renames or as one that does not, and wait until it is used."""
    file = balancer.directory / "servers.yaml"
    before = balancer.log().count(USED)
    if rename:
        file.with_name("servers.new").write_text(text)
        file.with_name("servers.new").replace(file)
    else:
        file.write_text(text)
    wait_until(lambda: balancer.log().count(USED) > before, what="the file is used")


def shown(balancer: Balancer) -> dict[str, dict[str, Any]]:
    """GET /servers, by name."""
    return {server["name"]: server for server in json.loads(ask(balancer.admin_port, "GET", "/servers").body)}


def answering(balancer: Balancer, key: str, count: int = 12) -> Counter[str]:
    """Who answers."""
    answers = [ask(balancer.port, "GET", "/", key=key) for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.body.split()[1].decode() for answer in answers)


class Steady(threading.Thread):
    """Asks again and again until it is told to stop; `statuses` counts what came."""

    def __init__(self, balancer: Balancer, key: str) -> None:
        super().__init__(daemon=True)
        self.statuses: Counter[int] = Counter()
        self._balancer = balancer
        self._key = key
        self._enough = threading.Event()
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._balancer.port, timeout=60)
        while not self._enough.wait(0.005):
            self.statuses[ask_on(connection, "GET", "/", key=self._key).status] += 1
        connection.close()

    def stop(self) -> Counter[int]:
        self._enough.set()
        self.join(60)
        return self.statuses


def read_slowly(balancer: Balancer, key: str, path: str, go_on: threading.Event) -> str:
    """The hash of a download of which the first bytes are read at once, and the rest when `go_on` is set."""
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=120)
    connection.request("GET", path, headers={"Authorization": key})
    response = connection.getresponse()
    assert response.status == 200
    digest = hashlib.sha256(response.read(1000))
    go_on.wait(120)
    while data := response.read(64 * 1024):
        digest.update(data)
    connection.close()
    return digest.hexdigest()


def test_all_servers_are_replaced(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """While downloads and a stream run, each server is replaced by another: nothing is cut, all traffic moves."""
    old, new = new_servers(3), new_servers(3)
    for origin in new:
        origin.name = origin.name.replace("server", "new")
    balancer = new_balancer(yaml_of(old), environment={"SEND_TIMEOUT": "5m"}).start()
    key = balancer.create_user("user1", 1_000_000)
    go_on = threading.Event()
    with ThreadPoolExecutor(10) as clients:
        paths = [f"/size/{DOWNLOAD_BYTES}", f"/chunks/{DOWNLOAD_BYTES}"] * 3
        downloads = [clients.submit(read_slowly, balancer, key, path, go_on) for path in paths]
        drips = [clients.submit(ask, balancer.port, "GET", "/drip/4", None, key) for _ in range(3)]
        wait_until(lambda: sum(len(origin.seen) for origin in old) == 9, what="all are under way")
        steady = Steady(balancer, key)
        for count in (1, 2, 3):
            rewrite(balancer, yaml_of([*new.all[:count], *old.all[count:]]), rename=count == 2)
            time.sleep(0.3)
        assert set(answering(balancer, key)) == {"new1", "new2", "new3"}
        leaving = shown(balancer)
        assert {leaving[f"server{number}"]["reason"] for number in (1, 2, 3)} == {"removed"}
        go_on.set()
        assert {download.result(120) for download in downloads} == {content_hash(DOWNLOAD_BYTES)}
        assert [drip.result(120).body for drip in drips] == [b"firstother"] * 3
        statuses = steady.stop()
    assert set(statuses) == {200} and statuses[200] > 10, statuses
    # What is left of the old servers is nothing.
    wait_until(lambda: all(origin.closed == origin.connections for origin in old), what="their connections are closed")
    assert set(shown(balancer)) == {"new1", "new2", "new3"}
    assert f"added new3 {new[2].url}; removed server3" in balancer.log()


def test_unchanged_server_keeps_all(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """A server that stays keeps its connections and its counts, also when its weight becomes another."""
    servers = new_servers(2)
    balancer = new_balancer(yaml_of(servers)).start()
    key = balancer.create_user("user1", 1000)
    assert answering(balancer, key, 10) == {"server1": 5, "server2": 5}
    assert [origin.connections for origin in servers] == [1, 1]
    rewrite(balancer, yaml_of(servers.all[:1], ", weight: 3"))
    assert answering(balancer, key, 10) == {"server1": 10}
    rewrite(balancer, yaml_of(servers))
    assert answering(balancer, key, 10) == {"server1": 5, "server2": 5}
    assert [origin.connections for origin in servers] == [1, 2]
    now = shown(balancer)
    assert [now[name]["requests"] for name in ("server1", "server2")] == [20, 5]
    assert "changed server1 (weight 1 -> 3)" in balancer.log()


def test_drain(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """Weight 0 sends a server no new request, and lets what it has end; without any weight nothing is ready."""
    servers = new_servers(2)
    balancer = new_balancer(yaml_of(servers)).start()
    key = balancer.create_user("user1", 1000)
    with ThreadPoolExecutor(2) as clients:
        servers.hold()
        asked = [clients.submit(ask, balancer.port, "GET", "/held", None, key) for _ in range(2)]
        wait_until(lambda: sum(len(origin.seen) for origin in servers) == 2, what="both are under way")
        rewrite(balancer, yaml_of(servers.all[:1]) + yaml_of(servers.all[1:], ", weight: 0").partition("\n")[2])
        assert answering(balancer, key) == {"server1": 12}
        drained = shown(balancer)["server2"]
        assert (drained["state"], drained["reason"], drained["in_flight"]) == ("draining", "its weight is 0", 1)
        servers.release()
        assert {one.result().body for one in asked} == {b"Server server1 answer", b"Server server2 answer"}
    rewrite(balancer, yaml_of(servers, ", weight: 0"))
    assert ask(balancer.admin_port, "GET", "/readyz").status == 503
    assert ask(balancer.port, "GET", "/", key=key).status == 503


def test_bad_file_changes_nothing(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """A bad file is one line in the log, and what ran goes on; a good one after it is used."""
    servers = new_servers(2)
    balancer = new_balancer(yaml_of(servers.all[:1])).start()
    key = balancer.create_user("user1", 1000)
    file = balancer.directory / "servers.yaml"
    file.write_text(yaml_of(servers.all[1:], ", weight: heavy"))
    wait_until(lambda: REFUSED in balancer.log(), what="it is refused")
    time.sleep(2)
    assert balancer.log().count(REFUSED) == 1
    line = next(line for line in balancer.log().splitlines() if REFUSED in line)
    assert f"{file}:2: servers[0].weight: expected" in line and "'heavy'" in line
    assert answering(balancer, key) == {"server1": 12}
    rewrite(balancer, yaml_of(servers.all[1:]))
    assert answering(balancer, key) == {"server2": 12}


def test_hang_up(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """SIGHUP ends nothing: the file is read, and the log says what came of it, changed or not."""
    servers = new_servers(2)
    balancer = new_balancer(yaml_of(servers.all[:1])).start()
    key = balancer.create_user("user1", 1000)
    balancer.process.send_signal(signal.SIGHUP)
    wait_until(lambda: ": no change" in balancer.log(), what="it is read")
    seconds = []
    for number in range(1, 7):
        (balancer.directory / "servers.yaml").write_text(yaml_of(servers.all[1:] if number % 2 else servers.all[:1]))
        began = time.monotonic()
        balancer.process.send_signal(signal.SIGHUP)
        wait_until(lambda: balancer.log().count(USED) == number, what="it is read")
        seconds.append(time.monotonic() - began)
        assert answering(balancer, key) == {"server2" if number % 2 else "server1": 12}
    # At once: without a signal it takes more than a second.
    assert min(seconds) < 0.4, seconds


def test_check(new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """--check says what the files mean, or what is wrong with them, and starts nothing."""
    servers = new_servers(1)
    good = new_balancer(yaml_of(servers, ", maxconn: 7"), "--check")
    ended = good.run_to_end()
    assert ended.status == 0
    assert f"server1, {servers[0].url}, weight 1, maxconn 7" in ended.output
    assert [path.name for path in good.directory.iterdir() if path.name != "balancer.log"] == ["servers.yaml"]
    ended = new_balancer(yaml_of(servers, ", maxcon: 7"), "--check").run_to_end()
    assert ended.status == 1
    assert "did you mean 'maxconn'?" in ended.output


def test_workers(redis: RedisServer, new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """All workers use another file, one that is started later too, and /servers counts what all of them did."""
    servers = new_servers(2)
    redis.start()
    balancer = new_balancer(yaml_of(servers.all[:1]), "--redis-url", redis.url, "--workers", "2").start()
    key = balancer.create_user("user1", 1000)
    assert answering(balancer, key, 20) == {"server1": 20}
    wait_until(lambda: shown(balancer)["server1"]["requests"] == 20, what="all are counted")
    rewrite(balancer, yaml_of(servers.all[1:]))
    assert balancer.log().count(USED) == 1
    wait_until(lambda: set(shown(balancer)) == {"server2"}, what="all workers use it")
    victim = balancer.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(set(balancer.workers()) - {victim}) == 2, what="a new worker")
    wait_until(lambda: "2 of 2" in str(ask(balancer.admin_port, "GET", "/readyz").body), what="it is ready")
    assert answering(balancer, key, 20) == {"server2": 20}
    # A hang-up at the terminal reaches the workers too.
    os.killpg(balancer.pid, signal.SIGHUP)
    wait_until(lambda: ": no change" in balancer.log(), what="it is read")
    assert answering(balancer, key, 20) == {"server2": 20}
