"""The end of a process that cannot go on: with a critical line, in what order there can be, and exit status 1.

A process without the data path's poller reads no byte any more, and would stand there looking well.  Its supervisor, or
the parent of a worker, starts another one.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog

# After which the process ends, whatever still holds up the shutdown.
LAST_SECONDS = 5.0

_log = Logger()
_unraisable = BoundedLog(_log)


def end_process(reactor: Any, what: str, reason: Failure) -> None:
    """Say what was lost and why, stop the reactor, and see to it that the exit status is 1."""
    _log.critical("{what}: the process ends: {reason}", what=what, reason=reason.getErrorMessage())
    # At the very end, after twistd has removed its pid file: it would leave with status 0.
    atexit.register(_exit)
    reactor.callLater(LAST_SECONDS, _exit)
    if reactor.running:
        reactor.stop()


def _exit() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(1)


def log_unraisable() -> None:
    """From now on exceptions that Python cannot raise, as in the end of a generator, are logged, and not too often."""

    def hook(unraisable: Any) -> None:
        if unraisable.exc_value is not None:
            failure = Failure(unraisable.exc_value, unraisable.exc_type, unraisable.exc_traceback)
            _unraisable.failure("unraisable", "An exception could not be raised and is ignored", failure)

    sys.unraisablehook = hook
