"""Hooks in real processes: what they answer and change, whatever they raise, and reloads."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, ask_on, wait_until
from tests.integration.test_reload import rewrite

HOOKS = """
import asyncio
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted_lb.interfaces import HookResponse, IHooks
from zope.interface import implementer

KINDS = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, ValueError)
KINDS = {kind.__name__: kind for kind in KINDS}

def act(target):
    \"\"\"Do what the path says, as in /received/SystemExit.\"\"\"
    where, _, what = target.decode().strip("/").partition("/")
    return where, what

@implementer(IHooks)
class Hostile:
    def __init__(self, name="first"):
        self.name = name.encode()

    def request_received(self, request):
        where, what = act(request.target)
        request.fields.set(b"X-Hooks", self.name)
        if where == "received":
            raise KINDS[what]("on purpose")
        if where == "later":
            return self.fail_later(what)
        if where == "never":
            return Deferred()
        if where == "wait":
            return deferLater(reactor, float(what), lambda: None)
        if where == "own":
            return HookResponse(403, [(b"X-Why", b"because")], b"no")
        if where == "wrong":
            return 403

    async def fail_later(self, what):
        await deferLater(reactor, 0.001, lambda: None)
        raise KINDS[what]("on purpose")

    def server_chosen(self, request, backend):
        where, what = act(request.target)
        if where == "chosen":
            raise KINDS[what]("on purpose")

    def response_started(self, request, backend, response):
        where, what = act(request.target)
        if where == "started":
            raise KINDS[what]("on purpose")
        response.fields.set(b"X-Answered-By", self.name + b" " + backend.name.encode())

    def request_finished(self, record):
        where, what = act(record.target)
        if where == "finished":
            raise KINDS[what]("on purpose")

class Unmarked:
    def request_finished(self, record):
        pass
