"""The embedded store: the contract, on a scripted clock, and what is left on disk."""

from __future__ import annotations

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.limits.test_bucket import LIVES
from tests.stores.contract import StoreContract, digest_of, new_path
from tests.stores.embedded_on_clock import SECOND, START, StoreOnClock
from tests.stores.limits_contract import LimitsContract
from tests.stores.quotas_contract import QuotasContract
from tests.stores.shared_contract import SharedContract
from tests.stores.usage_contract import UsageContract
from tests.stores.users_contract import UsersContract
from twisted_lb.interfaces import (
    GLOBAL,
    MICROTOKENS,
    Account,
    Limits,
    NameTaken,
    NotStored,
    Policy,
    Profile,
    Taken,
)
from twisted_lb.stores.sqlite import store, writer
from twisted_lb.stores.sqlite.database import AccountDatabase, Row
from twisted_lb.stores.sqlite.store import EmbeddedStore, steady_clock
from twisted_lb.stores.sqlite.writer import FLUSH_SECONDS

M = MICROTOKENS


class ContractTests(
    StoreContract, LimitsContract, SharedContract, UsersContract, UsageContract, QuotasContract, TestCase
):
    """The contract of stores, over the embedded one."""

    def setUp(self) -> None:
        self.now_us = START
        self.begin_with(Limits())

    def begin_with(self, limits: Limits) -> None:
        self.clock = Clock()
        self.store = EmbeddedStore(new_path(self), lambda: self.now_us, self.clock, maybeDeferred, limits)
        self.store.start()
        self.addCleanup(self.store.stop)

    def some_milliseconds(self) -> None:
        self.now_us += 5000

    def some_time(self) -> None:
        self.clock.advance(FLUSH_SECONDS)


class TakingTests(StoreOnClock):
    """Taking on a scripted clock."""

    def test_lives(self) -> None:
        """At each time of each life, a bucket of the store admits and holds what the law says."""
        for number, (what, capacity, rate, steps) in enumerate(LIVES):
            self.now_us = START
            self.create(f"k{number}", capacity, rate)
            for at, admitted, level in steps:
                self.now_us = START + at
                expected = Taken(admitted, b"user k%d" % number, capacity, rate, level)
                self.assertEqual(self.take(f"k{number}"), expected, what)

    def test_a_change_counts_from_its_time(self) -> None:
        """Time before a change refills at the old rate, time after it at the new one."""
        self.create("k", 10, 1.0)
        for _ in range(10):
            self.take("k")
        self.now_us += 2 * SECOND
        profile = self.successResultOf(self.store.change(digest_of("k"), None, 5.0))
        self.assertEqual(profile, Profile(Account("user k", 10, 5.0), 2 * M))
        self.now_us += SECOND
        self.assertEqual(self.level("k"), 7 * M)

    def test_a_debit_is_not_paid_by_the_refill_before_it(self) -> None:
        """A bucket that has been full for an hour, and is charged 6 beyond, owes that, and pays at its rate."""
        limits = Limits(global_bucket=Policy(5, 1.0))
        self.store = EmbeddedStore(new_path(self), lambda: self.now_us, self.clock, self.disk.run, limits)
        self.store.start()
        self.addCleanup(lambda: self.successResultOf(self.store.stop()))
        self.create("k", 9, 1.0)
        self.create("other", 9, 1.0)
        self.take("k")
        self.now_us += 3600 * SECOND
        self.store.release(digest_of("k"), 15)
        self.assertEqual(self.level("k"), -6 * M)
        self.assertEqual(self.take("other"), Taken(False, b"user other", 5, 1.0, -10 * M, GLOBAL))
        self.now_us += 7 * SECOND
        self.assertEqual(self.level("k"), M)
        self.assertEqual(self.take("other"), Taken(False, b"user other", 5, 1.0, -3 * M, GLOBAL))

    def test_a_refusal_by_another_limit_costs_nothing_of_what_refills(self) -> None:
        """A bucket that the global bucket refused 10,000 times, and the places too, has refilled to the microtoken."""
        for limits in (Limits(global_bucket=Policy(1, 0.0)), Limits(in_flight=1)):
            self.now_us = START
            self.store = EmbeddedStore(new_path(self), lambda: self.now_us, self.clock, self.disk.run, limits)
            self.store.start()
            self.addCleanup(self.store.stop)
            self.create("k", 9, 0.1)
            self.assertTrue(self.take("k").admitted)
            level = self.level("k")
            for _ in range(10_000):
                self.now_us += 7
                self.assertFalse(self.take("k").admitted)
            self.assertEqual(self.level("k"), level + 7_000)


