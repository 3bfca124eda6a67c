"""Counts by time of the embedded store: the windows, minute by minute, and what is left on disk."""

from __future__ import annotations

import os
import sqlite3

from tests.stores.contract import digest_of
from tests.stores.embedded_on_clock import SECOND, START, StoreOnClock
from tests.stores.users_contract import new_user
from twisted_lb.interfaces import NotStored, StoreUnavailable
from twisted_lb.stores.sqlite.files import DATABASE_FILE
from twisted_lb.stores.sqlite.store import EmbeddedStore
from twisted_lb.stores.sqlite.writer import FLUSH_SECONDS
from twisted_lb.usage import WindowCounts, key_subject

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
NOTHING = WindowCounts({}, {})


def of(key: str) -> str:
    return key_subject(digest_of(key))


class UsageOnClock(StoreOnClock):
    """A store in which a key "k" exists."""

    def setUp(self) -> None:
        super().setUp()
        self.assertEqual(START % HOUR, 0)
        self.create("k")

    def add(self, key: str = "k", **counts: int) -> None:
        self.assertEqual(self.successResultOf(self.store.add_counts({of(key): counts})), {})

    def counted(self, key: str = "k") -> WindowCounts:
        [found] = self.successResultOf(self.store.counts_of([of(key)]))
        return found

    def requests(self, key: str = "k") -> tuple[int, int]:
        """In the last hour, and in the last day."""
        hour, day = self.counted(key)
        return hour.get("requests", 0), day.get("requests", 0)


