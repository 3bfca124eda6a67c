"""The README tells the truth: its example runs, and its tables name what there is."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.backend import Backend
from twisted_lb.balancers.registry import make_balancer
from twisted_lb.environment import read_settings
from twisted_lb.interfaces import IBalancer
from twisted_lb.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


class ExampleTests(SynchronousTestCase):
    def test_own_balancer(self) -> None:
        """The balancer of the README, loaded by its name, chooses the least busy server for its weight."""
        [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        self.addCleanup(lambda: [path.unlink() for path in directory.rglob("*.py")])
        (directory / "least_busy.py").write_text(code)
        self.patch(sys, "path", [str(directory), *sys.path])
        self.addCleanup(sys.modules.pop, "least_busy", None)
        balancer = make_balancer("least_busy:LeastBusy", {})
        verifyObject(IBalancer, balancer)
        busy, heavy, idle = (Backend(name, "127.0.0.1", 1, weight) for name, weight in (("a", 1), ("b", 4), ("c", 1)))
        busy.in_flight, heavy.in_flight = 2, 4
        balancer.backends_changed([busy, heavy, idle])
        self.assertEqual([backend.name for backend in balancer.choices(None)], ["c", "b", "a"])

    def test_own_balancer_is_short(self) -> None:
        """The example has ten lines of code at most."""
        [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        self.assertLessEqual(len([line for line in code.splitlines() if line.strip()]), 10)


class SettingsTests(SynchronousTestCase):
    def test_settings(self) -> None:
        """The table of settings names each setting with its default, and nothing else."""
        rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? ?\|", README, re.MULTILINE))
        self.assertEqual(set(rows), {field.name.upper() for field in fields(Settings)})
        settings, problems = read_settings({}, rows)
        self.assertEqual((settings, problems), (Settings(), []))
