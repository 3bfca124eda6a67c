"""Fixtures: servers, stores and balancers, all real.  Whatever is started here ends with its test or module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.dns_server import NameServer
from tests.integration.origin import Servers
from tests.integration.processes import Balancer
from tests.integration.raw_server import RawServer
from tests.integration.redis_server import MISSING, RedisServer

WITHOUT_REDIS = pytest.mark.skipif(bool(MISSING), reason=MISSING)
STORES = ["embedded", pytest.param("redis", marks=WITHOUT_REDIS)]

Start = Callable[..., Balancer]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test here that fails is repeated once: it has real processes, on a machine that others may load.

    The summary at the end has each one that was repeated, with its first failure.  That is a defect to be mended.
    """
    for item in items:
        # --pdb wants the first failure, and nothing repeated.
        if item.path.is_relative_to(HERE) and not config.getoption("usepdb"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """Three servers, named server1 to server3."""
    servers = Servers(3).start()
    yield servers
    servers.stop()


@pytest.fixture(scope="module")
def raw() -> Iterator[RawServer]:
    """One server that answers with bytes of the test's choice."""
    server = RawServer().start()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=STORES)
def store_options(request: Any) -> Iterator[tuple[str, ...]]:
    """Options of the balancer for each kind of store."""
    if request.param == "embedded":
        yield ()
        return
    redis = RedisServer()
    try:
        redis.start()
        yield ("--redis-url", redis.url)
    finally:
        redis.close()


@pytest.fixture(params=["one process", pytest.param("two workers", marks=WITHOUT_REDIS)])
def processes(request: pytest.FixtureRequest) -> Iterator[tuple[str, ...]]:
    """Options of the balancer for one process with the embedded store, or for two workers on Redis."""
    if request.param == "one process":
        yield ()
        return
    redis = RedisServer()
    try:
        redis.start()
        yield ("--redis-url", redis.url, "--workers", "2")
    finally:
        redis.close()


@pytest.fixture(scope="module")
def balancer(servers: Servers, store_options: tuple[str, ...]) -> Iterator[Balancer]:
    """A balancer for the three servers, with each kind of store in turn."""
    # A server that a test takes away is used again soon after.
    balancer = Balancer(servers.yaml() + "ejection: {base_time: 100ms}\n", *store_options)
    try:
        yield balancer.start()
        assert_calm(balancer)
    finally:
        balancer.close()


@pytest.fixture(autouse=True)
def all_servers_run(request: Any) -> None:
    """A test may stop servers; the next one finds all running, and their counts at zero."""
    if "servers" in request.fixturenames:
        servers = request.getfixturevalue("servers")
        servers.start()
        servers.release()
        servers.forget()


@pytest.fixture
def new_balancer() -> Iterator[Start]:
    """Makes balancers, which are a test's own and not started: new_balancer(servers_yaml, *options, environment={})."""
    made: list[Balancer] = []

    def new(*arguments: Any, **more: Any) -> Balancer:
        made.append(Balancer(*arguments, **more))
        return made[-1]

    try:
        yield new
        for balancer in made:
            assert_calm(balancer)
    finally:
        for balancer in made:
            balancer.close()


@pytest.fixture
def new_servers() -> Iterator[Callable[..., Servers]]:
    """Makes servers, which are a test's own and started: new_servers(count, **behaviour)."""
    made: list[Servers] = []

    def new(*arguments: Any, **more: Any) -> Servers:
        made.append(Servers(*arguments, **more).start())
        return made[-1]

    try:
        yield new
    finally:
        for servers in made:
            servers.stop()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A redis-server of a test's own, not started yet."""
    if MISSING:
        pytest.skip(MISSING)
    server = RedisServer(appendonly=True)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def name_server() -> Iterator[NameServer]:
    """A name server that knows what the test tells it."""
    server = NameServer()
    yield server
    server.close()


def assert_calm(balancer: Balancer) -> None:
    """Nothing that a balancer met was a surprise to it."""
    log = balancer.log()
    assert "Traceback" not in log and "Unhandled" not in log, log
