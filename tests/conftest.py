"""For pytest only: what trial does by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Files that take the longest: they are begun first, so that at the end no process works alone on one of them.  Those
# that make a load stand apart from each other, between others that wait most of the time.
LONG = (
    "integration/test_exactness.py",
    "integration/test_workers.py",
    "integration/test_clock.py",
    "integration/test_redis_rejoin.py",
    "integration/test_names_of_servers.py",
    "integration/test_endpoints.py",
    "integration/test_openapi.py",
    "integration/test_discovery.py",
    "integration/test_hostile_plugins.py",
    "integration/test_cli.py",
    "integration/test_faults.py",
    "integration/test_tls_servers.py",
    "integration/test_wire_cases.py",
    "integration/test_early_answers.py",
    "integration/test_store_faults.py",
    "integration/test_outages.py",
    "integration/test_slow_peers.py",
    "integration/test_discovered_servers.py",
    "integration/test_health.py",
    "integration/test_without_epoll.py",
    "integration/test_quotas.py",
    "integration/test_redis_sentinel.py",
    "integration/test_crash_of_users.py",
    "integration/test_idle_memory.py",
    "integration/test_tls_certificates.py",
    "integration/test_reload.py",
    "integration/test_memory.py",
    "integration/test_what_operators_see.py",
    "integration/test_pools.py",
    "integration/test_reload_of_many.py",
    "integration/test_usage.py",
    "integration/test_redis_far_away.py",
    "integration/test_keys_in_use.py",
    "integration/test_websocket.py",
)
HERE = os.path.dirname(os.path.abspath(__file__))


@pytest.fixture(scope="session", autouse=True)
def working_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests run in a directory of their own, where trial's `mktemp` may leave files."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("run"))
    yield
    os.chdir(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then those of the integration tests, then the unit tests, which are short."""
    items.sort(key=lambda item: _place(os.path.relpath(item.path, HERE)))


def _place(file: str) -> int:
    if file in LONG:
        return LONG.index(file)
    return len(LONG) + (not file.startswith("integration/"))
