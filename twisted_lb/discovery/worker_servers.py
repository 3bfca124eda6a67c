"""The servers of a worker, which gets the answers of all sources from its parent: all workers have the same servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.discovery.expansion import expanded, expanded_in_steps
from twisted_lb.steps import run_in_turns

# As decoded from JSON.
JsonAnswers = Mapping[str, Iterable[str]]


class ServersOfWorker:
    """The configuration, and the answers of the sources that it leads to."""

    def __init__(self, reactor: Any, configured: GatewaySpec, answers: JsonAnswers) -> None:
        self._reactor = reactor
        self._configured = configured
        self._answers = _tuples(answers)
        self.spec = expanded(configured, self._answers).spec

    async def use(
        self, configured: GatewaySpec | None, answers: JsonAnswers, change: Callable[[GatewaySpec], Deferred[str]]
    ) -> None:
        """Apply another configuration or the current one, and the answers that have changed, with `change`.

        Calls must not overlap.
        """
        self._answers.update(_tuples(answers))
        wanted = configured or self._configured
        found = await run_in_turns(self._reactor, expanded_in_steps(wanted, self._answers))
        await change(found.spec)
        self._configured = wanted
        self._answers = {source: self._answers[source] for source in found.sources if source in self._answers}


def _tuples(answers: JsonAnswers) -> dict[str, tuple[str, ...]]:
    return {source: tuple(texts) for source, texts in answers.items()}
