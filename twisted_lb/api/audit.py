"""The audit log of the admin API: one entry for each change that an operator has made or attempted."""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import urandom
from typing import Any, Final, Protocol

from twisted.web.server import Request

from twisted_lb.wire.head import RequestHead

EVENT: Final = "admin_change"
ID_BYTES: Final = 16
READING: Final = (b"GET", b"HEAD")
# Attempts without a token that allows them.  Anybody who can connect to the listener can make these.
MAX_UNKNOWN: Final = 20  # entries in UNKNOWN_SECONDS
UNKNOWN_SECONDS: Final = 1.0


class Recording(Protocol):
    """Where entries go."""

    @property
    def problem(self) -> str:
        """Why they cannot be written at present, or an empty text."""

    def record(self, entry: Mapping[str, Any]) -> None:
        """Append an entry, which has plain values only; the time is added."""


class Attempt:
    """One request that is meant to change something; exactly one of `applied`, `refused` and `failed` is called."""

    def __init__(self, record: Callable[[Mapping[str, Any]], None], about: Mapping[str, Any]) -> None:
        self.request_id = urandom(ID_BYTES).hex()
        self.who: str | None = None  # the name of the token
        self._record = record
        self._about = about

    def about(self, **more: Any) -> None:
        """Add members that say what is to be changed."""
        self._about = {**self._about, **more}

    def applied(self, before: Mapping[str, Any], after: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """The change is in effect in all processes; `before` and `after` are empty if nothing differs."""
        self._end("applied" if before or after else "unchanged", **{**more, "before": before, "after": after})

    def refused(self, status: int, detail: str) -> None:
        """Nothing was changed."""
        self._end("refused", status=status, detail=detail)

    def failed(self, status: int = 500, detail: str = "There was an internal error; see the log.") -> None:
        """It is not known whether the change was made."""
        self._end("failed", status=status, detail=detail)

    def part(self, about: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Record one of several changes of this request: the creation of what `after` shows."""
        one = Attempt(self._record, {**self._about, **about})
        one.request_id, one.who = self.request_id, self.who
        one.applied({}, after, {})

    def _end(self, result: str, **more: Any) -> None:
        start = {"event": EVENT, "request_id": self.request_id, "who": self.who}
        self._record({**start, **self._about, **more, "result": result})


class Auditing:
    """Makes the entries.

    Those of attempts without a token that allows them are limited: after the first MAX_UNKNOWN within UNKNOWN_SECONDS,
    one entry has the number of all others.
    """

    def __init__(self, recording: Recording, reactor: Any) -> None:
        self._recording = recording
        self._reactor = reactor
        self._unknown = 0  # attempts since the period began
        self._began = -UNKNOWN_SECONDS

    def problem(self) -> str:
        """Why no change can be recorded at present, or an empty text."""
        return self._recording.problem

    def attempt(self, request: Request, action: str, about: Mapping[str, Any]) -> Attempt:
        """A request for a change; `about` says what is to be changed."""
        client = getattr(request.getClientAddress(), "host", "")
        return Attempt(self._record, {"client": client, "action": action, **about})

    def rejected(self, head: RequestHead, status: int, detail: str, client: str) -> None:
        """A request for a change was rejected before it was served."""
        if head.method in READING:
            return
        # Without the query, which no change has.
        path = head.target.partition(b"?")[0].decode("ascii", "backslashreplace")
        method = head.method.decode("ascii", "backslashreplace")
        about = {"client": client, "action": None, "method": method, "path": path}
        Attempt(self._record, about).refused(status, detail)

    def _record(self, entry: Mapping[str, Any]) -> None:
        if entry["who"] is None:
            now = self._reactor.seconds()
            if now - self._began >= UNKNOWN_SECONDS:
                self._unknown, self._began = 0, now
            self._unknown += 1
            if self._unknown > MAX_UNKNOWN:
                if self._unknown == MAX_UNKNOWN + 1:
                    self._reactor.callLater(self._began + UNKNOWN_SECONDS - now, self._record_number)
                return
        self._recording.record(entry)

    def _record_number(self) -> None:
        """Record the number, at the end of a period in which there were too many."""
        left_out, self._unknown = self._unknown - MAX_UNKNOWN, 0
        self._began = self._reactor.seconds()
        detail = f"{left_out} more attempts without a token that allows them were refused within a second."
        start = {"event": EVENT, "request_id": None, "who": None, "client": None, "action": None}
        self._recording.record({**start, "left_out": left_out, "detail": detail, "result": "refused"})


class NoRecording:
    """Discards entries: for a listener where nothing can be changed."""

    problem = "there is no audit log"

    def record(self, entry: Mapping[str, Any]) -> None:
        """See Recording."""
