"""The embedded store while its disk fails: what is said, what goes on, and what is there afterwards."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.logger import LogLevel, capturedLogs, formatEvent

from tests.stores.contract import digest_of
from tests.stores.embedded_on_clock import StoreOnClock
from twisted_lb.interfaces import MICROTOKENS, Account, NotStored, StoreUnavailable
from twisted_lb.stores.sqlite import database, writer
from twisted_lb.stores.sqlite.files import DATABASE_FILE, LOCK_FILE
from twisted_lb.stores.sqlite.writer import ANEW_SECONDS, FLUSH_SECONDS, IDLE_ROUNDS, STUCK_ROUNDS

M = MICROTOKENS


def garbage(path: str) -> None:
    """Write over all of a file."""
    with open(path, "r+b") as file:
        file.write(b"garbage!" * 4096)


class FaultCase(StoreOnClock):
    def setUp(self) -> None:
        # Whoever holds the database holds it for longer than a test takes.
        self.patch(database, "BUSY_SECONDS", 0.0)
        super().setUp()
        self.path = os.path.join(self.data_dir, DATABASE_FILE)
        for number in range(20):
            self.create(f"k{number}", 5)
        self.take("k0")
        self.clock.advance(FLUSH_SECONDS)
        self.take("k1")

    def rounds(self, number: int = 1) -> list[Any]:
        """Let some seconds pass; what was logged."""
        with capturedLogs() as events:
            self.clock.pump([FLUSH_SECONDS] * number)
        return events

    def assert_down(self, why: str) -> None:
        state = self.store.state()
        self.assertFalse(state.up, why)
        self.assertIn(why, state.reason)
        self.assertEqual(self.store.counts()["store_up"], 0.0)

    def assert_nothing_lost(self, *more: str) -> None:
        """After kill -9 each account is there, with its level."""
        self.crash()
        self.assertEqual([self.level("k0"), self.level("k1"), self.level("k2")], [4 * M, 3 * M, 4 * M])
        for key in [f"k{number}" for number in range(3, 20)] + list(more):
            self.assertEqual(self.level(key), 5 * M)


class LostDatabaseTests(FaultCase):
    """Somebody lays hands on the files."""

    def lost(self, act: Callable[[], object], why: str) -> None:
        act()
        [event] = self.rounds()
        self.assertEqual((event["log_level"], event["reason"]), (LogLevel.error, why))
        self.assert_down(why)
        # Requests go on from memory, and nobody is given an account that is not stored.
        self.assertTrue(self.take("k1").admitted)
        self.assertTrue(self.take("k2").admitted)
        self.failureResultOf(self.store.create(digest_of("new"), Account("new", 5, 0.0)), NotStored)
        self.failureResultOf(self.store.change(digest_of("k3"), 9, None), NotStored)
        page = self.successResultOf(self.store.page("user k17", 2))
        self.assertEqual([profile.account.name for profile in page.profiles], ["user k18", "user k19"])
        self.assertEqual(self.rounds(int(ANEW_SECONDS) - 1), [])
        told = self.rounds()
        self.assertEqual([event["log_level"] for event in told], [LogLevel.info] * 2)
        self.assertEqual(told[0]["count"], 20)
        self.assertTrue(self.store.state().up)
        self.create("new")
        self.clock.advance(FLUSH_SECONDS)
        self.assert_nothing_lost("new")

    def test_removed(self) -> None:
        """A database that was removed is written anew, with all that is in memory."""
        self.lost(lambda: os.unlink(self.path), f"the database {self.path} was removed")

    def test_directory_removed(self) -> None:
        """So is one whose directory was removed, lock and all."""
        self.lost(lambda: shutil.rmtree(self.data_dir), f"the database {self.path} was removed")
        self.assertTrue({DATABASE_FILE, LOCK_FILE} <= set(os.listdir(self.data_dir)))

    def test_directory_renamed(self) -> None:
        """So is one whose directory has another name now; what has that name is left alone."""
        elsewhere = self.data_dir + "-moved"
        self.addCleanup(shutil.rmtree, elsewhere)
        self.lost(lambda: os.rename(self.data_dir, elsewhere), f"the database {self.path} was removed")
        self.assertIn(DATABASE_FILE, os.listdir(elsewhere))

    def test_replaced(self) -> None:
        """A database that was replaced is written anew, and what replaced it is kept beside it, log and all."""

        def replace() -> None:
            connection = sqlite3.connect(self.path + ".other", isolation_level=None)
            connection.execute("CREATE TABLE other (x)")
            connection.close()
            os.replace(self.path + ".other", self.path)
            with open(self.path + ".log", "wb") as log:
                log.write(b"of the other")
            os.replace(self.path + ".log", self.path + "-wal")

        self.lost(replace, f"the database {self.path} was replaced by another file")
        kept = sqlite3.connect(f"file:{self.path}.set-aside-1?mode=ro&immutable=1", uri=True)
        self.assertEqual(kept.execute("SELECT name FROM sqlite_master").fetchall(), [("other",)])
        kept.close()
        with open(self.path + ".set-aside-1-wal", "rb") as log:
            self.assertEqual(log.read(), b"of the other")

    def test_emptied(self) -> None:
        """A database that was cut to 0 bytes is written anew."""
        size = os.path.getsize(self.path)
        self.lost(lambda: os.truncate(self.path, 0), f"the database {self.path} was truncated from {size} to 0 bytes")

    def test_overwritten(self) -> None:
        """A database that was overwritten in its place is written anew."""
        self.lost(lambda: garbage(self.path), f"the database {self.path} was overwritten")

    def test_log_removed(self) -> None:
        """A write-ahead log that was removed has taken commits with it: all accounts are written again."""
        log = self.path + "-wal"
        self.lost(lambda: os.unlink(log), f"the write-ahead log {log} was removed")

    def test_log_overwritten(self) -> None:
        """So it has when it was overwritten."""
        log = self.path + "-wal"
        self.lost(lambda: garbage(log), f"the write-ahead log {log} was written by another program")

    def test_written_by_another_program(self) -> None:
        """What another program has committed is not what this process knows, and is kept beside the new database."""

        def write() -> None:
            connection = sqlite3.connect(self.path, isolation_level=None)
            connection.execute("DELETE FROM account WHERE name = 'user k5'")
            connection.close()

        self.lost(write, f"the write-ahead log {self.path}-wal was written by another program")

    def test_touched(self) -> None:
        """A database whose times have changed but not its content is none of that, and neither is one that was read."""
        os.utime(self.path, (1, 1))
        connection = sqlite3.connect(self.path)
        self.assertEqual(connection.execute("SELECT count(*) FROM account").fetchone(), (20,))
        connection.close()
        shutil.copy(self.path, self.path + ".backup")
        self.assertEqual(self.rounds(3), [])
        self.assertTrue(self.store.state().up)

    def test_noticed_by_the_first_account(self) -> None:
        """An account that is created right after the database was removed is refused, and not told to be stored."""
        os.unlink(self.path)
        self.failureResultOf(self.store.create(digest_of("new"), Account("new", 5, 0.0)), NotStored)
        self.assertFalse(self.store.state().up)

    def test_another_process_took_the_directory(self) -> None:
        """Where another process has locked the directory meanwhile, nothing is written until it is gone."""
        os.unlink(os.path.join(self.data_dir, LOCK_FILE))
        other = database.AccountDatabase(self.data_dir)
        self.rounds(20)
        self.assert_down("is in use by another process")
        self.assertTrue(self.take("k2").admitted)
        self.assertEqual(len(other.rows()), 20)
        other.close()
        self.rounds(60)
        self.assertTrue(self.store.state().up)
        self.take("k1")
        self.clock.advance(FLUSH_SECONDS)
        self.assert_nothing_lost()

    def test_writing_anew_fails_for_a_while(self) -> None:
        """While a new database cannot be written it is tried again, ever less often, with one line in the log."""
        shutil.rmtree(self.data_dir)
        with open(self.data_dir, "wb"):
            pass
        before = self.disk.calls
        self.assertEqual(len(self.rounds(60)), 1)
        self.assertTrue(self.disk.calls - before < 10)
        self.assertTrue(self.take("k1").admitted)
        self.assertTrue(self.take("k2").admitted)
        os.unlink(self.data_dir)
        self.rounds(60)
        self.assert_nothing_lost()


class FullDiskTests(FaultCase):
    """Calls fail, and the files are as they were."""

    def test_down_and_up(self) -> None:
        """While nothing can be written one line says so, each second it is tried, and what is in memory follows."""
        self.disk.broken = NotStored("cannot use the database x: database or disk is full")
        told = self.rounds(5)
        self.assertEqual([event["log_level"] for event in told], [LogLevel.error])
        self.assert_down("database or disk is full; requests are served from memory")
        self.assertTrue(self.take("k1").admitted)
        self.assertTrue(self.take("k2").admitted)
        self.failureResultOf(self.store.create(digest_of("new"), Account("new", 5, 0.0)), NotStored)
        self.disk.broken = None
        self.assertEqual([event["log_level"] for event in self.rounds()], [LogLevel.info])
        self.assertEqual(self.store.counts(), {"store_up": 1.0, "store_outages": 1, "store_write_errors": 6})
        self.assert_nothing_lost()

    def test_held_by_another_program(self) -> None:
        """A program that holds the database for long makes the store down, and up when it lets go."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        self.rounds(2)
        self.assert_down("database is locked")
        other.execute("ROLLBACK")
        other.close()
        self.rounds()
        self.assertTrue(self.store.state().up)

    def test_idle(self) -> None:
        """A disk that cannot be written is known although there is nothing to write, and so is that it can."""
        self.rounds(2)
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        self.rounds(IDLE_ROUNDS + 1)
        self.assert_down("database is locked")
        other.execute("ROLLBACK")
        other.close()
        self.rounds()
        self.assertTrue(self.store.state().up)

    def test_looking_says_nothing_of_writing(self) -> None:
        """A look that began before a write failed does not make the store up again."""
        self.rounds()
        self.disk.held = True
        self.clock.advance(FLUSH_SECONDS)
        created = self.store.create(digest_of("new"), Account("new", 5, 0.0))
        look = self.disk.waiting.pop(0)
        self.disk.waiting.pop(0)[0].errback(NotStored("cannot use the database x: disk I/O error"))
        look[0].callback(None)
        self.failureResultOf(created, NotStored)
        self.assert_down("disk I/O error")
        self.disk.held = False


