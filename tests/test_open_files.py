"""The limit of open files."""

from __future__ import annotations

import resource

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.rlimit import TOO_FEW, raise_open_files, shortage


class RaiseTests(SynchronousTestCase):
    def test_raised(self) -> None:
        """A soft limit below the hard one is raised to it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.assertEqual(raise_open_files(), hard)
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), (hard, hard))


class ShortageTests(SynchronousTestCase):
    def test_enough(self) -> None:
        """Two files a connection and a few more are enough."""
        self.assertEqual(shortage(2100, 1000), {})

    def test_short(self) -> None:
        """One file less is said, with both settings that would mend it."""
        self.assertIn("MAX_CONNECTIONS=1000 may need 2100 open files", TOO_FEW.format(**shortage(2099, 1000)))

    def test_operators(self) -> None:
        """Each connection of an operator needs one file."""
        self.assertEqual(shortage(2110, 1000, 10), {})
        self.assertIn("may need 2110 open files", TOO_FEW.format(**shortage(2109, 1000, 10)))

    def test_infinite(self) -> None:
        """A system without a limit is never short."""
        self.assertEqual(shortage(resource.RLIM_INFINITY, 10**9), {})
