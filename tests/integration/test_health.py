"""Servers that fail and recover, as clients and the operator's log see it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Origin, Servers
from tests.integration.processes import Asking, Balancer, ask, wait_until
from tests.integration.raw_server import CLOSE, RESET, RawServer, Script

CHECKED = "health_check: {path: /healthz, interval: 200ms, timeout: 30s, passes: 2, fails: 2}\n"
BRIEF_EJECTIONS = "ejection: {consecutive_failures: 3, base_time: 500ms, max_time: 1s}\n"
NO_EJECTION = "ejection: false\n"
PROBE = "twisted_lb health check"


def checks(origin: Origin) -> list[str]:
    """The paths that checks asked for."""
    return [seen.path for seen in origin.seen if seen.field("user-agent") == PROBE]


def requests(origin: Origin) -> int:
    """How many requests of clients came."""
    return sum(seen.field("user-agent") != PROBE for seen in origin.seen)


def lines(balancer: Balancer, text: str) -> int:
    """How many lines of the log have this text."""
    return balancer.log().count(text)


def statuses(balancer: Balancer, key: str, number: int) -> list[int]:
    return [ask(balancer.port, "GET", "/", key=key).status for _ in range(number)]


def test_checks_see_it_first(new_servers: Callable[..., Servers], new_balancer: Start) -> None:
    """Without any traffic a dead server is found, and its return; each is one line, and clients notice neither."""
    servers = new_servers(3)
    balancer = new_balancer(CHECKED + NO_EJECTION + servers.yaml()).start()
    key = balancer.create_user("user", 10_000, 1000)
    wait_until(lambda: all(len(checks(origin)) > 1 for origin in servers))
    assert set(checks(servers[0])) == {"/healthz"}
    assert servers[0].seen[0].field("host") == f"127.0.0.1:{servers[0].port}"
    servers[1].stop()
    wait_until(lambda: lines(balancer, "server server2 is down: 2 checks in a row failed: connection refused"))
    servers.forget()
    assert statuses(balancer, key, 30) == [200] * 30
    assert [requests(origin) for origin in servers] == [15, 0, 15]
    servers[1].start()
    wait_until(lambda: lines(balancer, "server server2 is up: 2 checks in a row passed"))
    assert statuses(balancer, key, 30) == [200] * 30
    assert requests(servers[1]) == 10
    assert lines(balancer, "server server2 is") == 2


def test_traffic_shows_it(new_servers: Callable[..., Servers], new_balancer: Start) -> None:
    """Without checks, clients' requests find a dead server and its return, and clients notice neither."""
    servers = new_servers(3)
    balancer = new_balancer(BRIEF_EJECTIONS + servers.yaml()).start()
    key = balancer.create_user("user", 100_000, 10_000)
    servers[1].stop()
    assert statuses(balancer, key, 30) == [200] * 30
    assert lines(balancer, "server server2 is ejected for 0.5 s: 3 requests in a row failed") == 1
    servers[1].start()
    wait_until(lambda: statuses(balancer, key, 3) and requests(servers[1]), what="server2 has requests again")
    assert lines(balancer, "server server2 is up: its ejection of ") >= 1


