"""Servers that are found: addresses of names, SRV records, lists in files; with real processes and name servers."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.names import dns

from tests.integration.conftest import Start
from tests.integration.dns_server import NameServer
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.test_metrics import metrics
from tests.integration.test_names_of_servers import Here
from tests.integration.test_reload import Steady

ADDRESSES = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


@pytest.fixture
def fleet() -> Iterator[int]:
    """Servers at each of ADDRESSES that answer with their address; their port."""
    here = [Here(ADDRESSES[0])]
    here += [Here(address, here[0].port) for address in ADDRESSES[1:]]
    yield here[0].port
    for one in here:
        one.close()


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def start(request: Any, name_server: NameServer, new_balancer: Start) -> Callable[..., Balancer]:
    """Starts a balancer that asks the name server: start(servers_yaml)."""
    settings = {"RESOLVER": name_server.place, "UPSTREAM_IDLE_CONNECTIONS": "0"}
    if request.param > 1:
        redis = request.getfixturevalue("redis")
        redis.start()
        settings.update(WORKERS=str(request.param), REDIS_URL=redis.url)

    def make(yaml: str, more: Callable[[Balancer], object] = lambda balancer: None) -> Balancer:
        balancer = new_balancer(yaml, environment=settings)
        more(balancer)
        return balancer.start()

    return make


def names(balancer: Balancer) -> list[str]:
    """The servers that are not removed, as GET /servers has them."""
    servers = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    return [server["name"] for server in servers if server["reason"] != "removed"]


def answering(balancer: Balancer, key: str, count: int = 30) -> set[str]:
    answers = [ask(balancer.port, "GET", "/", key=key) for _ in range(count)]
    assert Counter(answer.status for answer in answers) == {200: count}
    return {answer.body.decode() for answer in answers}


def metric_names(balancer: Balancer) -> set[str]:
    return {labels[-1] for name, *labels in metrics(balancer) if name == "tokenlb_server_up"}


def test_addresses_of_a_name(start: Callable[..., Balancer], name_server: NameServer, fleet: int) -> None:
    """Each address is a server; a refresh at the TTL adds and removes some, under load, without a failed request."""
    name_server.addresses["web.test"] = ADDRESSES[:2]
    balancer = start(f"servers: [{{name: web, url: 'http://web.test:{fleet}'}}]\n")
    key = balancer.create_user("user1", 1_000_000, 1000)
    expected = [f"web@{address}:{fleet}" for address in ADDRESSES]
    wait_until(lambda: names(balancer) == expected[:2], what="two servers")
    steady = Steady(balancer, key)
    assert answering(balancer, key) == set(ADDRESSES[:2])
    name_server.addresses["web.test"] = [ADDRESSES[2], ADDRESSES[1], ADDRESSES[0]]
    wait_until(lambda: names(balancer) == expected, what="three servers")
    wait_until(lambda: answering(balancer, key) == set(ADDRESSES), what="answers of three servers")
    name_server.addresses["web.test"] = ADDRESSES[1:2]
    wait_until(lambda: names(balancer) == ["web"], what="one server with its configured name")
    wait_until(lambda: answering(balancer, key) == {ADDRESSES[1]}, what="answers of one server")
    name_server.addresses["web.test"] = ADDRESSES
    wait_until(lambda: names(balancer) == expected, what="three servers again")
    wait_until(lambda: metric_names(balancer) == set(expected), what="metrics of the present servers")
    statuses = steady.stop()
    assert set(statuses) == {200}
    assert statuses[200] > 20
    assert f"Other servers were found: added web@127.0.0.1:{fleet} http://127.0.0.1:{fleet}, " in balancer.log()


@pytest.mark.parametrize("code", [dns.ESERVER, dns.ENAME, None], ids=["SERVFAIL", "NXDOMAIN", "silence"])
def test_resolver_away(
    code: int | None, start: Callable[..., Balancer], name_server: NameServer, fleet: int
) -> None:
    """While the name servers fail or deny the name, the servers are those of the last answer, and come back later."""
    name_server.addresses["web.test"] = ADDRESSES[:2]
    balancer = start(f"servers: [{{name: web, url: 'http://web.test:{fleet}'}}]\n")
    key = balancer.create_user("user1", 1_000_000, 1000)
    wait_until(lambda: len(names(balancer)) == 2, what="two servers")
    if code is None:
        name_server.silent = True
        wait_until(lambda: "cannot be resolved" in balancer.log(), what="the failure")
    else:
        name_server.code = code
        words = "has no address; its servers stay as they are" if code == dns.ENAME else "cannot be resolved"
        wait_until(lambda: words in balancer.log(), what="the failure")
    assert len(names(balancer)) == 2
    assert answering(balancer, key) == set(ADDRESSES[:2])
    name_server.addresses["web.test"] = ADDRESSES
    name_server.silent = False
    name_server.code = dns.OK
    wait_until(lambda: len(names(balancer)) == 3, what="three servers")


def test_services(start: Callable[..., Balancer], name_server: NameServer, fleet: int) -> None:
    """SRV records have ports, weights and priorities; the first request finds the servers already."""
    service = "_http._tcp.app.test"
    name_server.addresses[service] = [f"10 3 {fleet} one.test", f"10 0 {fleet} two.test", f"20 1 {fleet} spare.test"]
    for target, address in zip(("one.test", "two.test", "spare.test"), ADDRESSES):
        name_server.addresses[target] = [address]
    balancer = start(f"servers: [{{name: app, url: 'srv+http://{service}'}}]\n")
    key = balancer.create_user("user1", 1_000_000, 1000)
    expected = [f"app@{target}:{fleet}" for target in ("one.test", "two.test", "spare.test")]
    wait_until(lambda: names(balancer) == expected, what="three servers")
    servers = json.loads(ask(balancer.admin_port, "GET", "/servers").body)
    assert [(server["weight"], server["backup"]) for server in servers] == [(3, False), (1, False), (1, True)]
    assert answering(balancer, key) == set(ADDRESSES[:2])
    name_server.addresses[service] = [f"20 1 {fleet} spare.test"]
    wait_until(lambda: names(balancer) == expected[2:], what="one server")
    assert answering(balancer, key) == set(ADDRESSES[2:])


def test_service_from_the_first_request(name_server: NameServer, new_balancer: Start, fleet: int) -> None:
    """Clients are served when the services were looked up, so that the first request finds servers; likewise after a
    reload, under load, with a service in place of a server.
    """
    name_server.addresses["_http._tcp.app.test"] = [f"0 0 {fleet} one.test"]
    name_server.addresses["one.test"] = ADDRESSES[:1]
    yaml = "servers: [{name: app, url: 'srv+http://_http._tcp.app.test'}]\n"
    balancer = new_balancer(yaml, environment={"RESOLVER": name_server.place}).start()
    key = balancer.create_user("user1", 1_000_000, 1000)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    steady = Steady(balancer, key)
    name_server.addresses["_http._tcp.other.test"] = [f"0 0 {fleet} two.test"]
    name_server.addresses["two.test"] = ADDRESSES[1:2]
    file = balancer.directory / "servers.yaml"
    file.write_text(yaml.replace("app.test", "other.test"))
    wait_until(lambda: "was reloaded" in balancer.log(), what="the reload")
    assert answering(balancer, key) == {ADDRESSES[1]}
    assert set(steady.stop()) == {200}


def test_unknown_service(name_server: NameServer, new_balancer: Start, fleet: int) -> None:
    """A service without records has no servers, and gets them when it has some."""
    yaml = "servers: [{name: app, url: 'srv+http://_http._tcp.app.test'}]\n"
    balancer = new_balancer(yaml, environment={"RESOLVER": name_server.place}).start_not_ready()
    key = balancer.create_user("user1", 1000)
    assert ask(balancer.port, "GET", "/", key=key).status == 503
    name_server.addresses["_http._tcp.app.test"] = [f"0 0 {fleet} one.test"]
    name_server.addresses["one.test"] = ADDRESSES[:1]
    wait_until(lambda: ask(balancer.port, "GET", "/", key=key).status == 200, what="a server")


def write(file: Path, entries: object, rename: bool = True) -> None:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    if rename:
        file.with_name("list.new").write_text(text)
        os.replace(file.with_name("list.new"), file)
    else:
        file.write_text(text)


def test_list(start: Callable[..., Balancer], fleet: int) -> None:
    """A list is watched: under load servers come and go, and bad ones change nothing, without a failed request."""
    places = [f"{address}:{fleet}" for address in ADDRESSES]
    balancer = start(
        "discover: {file: list.json}\n", lambda balancer: write(balancer.directory / "list.json", places[:1])
    )
    file = balancer.directory / "list.json"
    key = balancer.create_user("user1", 1_000_000, 1000)
    assert answering(balancer, key) == {ADDRESSES[0]}
    steady = Steady(balancer, key)
    write(file, places)
    wait_until(lambda: names(balancer) == places, what="three servers")
    wait_until(lambda: answering(balancer, key) == set(ADDRESSES), what="answers of three servers")
    for bad in ("[", "", '[{"url": "http://a", "wieght": 1}]'):
        before = balancer.log().count("The list of servers was rejected, nothing changes")
        write(file, bad, rename=False)
        wait_until(lambda: balancer.log().count("list of servers was rejected") > before, what="the refusal")
    assert f"{file}:1: [0].wieght: unknown key; did you mean 'weight'?" in balancer.log()
    assert answering(balancer, key) == set(ADDRESSES)
    write(file, [{"url": f"http://{place}", "name": f"s{number}"} for number, place in enumerate(places[1:])])
    wait_until(lambda: names(balancer) == ["s0", "s1"], what="two servers")
    wait_until(lambda: answering(balancer, key) == set(ADDRESSES[1:]), what="answers of two servers")
    statuses = steady.stop()
    assert set(statuses) == {200}
    write(file, [])
    wait_until(lambda: ask(balancer.port, "GET", "/", key=key).status == 503, what="no server")
    write(file, f"- {places[0]}\n")
    wait_until(lambda: ask(balancer.port, "GET", "/", key=key).status == 200, what="a server")


def test_list_that_comes_later(new_balancer: Start, fleet: int) -> None:
    """A list that does not exist yet is not an error; there are no servers until it does."""
    balancer = new_balancer("discover: {file: list.json}\n").start_not_ready()
    assert "the list of servers does not exist yet" in balancer.log()
    key = balancer.create_user("user1", 1000)
    assert ask(balancer.port, "GET", "/", key=key).status == 503
    write(balancer.directory / "list.json", [f"127.0.0.1:{fleet}"])
    wait_until(lambda: ask(balancer.port, "GET", "/", key=key).status == 200, what="a server")


def test_dead_address(name_server: NameServer, new_balancer: Start, fleet: int) -> None:
    """Of the addresses of a name, those that refuse connections are down, and the others serve all requests."""
    name_server.addresses["web.test"] = [ADDRESSES[0], "127.0.0.9"]
    yaml = "health_check: {path: /, interval: 200ms, timeout: 1s, fails: 1}\n"
    yaml += f"servers: [{{name: web, url: 'http://web.test:{fleet}'}}]\n"
    balancer = new_balancer(yaml, environment={"RESOLVER": name_server.place}).start()
    key = balancer.create_user("user1", 1_000_000, 1000)
    wait_until(lambda: f"server web@127.0.0.9:{fleet} is down" in balancer.log(), what="the dead one is down")
    assert answering(balancer, key) == {ADDRESSES[0]}