class SurvivalTests(StoreOnClock):
    """What is there after a stop, and after a crash."""

    def test_an_account_is_on_disk_when_its_creation_is_answered(self) -> None:
        """After a crash right behind the answer of `create`, the account is there and full."""
        self.create("k", 5, 0.25)
        self.crash()
        self.assertEqual(
            self.successResultOf(self.store.profile(digest_of("k"))), Profile(Account("user k", 5, 0.25), 5 * M)
        )
        self.failureResultOf(self.store.create(digest_of("other"), Account("user k", 5, 1.0)))

    def test_a_change_is_on_disk_when_it_is_answered(self) -> None:
        """After a crash right behind the answer of `change`, the new policy holds."""
        self.create("k", 5, 0.0)
        self.successResultOf(self.store.change(digest_of("k"), 9, 0.5))
        self.crash()
        profile = self.successResultOf(self.store.profile(digest_of("k")))
        assert profile is not None
        self.assertEqual(profile.account, Account("user k", 9, 0.5))

    def test_a_crash_after_a_change_does_not_count_the_past_at_the_new_rate(self) -> None:
        """A bucket that stood still for an hour, and was changed before a crash, refills from the change on."""
        self.create("k", 100, 0.0)
        for _ in range(100):
            self.take("k")
        self.clock.advance(FLUSH_SECONDS)
        self.now_us += 3600 * SECOND
        self.successResultOf(self.store.change(digest_of("k"), None, 1.0))
        self.crash()
        self.assertEqual(self.level("k"), 0)
        self.now_us += 3 * SECOND
        self.assertEqual(self.level("k"), 3 * M)

    def test_a_flush_between_a_change_and_its_answer_keeps_its_time(self) -> None:
        """A level that is flushed while a change is being written is stamped no earlier than the change."""
        self.create("k", 100, 0.0)
        for _ in range(100):
            self.take("k")
        self.now_us += 3600 * SECOND
        self.disk.held = True
        self.store.change(digest_of("k"), None, 1.0)
        self.clock.advance(FLUSH_SECONDS)
        self.disk.one()
        self.disk.one()
        self.disk.held = False
        self.crash()
        self.assertEqual(self.level("k"), 0)

    def test_a_stop_writes_every_level(self) -> None:
        """A restart finds the level of the moment of the stop, given-back tokens included."""
        self.create("k", 5)
        for _ in range(4):
            self.take("k")
        self.store.release(digest_of("k"), -1)
        self.restart()
        self.assertEqual(self.level("k"), 2 * M)

    def test_a_debt_survives(self) -> None:
        """A level below zero is there after a restart and after a crash behind a flush, and refills from there."""
        self.create("k", 5, 1.0)
        self.store.release(digest_of("k"), 9)
        self.restart()
        self.assertEqual(self.level("k"), -4 * M)
        self.store.release(digest_of("k"), 2)
        self.clock.advance(FLUSH_SECONDS)
        self.store.release(digest_of("k"), -2)
        self.crash()
        self.assertEqual(self.level("k"), -6 * M)
        self.now_us += 8 * SECOND
        self.assertEqual(self.level("k"), 2 * M)

    def test_levels_are_flushed_every_second(self) -> None:
        """After a crash, takings older than a flush are counted, and only younger ones are forgotten."""
        self.create("k", 5)
        self.take("k")
        self.take("k")
        self.clock.advance(FLUSH_SECONDS)
        self.take("k")
        self.crash()
        self.assertEqual(self.level("k"), 3 * M)

    def test_time_away_refills(self) -> None:
        """A level read from disk is refilled for the time since it was written, and never above the capacity."""
        self.create("k", 5, 1.0)
        for _ in range(5):
            self.take("k")
        self.successResultOf(self.store.stop())
        self.now_us += 2 * SECOND + 500_000
        self.store = self.started(self.data_dir)
        self.assertEqual(self.level("k"), 2_500_000)
        self.now_us += 3600 * SECOND
        self.restart()
        self.assertEqual(self.level("k"), 5 * M)

    def test_a_clock_put_back_does_not_stop_a_bucket(self) -> None:
        """A bucket stamped in the future is not refilled at once, and refills from the start on."""
        self.create("k", 5, 1.0)
        for _ in range(5):
            self.take("k")
        self.successResultOf(self.store.stop())
        self.now_us -= 3600 * SECOND
        self.store = self.started(self.data_dir)
        self.assertEqual(self.level("k"), 0)
        self.now_us += 2 * SECOND
        self.assertEqual(self.level("k"), 2 * M)

    def test_only_changed_levels_are_written(self) -> None:
        """In a second in which nothing is taken, or all is refused, nothing is written."""
        self.create("k", 1)
        self.take("k")
        self.clock.advance(FLUSH_SECONDS)
        writes = self.disk.writes
        self.assertFalse(self.take("k").admitted)
        self.clock.advance(FLUSH_SECONDS)
        self.assertEqual(self.disk.writes, writes)

    def test_many_levels_go_in_slices(self) -> None:
        """Levels of more buckets than a slice holds are all written, in several transactions."""
        self.patch(writer, "FLUSH_SLICE", 3)
        for number in range(10):
            self.create(f"k{number}")
            self.take(f"k{number}")
        writes = self.disk.writes
        self.clock.advance(FLUSH_SECONDS)
        self.assertEqual(self.disk.writes - writes, 4)
        self.crash()
        self.assertEqual([self.level(f"k{number}") for number in range(10)], [4 * M] * 10)

    def test_a_stop_waits_for_the_flush_under_way(self) -> None:
        """A stop in the middle of a flush writes its later slices before the database is closed."""
        self.patch(writer, "FLUSH_SLICE", 1)
        for number in range(8):
            self.create(f"k{number}")
            self.take(f"k{number}")
        self.disk.held = True
        self.clock.advance(FLUSH_SECONDS)
        self.disk.one()
        self.take("k0")
        stopped = self.store.stop()
        self.assertNoResult(stopped)
        while self.disk.waiting:
            self.disk.one()
        self.successResultOf(stopped)
        self.disk.held = False
        self.store = self.started(self.data_dir)
        self.assertEqual([self.level(f"k{number}") for number in range(8)], [3 * M] + [4 * M] * 7)

    def test_levels_that_could_not_be_written_are_tried_again(self) -> None:
        """While the disk refuses, levels stay in memory with one line in the log; later they are written."""
        self.create("k", 5)
        self.take("k")
        self.disk.broken = NotStored("cannot use the database x: disk is full")
        with capturedLogs() as events:
            self.clock.advance(FLUSH_SECONDS)
            self.clock.advance(FLUSH_SECONDS)
        self.assertEqual([event["reason"] for event in events], ["cannot use the database x: disk is full"])
        self.assertEqual(self.store.counts(), {"store_up": 0.0, "store_outages": 1, "store_write_errors": 2})
        self.assertEqual(self.take("k").level, 3 * M)
        self.disk.broken = None
        self.clock.advance(FLUSH_SECONDS)
        self.crash()
        self.assertEqual(self.level("k"), 3 * M)


