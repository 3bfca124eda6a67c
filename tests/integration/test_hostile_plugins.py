"""Classes of the user's own that raise any exception; and a process whose poller fails."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Start
from tests.integration.origin import Servers
from tests.integration.processes import Balancer, ask, wait_until
from tests.integration.redis_server import RedisServer

HOSTILE = '''
import asyncio, sys
from twisted_lb.balancers.round_robin import RoundRobin
from twisted_lb.interfaces import IResponseFields
from zope.interface import implementer

KINDS = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, ValueError)
KINDS = {kind.__name__: kind for kind in KINDS}

def act(request):
    """Do what the path says, as in /choices/SystemExit."""
    where, _, what = request.target.decode().strip("/").partition("/")
    return where, what

@implementer(IResponseFields)
class Hostile(RoundRobin):
    def choices(self, request):
        where, what = act(request)
        if where == "choices":
            raise KINDS[what]("on purpose")
        if where == "poller":
            request._client.transport.reactor._epoll.close()
        chosen = super().choices(request)
        try:
            yield next(chosen)
            yield from chosen
        finally:
            if where == "end":
                raise KINDS[what]("on purpose")

    def response_fields(self, request, backend):
        where, what = act(request)
        if where == "fields":
            raise KINDS[what]("on purpose")
        return "text" if where == "text" else []

class Prices:
    def cost(self, request):
        where, what = act(request)
        if where == "cost":
            raise KINDS[what]("on purpose")
        return 1

    def settle(self, request, response):
        where, what = act(request)
        if where == "settle":
            raise KINDS[what]("on purpose")

class Refuses(RoundRobin):
    def __init__(self):
        sys.exit(0)
'''
KINDS = ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError", "ValueError")
PLUGINS = 'balancer: "hostile:Hostile"\npricing: "hostile:Prices"\n'


def lose_poller(balancer: Balancer, key: str) -> None:
    """Have the class close the poller's descriptor."""
    with contextlib.suppress(OSError):
        ask(balancer.port, "GET", "/poller", key=key, seconds=5)


def yaml_of(servers: Servers) -> str:
    lines = servers.yaml().splitlines(keepends=True)
    return PLUGINS + "".join(line for line in lines if not line.startswith("balancer"))


@pytest.fixture
def hostile(servers: Servers) -> Iterator[Balancer]:
    """A balancer with hostile classes."""
    balancer = Balancer(yaml_of(servers))
    (balancer.directory / "hostile.py").write_text(HOSTILE)
    yield balancer
    balancer.close()


def test_nothing_passes(hostile: Balancer) -> None:
    """Whatever the classes raise, the client is answered, others go on, and the log says it once a second."""
    hostile.start()
    key = hostile.create_user("user1", 1000, 0)
    began = time.monotonic()
    for _ in range(20):
        for kind in KINDS:
            for where, status in (("choices", 500), ("cost", 500), ("fields", 200), ("settle", 200), ("end", 200)):
                assert ask(hostile.port, "GET", f"/{where}/{kind}", key=key).status == status, (where, kind)
        assert ask(hostile.port, "GET", "/text", key=key).status == 200
        assert ask(hostile.port, "GET", "/", key=key).status == 200
    seconds = time.monotonic() - began
    tracebacks = hostile.log().count("Traceback")
    time.sleep(1.0)
    assert ask(hostile.port, "GET", "/choices/SystemExit", key=key).status == 500
    # 20 rounds, of 3 requests of each kind with an answer of a server, and of two others.
    assert hostile.tokens(key) == 1000 - 20 * (3 * len(KINDS) + 2)
    # Of 500; each of the five methods has some causes.
    assert tracebacks < 10 * (seconds + 2)
    wait_until(lambda: "more since the last such line" in hostile.log(), what="a line with a count")
    hostile.terminate()
    assert hostile.wait() == 0


def test_lost_poller(hostile: Balancer) -> None:
    """A process that loses its poller says so as critical and ends with status 1, its accounts written."""
    hostile.start()
    key = hostile.create_user("user1", 1000, 0)
    assert ask(hostile.port, "GET", "/", key=key).status == 200
    lose_poller(hostile, key)
    assert hostile.wait() == 1
    assert "#critical] The epoll set of the data path was lost: the process ends" in hostile.log()
    hostile.start()
    assert hostile.tokens(key) in (998, 999)


def test_lost_poller_of_a_worker(redis: RedisServer, servers: Servers) -> None:
    """A worker that loses its poller ends, and the parent starts another."""
    redis.start()
    balancer = Balancer(yaml_of(servers), "--redis-url", redis.url, "--workers", "2")
    (balancer.directory / "hostile.py").write_text(HOSTILE)
    try:
        balancer.start()
        key = balancer.create_user("user1", 1000, 0)
        lose_poller(balancer, key)
        wait_until(lambda: "ended with exit status 1; it is restarted" in balancer.log(), what="the end of a worker")
        wait_until(lambda: balancer.log().count("is process") >= 3, what="another worker")
        assert ask(balancer.port, "GET", "/", key=key).status == 200
        balancer.process.send_signal(signal.SIGTERM)
        assert balancer.wait() == 0
    finally:
        balancer.close()


def test_exit_at_the_start(servers: Servers, new_balancer: Start, tmp_path: Path) -> None:
    """A class that calls sys.exit(0) when it is made is an error that names it, at the start and in a reload."""
    (tmp_path / "hostile.py").write_text(HOSTILE)
    file = tmp_path / "servers.yaml"
    refuses = servers.yaml("hostile:Refuses")
    file.write_text(refuses)
    ended = new_balancer("", "--servers", str(file)).run_to_end()
    assert ended.status == 1 and "hostile:Refuses rejected its options: SystemExit: 0" in ended.output
    ended = new_balancer("", "--servers", str(file), "--check").run_to_end()
    assert ended.status == 1 and "hostile:Refuses rejected its options" in ended.output
    file.write_text(servers.yaml())
    balancer = new_balancer("", "--servers", str(file)).start()
    file.write_text(refuses)
    wait_until(lambda: "hostile:Refuses rejected its options" in balancer.log(), what="a line about the class")
    assert ask(balancer.port, "GET", "/", key=balancer.create_user("user1")).status == 200
