"""Servers that are found, as servers: what they keep, how they leave, TLS, and what an operator sees of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.integration.conftest import Start
from tests.integration.dns_server import NameServer
from tests.integration.origin import Origin, Servers
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.redis_server import free_port
from tests.integration.test_discovery import names, write
from tests.integration.test_metrics import metrics, readiness
from tests.integration.test_names_of_servers import Here, swallowed
from tests.integration.test_reload import shown
from tests.integration.test_tls_servers import NewOrigin, authority, directory, new_origin
from tests.stores.certificates import Authority

__all__ = ["authority", "directory", "new_origin", "swallowed"]  # fixtures

SERVICE = "_http._tcp.app.test"


def records(servers: Iterable[Origin]) -> list[str]:
    """SRV records of servers on this machine."""
    return [f"0 1 {server.port} node.test" for server in servers]


def found_names(servers: Iterable[Origin]) -> set[str]:
    return {f"app@node.test:{server.port}" for server in servers}


def answers(balancer: Balancer, key: str, count: int = 10) -> Counter[str]:
    found = [ask(balancer.port, "GET", "/", key=key) for _ in range(count)]
    assert {answer.status for answer in found} == {200}
    return Counter(answer.body.split()[1].decode() for answer in found)


def start(new_balancer: Start, name_server: NameServer, yaml: str = "", **more: str) -> tuple[Balancer, str]:
    """A balancer and a key of it."""
    name_server.addresses["node.test"] = ["127.0.0.1"]
    yaml = yaml or f"servers: [{{name: app, url: 'srv+http://{SERVICE}'}}]\n"
    balancer = new_balancer(yaml, environment={"RESOLVER": name_server.place, **more}).start()
    return balancer, balancer.create_user("user1", 1_000_000, 1000)


def test_what_stays(name_server: NameServer, new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """While others come and go, a server keeps its connection and its counts; one that leaves ends what it has."""
    one, two, three = servers = new_servers(3)
    name_server.addresses[SERVICE] = records([one, two])
    balancer, key = start(new_balancer, name_server)
    assert answers(balancer, key) == {one.name: 5, two.name: 5}
    servers.hold()
    with ThreadPoolExecutor(2) as clients:
        held = [clients.submit(ask, balancer.port, "GET", "/held", None, key) for _ in range(2)]
        wait_until(lambda: servers.paths().count("/held") == 2, what="a request at each")
        name_server.addresses[SERVICE] = records([one, three])
        wait_until(lambda: set(names(balancer)) == found_names([one, three]), what="the others")
        (leaving,) = found_names([two])
        assert shown(balancer)[leaving]["reason"] == "removed"
        servers.release()
        assert [request.result(60).status for request in held] == [200, 200]
    assert answers(balancer, key) == {one.name: 5, three.name: 5}
    assert one.connections == 1
    assert shown(balancer)[f"app@node.test:{one.port}"]["requests"] == 11
    wait_until(lambda: two.closed == two.connections, what="its connections are closed")
    wait_until(lambda: set(shown(balancer)) == found_names([one, three]), what="nothing is left of it")
    here = {labels[-1] for name, *labels in metrics(balancer) if name.startswith("tokenlb_server_")}
    assert here == found_names([one, three])


def test_health_stays(name_server: NameServer, new_balancer: Start, new_servers: Callable[..., Servers]) -> None:
    """A server that is down is down also after the others have changed."""
    one, two, three = new_servers(3)
    two.stop()
    name_server.addresses[SERVICE] = records([one, two])
    yaml = f"health_check: {{path: /, interval: 200ms, fails: 1}}\nservers: [{{name: app, url: 'srv+http://{SERVICE}'}}]\n"
    balancer, key = start(new_balancer, name_server, yaml)
    (dead,) = found_names([two])
    wait_until(lambda: shown(balancer)[dead]["state"] == "down", what="it is down")
    name_server.addresses[SERVICE] = records([one, two, three])
    wait_until(lambda: set(names(balancer)) == found_names([one, two, three]), what="three servers")
    assert shown(balancer)[dead]["state"] == "down"
    assert balancer.log().count(f"server {dead} is down") == 1
    assert set(answers(balancer, key)) == {one.name, three.name}


def test_tls(name_server: NameServer, new_balancer: Start, new_origin: NewOrigin, authority: Authority) -> None:
    """A certificate must be for the domain of the service, which is also the server name; the target does not count."""
    good = [new_origin(f"good{number}", "app.test") for number in range(2)]
    bad = new_origin("bad", "node.test", "127.0.0.1")
    name_server.addresses[SERVICE] = records([*good, bad])
    yaml = f"tls: {{ca_file: {authority.ca_file}}}\nejection: false\n"
    balancer, key = start(new_balancer, name_server, yaml + f"servers: [{{name: app, url: 'srv+https://{SERVICE}'}}]\n")
    assert len(names(balancer)) == 3
    assert set(answers(balancer, key)) == {"good0", "good1"}
    assert {handshake.server_name for origin in good for handshake in origin.handshakes} == {"app.test"}
    assert bad.seen == []


def test_tls_of_a_name(
    name_server: NameServer, new_balancer: Start, new_origin: NewOrigin, authority: Authority
) -> None:
    """Of a name with several addresses the certificate must be for the name."""
    origin = new_origin("server1", "web.test")
    name_server.addresses["web.test"] = ["127.0.0.1", "127.0.0.9"]
    yaml = f"tls: {{ca_file: {authority.ca_file}}}\n"
    yaml += f"servers: [{{name: web, url: 'https://web.test:{origin.port}'}}]\n"
    balancer, key = start(new_balancer, name_server, yaml)
    wait_until(lambda: len(names(balancer)) == 2, what="two servers")
    assert answers(balancer, key) == {"server1": 10}
    assert {handshake.server_name for handshake in origin.handshakes} == {"web.test"}


def test_ipv6(name_server: NameServer, new_balancer: Start) -> None:
    """Addresses of IPv6 are servers; one that cannot be reached does not fail a request."""
    here = Here("::1")
    name_server.addresses["web.test"] = ["::1", "::9"]
    yaml = f"servers: [{{name: web, url: 'http://web.test:{here.port}'}}]\n"
    balancer, key = start(new_balancer, name_server, yaml, CONNECT_TIMEOUT="1s")
    wait_until(lambda: names(balancer) == [f"web@[::{one}]:{here.port}" for one in (1, 9)], what="two servers")
    assert [ask(balancer.port, "GET", "/", key=key).body for _ in range(10)] == [b"::1"] * 10
    here.close()


def test_swallowed(name_server: NameServer, new_balancer: Start, swallowed: int) -> None:
    """Addresses that take no connection are down, and cost nothing from then on."""
    here = Here("127.0.0.1", swallowed)
    name_server.addresses["web.test"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    yaml = "health_check: {path: /, interval: 200ms, timeout: 500ms, fails: 1}\n"
    yaml += f"servers: [{{name: web, url: 'http://web.test:{swallowed}'}}]\n"
    balancer, key = start(new_balancer, name_server, yaml, CONNECT_TIMEOUT="1s")
    up = f"web@127.0.0.1:{swallowed}"

    def available() -> list[str]:
        return [name for name, one in shown(balancer).items() if one["state"] == "up"]

    wait_until(lambda: available() == [up], what="two are down")
    assert [ask(balancer.port, "GET", "/", key=key).status for _ in range(20)] == [200] * 20
    assert f"server {up} is down" not in balancer.log()
    here.close()


def test_a_thousand_addresses(name_server: NameServer, new_balancer: Start) -> None:
    """A name with a thousand addresses has a thousand servers; most of them leave, without a failed request."""
    here = Here("0.0.0.0")
    many = [f"127.0.{number // 250 + 1}.{number % 250 + 1}" for number in range(1000)]
    name_server.addresses["web.test"] = many
    balancer, key = start(new_balancer, name_server, f"servers: [{{name: web, url: 'http://web.test:{here.port}'}}]\n")
    wait_until(lambda: len(names(balancer)) == 1000, what="a thousand servers")
    assert {ask(balancer.port, "GET", "/", key=key).status for _ in range(50)} == {200}
    name_server.addresses["web.test"] = many[:3]
    wait_until(lambda: len(names(balancer)) == 3, what="three servers")
    assert {ask(balancer.port, "GET", "/", key=key).status for _ in range(50)} == {200}
    here.close()


def test_what_an_operator_sees(
    name_server: NameServer, new_balancer: Start, new_servers: Callable[..., Servers]
) -> None:
    """/explain has the servers that were found, and /readyz names a pool that has none."""
    one, two = new_servers(2)
    name_server.addresses[SERVICE] = records([one, two])
    yaml = (
        f"pools:\n  app: {{servers: [{{name: app, url: 'srv+http://{SERVICE}'}}]}}\n"
        "  listed: {discover: {file: l.json}}\n"
        "routes: [{path: /listed/, pool: listed}, {pool: app}]\n"
    )
    balancer, _ = start(new_balancer, name_server, yaml)
    status, reason = readiness(balancer)
    assert (status, reason["degraded"]) == (200, True)
    assert "listed" in reason["reason"]
    explained = json.loads(ask(balancer.admin_port, "GET", "/explain?method=GET&path=/x").body)
    assert (explained["pool"], {server["name"] for server in explained["servers"]}) == ("app", found_names([one, two]))
    write(balancer.directory / "l.json", [one.url])
    wait_until(lambda: not readiness(balancer)[1]["degraded"], what="all pools have servers")


def test_check(new_balancer: Start) -> None:
    """--check reads the lists, and shows their servers."""
    balancer = new_balancer("discover: {file: list.json}\n", "--check")
    ended = balancer.run_to_end()
    assert ended.status == 0
    assert "list.json: the list of servers does not exist yet" in ended.output
    write(balancer.directory / "list.json", [f"127.0.0.1:{free_port()}", {"url": "http://b.test", "name": "b"}])
    ended = balancer.run_to_end()
    assert ended.status == 0
    assert re.search(r"discover +the servers in .*list\.json\n", ended.output)
    assert "b, http://b.test, weight 1" in ended.output
    write(balancer.directory / "list.json", '["http://b/path"]')
    ended = balancer.run_to_end()
    assert ended.status == 1
    assert "list.json:1: [0].url: " in ended.output