class SyncTests(SynchronousTestCase):
    """What survives a power cut."""

    def test_every_commit_is_synced(self) -> None:
        """The database writes ahead, and syncs each commit (synchronous is 2, which is FULL)."""
        database = AccountDatabase(new_path(self))
        self.addCleanup(database.close)
        [journal] = database._connection.execute("PRAGMA journal_mode").fetchone()
        [synchronous] = database._connection.execute("PRAGMA synchronous").fetchone()
        self.assertEqual((journal, synchronous), ("wal", 2))


class FailureTests(StoreOnClock):
    """What goes wrong with the disk, and what is said."""

    def test_names_from_before_they_were_normalized(self) -> None:
        """A name that was stored in another form is taken, and its user goes on under the name as it was stored."""
        path = new_path(self)
        database = AccountDatabase(path)
        for number, name in enumerate(("e\u0301", "\u00e9", "\u212b", "\u3164")):
            database.insert(Row(digest_of(f"old{number}"), name, 5, 0.0, 5 * M, START))
        database.close()
        self.store = EmbeddedStore(path, lambda: self.now_us, self.clock, self.disk.run)
        self.store.start()
        self.addCleanup(lambda: self.successResultOf(self.store.stop()))
        self.assertEqual(self.take("old0"), Taken(True, "e\u0301".encode(), 5, 0.0, 4 * M))
        for name in ("e\u0301", "\u00e9", "\u00c5"):
            self.failureResultOf(self.store.create(digest_of("new"), Account(name, 5, 0.0)), NameTaken)
        page = self.successResultOf(self.store.page("", 2))
        self.assertEqual([one.account.name for one in page.profiles], ["e\u0301", "\u00e9"])
        self.assertEqual(page.more_after, "\u00e9")
        page = self.successResultOf(self.store.page("\u00e9", 2))
        self.assertEqual([one.account.name for one in page.profiles], ["\u212b", "\u3164"])

    def test_an_account_that_cannot_be_stored_does_not_exist(self) -> None:
        """When the disk refuses a creation, its key stays unknown and its name free."""
        self.disk.broken = NotStored("cannot use the database x: disk is full")
        created = self.store.create(digest_of("k"), Account("user k", 5, 0.0))
        self.assertEqual(str(self.failureResultOf(created, NotStored).value), str(self.disk.broken))
        self.assertIsNone(self.take("k"))
        self.disk.broken = None
        self.create("k")

    def test_a_change_that_cannot_be_stored_changes_nothing(self) -> None:
        """When the disk refuses a change, the old policy and the level stay."""
        self.create("k", 5, 0.0)
        self.disk.broken = NotStored("cannot use the database x: disk is full")
        self.failureResultOf(self.store.change(digest_of("k"), 2, 1.0), NotStored)
        self.disk.broken = None
        self.assertEqual(self.take("k"), Taken(True, b"user k", 5, 0.0, 4 * M))

    def test_an_account_is_unknown_until_it_is_stored(self) -> None:
        """While a creation is being written, its key has no bucket, and its name is taken already."""
        self.disk.held = True
        created = self.store.create(digest_of("k"), Account("ann", 5, 0.0))
        self.assertIsNone(self.take("k"))
        self.failureResultOf(self.store.create(digest_of("k2"), Account("ann", 5, 0.0)))
        self.disk.one()
        self.assertIsNone(self.successResultOf(created))
        self.assertTrue(self.take("k").admitted)
        self.disk.held = False


class ClockTests(SynchronousTestCase):
    """`steady_clock`."""

    def test_it_ignores_the_wall_clock_once_made(self) -> None:
        """A wall clock that is set later moves nothing; the monotonic one moves it by as much."""
        times = {"wall": 1_800_000_000 * 10**9, "monotonic": 5 * 10**9}
        self.patch(store.time, "time_ns", lambda: times["wall"])
        self.patch(store.time, "monotonic_ns", lambda: times["monotonic"])
        now_us = steady_clock()
        self.assertEqual(now_us(), START)
        times["wall"] -= 3600 * 10**9
        times["monotonic"] += 1_500
        self.assertEqual(now_us(), START + 1)
