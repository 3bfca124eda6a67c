"""Changes of the state of one server, or of all: log lines, as a format and its fields."""

from __future__ import annotations

from typing import NamedTuple

from twisted_lb.backend import Backend

SUBJECT = "server {server} is "


class News(NamedTuple):
    """One change of state."""

    backend: Backend | None  # None: it is about all servers
    format: str  # of the line, with the names of fields as in str.format
    fields: dict[str, object]

    @property
    def text(self) -> str:
        """The line."""
        return self.format.format(**self.fields)

    @property
    def state(self) -> str:
        """The line without its subject, as a server's `reason` in `GET /servers`."""
        return self.format.removeprefix(SUBJECT).format(**self.fields)


def server_news(backend: Backend, state: str, reason: str) -> News:
    """A server is in this state, for this reason."""
    fields: dict[str, object] = {"server": backend.name, "state": state, "reason": reason}
    return News(backend, SUBJECT + "{state}: {reason}", fields)


def ejected(backend: Backend, seconds: float, reason: str) -> News:
    """A server is ejected for some time."""
    fields: dict[str, object] = {"server": backend.name, "state": "ejected", "seconds": seconds, "reason": reason}
    return News(backend, SUBJECT + "{state} for {seconds:g} s: {reason}", fields)


def spared(backend: Backend, reason: str, rule: str) -> News:
    """A server should be ejected, but a rule prevents it."""
    fields: dict[str, object] = {"server": backend.name, "state": "used", "reason": reason, "rule": rule}
    return News(backend, SUBJECT + "{state} although {reason}; {rule}", fields)


def with_slow_start(news: News, seconds: float) -> News:
    """The server reaches its full weight after this time."""
    return News(news.backend, news.format + "; slow start of {slowstart:g} s", {**news.fields, "slowstart": seconds})


def panic(backups: bool, healthy: int, total: int, threshold: float) -> News:
    """So few servers are healthy that all are used."""
    text = "{state}: {healthy} of {total} {servers} healthy, less than {threshold:.0%}; all are used"
    fields = {**_counts(backups, healthy, total), "state": "panic", "threshold": threshold}
    return News(None, text, fields)


def panic_is_over(backups: bool, healthy: int, total: int) -> News:
    """Enough servers are healthy again."""
    text = "{state}: {healthy} of {total} {servers} healthy"
    return News(None, text, {**_counts(backups, healthy, total), "state": "panic is over"})


def _counts(backups: bool, healthy: int, total: int) -> dict[str, object]:
    return {"healthy": healthy, "total": total, "servers": "backup servers" if backups else "servers"}