class WindowTests(UsageOnClock):
    """What the last hour and the last day are."""

    def test_the_hour_has_the_present_minute_and_the_59_before(self) -> None:
        """A request in the last second of a minute is in the hour for 59 minutes, one in its first second for 60."""
        for begun in (0, 59 * SECOND):
            self.now_us = START + begun
            self.add(requests=1)
        self.now_us = START + HOUR - 1
        self.assertEqual(self.requests(), (2, 2))
        self.now_us = START + HOUR
        self.assertEqual(self.requests(), (0, 2))

    def test_the_day_has_the_present_half_hour_and_the_47_before(self) -> None:
        """A request is in the day for 23½ to 24 hours."""
        for begun in (0, HOUR // 2 - 1):
            self.now_us = START + begun
            self.add(requests=1)
        self.now_us = START + 24 * HOUR - 1
        self.assertEqual(self.requests(), (0, 2))
        self.now_us = START + 24 * HOUR
        self.assertEqual(self.requests(), (0, 0))

    def test_what_leaves_the_window_is_one_slot(self) -> None:
        """At 1 request a second, the hour is never more than a minute short, and the day half an hour."""
        seconds = 90 * 60
        for second in range(0, seconds, 10):
            self.now_us = START + second * SECOND
            self.add(requests=10)
            hour, day = self.requests()
            done = second + 10
            self.assertLessEqual(hour, min(done, 3600))
            self.assertGreater(hour, min(done, 3600 - 60) - 1)
            self.assertEqual(day, done)

    def test_counters_come_and_go_by_themselves(self) -> None:
        """A refusal of two hours ago is in the day only, and requests of now in both."""
        self.add(**{"refused:default": 3})
        self.now_us += 2 * HOUR
        self.add(requests=1)
        self.assertEqual(self.counted(), WindowCounts({"requests": 1}, {"requests": 1, "refused:default": 3}))

    def test_memory_is_bounded(self) -> None:
        """A subject has no more than 60 minutes and 48 half hours, and is forgotten after a day of silence."""
        for _ in range(3 * 24 * 6):
            self.now_us += 10 * MINUTE
            self.add(requests=1)
        [counters] = self.store._usage._subjects.values()
        minutes, days = counters["requests"]
        self.assertEqual((len(minutes), len(days)), (2 * 6, 2 * 48))
        self.create("other")
        self.now_us += 24 * HOUR
        self.add("other", requests=1)
        self.assertEqual(self.store._usage.subjects, [of("other")])
        self.assertEqual(self.counted(), NOTHING)


class DiskTests(UsageOnClock):
    """What survives."""

    def rows(self) -> list[str]:
        connection = sqlite3.connect(os.path.join(self.data_dir, DATABASE_FILE))
        rows = connection.execute("SELECT DISTINCT subject FROM usage").fetchall()
        connection.close()
        return [subject for (subject,) in rows]

    def test_counts_are_on_disk_within_a_round(self) -> None:
        """After kill -9 the counts are those of the last round, in the same minutes."""
        self.add(requests=1)
        self.now_us += 30 * MINUTE
        self.add(requests=2, tokens=5)
        self.clock.advance(FLUSH_SECONDS)
        before = self.counted()
        self.add(requests=4)
        self.crash()
        self.assertEqual(self.counted(), before)
        self.now_us += 30 * MINUTE
        self.assertEqual(self.counted(), WindowCounts({"requests": 2, "tokens": 5}, {"requests": 3, "tokens": 5}))

    def test_a_stop_writes_all(self) -> None:
        """After an orderly stop nothing is missing."""
        self.add(requests=1)
        self.restart()
        self.assertEqual(self.requests(), (1, 1))

    def test_what_could_not_be_written_is_written_later(self) -> None:
        """Counts of the time in which the disk was full are not lost."""
        self.clock.advance(FLUSH_SECONDS)
        self.disk.broken = NotStored("cannot use the database x: disk is full")
        self.add(requests=1)
        self.clock.advance(FLUSH_SECONDS)
        self.now_us += 5 * MINUTE
        self.add(requests=1)
        self.clock.advance(FLUSH_SECONDS)
        self.disk.broken = None
        self.clock.advance(FLUSH_SECONDS)
        self.crash()
        self.assertEqual(self.requests(), (2, 2))

    def test_counts_of_a_deleted_user_go_from_the_disk(self) -> None:
        """Within a round nothing is left of the keys of a deleted user; nor after a crash before that."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", "a2")))
        for key in ("k", "a", "a2"):
            self.add(key, requests=1)
        self.clock.advance(FLUSH_SECONDS)
        self.assertEqual(sorted(self.rows()), sorted(map(of, ("k", "a", "a2"))))
        self.successResultOf(self.store.delete_user("ann"))
        running = self.store
        self.crash()
        self.assertEqual((self.counted("a"), self.requests("k")), (NOTHING, (1, 1)))
        self.store = running
        self.clock.advance(FLUSH_SECONDS)
        self.assertEqual(self.rows(), [of("k")])

    def test_silent_subjects_go_from_the_disk(self) -> None:
        """A row that was not changed for a day is removed, also after a start a day later."""
        self.add(requests=1)
        self.clock.advance(FLUSH_SECONDS)
        self.now_us += 24 * HOUR
        self.restart()
        self.clock.advance(FLUSH_SECONDS)
        self.assertEqual(self.rows(), [])

    def test_counts_are_in_a_new_database(self) -> None:
        """When the database is lost, the counts are written to the new one."""
        self.add(requests=1)
        self.clock.advance(FLUSH_SECONDS)
        for name in os.listdir(self.data_dir):
            if name.startswith(DATABASE_FILE):
                os.unlink(os.path.join(self.data_dir, name))
        for _ in range(10):
            self.clock.advance(1.0)
        self.assertTrue(self.store.state().up, self.store.state().reason)
        self.restart()
        self.assertEqual(self.requests(), (1, 1))

    def test_a_clock_that_was_set_back(self) -> None:
        """What was counted in the future is dropped, and the rest is kept."""
        self.add(requests=1)
        self.now_us += 2 * HOUR
        self.add(requests=2)
        self.successResultOf(self.store.stop())
        self.now_us -= HOUR
        self.store = self.started(self.data_dir)
        self.assertEqual(self.requests(), (0, 1))

    def test_counts_that_make_no_sense_are_reported(self) -> None:
        """A row that this program cannot have written gives an error with the path."""
        rows = (
            (b"x", "a", b"", b""),
            ("x", b"a", b"", b""),
            ("x", "a", "", b""),
            ("x", "a", b"", 1),
            ("x", "a", b"12345678", b""),
            ("x", "a", b"", b"1" * 17),
        )
        for number, row in enumerate(rows):
            here = self.data_dir + str(number)
            store = EmbeddedStore(here, lambda: self.now_us, self.clock, self.disk.run)
            store.start()
            self.successResultOf(store.stop())
            connection = sqlite3.connect(os.path.join(here, DATABASE_FILE))
            connection.execute("INSERT INTO usage VALUES (?, ?, ?, ?)", row)
            connection.commit()
            connection.close()
            with self.assertRaises(StoreUnavailable) as caught:
                store.start()
            self.assertIn(f"{DATABASE_FILE} is damaged: usage", str(caught.exception), row)
