"""Where lines go: files that are rotated, pipes without readers, syslog."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.access_log import destinations
from twisted_lb.access_log.destinations import (
    MAX_SYSLOG_BYTES,
    PIPE_BYTES,
    FileDestination,
    StreamDestination,
    SyslogDestination,
    problem_of,
    read_destination,
)


class WithDirectory(SynchronousTestCase):
    def setUp(self) -> None:
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.path = Path(made.name)
        self.file = self.path / "access.log"

    def opened(self) -> FileDestination:
        destination = FileDestination(str(self.file))
        destination.open()
        self.addCleanup(destination.close)
        return destination


class FileTests(WithDirectory):
    def test_appended(self) -> None:
        """A file is created for its owner and group only, and appended to, also behind another process's lines."""
        destination = self.opened()
        self.assertEqual(self.file.stat().st_mode & 0o137, 0)
        destination.write(b"1\n")
        with self.file.open("a") as other:
            other.write("other\n")
        destination.write(b"2\n" * 100_000)
        self.assertEqual(self.file.read_bytes(), b"1\nother\n" + b"2\n" * 100_000)

    def test_rotated(self) -> None:
        """A file that was renamed or removed is noticed, and made anew."""
        destination = self.opened()
        destination.look()
        for away in (lambda: self.file.rename(self.path / "old"), self.file.unlink):
            destination.write(b"1\n")
            away()
            destination.write(b"2\n")
            destination.look()
            destination.write(b"3\n")
            self.assertEqual(self.file.read_bytes(), b"3\n")
        self.assertEqual((self.path / "old").read_bytes(), b"1\n2\n")

    def test_truncated(self) -> None:
        """One that was truncated goes on from its new end (`copytruncate`)."""
        destination = self.opened()
        destination.write(b"1\n")
        os.truncate(self.file, 0)
        destination.write(b"2\n")
        self.assertEqual(self.file.read_bytes(), b"2\n")

    def test_cannot_reopen(self) -> None:
        """Where no file can be made the former one is still written to."""
        destination = self.opened()
        self.file.rename(self.path / "old")
        self.file.mkdir()
        self.assertRaises(OSError, destination.look)
        destination.write(b"1\n")
        self.assertEqual((self.path / "old").read_bytes(), b"1\n")


class PipeTests(WithDirectory):
    def test_fifo(self) -> None:
        """A FIFO needs no reader to be opened; when it is full it takes nothing, and later it goes on."""
        os.mkfifo(self.file)
        self.patch(destinations, "POLL_MILLISECONDS", 0)
        destination = self.opened()
        line = b"x" * 99 + b"\n"
        sent = 0
        while taken := destination.write(line * 100):
            self.assertTrue(taken % 100 == 0 and taken <= PIPE_BYTES)
            sent += taken
        reader = os.open(self.file, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.assertEqual(os.read(reader, 1 << 20), line * (sent // 100))
        self.assertGreater(destination.write(line), 0)

    def test_long_line(self) -> None:
        """A line that is longer than what is written at once goes in pieces."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        destination = StreamDestination(writer)
        destination.open()
        data = b"x" * 9000 + b"\n"
        while data:
            data = data[destination.write(data) :]
        self.assertEqual(os.read(reader, 20_000), b"x" * 9000 + b"\n")

    def test_standard_output_that_is_a_file(self) -> None:
        """It is written whole, and not looked after."""
        with self.file.open("wb") as file:
            destination = StreamDestination(file.fileno())
            destination.open()
            self.assertEqual(destination.write(b"1\n" * 10_000), 20_000)
            self.file.unlink()
            destination.look()
            destination.reopen()
            destination.close()
            os.fstat(file.fileno())


class SyslogTests(WithDirectory):
    def daemon(self) -> socket.socket:
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(daemon.close)
        daemon.bind(str(self.file))
        daemon.settimeout(10)
        return daemon

    def destination(self) -> SyslogDestination:
        self.patch(destinations, "LOCAL_SYSLOG", str(self.file))
        destination = SyslogDestination(wall_clock_stamp=lambda: "2026-11-27T14:16:51Z")
        destination.open()
        self.addCleanup(destination.close)
        return destination

    def test_messages(self) -> None:
        """A message of RFC 5424 for each line, without its line feed."""
        daemon, destination = self.daemon(), self.destination()
        self.assertEqual(destination.write(b"1\n2\n"), 4)
        form = rb"<190>1 2026-11-27T14:16:51Z [!-~]+ tokenlb %d access - " % os.getpid()
        for expected in (b"1", b"2"):
            message = daemon.recv(9999)
            self.assertTrue(re.fullmatch(form + expected, message), message)

    def test_long(self) -> None:
        """A message has a bound."""
        daemon, destination = self.daemon(), self.destination()
        destination.write(b"x" * 20_000 + b"\n")
        self.assertEqual(len(daemon.recv(99_999)), MAX_SYSLOG_BYTES)

    def test_restarted(self) -> None:
        """A daemon that was restarted has another socket, which is found; without one, lines are lost and counted."""
        daemon, destination = self.daemon(), self.destination()
        daemon.close()
        self.file.unlink()
        self.assertEqual((destination.write(b"1\n2\n"), destination.lost), (4, 2))
        daemon = self.daemon()
        destination.write(b"3\n")
        self.assertTrue(daemon.recv(9999).endswith(b" - 3"))
        self.assertEqual(destination.lost, 2)

    def test_slow(self) -> None:
        """A daemon that reads nothing makes nobody wait for long."""
        self.patch(destinations, "SYSLOG_SECONDS", 0.01)
        self.daemon()
        destination = self.destination()
        destination.write(b"x\n" * 1000)
        self.assertGreater(destination.lost, 0)

    def test_udp(self) -> None:
        """Another machine's daemon gets the same over UDP."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
            daemon.bind(("127.0.0.1", 0))
            daemon.settimeout(10)
            destination = read_destination(f"syslog:127.0.0.1:{daemon.getsockname()[1]}")
            destination.open()
            destination.write(b"1\n")
            self.assertTrue(daemon.recv(9999).endswith(b" access - 1"))
            destination.close()


class SettingTests(WithDirectory):
    def test_places(self) -> None:
        """What the setting can be."""
        for text, kind in (
            ("-", StreamDestination),
            ("access.log", FileDestination),
            ("/var/log/a:b", FileDestination),
            ("syslog:", SyslogDestination),
            ("syslog:log.example", SyslogDestination),
            ("syslog:log.example:1514", SyslogDestination),
            ("syslog:[::1]", SyslogDestination),
            ("syslog:[::1]:514", SyslogDestination),
        ):
            self.assertIs(type(read_destination(text)), kind)
        for place in (":::1", "::514", ":a:x", ":a:0", ":a:70000", ":[::1", ":[::1]5"):
            self.assertRaises(ValueError, read_destination, "syslog" + place)

    def test_problems(self) -> None:
        """Why it cannot be opened; looking for that creates nothing."""
        self.assertEqual((problem_of(str(self.file)), self.file.exists()), ("", False))
        self.file.touch()
        self.assertEqual(problem_of(str(self.file)), "")
        self.assertEqual(problem_of(str(self.path)), "it cannot be opened: Is a directory")
        self.assertEqual(problem_of(str(self.path / "no" / "log")), "it cannot be opened: No such file or directory")
        self.assertIn("in brackets", problem_of("syslog:::1"))
        self.patch(destinations, "LOCAL_SYSLOG", str(self.path / "nobody"))
        self.assertEqual(problem_of("syslog:"), "it cannot be opened: No such file or directory")
        self.assertEqual(problem_of("-"), "")
