"""A log that strangers cannot fill: one line a second for each cause, with a count of those left out.

What a request, a server, a key in the store or a class of the user's own causes may happen thousands of times a second.
The first line says it; the ones that follow within LOG_SECONDS are counted, and the count stands in the next line.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from reprlib import repr as shortened

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

LOG_SECONDS = 1.0  # between two lines of one cause
# Causes that are remembered; the one that was told longest ago goes first, so that new ones cannot fill the memory.
MAX_CAUSES = 1000


class BoundedLog:
    """Takes lines like a Logger, each with its cause."""

    def __init__(self, log: Logger, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is a steady clock, in seconds."""
        self._log = log
        self._now = now
        self._causes: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when it was told, and how often not since

    def failure(self, cause: str, text: str, failure: Failure | None = None, **fields: object) -> None:
        """A traceback, of `failure` or of the exception that is being handled."""
        more = self._more(cause)
        if more is not None:
            self._log.failure(text + "{more}", failure or Failure(), more=more, **fields)  # type: ignore[arg-type]

    def error(self, cause: str, text: str, **fields: object) -> None:
        """A line."""
        self._emit(LogLevel.error, cause, text, fields)

    def warn(self, cause: str, text: str, **fields: object) -> None:
        """A line of less weight."""
        self._emit(LogLevel.warn, cause, text, fields)

    def _emit(self, level: object, cause: str, text: str, fields: dict[str, object]) -> None:
        more = self._more(cause)
        if more is not None:
            self._log.emit(level, text + "{more}", more=more, **fields)  # type: ignore[arg-type]

    def _more(self, cause: str) -> str | None:
        """What to say of the lines left out; None when this is one of them."""
        now = self._now()
        causes = self._causes
        told_at, untold = causes.get(cause, (now - LOG_SECONDS, 0))
        if now - told_at < LOG_SECONDS:
            causes[cause] = told_at, untold + 1
            return None
        causes[cause] = now, 0
        causes.move_to_end(cause)
        if len(causes) > MAX_CAUSES:
            causes.popitem(last=False)
        return f" ({untold} more since the last such line)" if untold else ""


def shown(value: object) -> str:
    """A value of anybody's for a line: short, and never an exception."""
    try:
        return shortened(value)
    except BaseException:
        return f"a {type(value).__name__}"
