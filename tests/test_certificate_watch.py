"""The watched certificates: what is read when, and what is logged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.app.certificate_watch import DAY, LOOK_SECONDS, RETRY_SECONDS, CertificateWatch, shown_names
from twisted_lb.network.certificate import Certificate, CertificateError
from twisted_lb.network.certificate_files import CertificatePaths
from twisted_lb.network.certificate_set import CertificateSet
from twisted_lb.steps import finish

START = 1.8e9


class Set(CertificateSet):
    """Reads files of the form "NAME DAYS", where a certificate expires DAYS after START."""

    refusing = False

    def _read(self, source: Any, old: Certificate | None, now: float) -> Certificate:
        if self.refusing:
            raise CertificateError(f"{source.setting}: {source.file}: not now")
        try:
            name, days = Path(source.file).read_text().split()
        except (OSError, ValueError):
            raise CertificateError(f"{source.setting}: {source.file}: it is nonsense") from None
        self._looks[source.file] = source.look()
        return Certificate(source.file, (name,), START - DAY, START + float(days) * DAY, f"{name} {days}".encode())


class Authorities:
    """Authorities in a file, which are bad if they are `bad`."""

    def __init__(self, path: Path) -> None:
        self.file = str(path)
        self.text = path.read_text()
        self.problem = ""

    def look(self) -> object:
        return Path(self.file).read_text()

    def read(self) -> bool:
        before, text = self.text, Path(self.file).read_text()
        self.problem = f"{self.file}: it is bad" if text == "bad" else ""
        self.text = before if self.problem else text
        return self.text != before


class WatchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.clock = Clock()
        self.used: list[list[str]] = []
        self.log: list[str] = []
        self.path = self.directory / "a.pem"
        self.path.write_text("a.test 90")
        self.set = Set(CertificatePaths(directory=str(self.directory)), lambda certificate: None)
        finish(self.set.read_in_steps(START))
        self.watch = CertificateWatch(self.clock, self.set, self.use, self.now)
        globalLogPublisher.addObserver(self.note)
        self.addCleanup(globalLogPublisher.removeObserver, self.note)

    def now(self) -> float:
        return START + self.clock.seconds()

    def note(self, event: Any) -> None:
        self.log.append(event["log_format"].format(**event) if event.get("log_format") else "")

    def use(self, certificates: Sequence[Certificate]) -> None:
        self.used.append([one.pem.decode() for one in certificates])

    def looks(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(LOOK_SECONDS)
            # The steps of reading.
            self.clock.advance(0)

    def start(self) -> None:
        self.watch.startService()
        self.addCleanup(self.watch.stopService)
        self.looks(4)

    def test_nothing_new(self) -> None:
        """Files that are as they were are no news."""
        self.start()
        self.assertEqual((self.used, self.log), ([], []))

    def test_changed_before_the_first_look(self) -> None:
        """What has changed between the start and the first look is used."""
        self.path.write_text("a.test 91")
        self.start()
        self.assertEqual(self.used, [["a.test 91"]])

    def test_renewed_and_new(self) -> None:
        """A renewed certificate and a new one are used once they have come to rest, with a line each."""
        self.start()
        other = self.directory / "b.pem"
        for size in range(1, 5):
            other.write_text("b.test 90"[:size])
            self.looks(1)
        self.assertEqual(self.used, [])
        other.write_text("b.test 90")
        self.path.write_text("a.test 180.5")
        self.looks(5)
        self.assertEqual(self.used, [["a.test 180.5", "b.test 90"]])
        said = "{}: the certificate is {}: it serves {}, and expires on {}"
        self.assertEqual(
            self.log,
            [
                said.format(other, "new", "b.test", "2027-04-15 08:00:00 UTC"),
                said.format(self.path, "renewed", "a.test", "2027-07-14 20:00:00 UTC"),
            ],
        )
        other.unlink()
        self.looks(5)
        self.assertEqual(self.used[1:], [["a.test 180.5"]])
        self.assertEqual(self.log[2:], [f"{other}: the certificate for b.test was removed"])

    def test_broken(self) -> None:
        """A broken file changes nothing and is one line, however often it is tried; its mending is another."""
        self.start()
        self.path.write_text("nonsense")
        self.looks(3 * int(RETRY_SECONDS))
        problem = f"A certificate was rejected, those in use stay: TLS_CERT_DIR: {self.path}: it is nonsense"
        self.assertEqual((self.used, self.log), ([], [problem]))
        self.assertEqual(self.watch.counts()["certificates_ok"], 0.0)
        self.path.write_text("a.test 90")
        self.looks(3)
        self.assertEqual((self.used, self.log[1:]), ([], [f"{self.path}: the problem is gone, nothing has changed"]))
        self.assertEqual(self.watch.counts()["certificates_ok"], 1.0)

    def test_tried_again(self) -> None:
        """What could not be used is tried again, even if its file does not change."""
        self.start()
        self.path.write_text("a.test 91")
        self.set.refusing = True
        self.looks(5)
        self.set.refusing = False
        self.looks(int(RETRY_SECONDS) - 10)
        self.assertEqual(self.used, [])
        self.looks(15)
        self.assertEqual(self.used, [["a.test 91"]])

    def test_asked(self) -> None:
        """On demand the files are read at once, and the result is logged in any case."""
        self.start()
        self.watch.read(True)
        self.assertEqual(self.log.pop(), "The certificates have not changed")
        self.path.write_text("nonsense")
        self.watch.read(True)
        self.clock.advance(0)
        self.assertIn("A certificate was rejected", self.log.pop())
        self.watch.read(True)
        self.clock.advance(0)
        self.assertIn("Certificates cannot be used: TLS_CERT_DIR: ", self.log.pop())
        self.assertEqual(self.log, [])

    def test_asked_while_reading(self) -> None:
        """A file that changes while the files are read is read after that."""
        self.start()
        self.path.write_text("a.test 91")
        self.watch.read(True)
        self.path.write_text("a.test 92")
        (self.directory / "b.pem").write_text("b.test 90")
        self.watch.read(True)
        self.looks(1)
        self.assertEqual(self.used[-1], ["a.test 92", "b.test 90"])

    def test_use_that_fails(self) -> None:
        """A failure to use certificates is logged, and the watch goes on."""
        self.start()
        using = self.watch._use
        self.patch(self.watch, "_use", lambda certificates: 1 / 0)
        self.path.write_text("a.test 91")
        self.looks(3)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(self.watch, "_use", using)
        self.path.write_text("a.test 92")
        self.looks(3)
        self.assertEqual(self.used, [["a.test 92"]])

    def test_expiry_warnings(self) -> None:
        """From 14 days before it expires on, a certificate is logged once a day; a renewed one is not."""
        self.path.write_text("a.test 15")
        self.start()
        self.log.clear()
        for _ in range(16):
            self.clock.advance(DAY / 2)
            self.looks(2)
        self.assertEqual(len(self.log), 8)
        self.assertEqual(
            self.log[0], f"{self.path}: the certificate for a.test expires on 2027-01-30 08:00:00 UTC, in 14 days"
        )
        self.clock.advance(9 * DAY)
        expired = f"{self.path}: the certificate for a.test has expired on 2027-01-30 08:00:00 UTC"
        self.assertEqual(self.log[-1], expired)
        self.path.write_text("a.test 90")
        self.looks(3)
        self.log.clear()
        self.clock.advance(2 * DAY)
        self.assertEqual(self.log, [])

    def test_validity_changes(self) -> None:
        """When a certificate expires, it is chosen anew among all, without a change of any file."""
        (self.directory / "b.pem").write_text("b.test 30")
        self.start()
        self.used.clear()
        self.clock.advance(29 * DAY)
        self.looks(2)
        self.assertEqual(self.used, [])
        self.clock.advance(DAY)
        self.looks(3)
        self.assertEqual(self.used, [["a.test 90", "b.test 30"]])

    def test_counts(self) -> None:
        """When each certificate in use expires is told by its file."""
        self.assertEqual(
            self.watch.counts(), {"certificates_ok": 1.0, f"certificate_expiry {self.path}": START + 90 * DAY}
        )

    def test_authorities(self) -> None:
        """The authorities of clients are watched too: used when they have come to rest, and not while they are bad."""
        path = self.directory / "authorities"
        path.write_text("one")
        used: list[str] = []
        self.watch = CertificateWatch(self.clock, self.set, self.use, self.now, Authorities(path), used.append)
        self.start()
        self.assertEqual((used, self.log), ([], []))
        for text in ("tw", "two"):
            path.write_text(text)
            self.looks(1)
        self.assertEqual(used, [])
        self.looks(5)
        self.assertEqual((used, self.used), (["two"], []))
        self.assertEqual(self.log, [f"{path}: certificates of clients are verified with other authorities"])
        path.write_text("bad")
        self.looks(2 * int(RETRY_SECONDS))
        self.assertEqual(self.log[1:], [f"Authorities were rejected, those in use stay: {path}: it is bad"])
        self.assertEqual(self.watch.counts()["certificates_ok"], 0.0)
        self.watch.read(True)
        self.assertEqual(self.log[2:], [f"Certificates cannot be used: {path}: it is bad"])
        path.write_text("two")
        self.looks(3)
        self.assertEqual((used, self.log[3:]), (["two"], [f"{path}: the problem is gone, nothing has changed"]))
        self.assertEqual(self.watch.counts()["certificates_ok"], 1.0)
        self.watch.read(True)
        self.assertEqual(self.log[4:], ["The certificates have not changed"])

    def test_many_names(self) -> None:
        """A message has a few of many names."""
        names = tuple(f"{letter}.test" for letter in "abcdefgh")
        one = Certificate("x", names, 0.0, 0.0, b"")
        self.assertEqual(shown_names(one), "a.test, b.test, c.test, d.test, e.test, f.test and 2 more")
        self.assertEqual(shown_names(Certificate("x", (), 0.0, 0.0, b"")), "no name, since it has no subjectAltName")
