"""SIGHUP, which reads the servers file again and never ends the program.

The signal's default is to end the process, so a handler is there from the moment this module is imported: before the
program knows its settings.  What comes before the file can be read is kept until then.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service


class _Early:
    """A hang-up that has come before anybody could act on it."""

    come = False


def await_hang_ups() -> None:
    """From now on a hang-up ends nothing."""
    signal.signal(signal.SIGHUP, _note)


def _note(number: int, frame: object) -> None:
    _Early.come = True


class HangUps(Service):
    """Acts on each hang-up, and on one that has come before."""

    def __init__(self, reactor: Any, act: Callable[[], None]) -> None:
        self._reactor = reactor
        self._act = act

    def startService(self) -> None:
        """From now on."""
        super().startService()
        # Twisted has no handler for this signal, and the one here only hands it to the reactor.
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self._act))
        if _Early.come:
            _Early.come = False
            self._reactor.callWhenRunning(self._act)

    def stopService(self) -> None:
        """The signal ends nothing while the program drains."""
        super().stopService()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