"""
KINDS = ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError", "ValueError")
STATUSES = (("received", 500), ("later", 500), ("chosen", 200), ("started", 500), ("finished", 200))
# Of those, the ones whose tokens are refunded.
REFUNDED = 2


def yaml_of(servers: Servers, hooks: str = "hostile_hooks:Hostile") -> str:
    return f"hooks: '{hooks}'\n{servers.yaml()}"


@pytest.fixture
def not_calm() -> Iterator[Start]:
    """Makes balancers whose logs may have tracebacks."""
    made: list[Balancer] = []

    def new(*arguments: Any, **more: Any) -> Balancer:
        made.append(Balancer(*arguments, **more))
        return made[-1]

    yield new
    for balancer in made:
        balancer.close()


def started(new_balancer: Start, text: str, *options: str, **environment: str) -> Balancer:
    balancer = new_balancer(text, *options, environment=environment)
    (balancer.directory / "hostile_hooks.py").write_text(HOOKS)
    return balancer.start()


def test_nothing_passes(not_calm: Start, servers: Servers, processes: tuple[str, ...]) -> None:
    """Whatever hooks raise, the client is answered, its connection goes on, and tokens are refunded as they should."""
    balancer = started(not_calm, yaml_of(servers), *processes, HOOK_TIMEOUT="500ms")
    key = balancer.create_user("user1", 10_000, 0)
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    rounds = 10
    for _ in range(rounds):
        for kind in KINDS:
            for where, status in STATUSES:
                assert ask_on(connection, "GET", f"/{where}/{kind}", key=key).status == status, (where, kind)
        assert ask_on(connection, "GET", "/wrong", key=key).status == 500
        answer = ask_on(connection, "POST", "/own", b"content", key=key)
        assert (answer.status, answer.body, answer.fields["X-Why"]) == (403, b"no", "because")
        answer = ask_on(connection, "GET", "/", key=key)
        assert answer.status == 200 and answer.fields["X-Answered-By"].startswith("first server")
    assert ask_on(connection, "GET", "/never", key=key).status == 504
    assert ask_on(connection, "GET", "/wait/0.01", key=key).status == 200
    connection.close()
    spent = rounds * ((len(STATUSES) - REFUNDED) * len(KINDS) + 2) + 1
    wait_until(lambda: balancer.tokens(key) == 10_000 - spent, what="the tokens")
    assert balancer.log().count("on purpose") > 0
    assert all(server.seen for server in servers)
    assert {seen.field("X-Hooks") for server in servers for seen in server.seen} == {"first"}
    balancer.terminate()
    assert balancer.wait() == 0


def test_client_leaves(new_balancer: Start, servers: Servers) -> None:
    """The tokens of clients that leave while hooks wait are refunded."""
    balancer = started(new_balancer, yaml_of(servers), HOOK_TIMEOUT="60s")
    key = balancer.create_user("user1", 100, 0)
    connections = [http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60) for _ in range(5)]
    for connection in connections:
        connection.request("GET", "/never", headers={"Authorization": key})
    wait_until(lambda: balancer.tokens(key) == 95, what="the tokens are taken")
    for connection in connections:
        connection.close()
    wait_until(lambda: balancer.tokens(key) == 100, what="the tokens are refunded")


def test_reload(new_balancer: Start, servers: Servers) -> None:
    """Requests that have begun keep their hooks; a class that cannot be loaded is an error with its line."""
    options = "hooks:\n  name: hostile_hooks:Hostile\n  %s\n"
    text = options.replace("%s", "# first") + servers.yaml()
    balancer = started(new_balancer, text)
    key = balancer.create_user("user1", 100, 0)
    found: list[str] = []

    def ask_slowly() -> None:
        found.append(ask(balancer.port, "GET", "/wait/3", key=key).fields["X-Answered-By"].split()[0])

    slow = threading.Thread(target=ask_slowly)
    slow.start()
    wait_until(lambda: balancer.tokens(key) == 99, what="the request has begun")
    file = balancer.directory / "servers.yaml"
    file.write_text("\n" + text.replace("Hostile", "Unmarked"))
    expected = "servers.yaml:2: hooks: hostile_hooks:Unmarked: the class does not provide IHooks"
    wait_until(lambda: expected in balancer.log(), what="the error")
    assert ask(balancer.port, "GET", "/", key=key).fields["X-Answered-By"].startswith("first ")
    (balancer.directory / "other_hooks.py").write_text(HOOKS.replace('"first"', '"second"'))
    rewrite(balancer, text.replace("hostile_hooks", "other_hooks"))
    assert ask(balancer.port, "GET", "/", key=key).fields["X-Answered-By"].startswith("second ")
    slow.join(60)
    assert found == ["first"]
    rewrite(balancer, servers.yaml())
    assert ask(balancer.port, "GET", "/", key=key).fields["X-Answered-By"] is None


def test_start(new_balancer: Start, servers: Servers, tmp_path: Path) -> None:
    """At the start and in a check, hooks that cannot be loaded are an error with file, line and class."""
    (tmp_path / "hostile_hooks.py").write_text(HOOKS)
    file = tmp_path / "servers.yaml"
    file.write_text(
        f"pools:\n  p: {{hooks: 'no_such:Hooks', servers: [{{url: '{servers[0].url}'}}]}}\n"
        f"  q: {{hooks: 'hostile_hooks:Missing', servers: [{{url: '{servers[0].url}'}}]}}\n"
        "routes:\n- {pool: p, path: /a}\n- pool: q\n  hooks: {name: 'hostile_hooks:Hostile', what: 1}\n"
    )
    problems = (
        ":2: pools.p.hooks: no_such:Hooks: there is no module no_such",
        ":3: pools.q.hooks: hostile_hooks:Missing: the module hostile_hooks",
        ":7: routes[1].hooks: hostile_hooks:Hostile does not take these options",
    )
    for options in (["--check"], []):
        ended = new_balancer("", "--servers", str(file), *options).run_to_end()
        assert ended.status == 1, ended.output
        assert [problem for problem in problems if f"{file}{problem}" not in ended.output] == [], ended.output


def test_stop(new_balancer: Start, servers: Servers) -> None:
    """At the stop a request that waits for hooks has DRAIN_SECONDS."""
    balancer = started(new_balancer, yaml_of(servers), HOOK_TIMEOUT="60s", DRAIN_SECONDS="1")
    key = balancer.create_user("user1", 100, 0)
    connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=60)
    connection.request("GET", "/never", headers={"Authorization": key})
    wait_until(lambda: balancer.tokens(key) == 99, what="the request has begun")
    began = time.monotonic()
    balancer.terminate()
    assert balancer.wait() == 0
    assert time.monotonic() - began < 30
    connection.close()
