"""How many requests were compared with shadows, and would have been refused, in one process since its start."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from twisted_lb.interfaces import SHADOW, ShadowDecision, is_of_user
from twisted_lb.limits.collected_counts import CollectedCounts
from twisted_lb.usage import with_policy

REQUESTS: Final = "shadow_requests"
WOULD_REFUSE: Final = "shadow_would_refuse"
# The counters of a subject, for counts by time.
ASKED: Final = "requests"
REFUSING: Final = "would_refuse"
_PLAIN: Final = "|:/*"
OF_USERS: Final = "users"  # all shadow policies of users together, as the owner


class ShadowCounts:
    """The numbers for each shadow limit of servers.yaml, and for the shadow policies of all users together."""

    __slots__ = ("_counts", "_subjects", "_collected")

    def __init__(self, collected: CollectedCounts) -> None:
        """`collected` gets the counts by time."""
        self._counts: dict[str, list[int]] = {}  # by the key of the rule: the requests, and those that would be refused
        self._subjects: dict[str, str] = {}  # by the key of the rule, without the policy
        self._collected = collected

    def add(self, decisions: tuple[ShadowDecision, ...]) -> None:
        """A request was admitted, and these are the decisions of its shadows."""
        collected = self._collected
        for shared, would_refuse in decisions:
            rule = shared.rule
            key = rule.key
            if is_of_user(shared):
                subject = key
                found = self._of(OF_USERS)
            else:
                subject = self._subjects.get(key) or self._subjects.setdefault(key, _quoted(key))
                found = self._of(key)
            subject = with_policy(subject, rule.capacity, rule.rate_per_sec)
            found[0] += 1
            collected.add(subject, ASKED, 1)
            if would_refuse:
                found[1] += 1
                collected.add(subject, REFUSING, 1)

    def _of(self, subject: str) -> list[int]:
        found = self._counts.get(subject)
        if found is None:
            found = self._counts[subject] = [0, 0]
        return found

    def numbers(self) -> dict[str, float]:
        """All numbers by name, for a report."""
        numbers: dict[str, float] = {}
        for subject, (requests, refused) in self._counts.items():
            limit, owner = limit_and_owner(subject)
            for name, number in ((REQUESTS, requests), (WOULD_REFUSE, refused)):
                # A limit for each key has two rules: the other one is for requests without a key.
                full = f"{name} {limit} {owner}"
                numbers[full] = numbers.get(full, 0) + number
        return numbers


def subject_of(key: str, capacity: int, rate_per_sec: float) -> str:
    """The subject of a limit of servers.yaml with this policy, by the key of its rule."""
    return with_policy(_quoted(key), capacity, rate_per_sec)


def _quoted(key: str) -> str:
    return quote(key, safe=_PLAIN)


def limit_and_owner(subject: str) -> tuple[str, str]:
    """The name and the owner of a limit, such as "route /v1/", from the key of its rule (see `app.limit_rules`)."""
    if subject == OF_USERS:
        return SHADOW, OF_USERS
    kind, owner, name = subject.removeprefix("limit:").split("|")[:3]
    return name, f"{kind} {owner}".rstrip()