def test_used_again_at_once(new_servers: Callable[..., Servers], new_balancer: Start) -> None:
    """A server that refused connections and runs again has requests as soon as its checks pass."""
    servers = new_servers(3)
    ejection = "ejection: {consecutive_failures: 3, base_time: 1h, max_time: 1h}\n"
    # Clients must find it before the checks do.
    balancer = new_balancer(CHECKED.replace("200ms", "3s") + ejection + servers.yaml()).start()
    key = balancer.create_user("user", 100_000, 10_000)
    wait_until(lambda: checks(servers[1]), what="a check")
    servers[1].stop()
    assert statuses(balancer, key, 12) == [200] * 12
    assert lines(balancer, "server server2 is ejected for 3600 s: 3 requests in a row failed") == 1
    servers[1].start()
    wait_until(lambda: lines(balancer, "server server2 is up: 2 checks in a row passed since it had died"))
    servers.forget()
    assert statuses(balancer, key, 12) == [200] * 12
    assert requests(servers[1]) == 4


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_passes_checks_and_cuts_requests(end: str, new_balancer: Start) -> None:
    """A server that passes its checks and ends the connection of each POST costs few, and ever fewer."""
    broken, sound = RawServer(), RawServer()
    broken.scripts["order"] = Script((), end)
    broken.start()
    sound.start()
    try:
        listed = [f'- {{name: s{one.port}, url: "http://127.0.0.1:{one.port}"}}' for one in (broken, sound)]
        rules = CHECKED.replace("200ms", "100ms") + "ejection: {consecutive_failures: 3, base_time: 1s, max_time: 10s}"
        balancer = new_balancer("\n".join([rules, "servers:", *listed, ""])).start()
        key = balancer.create_user("user", 100_000, 10_000)
        ends = time.monotonic() + 4
        answered = []
        while time.monotonic() < ends:
            answered.append(ask(balancer.port, "POST", "/script/order", b"{}", key=key).status)
            time.sleep(0.02)
    finally:
        broken.stop()
        sound.stop()
    # Three in a row, and one each after 1 s and after 3 s.
    assert 3 <= answered.count(502) <= 5, answered
    assert answered.count(200) == len(answered) - answered.count(502) > 5


def test_the_last_one_stays(new_servers: Callable[..., Servers], new_balancer: Start) -> None:
    """A single server that died serves again from the moment it is back, whatever was seen of it meanwhile."""
    servers = new_servers(1)
    balancer = new_balancer(CHECKED + servers.yaml()).start()
    key = balancer.create_user("user", 100_000, 10_000)
    servers[0].stop()
    wait_until(lambda: lines(balancer, "panic: 0 of 1 servers healthy"))
    assert set(statuses(balancer, key, 20)) <= {502, 503}
    servers[0].start()
    assert statuses(balancer, key, 5) == [200] * 5
    wait_until(lambda: lines(balancer, "panic is over"))


def test_busy_server_passes(new_servers: Callable[..., Servers], new_balancer: Start) -> None:
    """A server whose connections are all taken passes its checks: they have their own."""
    servers = new_servers(1)
    text = servers.yaml().replace("}", ", maxconn: 1}")
    balancer = new_balancer(CHECKED + "queue: {size: 0, timeout: 1s}\n" + text).start()
    key = balancer.create_user("user", 100_000, 10_000)
    servers.hold()
    asking = Asking(balancer, key, "/held")
    wait_until(lambda: requests(servers[0]) == 1, what="the request")
    servers.forget()
    wait_until(lambda: len(checks(servers[0])) >= 5, what="checks")
    servers.release()
    asking.join(60)
    assert asking.status == 200
    assert lines(balancer, "server server1 is") == 0


def test_endless_answers(new_balancer: Start) -> None:
    """A check whose answer does not end fails at a bound, long before its time is up, and the reason is shown."""
    server = RawServer()
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    server.scripts["head"] = Script((b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300_000,), CLOSE)
    server.scripts["interim"] = Script((early * 50_000,), CLOSE)
    server.start()
    try:
        line = '- {name: %s, url: "%s", health_check: {path: /script/%s, interval: 100ms, timeout: 60s}}'
        listed = [line % (name, f"http://127.0.0.1:{server.port}", name) for name in server.scripts]
        balancer = new_balancer("\n".join(["servers:", *listed, ""])).start()
        unusable = "is down: its first check failed: its answer cannot be used: The server"
        wait_until(lambda: lines(balancer, f"server head {unusable}'s response head is longer than 65536 bytes"))
        wait_until(lambda: lines(balancer, f"server interim {unusable} sent an unexpected interim response"))
    finally:
        server.stop()
