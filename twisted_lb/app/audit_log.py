"""The audit log: one line of JSON for each change that an operator has made over the admin API, or tried to make.

With AUDIT_LOG, lines are written like those of the access log, in a thread, and the file is opened again on SIGUSR1;
otherwise they are events of the program's log, with the field `audit`.  A line that cannot be written now, or ever, is
written to the program's log in full: no line is lost.  While lines cannot be written, `problem` is set, and no changes
are accepted.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_lb.access_log.destinations import read_destination
from twisted_lb.access_log.writer import Writer, described
from twisted_lb.app.access_log import when_ended
from twisted_lb.app.services import CannotStart
from twisted_lb.repeated import Repeated

LOOK_SECONDS = 1.0
NOT_WRITTEN = "A line of the audit log was not written{why}: {line}"

_log = Logger()


class AuditLog(Service):
    """See api.audit.Recording."""

    def __init__(self, reactor: Any, place: str, wall_clock: Callable[[], float] = time.time) -> None:
        """`place` is that of AUDIT_LOG; `wall_clock` returns the seconds since 1970."""
        self._reactor = reactor
        self._place = place
        self._wall_clock = wall_clock
        self._writer = Writer(read_destination(place)) if place else None
        self._unwritten: deque[str] = deque()  # lines that the writer had not written yet at the last check
        self._put = 0  # lines that it was given
        self._told = 0  # the first of these that was not logged as one that could not be written
        self._looks = Repeated(reactor, self.look, "the watch of the audit log")

    def startService(self) -> None:
        """Open the file.  Raises CannotStart."""
        super().startService()
        if self._writer is None:
            return
        try:
            self._writer.start()
        except OSError as error:
            raise CannotStart(f"AUDIT_LOG: {self._place!r}: it cannot be opened: {described(error)}") from None
        self._looks.start(LOOK_SECONDS)

    def stopService(self) -> Deferred[None] | None:
        """Write what waits; fires when that is done, or has taken too long."""
        super().stopService()
        self._looks.stop()
        if self._writer is None:
            return None
        self._writer.stop()
        return when_ended(self._reactor, self._writer).addCallback(self._ended)

    def _ended(self, _: None) -> None:
        self._tell_unwritten()

    def look(self) -> None:
        """Log the lines that cannot be written: the program may be killed before that is possible again."""
        if self.problem:
            self._tell_unwritten()

    def _tell_unwritten(self) -> None:
        self._forget_written()
        first = self._put - len(self._unwritten)
        for line in islice(self._unwritten, max(0, self._told - first), None):
            _log.error(NOT_WRITTEN, line=line, why=f" ({self.problem})" if self.problem else "")
        self._told = self._put

    @property
    def problem(self) -> str:
        """See Recording."""
        return self._writer.problem if self._writer is not None else ""

    def record(self, entry: Mapping[str, Any]) -> None:
        """See Recording."""
        stamp = datetime.fromtimestamp(self._wall_clock(), UTC).isoformat(timespec="milliseconds")
        stamped = {"time": stamp.replace("+00:00", "Z"), **entry}
        line = json.dumps(stamped, separators=(",", ":"))
        if self._writer is None:
            _log.info("audit: {line}", line=line, audit=stamped)
            return
        self._forget_written()
        if self._writer.put(line.encode() + b"\n", 1):
            self._put += 1
            self._unwritten.append(line)
        else:
            _log.error(NOT_WRITTEN, line=line, why="")

    def _forget_written(self) -> None:
        assert self._writer is not None
        while self._unwritten and self._put - len(self._unwritten) < self._writer.written:
            self._unwritten.popleft()

    def reopen(self) -> None:
        """Open the file again: it was renamed."""
        if self._writer is not None:
            self._writer.reopen()
