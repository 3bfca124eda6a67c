"""Keys in Redis that are not what they should be: each concerns itself alone, and is told in the log, not too often."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

LOG_SECONDS = 1.0  # between two lines
SHOWN = 100  # characters of a key

_log = Logger()


class WrongKeys:
    """Tells of them, one line a second at most."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._told_at = -LOG_SECONDS
        self._untold = 0

    def found(self, key: bytes) -> None:
        """Redis has come across this key."""
        now = self._seconds()
        if now - self._told_at < LOG_SECONDS:
            self._untold += 1
            return
        more, self._untold = self._untold, 0
        self._told_at = now
        _log.error(
            "Redis: what {key} holds is not of this program: a request that needs it is refused, or it is made anew"
            " when it is written{more}",
            key=key.decode("utf-8", "backslashreplace")[:SHOWN],
            more=f" ({more} more since the last such line)" if more else "",
        )
