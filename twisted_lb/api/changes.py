"""What operators may change while the program runs, as the admin API and the program tell it to each other."""

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
    """What a change has changed: the keys with other values than before.

    Both are empty when everything was like that already; one is when the server was added or removed.
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
        """Those that hold until the file is reloaded: `pool`, `server` or None, and its keys `before` and `after`."""

    def pools(self) -> list[dict[str, Any]]:
        """The pools in their order: name, balancer and seconds of maintenance, or 0."""

    def server_names(self, pool: str) -> Sequence[str]:
        """The servers that the file has for a pool."""

    def routes(self) -> list[dict[str, Any]]:
        """The routes in their order, as /explain shows them, with the seconds of their own maintenance, or 0."""

    def limits(self) -> list[dict[str, Any]]:
        """The limits of servers.yaml, those of routes, pools and all routes, in their order, without levels.

        `bucket` is the key of the bucket, None where there are several; `subjects` are those of its counts.
        """

    def change(self, change: Change) -> Deferred[Changed]:
        """Apply a change; fires when it holds in all processes.  Fails with ChangeRefused."""

    def promote(self, promotion: Promotion) -> Deferred[Changed]:
        """Enforce a shadow limit; likewise."""
