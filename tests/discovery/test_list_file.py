"""Lists of servers in files: at the start, and while they are watched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import Misconfigured
from twisted_lb.discovery.list_file import LOOK_SECONDS, MAX_BYTES, ListFile, read_lists

ONE, TWO = '["10.0.0.1:80"]', '["10.0.0.1:80", "10.0.0.2:80"]'


class ListCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.log: list[str] = []
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)

    def note(self, event: Any) -> None:
        self.log.append(event["log_format"].format(**event) if event.get("log_format") else "")


class StartTests(ListCase):
    def problem(self) -> str:
        spec = read_gateway(f"discover: {{file: {self.path.absolute()}}}\n", "x.yaml")
        (problem,) = self.assertRaises(Misconfigured, read_lists, spec).problems
        return str(problem)

    def test_several_pools(self) -> None:
        """The list of two pools is read once, and may have no name of a server of either."""
        self.path.write_text(ONE)
        text = (
            "pools:\n"
            f"  a: {{discover: {{file: {self.path.absolute()}}}}}\n"
            f"  b: {{discover: {{file: {self.path.absolute()}}}, servers: [{{name: '%s', url: 'http://b'}}]}}\n"
            "routes: [{pool: a}]\n"
        )
        lists = read_lists(read_gateway(text % "x", "x.yaml"))
        entry = json.dumps({"name": "10.0.0.1:80", "url": "http://10.0.0.1:80"})
        self.assertEqual((lists.answers, lists.notices), ({f"file {self.path.absolute()}": (entry,)}, []))
        taken = self.assertRaises(Misconfigured, read_lists, read_gateway(text % "10.0.0.1:80", "x.yaml"))
        self.assertIn("is already the name of a server", taken.problems[0])

    def test_later(self) -> None:
        """A list that does not exist may come later: a notice, and no problem."""
        lists = read_lists(read_gateway(f"discover: {{file: {self.path.absolute()}}}\n", "x.yaml"))
        self.assertEqual(lists.answers, {})
        self.assertIn("does not exist yet", lists.notices[0])

    def test_not_a_list(self) -> None:
        """What is not a regular file of text is a problem, and is not waited for."""
        os.mkfifo(self.path)
        self.assertTrue(self.problem().endswith("cannot be read: it is not a regular file"))
        self.path.unlink()
        self.path.write_bytes(b'["\xff"]')
        self.assertTrue(self.problem().endswith("cannot be read: it is not UTF-8 text"))
        with self.path.open("wb") as file:
            file.truncate(MAX_BYTES + 1)
        self.assertTrue(self.problem().endswith(f"it has more than {MAX_BYTES} bytes"))


class WatchTests(ListCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.used: list[list[str]] = []
        self.file = ListFile(self.clock, str(self.path), lambda: (), self.use)
        self.addCleanup(self.file.stop)

    def use(self, servers: tuple[str, ...]) -> None:
        self.used.append([json.loads(server)["name"] for server in servers])

    def looks(self, count: int = 4) -> None:
        for _ in range(count):
            self.clock.advance(LOOK_SECONDS)

    def test_changes(self) -> None:
        """A list that comes, or that changes, is used once it is the same at two looks."""
        self.looks()
        self.path.write_text(ONE)
        self.looks(1)
        self.assertEqual(self.used, [])
        self.looks()
        self.path.write_text(TWO)
        self.looks()
        self.assertEqual(self.used, [["10.0.0.1:80"], ["10.0.0.1:80", "10.0.0.2:80"]])
        self.assertEqual(self.log, [])

    def test_invalid(self) -> None:
        """An invalid list changes nothing, which is logged once, and so is that it is valid again."""
        self.path.write_text("[")
        self.looks(10)
        self.path.write_text(ONE)
        self.looks(10)
        self.assertEqual(self.used, [["10.0.0.1:80"]])
        rejected, again = self.log
        self.assertTrue(rejected.startswith("The list of servers was rejected, nothing changes: "), rejected)
        self.assertIn(f"{self.path}:1: ", rejected)
        self.assertEqual(again, f"{self.path}: the list of servers is valid again")

    def test_removed(self) -> None:
        """A list that is removed changes nothing either."""
        self.path.write_text(ONE)
        self.looks()
        self.path.unlink()
        self.looks(10)
        self.assertEqual(self.used, [["10.0.0.1:80"]])
        (line,) = self.log
        self.assertTrue(line.endswith("cannot be read: No such file or directory"), line)
        self.path.write_text(ONE)
        self.looks()
        self.assertEqual(len(self.used), 2)

    def test_stopped(self) -> None:
        """A list that is not watched any more is not used."""
        self.file.stop()
        self.path.write_text(ONE)
        self.looks()
        self.assertEqual(self.used, [])
