"""On a system without epoll the package can be imported, and its parts work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.without_epoll import ROOT, without

IMPORT_ALL = """
import importlib, select
from pathlib import Path

assert not hasattr(select, "epoll") and not hasattr(select, "EPOLLIN")
for file in sorted(Path("twisted_lb").rglob("*.py")):
    name = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
    print(name)
"""
SAMPLE = (
    "tests.network",
    "tests.proxy.test_bodies",
    "tests.proxy.test_iterations",
    "tests.proxy.test_keep_alive",
    "tests.proxy.test_lingering",
    "tests.test_process",
    "tests.test_service",
)


class WithoutEpollTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp()).resolve()
        directory.mkdir(parents=True)
        self.directory = directory
        self.environment = {"PATH": os.environ["PATH"], **without(directory, "epoll")}

    def run_python(self, *arguments: str, cwd: Path) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:] + done.stderr[-4000:])
        return done.stdout

    def test_imports(self) -> None:
        """Every module of the package is imported."""
        imported = self.run_python("-c", IMPORT_ALL, cwd=ROOT).split()
        self.assertEqual(len(imported), len(list((ROOT / "twisted_lb").rglob("*.py"))))
        self.assertIn("twisted_lb.network.epoll", imported)

    def test_unit_tests(self) -> None:
        """A sample of the unit tests passes."""
        said = self.run_python("-m", "twisted.trial", "--temp-directory", str(self.directory / "t"), *SAMPLE, cwd=ROOT)
        self.assertIn("PASSED", said.splitlines()[-1])

    def test_choice(self) -> None:
        """The data path runs on Twisted's reactor there, and on its own epoll set where there is one."""
        program = (
            "from twisted.internet import reactor\n"
            "from twisted_lb.app.data_path import data_path_reactor\n"
            "print(type(reactor).__name__, type(data_path_reactor(reactor)).__name__)"
        )
        self.assertEqual(self.run_python("-c", program, cwd=ROOT), "PollReactor StockReactor\n")
