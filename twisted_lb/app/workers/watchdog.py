"""Terminates a hung worker, even without its parent: a kernel timer that the reactor must re-arm in time.

1. Each second the reactor re-arms the timer.  When it does not, because a custom class does not return or for any other
   reason, the kernel ends the process with SIGALRM, which has its default action.
2. A stopped process (SIGSTOP) gets no signals.  Its parent kills it; when the parent itself has ended, the kernel
   continues the worker (PR_SET_PDEATHSIG), and it is terminated as in 1, or drains and exits.

So a hung worker does not keep a port after its parent has ended, and a working one has its time to drain.
"""

from __future__ import annotations

import ctypes
import signal
from typing import Any

from twisted_lb.repeated import Repeated

SET_SECONDS = 1.0  # between re-arming
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Watchdog:
    """Terminates this process when its reactor is blocked for some seconds."""

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._seconds = seconds
        self._loop = Repeated(reactor, self._set, "the watchdog")

    def start(self) -> None:
        """Start the timer."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._loop.start(SET_SECONDS, now=True)

    def stop(self) -> None:
        """Stop the timer: the reactor has ended."""
        self._loop.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _set(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._seconds)