class StuckDiskTests(FaultCase):
    """Calls do not return."""

    def test_stuck(self) -> None:
        """A disk that does not answer makes the store down; who waits is told so, and what it wrote counts later."""
        self.disk.held = True
        created = self.store.create(digest_of("new"), Account("user new", 5, 0.0))
        changed = self.store.change(digest_of("k3"), None, 1.0)
        self.clock.pump([FLUSH_SECONDS] * STUCK_ROUNDS)
        self.assertNoResult(created)
        self.clock.advance(FLUSH_SECONDS)
        for answer in (created, changed):
            # Nobody knows whether it will be stored.
            self.assertNotIsInstance(self.failureResultOf(answer, StoreUnavailable).value, NotStored)
        self.assert_down("has not responded for 5 s")
        self.failureResultOf(self.store.create(digest_of("more"), Account("user more", 5, 0.0)), NotStored)
        while self.disk.waiting:
            self.disk.one()
        self.disk.held = False
        self.rounds(2)
        self.assertTrue(self.store.state().up)
        self.assertEqual(self.level("new"), 5 * M)
        self.take("k2")
        self.take("k1")
        self.clock.advance(FLUSH_SECONDS)
        self.assert_nothing_lost("new")

    def test_slow(self) -> None:
        """A disk that takes long for each call and goes on is not stuck."""
        self.disk.held = True
        for number in range(10):
            self.store.create(digest_of(f"n{number}"), Account(f"user n{number}", 5, 0.0))
        for _ in range(10):
            self.clock.pump([FLUSH_SECONDS] * (STUCK_ROUNDS - 1))
            self.disk.one()
        self.assertTrue(self.store.state().up)
        self.disk.held = False
        while self.disk.waiting:
            self.disk.one()

    def test_so_many_wait(self) -> None:
        """One account more than may wait for the thread is refused at once."""
        self.patch(writer, "MAX_WAITING", 2)
        self.disk.held = True
        for name in "ab":
            self.assertNoResult(self.store.create(digest_of(name), Account(name, 5, 0.0)))
        self.failureResultOf(self.store.create(digest_of("c"), Account("c", 5, 0.0)), NotStored)
        self.disk.held = False
        while self.disk.waiting:
            self.disk.one()
        self.create("c")


