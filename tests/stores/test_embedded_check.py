"""What is said of a data directory before the embedded store is started on it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.stores.sqlite.check import data_dir_problem
from twisted_lb.stores.sqlite.database import AccountDatabase
from twisted_lb.stores.sqlite.files import DATABASE_FILE, LOCK_FILE


class DataDirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.here = Path(self.mktemp()).absolute()
        self.here.mkdir()

    def test_can_be_used(self) -> None:
        """A directory that is to be made, and one that a process uses, are good, and stay as they are."""
        data = self.here / "a" / "b"
        self.assertEqual(data_dir_problem(str(data)), "")
        self.assertEqual(list(self.here.iterdir()), [])
        database = AccountDatabase(str(data))
        self.addCleanup(database.close)
        before = sorted(os.listdir(data))
        self.assertEqual(data_dir_problem(str(data)), "")
        self.assertEqual(sorted(os.listdir(data)), before)

    def test_cannot_be_made(self) -> None:
        """Below a file, or where nothing can be made whoever asks, there is no data directory, and the path is told."""
        (self.here / "file").write_text("x")
        for path in (self.here / "file", self.here / "file" / "data"):
            self.assertIn(f"{self.here / 'file'} is not a directory", data_dir_problem(str(path)))
        self.assertIn("cannot make the data directory /proc/tokenlb: ", data_dir_problem("/proc/tokenlb"))
        self.assertIn("File name too long", data_dir_problem(str(self.here / ("x" * 300))))
        self.assertIn("null byte", data_dir_problem("a\0b"))

    def test_may_not_be_written(self) -> None:
        """A directory or a database without the right to write is told."""
        if os.geteuid() == 0:
            self.skipTest("root may write everywhere")
        database = self.here / DATABASE_FILE
        AccountDatabase(str(self.here)).close()
        database.chmod(0o400)
        self.assertIn(f"cannot use {database}: ", data_dir_problem(str(self.here)))
        self.here.chmod(0o500)
        self.addCleanup(self.here.chmod, 0o700)
        self.assertIn("nothing can be made in", data_dir_problem(str(self.here / "data")))

    def test_files_that_are_in_the_way(self) -> None:
        """What is no database of this program, or only a part of one, is told."""
        database, log = self.here / DATABASE_FILE, self.here / f"{DATABASE_FILE}-wal"
        (self.here / LOCK_FILE).mkdir()
        self.assertIn("it is not a file", data_dir_problem(str(self.here)))
        (self.here / LOCK_FILE).rmdir()
        log.write_bytes(b"x")
        self.assertIn("is missing, but its write-ahead log", data_dir_problem(str(self.here)))
        log.unlink()
        database.write_bytes(b"")
        self.assertIn("is empty (0 bytes)", data_dir_problem(str(self.here)))
        database.write_bytes(b"x" * 200)
        self.assertIn("is not an SQLite file", data_dir_problem(str(self.here)))
        database.unlink()
        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA user_version=7")
            connection.execute("CREATE TABLE t (x)")
        connection.close()
        self.assertIn("has format 7", data_dir_problem(str(self.here)))
