"""Keeps the servers of the pools up to date with what their sources answer.

1. The names, services and lists that the configuration leads to are watched (`sources`).
2. When an answer has changed, the servers are computed anew from the configuration and all answers (`expansion`), and
   applied like another configuration.  Changes of both kinds go through one lock, one at a time.
3. Clients are served, and another configuration is applied, only when its new sources have been looked up, or after
   some seconds: so its servers are known for the first request, and before others are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.settings import Misconfigured
from twisted_lb.discovery.answers import Answers
from twisted_lb.discovery.expansion import Expansion, expanded_in_steps
from twisted_lb.discovery.list_file import names_beside, read_lists_in_steps
from twisted_lb.discovery.sources import Sources
from twisted_lb.listed import listed
from twisted_lb.network.names import Names
from twisted_lb.steps import run_in_turns

SHOWN_NAMES = 10  # in a message
SETTLE_SECONDS = 0.05  # after a change, in which others may follow

_log = Logger()
_bounded = BoundedLog(_log)


class Found(NamedTuple):
    """What is to be applied."""

    configured: GatewaySpec
    spec: GatewaySpec  # the same with the servers that were found
    answers: Answers  # from which it was made
    text: str | None  # of servers.yaml, when that has changed


# Applies it, and returns a description of the changes; raises Misconfigured, and then nothing has changed.
Apply = Callable[[Found], Deferred[str]]


class Discovery(Service):
    """The servers that are found for one configuration, which may be replaced by others."""

    def __init__(
        self, reactor: Any, spec: GatewaySpec, answers: Answers, names: Names, services: Names, apply: Apply
    ) -> None:
        """`spec` is the current configuration as in the file; its servers were made from `answers`.

        `names` looks up addresses, and `services` SRV records.
        """
        self.started: Deferred[None] = Deferred()  # fires when the sources were looked up, or could not be
        self._reactor = reactor
        self._spec = spec
        self._used = spec  # with the servers that are in use
        self._watched: dict[str, float] = {}
        self._apply = apply
        self._settling: IDelayedCall | None = None
        self._lock = DeferredLock()
        self._sources = Sources(reactor, answers, names, services, self._names_beside, self._answers_changed)

    def startService(self) -> None:
        """Begin to watch."""
        super().startService()
        self._locked(self._start).addErrback(self._failed)

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._sources.stop()

    def use(self, spec: GatewaySpec, text: str) -> Deferred[str]:
        """Apply another configuration; a description of the changes.  Fails with Misconfigured: nothing has changed."""
        return self._locked(lambda: self._use(spec, text))

    def _locked(self, act: Callable[[], Coroutine[Deferred[Any], Any, Any]]) -> Deferred[Any]:
        return self._lock.run(lambda: Deferred.fromCoroutine(act()))

    async def _start(self) -> None:
        try:
            found = await self._found(self._spec)
            self._used = found.spec
            self._watch(found.sources)
            await self._sources.looked_up(found.sources)
            await self._refresh()
            # The targets of SRV records.
            await self._sources.looked_up(self._watched.keys() - found.sources.keys())
            await self._refresh()
        finally:
            self.started.callback(None)

    async def _use(self, spec: GatewaySpec, text: str) -> str:
        before, known = self._watched, self._sources.answers
        try:
            lists = await run_in_turns(self._reactor, read_lists_in_steps(spec, known))
            known.update(lists.answers)
            found = await self._found(spec)
            _check_names(found, spec)
            if self.running:
                self._watch({**before, **found.sources})
                await self._sources.looked_up(found.sources.keys() - before.keys())
                found = await self._found(spec)
            description = await self._applied(spec, found, text)
        except BaseException:
            self._watch(before)
            raise
        self._watch(found.sources)
        for notice in lists.notices:
            _log.warn("{notice}", notice=notice)
        return description

    async def _refresh(self) -> None:
        """Apply the current answers."""
        found = await self._found(self._spec)
        if not self.running:
            return
        # The targets of SRV records are names as well.
        self._watch(found.sources)
        if found.spec == self._used:
            return
        description = await self._applied(self._spec, found, None)
        _bounded.info(
            "found", "Other servers were found: {description}", description=description, servers=len(found.spec.servers)
        )

    async def _applied(self, spec: GatewaySpec, found: Expansion, text: str | None) -> str:
        known = self._sources.answers
        answers = {source: known[source] for source in found.sources if source in known}
        description = await self._apply(Found(spec, found.spec, answers, text))
        self._spec = spec
        self._used = found.spec
        return description

    def _watch(self, sources: dict[str, float]) -> None:
        self._watched = sources
        if self.running:
            self._sources.watch(sources)

    def _found(self, spec: GatewaySpec) -> Deferred[Expansion]:
        return run_in_turns(self._reactor, expanded_in_steps(spec, self._sources.answers))

    def _names_beside(self, file_name: str) -> frozenset[str]:
        return names_beside(self._spec, file_name)

    def _answers_changed(self) -> None:
        if self._settling is None and self.running:
            self._settling = self._reactor.callLater(SETTLE_SECONDS, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self._locked(self._refresh).addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if isinstance(failure.value, Misconfigured):
            problems = "; ".join(failure.value.problems)
            _bounded.error("rejected", "The servers that were found cannot be used: {problems}", problems=problems)
        else:
            _bounded.failure("failed", "The servers that were found could not be used", failure)


def _check_names(found: Expansion, spec: GatewaySpec) -> None:
    """Raise Misconfigured if a server of the configuration and one of a list have the same name."""
    for pool in spec.pools:
        wrong = found.listed.get(pool.name, frozenset()) & {server.name for server in pool.servers}
        if wrong:
            names = listed(sorted(wrong), SHOWN_NAMES)
            raise Misconfigured([f"{pool.discover.file}: servers in this list have the names of others: {names}"])


def in_one_process(reactor: Any, spec: GatewaySpec, answers: Answers, serving: Any) -> Discovery:
    """The discovery of the process that serves clients itself; these wait for the first look-ups."""

    def apply(found: Found) -> Deferred[str]:
        applied: Deferred[str] = serving.gateway.change_in_turns(found.spec)
        return applied

    discovery = Discovery(reactor, spec, answers, serving.names, serving.services, apply)
    serving.store.started.addCallback(lambda _: discovery.started)
    return discovery
