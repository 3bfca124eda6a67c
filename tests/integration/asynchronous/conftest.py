"""Tests that are coroutines, with treq as the client: Twisted's own agent on a real reactor, with kept connections.

pytest-twisted runs the reactor for them.  Where it runs, test cases of trial cannot wait for a Deferred, so it is off
by default, and this directory has an invocation of its own: `pytest -p twisted tests/integration/asynchronous`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

Ask = Callable[..., Awaitable[Any]]

SECONDS = 60


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without pytest-twisted nobody would wait for these tests."""
    return None if config.pluginmanager.hasplugin("twisted") else True


try:
    from pytest_twisted import async_yield_fixture
except ImportError:
    # Then nothing here is collected.
    pass
else:

    @async_yield_fixture
    async def ask() -> AsyncIterator[Ask]:
        """One request: `await ask(method, url, key, ...)` and what treq.request takes; its response."""
        import treq
        from twisted.internet import reactor
        from twisted.web.client import Agent, HTTPConnectionPool

        pool = HTTPConnectionPool(reactor, persistent=True)
        pool.maxPersistentPerHost = 10
        agent = Agent(reactor, pool=pool)

        async def ask(method: str, url: str, key: str = "", **more: Any) -> Any:
            headers = {"Authorization": key} if key else {}
            return await treq.request(method, url, headers=headers, agent=agent, timeout=SECONDS, **more)

        yield ask
        await pool.closeCachedConnections()
