"""Servers that are given by name: name servers that do not answer, names that move, addresses that do not respond."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.names import dns

from tests.integration.conftest import Start
from tests.integration.dns_server import NameServer
from tests.integration.origin import Servers
from tests.integration.processes import WAIT_SECONDS, Answer, Balancer, ask, wait_until
from tests.integration.redis_server import free_port

# Within a time is what was so once: the machine may have other things to do.
TRIES = 3


@pytest.fixture
def two() -> Iterator[Servers]:
    """Two servers that listen on one port, at 127.0.0.1 and at 127.0.0.2."""
    servers = Servers(1).start()
    yield servers
    servers.stop()


def pool(**urls: str) -> str:
    return "servers:\n" + "".join(f"- {{name: {name}, url: 'http://{url}'}}\n" for name, url in urls.items())


def timed(balancer: Balancer, key: str, path: str = "/") -> tuple[Answer, float]:
    began = time.monotonic()
    return ask(balancer.port, "GET", path, key=key), time.monotonic() - began


class Here:
    """A server that answers with its address, and counts connections."""

    def __init__(self, host: str, port: int = 0) -> None:
        self.connections = 0
        self._host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # A port of the kernel's choice may be in use at the other addresses, where some servers have the same.
        self.port = port or free_port()
        self._listening = socket.create_server((host, self.port), family=family)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        body = self._host.encode()
        with connection:
            try:
                while connection.recv(65536):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            except OSError:
                return


@pytest.fixture
def here() -> Iterator[Callable[..., Here]]:
    """Starts servers: here(host, port)."""
    made: list[Here] = []

    def start(host: str, port: int = 0) -> Here:
        made.append(Here(host, port))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_silent_name_server(name_server: NameServer, new_balancer: Start, servers: Servers) -> None:
    """With a name server that never answers, requests for a dead name end in time, and disturb no healthy server."""
    name_server.silent = True
    yaml = "health_check: {path: /, interval: 200ms, timeout: 30s}\nejection: false\n"
    yaml += pool(dead="nowhere.example:80", good=servers[0].url.removeprefix("http://"))
    settings = {"RESOLVER": name_server.place, "CONNECT_TIMEOUT": "1s"}
    balancer = new_balancer(yaml, environment=settings).start()
    key = balancer.create_user("user1", 10_000)
    longest = []
    for _ in range(TRIES):
        answers: list[tuple[Answer, float]] = []
        asking = [threading.Thread(target=lambda: answers.append(timed(balancer, key))) for _ in range(120)]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
        assert [answer.status for answer, _ in answers] == [200] * 120
        longest.append(max(seconds for _, seconds in answers))
        if longest[-1] < 2.5:
            break
    assert min(longest) < 2.5, longest
    assert "server good is down" not in balancer.log()
    balancer.terminate()
    assert balancer.wait() == 0


def test_many_dead_names(name_server: NameServer, new_balancer: Start, servers: Servers) -> None:
    """Where most names are not resolved, requests reach the servers that are there, and these are never down."""
    name_server.silent = True
    good = {f"good{number}": origin.url.removeprefix("http://") for number, origin in enumerate(servers, 1)}
    yaml = "health_check: {path: /, interval: 1s, timeout: 30s}\n"
    yaml += pool(**{f"dead{number}": f"nowhere{number}.example:80" for number in range(130)}, **good)
    settings = {"RESOLVER": name_server.place, "CONNECT_TIMEOUT": "1s"}
    times = []
    for _ in range(TRIES):
        balancer = new_balancer(yaml, environment=settings).start()
        key = balancer.create_user("user1", 10_000)
        found = [timed(balancer, key) for _ in range(30)]
        assert [answer.status for answer, _ in found] == [200] * 30
        assert "server good" not in balancer.log()
        times.append([seconds for _, seconds in found])
        if in_time(times[-1]):
            break
    assert in_time(times[-1]), times


def in_time(seconds: list[float]) -> bool:
    """Whether the first requests find out which servers are there, and the others know."""
    return max(seconds) < 4 and max(seconds[10:]) < 1


def test_few_open_files(name_server: NameServer, new_balancer: Start, servers: Servers) -> None:
    """Look-ups of many names that get no answer leave most of few open files to the traffic."""
    name_server.silent = True
    yaml = pool(**{f"dead{number}": f"nowhere{number}.example:80" for number in range(200)})
    yaml += f"- {{name: good, url: '{servers[0].url}', weight: 100}}\n"
    balancer = new_balancer(yaml, environment={"RESOLVER": name_server.place}, max_files=512).start()
    key = balancer.create_user("user1", 10_000)
    most = 0
    end = time.monotonic() + 6
    while time.monotonic() < end:
        assert timed(balancer, key)[0].status == 200
        most = max(most, len(list(Path(f"/proc/{balancer.pid}/fd").iterdir())))
    assert most < 200
    assert "Servers cannot be reached" not in balancer.log()


def test_only_a_dead_name(name_server: NameServer, new_balancer: Start) -> None:
    """A request whose only server cannot be resolved is answered within CONNECT_TIMEOUT, with 503 and a token back."""
    name_server.silent = True
    settings = {"RESOLVER": name_server.place, "CONNECT_TIMEOUT": "1s"}
    balancer = new_balancer(pool(dead="nowhere.example:80"), environment=settings).start()
    key = balancer.create_user("user1", 5, 0)
    found = [timed(balancer, key) for _ in range(2)]
    assert [answer.status for answer, _ in found] == [503, 503]
    assert min(seconds for _, seconds in found) < 4.5
    assert balancer.tokens(key) == 5


@pytest.mark.parametrize("way", ["udp", "tcp", "ipv6", "second", "refused first", "broken first"])
def test_ways_to_ask(way: str, name_server: NameServer, new_balancer: Start, servers: Servers) -> None:
    """Names are resolved by UDP and TCP, over IPv6, and by the next name server when the first is of no help."""
    first = NameServer("::1" if way == "ipv6" else "127.0.0.1")
    try:
        first.silent = way == "second"
        first.long = way == "tcp"
        first.code = dns.ESERVER if way == "broken first" else dns.OK
        place = f"127.0.0.1:{free_port()}" if way == "refused first" else first.place
        for one in (first, name_server):
            one.addresses["my_server.example"] = ["127.0.0.1"]
        resolver = place if way in ("udp", "tcp", "ipv6") else f"{place} {name_server.place}"
        yaml = pool(a=f"my_server.example:{servers[0].port}")
        balancer = new_balancer(yaml, environment={"RESOLVER": resolver}).start()
        assert ask(balancer.port, "GET", "/", key=balancer.create_user("user1")).status == 200
    finally:
        first.close()


def test_name_servers_go_away(name_server: NameServer, new_balancer: Start, here: Callable[..., Here]) -> None:
    """While the name servers are away the last addresses serve on, and the log says so once."""
    one = here("127.0.0.1")
    name_server.addresses["api.example"] = ["127.0.0.1"]
    settings = {"RESOLVER": name_server.place, "UPSTREAM_MAX_AGE": "200ms", "CONNECT_TIMEOUT": "30s"}
    balancer = new_balancer(pool(a=f"api.example:{one.port}"), environment=settings).start()
    key = balancer.create_user("user1", 1000)
    assert ask(balancer.port, "GET", "/", key=key).status == 200
    name_server.code = dns.ESERVER
    end = time.monotonic() + 3
    while time.monotonic() < end or (one.connections <= 5 and time.monotonic() < end + WAIT_SECONDS):
        answer, seconds = timed(balancer, key)
        assert (answer.status, seconds < 25) == (200, True)
        time.sleep(0.05)
    assert balancer.log().count("cannot be resolved") == 1
    assert one.connections > 5


def test_name_that_moves(name_server: NameServer, new_balancer: Start, here: Callable[..., Here]) -> None:
    """Under steady load a name that moves is followed within its TTL, and no request is lost."""
    one = here("127.0.0.1")
    here("127.0.0.2", one.port)
    name_server.ttl = 5
    name_server.addresses["api.example"] = ["127.0.0.1"]
    balancer = new_balancer(pool(a=f"api.example:{one.port}"), environment={"RESOLVER": name_server.place}).start()
    key = balancer.create_user("user1", 10_000)
    assert ask(balancer.port, "GET", "/", key=key).body == b"127.0.0.1"
    name_server.addresses["api.example"] = ["127.0.0.2"]
    began = time.monotonic()
    while (answer := ask(balancer.port, "GET", "/", key=key)).body == b"127.0.0.1":
        assert answer.status == 200
        assert time.monotonic() - began < WAIT_SECONDS
        time.sleep(0.05)
    assert answer.body == b"127.0.0.2"


def test_age_of_a_connection(new_balancer: Start, here: Callable[..., Here]) -> None:
    """A kept connection under steady load is replaced at its age."""
    one = here("127.0.0.1")
    balancer = new_balancer(pool(a=f"127.0.0.1:{one.port}"), environment={"UPSTREAM_MAX_AGE": "500ms"}).start()
    key = balancer.create_user("user1", 10_000)
    began = time.monotonic()
    while time.monotonic() < began + 2:
        assert ask(balancer.port, "GET", "/", key=key).status == 200
    assert 2 <= one.connections <= 2 + (time.monotonic() - began) / 0.5


@pytest.fixture
def swallowed() -> Iterator[int]:
    """A port on which 127.0.0.2 and 127.0.0.3 take no SYN: their queues are full; 127.0.0.1 is free."""
    sockets: list[socket.socket] = []
    port = free_port()
    for host in ("127.0.0.2", "127.0.0.3"):
        listening = socket.socket()
        sockets.append(listening)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((host, port))
            sockets.append(filler)
    yield port
    for one in sockets:
        one.close()


def test_dead_addresses(
    name_server: NameServer, new_balancer: Start, here: Callable[..., Here], swallowed: int
) -> None:
    """Of three addresses of one server two swallow everything, which costs half a second in all; its checks pass."""
    one = here("127.0.0.1", swallowed)
    name_server.ttl = 60
    name_server.addresses["api.example"] = ["127.0.0.2", "127.0.0.3", "127.0.0.1"]
    yaml = "health_check: {path: /, interval: 300ms, timeout: 30s}\n"
    yaml += f"servers: [{{name: a, url: 'http://api.example:{swallowed}', expand: false}}]\n"
    settings = {"RESOLVER": name_server.place, "UPSTREAM_IDLE_CONNECTIONS": "0"}
    balancer = new_balancer(yaml, environment=settings).start()
    key = balancer.create_user("user1", 10_000)
    times = []
    for _ in range(20):
        answer, seconds = timed(balancer, key)
        assert answer.status == 200
        times.append(seconds)
    # Each dead address costs a quarter of a second, once: each time, that would be 10 seconds.
    assert sum(times) < 5.0
    wait_until(lambda: name_server.asked["api.example"])
    # Checks come, each on a connection of its own.
    before = one.connections
    wait_until(lambda: one.connections > before + 3, what="checks")
    assert " is down" not in balancer.log()


def test_long_ttl_of_a_name_that_moves(
    name_server: NameServer, new_balancer: Start, here: Callable[..., Here]
) -> None:
    """A name whose address takes no connection is looked up again at once, whatever its TTL was."""
    one = here("127.0.0.1")
    name_server.ttl = 600
    name_server.addresses["api.example"] = ["127.0.0.3"]
    yaml = "ejection: false\n" + pool(a=f"api.example:{one.port}")
    balancer = new_balancer(yaml, environment={"RESOLVER": name_server.place}).start()
    key = balancer.create_user("user1", 10_000)
    assert ask(balancer.port, "GET", "/", key=key).status == 503
    name_server.addresses["api.example"] = ["127.0.0.1"]
    wait_until(lambda: ask(balancer.port, "GET", "/", key=key).status == 200, what="the new address")
