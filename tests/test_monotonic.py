"""The clock of the reactor."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.monotonic import run_on_monotonic_clock


class MonotonicTests(SynchronousTestCase):
    def test_reactors(self) -> None:
        """Calls that are there and calls that are made later are due by the monotonic clock, at the same distance."""
        for kind in (EPollReactor, SelectReactor):
            reactor: Any = kind()
            before = reactor.callLater(100, lambda: None)
            run_on_monotonic_clock(reactor)
            after = reactor.callLater(100, lambda: None)
            run_on_monotonic_clock(reactor)
            for call in (before, after):
                self.assertTrue(95 < call.getTime() - time.monotonic() <= 100)
            before.reset(50)
            self.assertTrue(45 < before.getTime() - time.monotonic() <= 50)
            self.assertIs(reactor.seconds, time.monotonic)
            for call in (before, after):
                call.cancel()
