"""The interface between the admin API and the program for changes of the configuration in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred

ADD: Final = "add"
SET: Final = "set"
REMOVE: Final = "remove"


class Change(NamedTuple):
    """A change of a server, or, where `server` is empty, of a pool."""

    action: str  # ADD, SET or REMOVE
    pool: str
    server: str
    keys: Mapping[str, Any]  # as in servers.yaml; None stands for the default


class Promotion(NamedTuple):
    """A shadow limit of servers.yaml is to be enforced."""

    kind: str  # of what has the limit: "route", "pool" or "all"
    owner: str  # the name of the route or the pool, or ""
    limit: str


class Changed(NamedTuple):
    """The result of a change: the keys whose values differ, with their values before and after.

    Both are empty if nothing differs.  `before` is empty if the server was added, `after` if it was removed.
    """

    server: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


class ChangeRefused(Exception):
    """A change that is not possible; nothing has changed."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


class Changing(Protocol):
    """The configuration in use."""

    def writes(self) -> str:
        """Where changes go: "live" or "file"."""

    def live_changes(self) -> list[dict[str, Any]]:
        """What differs from the file, until it is reloaded: `pool`, `server` or None, and keys `before` and `after`."""

    def pools(self) -> list[dict[str, Any]]:
        """The pools in their order: `name`, `balancer`, and `maintenance`: the seconds of Retry-After, or 0."""

    def server_names(self, pool: str) -> Sequence[str]:
        """The servers that the file has for a pool."""

    def routes(self) -> list[dict[str, Any]]:
        """The routes in their order, as /explain shows them, with `maintenance`: the seconds of Retry-After, or 0."""

    def limits(self) -> list[dict[str, Any]]:
        """The limits of servers.yaml: of routes, of pools, and of all routes, in this order, without levels.

        `bucket` is the key of the bucket, or None for a limit with several; `subjects` are those of its counts (see
        IUsageReport).
        """

    def change(self, change: Change) -> Deferred[Changed]:
        """Apply a change; fires when it is in effect in all processes.  Fails with ChangeRefused."""

    def promote(self, promotion: Promotion) -> Deferred[Changed]:
        """Enforce a shadow limit; fires and fails as `change` does."""
