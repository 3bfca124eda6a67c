"""What is known of the sources of servers: names, services and lists; no I/O.

Answers are plain texts, which can be sent to other processes: the addresses of a name, SRV records as in a zone file
(`10 5 8000 node1.example.com`), and the servers of a list as JSON objects.  They are in an order of their own, so that
equal answers make equal servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from twisted_lb.backend import place_of

# What a source is: a name in lower case, a service or the path of a list with its kind before it.
SERVICE: Final = "srv "
LIST: Final = "file "

# Some name servers return a part of the addresses in each answer: one is gone after so many without it.
RECENT_ANSWERS: Final = 3

# The answer of each source.  One that has not answered is missing.
Answers = Mapping[str, tuple[str, ...]]
NO_ANSWERS: Final[Answers] = {}


class Record(NamedTuple):
    """An SRV record."""

    priority: int
    weight: int
    port: int
    target: str

    @property
    def place(self) -> str:
        """Host and port."""
        return place_of(self.target, self.port)


def read_record(text: str) -> Record:
    """The SRV record in a text as in a zone file."""
    priority, weight, port, target = text.split()
    return Record(int(priority), int(weight), int(port), target.lower().rstrip("."))


def counted_addresses(addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses of a name that are servers: those of IPv4, or of IPv6 where there is none; in order."""
    found = list(dict.fromkeys(addresses))
    counted = [one for one in found if ":" not in one] or found
    return tuple(sorted(counted, key=lambda one: ip_address(one).packed))


class RecentAnswers:
    """The last answers to one name or service that hold."""

    def __init__(self, service: bool) -> None:
        self._service = service
        self._recent: list[frozenset[str]] = []  # the last one first
        self._texts: dict[str, str] = {}

    def add(self, answer: Iterable[str]) -> tuple[str, ...]:
        """The addresses or records that hold after another answer, which has at least one."""
        # A record with another weight is the same server.
        now = {read_record(text).place: text for text in answer} if self._service else {text: text for text in answer}
        self._recent = kept(self._recent, now)
        texts = {**self._texts, **now}
        self._texts = {place: texts[place] for place in frozenset[str]().union(*self._recent)}
        if self._service:
            return tuple(sorted(self._texts.values(), key=read_record))
        return counted_addresses(self._texts)


def kept(recent: list[frozenset[str]], answer: Iterable[str], most: int = RECENT_ANSWERS) -> list[frozenset[str]]:
    """The answers that hold, after another one: its own members are used, and those of the earlier ones that hold.

    `recent` are those that held until now, the last one first.  An answer that has other members than the one before
    does not end those that are missing from it, before `most` answers are without them.  One that only lacks some, or
    has no member of the one before, is taken as it is.
    """
    now = frozenset(answer)
    if not recent or now < recent[0] or now.isdisjoint(recent[0]):
        return [now]
    return [now, *recent][:most]
