"""The watched servers file, and the change to another configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.reload import LOOK_SECONDS, ServersFile
from twisted_lb.config.pool import PoolSpec
from twisted_lb.config.settings import Misconfigured

ONE = 'servers: [{name: a, url: "http://127.0.0.1:1"}]\n'
TWO = 'servers: [{name: a, url: "http://127.0.0.1:1"}, {name: b, url: "http://127.0.0.1:2"}]\n'
BAD = "servers: [{name: a, url: nonsense}]\n"


class ServersFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.path.write_text(ONE)
        self.clock = Clock()
        self.swapped: list[list[str]] = []
        self.file = ServersFile(self.clock, str(self.path), ONE, self.swap, lambda: 1e9 + self.clock.seconds())
        self.log: list[str] = []
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)
        self.file.startService()
        self.looks(4)

    def note(self, event: Any) -> None:
        self.log.append(event["log_format"].format(**event) if event.get("log_format") else "")

    def swap(self, spec: PoolSpec, text: str) -> str:
        self.swapped.append([server.name for server in spec.servers])
        return "everything"

    def looks(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(LOOK_SECONDS)

    def test_nothing_new(self) -> None:
        """A file that says what runs already is no news."""
        self.assertEqual((self.swapped, self.log), ([], []))

    def test_changed(self) -> None:
        """A changed file is swapped in once, with one line in the log that says what has changed."""
        self.path.write_text(TWO)
        self.looks(10)
        self.assertEqual(self.swapped, [["a", "b"]])
        self.assertEqual(self.log, [f"{self.path} was reloaded: everything"])

    def test_still_being_written(self) -> None:
        """A file that changes at every look is read when it has come to rest, and not before."""
        for size in range(1, len(TWO)):
            self.path.write_text(TWO[:size])
            self.looks(1)
        self.assertEqual((self.swapped, self.log), ([], []))
        self.path.write_text(TWO)
        self.looks(2)
        self.assertEqual(self.swapped, [["a", "b"]])

    def test_renamed_over(self) -> None:
        """A new file that takes the name is seen, even with the old one's time and size."""
        other = self.path.with_suffix(".new")
        other.write_text(ONE.replace("name: a", "name: z"))
        before = os.stat(self.path)
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(other, self.path)
        self.looks(2)
        self.assertEqual(self.swapped, [["z"]])

    def test_bad_file(self) -> None:
        """A bad file changes nothing and is one line that names file, line and key, until it changes again."""
        self.path.write_text(BAD)
        self.looks(10)
        (line,) = self.log
        self.assertIn("was rejected, nothing changes", line)
        self.assertIn(f"{self.path}:1: servers[0].url", line)
        self.path.write_text(BAD + "\n")
        self.looks(10)
        self.assertEqual((len(self.log), self.swapped), (2, []))
        self.path.write_text(ONE)
        self.looks(10)
        self.assertEqual(self.log[2:], [f"{self.path}: no change"])

    def test_missing_file(self) -> None:
        """A file that is gone changes nothing; one that is gone for a moment is no news at all."""
        self.path.unlink()
        self.looks(1)
        self.path.write_text(ONE)
        self.looks(5)
        self.assertEqual(self.log, [])
        self.path.unlink()
        self.looks(5)
        self.assertEqual(len(self.log), 1)
        self.assertIn("cannot be read: No such file", self.log[0])

    def test_unknown_balancer(self) -> None:
        """A balancer that cannot be made makes the file a bad one."""
        self.path.write_text("balancer: rond_robin\n" + TWO)
        self.looks(2)
        self.assertEqual((len(self.log), self.swapped), (1, []))
        self.assertIn("did you mean round_robin?", self.log[0])

    def test_unknown_pricing(self) -> None:
        """A pricing class that cannot be made makes the file a bad one, told with file, line and key."""
        self.path.write_text(TWO + "pricing: no_such_prices:Class\n")
        self.looks(2)
        self.assertEqual((len(self.log), self.swapped), (1, []))
        self.assertIn(f"{self.path}:2: pricing: no_such_prices:Class: there is no module no_such", self.log[0])
        self.path.write_text("balancer: x\npricing: {name: 'datetime:timedelta', days: 1}\n" + TWO)
        self.looks(2)
        self.assertIn(f"{self.path}:1: balancer: there is no balancer 'x'", self.log[1])
        self.assertIn(f"{self.path}:2: pricing: datetime:timedelta: the class has neither", self.log[1])

    def test_swap_that_fails(self) -> None:
        """What cannot be swapped in is a bad file as well, and what runs is still the old one."""

        def refuse(spec: PoolSpec, text: str) -> str:
            raise Misconfigured(["it does not fit"])

        self.patch(self.file, "_swap", refuse)
        self.path.write_text(TWO)
        self.looks(2)
        self.assertIn("it does not fit", self.log[0])
        self.path.write_text(ONE)
        self.looks(2)
        self.assertIn(": no change", self.log[1])

    def test_counts(self) -> None:
        """Whether the file is good, and when one was used last, is told, beginning with the start."""
        self.assertEqual(self.file.counts(), {"reload_ok": 1.0, "reloaded_at": 1e9})
        self.path.write_text(BAD)
        self.looks(4)
        self.assertEqual(self.file.counts(), {"reload_ok": 0.0, "reloaded_at": 1e9})
        self.path.write_text(TWO)
        self.looks(4)
        counts = self.file.counts()
        self.assertEqual((counts["reload_ok"], counts["reloaded_at"] > 1e9), (1.0, True))

    def watch(self, *files: Path) -> None:
        """Begin anew, with a servers.yaml that names these files."""
        self.file.stopService()
        value = "".join(f"${{file:{one}}}" for one in files)
        text = f"request_headers: {{set: {{X: '{value}'}}}}\n{ONE}"
        self.path.write_text(text)
        contents = {str(one): one.read_bytes() for one in files}
        self.file = ServersFile(self.clock, str(self.path), text, self.swap, files=contents)
        self.file.startService()
        self.addCleanup(self.file.stopService)
        self.looks(4)

    def test_files_it_names(self) -> None:
        """A file that it names is watched like itself: read when it has come to rest, and not used while it is bad."""
        secret = Path(self.mktemp()).absolute()
        secret.write_text("one")
        self.watch(secret)
        self.assertEqual((self.swapped, self.log), ([], []))
        for text in ("tw", "two"):
            secret.write_text(text)
            self.looks(1)
        self.assertEqual(self.swapped, [])
        self.looks(10)
        self.assertEqual((self.swapped, self.log), ([["a"]], [f"{self.path} was reloaded: everything"]))
        secret.unlink()
        self.looks(10)
        self.assertEqual((len(self.swapped), len(self.log)), (1, 2))
        self.assertIn("was rejected, nothing changes", self.log[1])
        secret.write_text("two")
        self.looks(10)
        self.assertEqual((len(self.swapped), self.log[2:]), (1, [f"{self.path}: no change"]))

    def test_many_files(self) -> None:
        """The clients are served between looks at hundreds of files; what a look finds after the stop is not read."""
        files = {f"/nowhere/{number}": b"" for number in range(600)}
        file = ServersFile(self.clock, str(self.path), ONE, self.swap, files=files)
        self.assertEqual(len(list(file._look_in_steps())), 2)
        for _ in range(3):
            file._looked([None])
        self.assertEqual((self.swapped, self.log), ([], []))

    def test_asked(self) -> None:
        """On demand the file is read at once, and says so even when nothing has changed."""
        self.file.read(True)
        self.assertEqual(self.log, [f"{self.path}: no change"])
        self.path.write_text(TWO)
        self.file.read(True)
        self.assertEqual(self.swapped, [["a", "b"]])
        self.looks(5)
        self.assertEqual((len(self.log), len(self.swapped)), (2, 1))

    def test_asked_during_a_reload(self) -> None:
        """Asked for while a change is applied, the file is read again afterwards, and what comes of it is logged."""
        applied: Deferred[str] = Deferred()
        file = ServersFile(self.clock, str(self.path), ONE, lambda spec, text: applied)
        file.startService()
        self.addCleanup(file.stopService)
        self.path.write_text(TWO)
        file.read()
        file.read(True)
        applied.callback("everything")
        for _ in range(5):
            self.clock.advance(0)
        self.assertEqual(self.log, [f"{self.path} was reloaded: everything", f"{self.path}: no change"])

    def test_stop(self) -> None:
        """A stopped service looks no more."""
        self.file.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
