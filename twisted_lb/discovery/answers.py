"""What is known about the sources of servers: names, services and lists; no I/O.

Answers are plain texts, which can be sent to other processes: the addresses of a name, SRV records as in a zone file
(`10 5 8000 node1.example.com`), and the servers of a list as JSON objects.  Their order is fixed, so that equal
answers give equal servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

from twisted_lb.backend import place_of

# A source is a name in lower case, or a service or the path of a list after its prefix.
SERVICE: Final = "srv "
LIST: Final = "file "

# Some name servers return only some of the addresses in each answer: an address is dropped after this many without it.
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
    """The addresses of a name that become servers: the IPv4 addresses, or without any, the IPv6 addresses; sorted."""
    found = list(dict.fromkeys(addresses))
    counted = [one for one in found if ":" not in one] or found
    return tuple(sorted(counted, key=lambda one: ip_address(one).packed))


class RecentAnswers:
    """The latest answers for one name or service that are still valid."""

    def __init__(self, service: bool) -> None:
        self._service = service
        self._recent: list[frozenset[str]] = []  # the last one first
        self._texts: dict[str, str] = {}

    def add(self, answer: Iterable[str]) -> tuple[str, ...]:
        """The addresses or records that are valid after another answer, which has at least one."""
        # A record with another weight is the same server.
        now = {read_record(text).place: text for text in answer} if self._service else {text: text for text in answer}
        self._recent = kept(self._recent, now)
        texts = {**self._texts, **now}
        self._texts = {place: texts[place] for place in frozenset[str]().union(*self._recent)}
        if self._service:
            return tuple(sorted(self._texts.values(), key=read_record))
        return counted_addresses(self._texts)


def kept(recent: list[frozenset[str]], answer: Iterable[str], most: int = RECENT_ANSWERS) -> list[frozenset[str]]:
    """The answers that are valid after another one; the members of all of them are used.

    `recent` are those that were valid until now, the latest first.  An answer that only lacks members of the previous
    one, or has none of them, replaces all earlier answers.  After any other, the members that it lacks stay valid until
    `most` answers have lacked them.
    """
    now = frozenset(answer)
    if not recent or now < recent[0] or now.isdisjoint(recent[0]):
        return [now]
    return [now, *recent][:most]
