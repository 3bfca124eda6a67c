"""Another configuration for all workers, or for none.

The parent applies it to pools of its own first, which validates it.  A worker may reject it nevertheless: a class of
the user's own, such as a balancer, decides by itself in each process.  Then all get back what they had.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_lb.app.gateway import Gateway
from twisted_lb.app.workers.supervisor import Workers
from twisted_lb.config.server_tls import files_of
from twisted_lb.config.settings import Misconfigured
from twisted_lb.discovery.service import Found

_log = Logger()


class ChangeOfWorkers:
    """Applies configurations, see discovery.service.Apply.  Calls must not overlap."""

    def __init__(self, gateway: Gateway, workers: Workers, present: Found) -> None:
        """`present` is what the workers begin with, with its text."""
        self._gateway = gateway
        self._workers = workers
        self._present = present

    def use(self, found: Found) -> Deferred[str]:
        """Apply it to all workers.  Fails with Misconfigured: nothing has changed."""
        return Deferred.fromCoroutine(self._use(found))

    async def _use(self, found: Found) -> str:
        said = await self._gateway.change_in_turns(found.spec)
        problems = await self._told(found)
        if problems:
            # With the text: a worker that has begun meanwhile has the other one.
            await self._gateway.change_in_turns(self._present.spec)
            remaining = await self._told(self._present)
            for problem in remaining:
                _log.error("The former configuration is not in use: {problem}", problem=problem)
            raise Misconfigured(problems)
        text = self._present.text if found.text is None else found.text
        self._present = found._replace(text=text)
        return said

    async def _told(self, found: Found) -> list[str]:
        """The problems of the workers that do not use it."""
        servers = [(pool.name, server.name, server.url) for pool in found.spec.pools for server in pool.servers]
        used: Deferred[Any] = self._workers.use(found.text, servers, files_of(found.configured), found.answers)
        problems: list[str] = await used
        return problems
