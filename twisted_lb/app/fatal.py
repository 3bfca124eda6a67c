"""Terminates a process after a fatal error: with a critical log message, as orderly as possible, and exit status 1.

A process that has lost the epoll set of its data path no longer reads anything, but would appear healthy.  Its
supervisor, or the parent of a worker, starts another one.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog

# After which the process ends, even if the shutdown is not complete.
LAST_SECONDS = 5.0

_log = Logger()
_unraisable = BoundedLog(_log)


def end_process(reactor: Any, what: str, reason: Failure) -> None:
    """Log what was lost and why, stop the reactor, and set the exit status to 1."""
    _log.critical("{what}: the process ends: {reason}", what=what, reason=reason.getErrorMessage())
    # At the very end, after twistd has removed its pid file: twistd would exit with status 0.
    atexit.register(_exit)
    reactor.callLater(LAST_SECONDS, _exit)
    try:
        reactor.stop()
    except ReactorNotRunning:
        # It is not running yet, or is already being stopped.
        pass


def _exit() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(1)


def log_unraisable() -> None:
    """Log exceptions that Python cannot raise, as in the finalization of a generator, with a rate limit."""

    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes):
            # The server name in a client's handshake is not ASCII (RFC 6066 section 3).  The module ssl ends the
            # handshake with an alert, and reports it here.
            return
        if unraisable.exc_value is not None:
            failure = Failure(unraisable.exc_value, unraisable.exc_type, unraisable.exc_traceback)
            _unraisable.failure("unraisable", "An exception could not be raised and is ignored", failure)

    sys.unraisablehook = hook
