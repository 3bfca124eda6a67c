"""Logs failures of requests to servers: the first one of each kind at once, further ones as a number.

A kind is a server and a cause.  Further ones within SUMMARY_SECONDS are summed up in one line at the end of this time.
"""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from twisted_lb.deadlines import NEVER, Sweeper

SUMMARY_SECONDS: Final = 5.0
MAX_KINDS: Final = 1000  # in one summary; causes may contain what servers have sent

_log = Logger(__name__)


class FailureLog:
    """Watched by the sweeper while there is something to sum up."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.deadline = NEVER
        self._sweeper = sweeper
        self._counts: dict[tuple[str, str], int] = {}  # of those that were not logged yet
        sweeper.watched.add(self)

    def note(self, server: str, cause: str) -> None:
        """A request to this server ("" if there was none) has failed."""
        kind = server, cause
        counts = self._counts
        if kind in counts:
            counts[kind] += 1
        elif len(counts) < MAX_KINDS:
            counts[kind] = 0
            if self.deadline == NEVER:
                self.deadline = self._sweeper.now + SUMMARY_SECONDS
            if server:
                _log.warn("A request to {server} failed: {cause}", server=server, cause=cause)
            else:
                _log.warn("A request could not be served: {cause}", cause=cause)

    def deadline_passed(self) -> None:
        """Sum up."""
        self.deadline = NEVER
        counts, self._counts = self._counts, {}
        for (server, cause), count in counts.items():
            if count:
                where = f" to {server}" if server else ""
                _log.warn(
                    "{count} more requests{where} failed in {seconds:g} s: {cause}",
                    count=count,
                    where=where,
                    server=server,
                    seconds=SUMMARY_SECONDS,
                    cause=cause,
                )

    def give_up(self) -> None:
        """See Watched.  There is nothing to end."""
