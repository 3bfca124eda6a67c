"""A rate-limited log: one message per second for each cause, with a count of those omitted.

Requests, servers, keys in the store and custom classes can cause thousands of messages per second.  The first one is
logged; those that follow within LOG_SECONDS are counted, and the next message of the same cause, if any, has the count.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from reprlib import repr as shortened
from typing import Final

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

LOG_SECONDS = 1.0  # between two messages of one cause
# Causes that are remembered; the one logged longest ago is dropped, so that memory is bounded.
MAX_CAUSES: Final = 1000


class BoundedLog:
    """Takes messages like a Logger, each with its cause."""

    def __init__(
        self, log: Logger, now: Callable[[], float] = time.monotonic, seconds: float | None = None
    ) -> None:
        """`now` is a monotonic clock in seconds; `seconds`, by default LOG_SECONDS, is the interval of one cause."""
        self._seconds = seconds
        self._log = log
        self._now = now
        self._causes: OrderedDict[str, tuple[float, int]] = OrderedDict()  # time of the last one, number omitted since

    def failure(self, cause: str, text: str, failure: Failure | None = None, **fields: object) -> None:
        """Log the traceback of `failure`, or of the exception that is being handled."""
        more = self._more(cause)
        if more is not None:
            self._log.failure(text + "{more}", failure or Failure(), more=more, **fields)  # type: ignore[arg-type]

    def error(self, cause: str, text: str, **fields: object) -> None:
        """Log an error."""
        self._emit(LogLevel.error, cause, text, fields)

    def warn(self, cause: str, text: str, **fields: object) -> None:
        """Log a warning."""
        self._emit(LogLevel.warn, cause, text, fields)

    def info(self, cause: str, text: str, **fields: object) -> None:
        """Log an informational message."""
        self._emit(LogLevel.info, cause, text, fields)

    def _emit(self, level: object, cause: str, text: str, fields: dict[str, object]) -> None:
        more = self._more(cause)
        if more is not None:
            self._log.emit(level, text + "{more}", more=more, **fields)  # type: ignore[arg-type]

    def _more(self, cause: str) -> str | None:
        """The text about omitted messages; None when the current one is omitted."""
        now = self._now()
        causes = self._causes
        seconds = LOG_SECONDS if self._seconds is None else self._seconds
        told_at, untold = causes.get(cause, (now - seconds, 0))
        if now - told_at < seconds:
            causes[cause] = told_at, untold + 1
            return None
        causes[cause] = now, 0
        causes.move_to_end(cause)
        if len(causes) > MAX_CAUSES:
            causes.popitem(last=False)
        return f" ({untold} more since the last such line)" if untold else ""


def described(error: BaseException) -> str:
    """An exception as text for a message, even if its `__str__` raises."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except BaseException:
        return f"{kind}, whose text is not available"


def shown(value: object) -> str:
    """A value as short text for a message, even if its `__repr__` raises."""
    try:
        return shortened(value)
    except BaseException:
        return f"a {type(value).__name__}"
