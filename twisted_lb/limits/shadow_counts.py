"""How many requests shadows were asked for, and how many they would have refused, by one process since its start."""

from __future__ import annotations

from typing import Final

from twisted_lb.interfaces import SHADOW, ShadowDecision, is_of_user

REQUESTS: Final = "shadow_requests"
WOULD_REFUSE: Final = "shadow_would_refuse"
OF_USERS: Final = "users"  # all shadow policies of users together, as the owner


class ShadowCounts:
    """The numbers: for each limit of servers.yaml, and for those of all users together."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}  # by owner and limit: the requests, and those that would be refused

    def add(self, decisions: tuple[ShadowDecision, ...]) -> None:
        """A request was admitted, and these are the decisions of its shadows."""
        for shared, would_refuse in decisions:
            rule = shared.rule
            found = self._of(OF_USERS if is_of_user(shared) else rule.key)
            found[0] += 1
            found[1] += would_refuse

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
                # A limit per key has another rule for requests without a key.
                full = f"{name} {limit} {owner}"
                numbers[full] = numbers.get(full, 0) + number
        return numbers


def limit_and_owner(subject: str) -> tuple[str, str]:
    """The name of a limit, and whose it is, such as "route /v1/", from the key of its rule (see `app.limit_rules`)."""
    if subject == OF_USERS:
        return SHADOW, OF_USERS
    kind, owner, name = subject.removeprefix("limit:").split("|")[:3]
    return name, f"{kind} {owner}".rstrip()
