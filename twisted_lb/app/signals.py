"""SIGHUP reloads the servers file, and does not end the program; SIGUSR1 opens the access log again.

The default action of SIGHUP ends the process, so a handler is installed when this module is imported, before the
settings are read (not during the first tenth of a second, in which Python itself starts).  A signal that arrives before
the file can be read takes effect then.

twistd, when it writes its log to a file (`--logfile`), rotates that file on SIGUSR1.  It installs its handler before
the services start, and only where there is none; so ours is installed when the services start, and calls it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service


class _Early:
    """Records a signal that arrived before it could be handled."""

    come = False


def hold_hangups() -> None:
    """Prevent SIGHUP from ending the process.  Does nothing outside the main thread, which handles signals."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, _note)


def _note(number: int, frame: object) -> None:
    _Early.come = True


class Hangups(Service):
    """Calls a function for each SIGHUP, and for one that arrived before."""

    def __init__(self, reactor: Any, act: Callable[[], None]) -> None:
        self._reactor = reactor
        self._act = act

    def startService(self) -> None:
        """Start handling signals."""
        super().startService()
        # Twisted has no handler for this signal; this one only passes it to the reactor.
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self._act))
        if _Early.come:
            _Early.come = False
            self._reactor.callWhenRunning(self._act)

    def stopService(self) -> None:
        """Ignore the signal while the program drains."""
        super().stopService()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Reopening(Service):
    """Calls a function for each SIGUSR1, and then the handler that was there before."""

    def __init__(self, reactor: Any, act: Callable[[], object]) -> None:
        self._reactor = reactor
        self._act = act

    def startService(self) -> None:
        """Start handling signals."""
        super().startService()
        former = signal.getsignal(signal.SIGUSR1)

        def handle(number: int, frame: Any) -> None:
            self._reactor.callFromThread(self._act)
            if callable(former):
                former(number, frame)

        # It stays: until the process ends, the signal must not end it.
        signal.signal(signal.SIGUSR1, handle)