class StopTests(FaultCase):
    """The end, while the disk fails."""

    def test_a_disk_that_hangs(self) -> None:
        """The process ends without the call that does not return, and says what is forgotten."""
        self.disk.held = True
        with capturedLogs() as events:
            stopped = self.store.stop()
            self.clock.pump([FLUSH_SECONDS] * (STUCK_ROUNDS - 1))
            self.assertNoResult(stopped)
            self.clock.pump([FLUSH_SECONDS] * 2)
        self.assertIsNone(self.successResultOf(stopped))
        [event] = [event for event in events if event["log_level"] is LogLevel.critical]
        self.assertIn("does not respond", formatEvent(event))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_disk_that_is_slow(self) -> None:
        """The end waits for a disk as long as calls return."""
        self.disk.held = True
        stopped = self.store.stop()
        while self.disk.waiting:
            self.assertNoResult(stopped)
            self.clock.pump([FLUSH_SECONDS] * (STUCK_ROUNDS - 1))
            self.disk.one()
        self.assertIsNone(self.successResultOf(stopped))

    def stopped(self) -> list[Any]:
        with capturedLogs() as events:
            self.successResultOf(self.store.stop())
        return events

    def test_levels_that_are_lost(self) -> None:
        """A stop that cannot write says how many levels it forgets, as critical."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        self.take("k2")
        [event] = self.stopped()
        other.close()
        self.assertEqual((event["log_level"], event["reason"].endswith("is locked")), (LogLevel.critical, True))
        self.assertEqual(event["lost"], "the tokens taken from 2 buckets since they were last written are forgotten")

    def test_a_database_that_was_removed(self) -> None:
        """A stop right behind the removal of the database writes it anew."""
        os.unlink(self.path)
        [event] = self.stopped()
        self.assertEqual(event["log_level"], LogLevel.info)
        self.take_from_disk()

    def test_an_idle_database_that_was_removed(self) -> None:
        """So does one that has nothing to write."""
        self.rounds()
        shutil.rmtree(self.data_dir)
        self.stopped()
        self.take_from_disk()

    def take_from_disk(self) -> None:
        self.store = self.started(self.data_dir)
        self.take("k1")
        self.take("k2")
        self.clock.advance(FLUSH_SECONDS)
        self.assert_nothing_lost()

    def test_accounts_that_are_lost(self) -> None:
        """A stop that cannot write a lost database anew says that all accounts are lost, as critical."""
        shutil.rmtree(self.data_dir)
        with open(self.data_dir, "wb"):
            pass
        self.addCleanup(os.unlink, self.data_dir)
        [event] = self.stopped()
        self.assertEqual(event["log_level"], LogLevel.critical)
        self.assertEqual(event["lost"], "the 20 accounts, which only this process had, are lost")
