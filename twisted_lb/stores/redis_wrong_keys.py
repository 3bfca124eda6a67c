"""Keys in Redis that are not what they should be: each concerns itself alone, and is told in the log."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog

SHOWN = 100  # characters of a key


class WrongKeys:
    """Tells of them, one line a second at most."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._log = BoundedLog(Logger(), seconds)

    def found(self, key: bytes) -> None:
        """Redis has come across this key."""
        self._log.error(
            "key",
            "Redis: what {key} holds is not of this program: a request that needs it is refused, or it is made anew"
            " when it is written",
            key=key.decode("utf-8", "backslashreplace")[:SHOWN],
        )
