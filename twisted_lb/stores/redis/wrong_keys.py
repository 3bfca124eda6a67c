"""Keys in Redis with an unexpected type or value: each affects only itself, and is logged."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog

SHOWN = 100  # characters of a key


class WrongKeys:
    """Logs them, at most one line a second for each."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._log = BoundedLog(Logger(), seconds)

    def found(self, key: bytes) -> None:
        """A script has found this key."""
        name = key.decode("utf-8", "backslashreplace")[:SHOWN]
        self._log.error(
            name,
            "Redis: what {key} holds is not of this program: a request that needs it is refused, or it is made anew"
            " when it is written",
            key=name,
        )
