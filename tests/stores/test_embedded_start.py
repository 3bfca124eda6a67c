"""The embedded store on data that it cannot use: what is said, and that the data stays as it is."""

from __future__ import annotations

import gc
import os
import sqlite3

from twisted.logger import capturedLogs

from tests.stores.contract import digest_of, new_path
from tests.stores.embedded_on_clock import StoreOnClock
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.sqlite.database import AccountDatabase
from twisted_lb.stores.sqlite.files import DATABASE_FILE, LOCK_FILE
from twisted_lb.stores.sqlite.schema import Row
from twisted_lb.stores.sqlite.store import EmbeddedStore


class StartTests(StoreOnClock):
    """Each directory is left as it was, and let go."""

    def start_failing(self, data_dir: str) -> str:
        """What a store on this directory does not start with."""
        store = EmbeddedStore(data_dir, lambda: self.now_us, self.clock, self.disk.run)
        error = self.assertRaises(StoreUnavailable, store.start)
        self.successResultOf(store.stop())
        return str(error)

    def test_a_second_store_on_the_same_directory_is_refused(self) -> None:
        """A data directory that is in use gives an error that names it, and the first store goes on."""
        error = self.start_failing(self.data_dir)
        self.assertIn(f"the data directory {self.data_dir} is in use by another process", error)
        self.create("k")
        self.assertTrue(self.take("k").admitted)

    def test_a_directory_that_cannot_be_made_is_named(self) -> None:
        """A data directory below a file gives an error that names it and the setting."""
        path = os.path.join(self.data_dir, DATABASE_FILE, "deeper")
        error = self.start_failing(path)
        self.assertIn(f"cannot use the data directory {path}: Not a directory", error)
        self.assertIn("DATA_DIR", error)

    def test_a_missing_directory_is_made(self) -> None:
        """A data directory several levels down is created."""
        path = os.path.join(new_path(self), "a", "b")
        self.started(path)
        self.assertTrue({LOCK_FILE, DATABASE_FILE} <= set(os.listdir(path)))

    def test_a_file_that_is_no_database_is_named(self) -> None:
        """A database file of other content gives an error that names it, and is left as it is."""
        data_dir = new_path(self)
        os.mkdir(data_dir)
        path = os.path.join(data_dir, DATABASE_FILE)
        with open(path, "wb") as file:
            file.write(b"not a database" * 1000)
        for _ in range(2):
            self.assertIn(f"cannot use the database {path}: file is not a database", self.start_failing(data_dir))
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"not a database" * 1000)

    def test_a_damaged_page_is_named(self) -> None:
        """A database whose accounts cannot be read gives an error that names it, and the directory is let go."""
        for number in range(200):
            self.create(f"k{number}")
        self.successResultOf(self.store.stop())
        path = os.path.join(self.data_dir, DATABASE_FILE)
        with open(path, "r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 8192)
        for _ in range(2):
            self.assertIn(f"the database {path} is damaged: ", self.start_failing(self.data_dir))

    def test_a_database_of_another_format_is_named(self) -> None:
        """A database that a later version wrote gives an error with both formats."""
        self.successResultOf(self.store.stop())
        path = os.path.join(self.data_dir, DATABASE_FILE)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version=7")
        connection.close()
        self.assertIn(f"the database {path} has format 7", self.start_failing(self.data_dir))

    def closed(self) -> str:
        """The path of the store's database, with a few accounts, when nobody has it."""
        for number in range(3):
            self.create(f"k{number}")
        self.successResultOf(self.store.stop())
        return os.path.join(self.data_dir, DATABASE_FILE)

    def test_an_empty_file_is_no_new_database(self) -> None:
        """A file of 0 bytes, which held users once, is not taken for a beginning without users."""
        path = self.closed()
        os.truncate(path, 0)
        for _ in range(2):
            self.assertIn(f"the database {path} is empty (0 bytes)", self.start_failing(self.data_dir))
        self.assertEqual(os.path.getsize(path), 0)
        os.unlink(path)
        with capturedLogs() as events:
            self.started(self.data_dir)
        self.assertEqual([event.get("path") for event in events], [path])

    def test_a_log_without_its_database(self) -> None:
        """A write-ahead log whose database is missing is not thrown away."""
        path = self.closed()
        os.rename(path, path + "-wal")
        self.assertIn(f"the database {path} is missing, but its write-ahead log", self.start_failing(self.data_dir))
        self.assertTrue(os.path.getsize(path + "-wal"))

    def test_the_database_of_another_program(self) -> None:
        """A database with other tables is named with one of them, and is left as it is, whatever its version."""
        for version in (0, 1):
            data_dir = new_path(self)
            os.mkdir(data_dir)
            path = os.path.join(data_dir, DATABASE_FILE)
            connection = sqlite3.connect(path)
            connection.execute("CREATE TABLE bookmark (url TEXT)")
            connection.execute(f"PRAGMA user_version={version}")
            connection.close()
            with open(path, "rb") as file:
                before = file.read()
            said = self.start_failing(data_dir)
            self.assertIn(f"the database {path}", said)
            self.assertIn("it has the table bookmark" if version == 0 else "no such table: account", said)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), before)

    def test_a_database_without_tables(self) -> None:
        """A database that was only just made when its process was killed is used."""
        data_dir = new_path(self)
        os.mkdir(data_dir)
        connection = sqlite3.connect(os.path.join(data_dir, DATABASE_FILE))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        self.store = self.started(data_dir)
        self.create("k")

    def test_rows_that_make_no_sense(self) -> None:
        """An account that no bucket can be made of is named, and the program does not start with the others."""
        for column, value in [("capacity", "'x'"), ("capacity", "0"), ("rate_per_sec", "-1"), ("level", "0.5")]:
            self.data_dir = new_path(self)
            self.store = self.started(self.data_dir)
            path = self.closed()
            connection = sqlite3.connect(path)
            connection.execute(f"UPDATE account SET {column} = {value} WHERE name = 'user k1'")
            connection.commit()
            connection.close()
            self.assertIn("is damaged: it has an account ('" + digest_of("k1"), self.start_failing(self.data_dir))

    def test_garbage_collector(self) -> None:
        """It is paused while all users are loaded, and works again afterwards, also when that has failed."""
        self.create("k")
        rows, collecting = AccountDatabase.rows, []

        def noted(database: AccountDatabase) -> list[Row]:
            collecting.append(gc.isenabled())
            return rows(database)

        self.patch(AccountDatabase, "rows", noted)
        self.restart()
        self.assertEqual((collecting, gc.isenabled()), ([False], True))
        self.assertTrue(self.take("k").admitted)
        self.successResultOf(self.store.stop())

        def broken(database: AccountDatabase) -> list[Row]:
            raise StoreUnavailable("broken")

        self.patch(AccountDatabase, "rows", broken)
        self.assertEqual(self.start_failing(self.data_dir), "broken")
        self.assertTrue(gc.isenabled())

    def test_half_a_new_database_is_no_matter(self) -> None:
        """What a process left that was killed while it wrote a database anew is overwritten the next time."""
        path = self.closed()
        with open(path + ".new", "wb") as file:
            file.write(b"half")
        self.store = self.started(self.data_dir)
        self.assertEqual(self.level("k1"), 5_000_000)
