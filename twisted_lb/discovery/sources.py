"""The sources of servers are watched: names and services at their TTL, lists as files.

The last answer of each is kept.  An error changes nothing, and neither does an answer without addresses: running
servers stay in use while a name server is unavailable or misconfigured, and those that do not run are found to be down.
Both are logged once, until there is another answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from twisted_lb.discovery.answers import LIST, SERVICE, Answers, RecentAnswers, counted_addresses
from twisted_lb.discovery.list_file import ListFile
from twisted_lb.network.dns_query import Answer
from twisted_lb.network.names import Names

SERVICE_SECONDS = 5.0  # the longest wait for SRV records
NAME_SECONDS = 1.0  # the longest wait for addresses; without them, a name is one server
MAX_ADDRESSES = 1000  # of one name, and SRV records of one service

_log = Logger()


class Sources:
    """The sources that are watched, and their answers."""

    def __init__(
        self,
        reactor: Any,
        answers: Answers,
        names: Names,
        services: Names,
        taken: Callable[[str], Collection[str]],
        changed: Callable[[], None],
    ) -> None:
        """`answers` are known already; `names` looks up addresses, and `services` SRV records.

        `taken` returns the names that the servers of a list must not have; `changed` is called when `answers` have
        changed.
        """
        self.answers = dict(answers)
        self._reactor = reactor
        self._names = names
        self._services = services
        self._taken = taken
        self._changed = changed
        self._lists: dict[str, ListFile] = {}
        self._watched: dict[str, _Watched] = {}
        self._waiting: list[tuple[set[str], Deferred[None]]] = []

    def watch(self, wanted: Mapping[str, float]) -> None:
        """Watch these and no others, and forget the answers of others.

        The values are the seconds after which a name is looked up again, whatever its TTL.
        """
        for source in self._lists.keys() - wanted.keys():
            self._lists.pop(source).stop()
        for source in self._watched.keys() - wanted.keys():
            self._watched.pop(source).stop()
        for source in self.answers.keys() - wanted.keys():
            del self.answers[source]
        for source, longest in wanted.items():
            if source.startswith(LIST):
                if source not in self._lists:
                    self._lists[source] = self._list(source)
                continue
            watched = self._watched.get(source)
            if watched is None:
                names = self._services if source.startswith(SERVICE) else self._names
                watched = self._watched[source] = _Watched(source, names, self._answered)
            watched.watch(longest)

    def stop(self) -> None:
        """Stop watching; the answers are kept."""
        for file in self._lists.values():
            file.stop()
        for watched in self._watched.values():
            watched.stop()
        self._lists.clear()
        self._watched.clear()

    def looked_up(self, sources: Iterable[str]) -> Deferred[Any]:
        """Fires when these were looked up, successfully or not, or when the time to wait for them is over."""
        missing = {source for source in sources if source in self._watched and not self._watched[source].looked_up}
        services = {source for source in missing if source.startswith(SERVICE)}
        return gatherResults([self._wait(services, SERVICE_SECONDS), self._wait(missing - services, NAME_SECONDS)])

    def _wait(self, missing: set[str], seconds: float) -> Deferred[None]:
        answered: Deferred[None] = Deferred()
        if not missing:
            answered.callback(None)
            return answered
        self._waiting.append((missing, answered))
        return answered.addTimeout(seconds, self._reactor, lambda result, seconds: None)

    def _list(self, source: str) -> ListFile:
        file_name = source.removeprefix(LIST)
        return ListFile(self._reactor, file_name, partial(self._taken, file_name), partial(self._use, source))

    def _answered(self, source: str, found: tuple[str, ...] | None) -> None:
        if found is not None:
            self._use(source, found)
        waiting, self._waiting = self._waiting, []
        for missing, answered in waiting:
            missing.discard(source)
            if missing:
                self._waiting.append((missing, answered))
            elif not answered.called:
                answered.callback(None)

    def _use(self, source: str, found: tuple[str, ...]) -> None:
        if self.answers.get(source) == found:
            return
        self.answers[source] = found
        self._changed()


class _Watched:
    """A name or a service."""

    def __init__(self, source: str, names: Names, answered: Callable[[str, tuple[str, ...] | None], None]) -> None:
        """`answered` is called with the source and its answer, or None if the previous one is kept."""
        self.looked_up = False  # a look-up has succeeded or failed
        self._source = source
        self._name = source.removeprefix(SERVICE)
        self._service = source.startswith(SERVICE)
        self._names = names
        self._answered = answered
        self._longest = 0.0
        self._recent = RecentAnswers(self._service)
        self._missing = False  # the last answer has no address
        self._count = 0  # of the valid addresses

    def watch(self, longest: float) -> None:
        if longest != self._longest:
            self._longest = longest
            self._names.watch(self._name, self._look_up_ended, longest)

    def stop(self) -> None:
        self._names.unwatch(self._name, self._look_up_ended)

    def _look_up_ended(self, answer: Answer | None) -> None:
        self.looked_up = True
        self._answered(self._source, None if answer is None else self._found(answer))

    def _found(self, answer: Answer) -> tuple[str, ...] | None:
        members = answer.addresses if self._service else counted_addresses(answer.addresses)
        if answer.local:
            # A name in the hosts file is one server.
            members = members[:1]
        if not members:
            if not self._missing:
                self._missing = True
                kept = "; its servers stay as they are" if self._count else ""
                _log.warn("The name {name} has no address{kept}", name=self._name, kept=kept)
            return None
        if not self._service and not answer.whole and ":" in members[0]:
            # IPv4 addresses may follow.
            return None
        if self._missing:
            self._missing = False
            _log.info("The name {name} has addresses again", name=self._name)
        found = self._recent.add(members)
        if len(found) > MAX_ADDRESSES >= self._count:
            text = "The name {name} has {count} addresses, of which {used} are used"
            _log.warn(text, name=self._name, count=len(found), used=MAX_ADDRESSES)
        self._count = len(found)
        return found[:MAX_ADDRESSES]
