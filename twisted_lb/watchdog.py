"""What ends a worker that hangs, whoever else is there: a timer of the kernel that the reactor has to set anew in time.

1. Each second the reactor sets the timer again.  When it cannot, because a class of the user's own does not return,
   or for any other reason, the kernel ends the process by SIGALRM, whose handler is nobody's.
2. A process that is stopped (SIGSTOP) gets no signals.  Its parent kills it; when the parent itself has gone, the
   kernel continues it (PR_SET_PDEATHSIG), and it goes the way of 1, or drains and ends as any other.

So no worker keeps a port when its parent is gone, and one that works is not hurried.
"""

from __future__ import annotations

import ctypes
import signal
from typing import Any

from twisted.internet.task import LoopingCall

SET_SECONDS = 1.0  # between two settings
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Watchdog:
    """Ends this process when its reactor stands still for some seconds."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._seconds = seconds
        self._loop = LoopingCall(self._set)
        self._loop.clock = reactor

    def start(self) -> None:
        """From now on."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._loop.start(SET_SECONDS)

    def stop(self) -> None:
        """The reactor has ended in good order."""
        if self._loop.running:
            self._loop.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _set(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
