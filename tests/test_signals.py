"""SIGHUP, at any time from the start to the end."""

from __future__ import annotations

import os
import signal
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.signals import Hangups, hold_hangups


class Reactor:
    """Runs already."""

    def callFromThread(self, act: Any) -> None:
        act()

    callWhenRunning = callFromThread


class HangUpTests(SynchronousTestCase):
    def test_signal(self) -> None:
        """SIGHUP is handed to the reactor while the program runs, and ends nothing while it drains."""
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        acts: list[str] = []
        reactor: Any = Reactor()
        service = Hangups(reactor, lambda: acts.append("read"))
        service.startService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(acts, ["read"])
        service.stopService()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(acts, ["read"])

    def test_early(self) -> None:
        """One that comes before the program runs ends nothing, and is acted on once it does, once."""
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))
        acts: list[str] = []
        hold_hangups()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        for _ in range(2):
            Hangups(Reactor(), lambda: acts.append("read")).startService()
        self.assertEqual(acts, ["read"])
