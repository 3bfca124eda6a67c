"""The limit of open files."""

from __future__ import annotations

import resource

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.rlimit import SPARE, TOO_FEW, raise_open_files, shortage
from twisted_lb.network.splice import AVAILABLE


class RaiseTests(SynchronousTestCase):
    def test_raised(self) -> None:
        """A soft limit below the hard one is raised to it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(raise_open_files(), hard)
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), (hard, hard))


class ShortageTests(SynchronousTestCase):
    def setUp(self) -> None:
        # One pipe for 64 files: as many in all of these tests.
        self.pipes = 2 * (2100 // 64) if AVAILABLE else 0

    def test_enough(self) -> None:
        """Two files a connection, those of pipes, and a few more are enough."""
        self.assertEqual(shortage(2100, 1000 - self.pipes // 2), {})

    def test_short(self) -> None:
        """One file less is said, with both settings that would mend it."""
        most = 1000 - self.pipes // 2
        said = TOO_FEW.format(**shortage(2099, most))
        self.assertIn(f"MAX_CONNECTIONS={most} may need 2100 open files", said)

    def test_operators(self) -> None:
        """Each connection of an operator needs one file."""
        most = 1000 - self.pipes // 2
        self.assertEqual(shortage(2110, most, 10), {})
        self.assertIn("may need 2110 open files", TOO_FEW.format(**shortage(2109, most, 10)))

    def test_few_connections(self) -> None:
        """There is at most one pipe for each connection."""
        pipes = 2 * 3 if AVAILABLE else 0
        self.assertEqual(shortage(10_000, 3, 10_000 - 6 - pipes - SPARE), {})
        self.assertNotEqual(shortage(10_000, 3, 10_001 - 6 - pipes - SPARE), {})

    def test_infinite(self) -> None:
        """A system without a limit is never short."""
        self.assertEqual(shortage(resource.RLIM_INFINITY, 10**9), {})
