"""servers.yaml of the running program: mistakes that keep it from starting, and a balancer of the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import ask

GOOD = 'servers:\n  - {name: server1, url: "http://127.0.0.1:9"}\n'

# Chooses by the path, and takes the others when that server is away.
OWN_BALANCER = '''\
from twisted_lb.interfaces import IBalancer
from zope.interface import implementer


@implementer(IBalancer)
class ByPath:
    def __init__(self, shift=0):
        self._shift = shift
        self._backends = []

    def backends_changed(self, backends):
        self._backends = backends

    def choices(self, request):
        start = int(request.target.rpartition(b"/")[2]) + self._shift
        for step in range(len(self._backends)):
            yield self._backends[(start + step) % len(self._backends)]
'''


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "balancr: round_robin\n" + GOOD.replace("http://", "ftp://").replace("}", ", weight: heavy, colour: red}"),
            [
                *("servers.yaml:1: balancr", "did you mean 'balancer'?", "servers.yaml:3: servers[0].url", "ftp://"),
                *("servers[0].weight", "'heavy'", "servers[0].colour"),
            ],
        ),
        (
            "pools:\n"
            "  a: {balancer: round_robbin, servers: [{url: 'http://127.0.0.1:9'}]}\n"
            "  b: {balancer: 'nowhere.at_all:Own', servers: [{url: 'http://127.0.0.1:9'}]}\n"
            "routes: [{pool: a}, {path: /b/, pool: b}]\n",
            [
                *("servers.yaml:2: ", "'round_robbin'", "did you mean round_robin?"),
                *("servers.yaml:3: ", "there is no module nowhere beside the servers"),
            ],
        ),
    ],
)
def test_a_mistake_is_named(new_balancer: Start, text: str, said: list[str]) -> None:
    """A start with a bad file ends with status 1 and one text, with file, line and key of each mistake."""
    ended = new_balancer(text).run_to_end()
    assert ended.status == 1
    assert ended.output.count("twisted_lb cannot start") == 1, ended.output
    for words in said:
        assert words in ended.output


def test_a_mistake_in_the_env_file_is_named(new_balancer: Start) -> None:
    """A name in .env that is nearly a setting's, and a value that is none, are named with their lines."""
    balancer = new_balancer(GOOD)
    (balancer.directory / ".env").write_text("CONECT_TIMEOUT=5\nUPSTREAM_TIMEOUT=never\n")
    ended = balancer.run_to_end()
    assert ended.status == 1
    assert ".env line 1: CONECT_TIMEOUT" in ended.output and "UPSTREAM_TIMEOUT (.env line 2)" in ended.output


def test_the_announcement_says_where_it_listens(new_balancer: Start) -> None:
    """The log of a start has the public and the admin address, the servers, and a curl line to try."""
    balancer = new_balancer(GOOD).start()
    log = balancer.log()
    assert balancer.url in log and balancer.admin_url in log and "server1 http://127.0.0.1:9" in log
    assert f"curl {balancer.url}/user/create" in log


def chosen(port: int, key: str) -> list[bytes]:
    """Who answers for the paths /0 to /5."""
    return [ask(port, "GET", f"/{number}", key=key).body.split()[1] for number in range(6)]


def test_a_balancer_of_the_users_own(new_balancer: Start, servers: Servers, tmp_path: Path) -> None:
    """`module:Class` with an option, from a file beside servers.yaml, wherever the program is started, chooses."""
    (tmp_path / "by_path.py").write_text(OWN_BALANCER)
    (tmp_path / "servers.yaml").write_text(servers.yaml("{name: by_path:ByPath, shift: 1}"))
    balancer = new_balancer("", "--servers", str(tmp_path / "servers.yaml")).start()
    key = balancer.create_user("user1", 100)
    assert chosen(balancer.port, key) == [b"server2", b"server3", b"server1"] * 2
    servers[2].stop()
    assert chosen(balancer.port, key) == [b"server2", b"server1", b"server1"] * 2
