"""The handling of exceptions that Python cannot raise."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.fatal import log_unraisable


class UnraisableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(sys, "unraisablehook", sys.unraisablehook)
        log_unraisable()

    def report(self, error: Exception, place: object) -> None:
        unraisable = SimpleNamespace(exc_value=error, exc_type=type(error), exc_traceback=None, object=place)
        sys.unraisablehook(unraisable)  # type: ignore[arg-type]

    def test_logged(self) -> None:
        """An exception is logged."""
        self.report(ValueError(), None)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_server_name(self) -> None:
        """A client that asks for a server name with other bytes than ASCII does not write to the log."""
        self.report(UnicodeDecodeError("ascii", b"\xff", 0, 1, ""), b"\xff")
        self.assertEqual(self.flushLoggedErrors(), [])
