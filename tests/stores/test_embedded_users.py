"""Users and keys of the embedded store on disk: databases of earlier formats, crashes, and the last use of keys."""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.stores.contract import Asker, digest_of, new_path
from tests.stores.embedded_on_clock import SECOND, START, StoreOnClock
from tests.stores.users_contract import HOUR, id_of, new_user
from twisted_lb.interfaces import MICROTOKENS, LimitRule, NameTaken, NotStored, StoreUnavailable, Taken
from twisted_lb.quotas import DAY, REQUESTS, Quota
from twisted_lb.stores.sqlite import schema
from twisted_lb.stores.sqlite.files import DATABASE_FILE
from twisted_lb.stores.sqlite.schema import SCHEMA_VERSION
from twisted_lb.stores.sqlite.store import NOTE_SECONDS, EmbeddedStore
from twisted_lb.usage import key_subject
from twisted_lb.users import (
    DISABLED,
    REVOKED,
    Key,
    KeyBucket,
    KeyChange,
    KeyTaken,
    Shadow,
    User,
    UserChange,
    UserFilter,
)

# As the release before users and keys were two things has made it.
FORMAT_1 = """
CREATE TABLE account (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    capacity INTEGER NOT NULL,
    rate_per_sec REAL NOT NULL,
    level INTEGER NOT NULL,
    stamp_us INTEGER NOT NULL
) WITHOUT ROWID;
PRAGMA user_version=1;
PRAGMA journal_mode=WAL;
"""
FORMAT_2 = """
CREATE TABLE account (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    capacity INTEGER NOT NULL,
    rate_per_sec REAL NOT NULL,
    level INTEGER NOT NULL,
    stamp_us INTEGER NOT NULL,
    disabled INTEGER NOT NULL DEFAULT 0,
    metadata TEXT NOT NULL DEFAULT '',
    created_us INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE api_key (
    digest TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    expires_us INTEGER NOT NULL,
    label TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    used_us INTEGER NOT NULL,
    capacity INTEGER NOT NULL,
    rate_per_sec REAL NOT NULL,
    level INTEGER NOT NULL,
    stamp_us INTEGER NOT NULL
) WITHOUT ROWID;
PRAGMA user_version=2;
PRAGMA journal_mode=WAL;
"""


def make_format_1(data_dir: str, *rows: tuple[Any, ...]) -> str:
    """A database of format 1 with these accounts; the path."""
    os.makedirs(data_dir)
    path = os.path.join(data_dir, DATABASE_FILE)
    connection = sqlite3.connect(path)
    connection.executescript(FORMAT_1)
    connection.executemany("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return path


def make_format_2(data_dir: str) -> str:
    """A database of format 2 with one user, who has two keys; the path."""
    os.makedirs(data_dir)
    path = os.path.join(data_dir, DATABASE_FILE)
    connection = sqlite3.connect(path)
    connection.executescript(FORMAT_2)
    ann = (digest_of("a"), "ann", 5, 0.5, 2 * MICROTOKENS, START, 0, '{"x":1}', START - HOUR)
    connection.execute("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", ann)
    further = (digest_of("a2"), digest_of("a"), DISABLED, 0, "second", START, START, 3, 1.0, MICROTOKENS, START)
    connection.execute("INSERT INTO api_key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", further)
    connection.commit()
    connection.close()
    return path


def version(path: str) -> int:
    connection = sqlite3.connect(path)
    [(found,)] = connection.execute("PRAGMA user_version").fetchall()
    connection.close()
    return int(found)


class Failing:
    """A connection whose statements fail after so many."""

    def __init__(self, connection: sqlite3.Connection, left: int) -> None:
        self.connection, self.left = connection, left

    def execute(self, statement: str) -> Any:
        if statement != "ROLLBACK":
            self.left -= 1
            if self.left < 0:
                raise sqlite3.OperationalError("disk I/O error")
        return self.connection.execute(statement)

    @property
    def in_transaction(self) -> bool:
        return self.connection.in_transaction


def schema_of(path: str) -> list[str]:
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    return [sql for (sql,) in found if sql]


def failing_migrations(case: SynchronousTestCase, path: str, former: int) -> int:
    """Let each statement of the migration fail in turn, and check that nothing has changed; how many there are."""
    statements, before = 0, schema_of(path)
    while True:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            schema.migrate(Failing(connection, statements), former)  # type: ignore[arg-type]
            return statements
        except sqlite3.OperationalError:
            pass
        finally:
            connection.close()
        case.assertEqual((schema_of(path), version(path)), (before, former), statements)
        statements += 1


class Format1Tests(StoreOnClock):
    """A database of the release before."""

    def setUp(self) -> None:
        super().setUp()
        self.old = new_path(self)
        ann = (digest_of("a"), "ann", 5, 0.5, 2 * MICROTOKENS, START - 4 * SECOND)
        bob = (digest_of("b"), "bob", 7, 0.0, -MICROTOKENS, START)
        self.path = make_format_1(self.old, ann, bob)

    def test_it_is_taken_over(self) -> None:
        """Names, policies, levels and keys are what they were, and each key has its key_id; also after a restart."""
        for _ in range(2):
            store = self.started(self.old)
            user = self.successResultOf(store.user("ann"))
            self.assertEqual(user, User("ann", 5, 0.5, 4 * MICROTOKENS, keys=(Key(digest_of("a")),)))
            self.assertEqual(self.successResultOf(store.find_key(id_of("b"))).level, -MICROTOKENS)
            self.successResultOf(store.stop())
            self.assertEqual(version(self.path), SCHEMA_VERSION)

    def test_what_is_new_can_be_stored_in_it(self) -> None:
        """Keys, states and metadata of a user of such a database are there after a restart."""
        self.store = store = self.started(self.old)
        self.successResultOf(store.create_key("ann", Key(digest_of("a2"), label="second")))
        self.successResultOf(store.change_key("ann", id_of("a"), KeyChange(state=DISABLED)))
        self.successResultOf(store.change_user("bob", UserChange(disabled=True, metadata={"x": 1})))
        users = [self.successResultOf(store.user(name)) for name in ("ann", "bob")]
        self.successResultOf(store.stop())
        self.store = store = self.started(self.old)
        self.assertEqual([self.successResultOf(store.user(name)) for name in ("ann", "bob")], users)

    def test_a_migration_that_ends_in_the_middle_is_begun_anew(self) -> None:
        """Whichever statement of the migration fails, the file stays one of format 1; the next start migrates it."""

        statements = failing_migrations(self, self.path, 1)
        self.assertGreater(statements, 5)
        store = self.started(self.old)
        self.assertEqual(self.successResultOf(store.user("ann")).capacity, 5)

    def test_the_format_in_between_is_taken_over(self) -> None:
        """A database of format 2 has its users, keys and states afterwards, and can have quotas."""
        connection = sqlite3.connect(self.path, isolation_level=None)
        schema.migrate(connection, 1)
        for column in ("shadow", "quota"):
            connection.execute(f"ALTER TABLE account DROP COLUMN {column}")
        for table in ("usage", "notice"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("PRAGMA user_version=2")
        connection.execute("UPDATE account SET disabled = 1 WHERE name = 'bob'")
        connection.close()
        quota = Quota(3, REQUESTS, DAY)
        self.store = store = self.started(self.old)
        self.successResultOf(store.change_user("ann", UserChange(quota=quota)))
        self.assertTrue(self.successResultOf(store.user("bob")).disabled)
        self.successResultOf(store.stop())
        self.assertEqual(version(self.path), SCHEMA_VERSION)
        self.store = store = self.started(self.old)
        self.assertEqual(self.successResultOf(store.user("ann")).quota[:4], quota[:4])

    def test_a_damaged_one_is_left_as_it_is(self) -> None:
        """A file of format 1 that cannot be read is not migrated."""
        with open(self.path, "r+b") as file:
            file.seek(4096)
            file.write(b"x" * 4096)
        store = EmbeddedStore(self.old, lambda: self.now_us, self.clock, self.disk.run)
        self.assertRaises(StoreUnavailable, store.start)
        self.assertEqual(version(self.path), 1)


class Format2Tests(StoreOnClock):
    """A database of the first release with several keys for a user."""

    def test_it_is_taken_over(self) -> None:
        """Users and keys are what they were, and counts can be stored; also after a restart."""
        old = new_path(self)
        path = make_format_2(old)
        first = Key(digest_of("a"), created_at=START - HOUR)
        bucket = KeyBucket(3, 1.0, MICROTOKENS)
        second = Key(digest_of("a2"), DISABLED, None, "second", START, START, bucket)
        expected = User("ann", 5, 0.5, 2 * MICROTOKENS, False, {"x": 1}, START - HOUR, (first, second))
        subject = key_subject(digest_of("a2"))
        for times in (1, 2):
            store = self.started(old)
            self.assertEqual(self.successResultOf(store.user("ann")), expected)
            self.successResultOf(store.add_counts({subject: {"requests": 3}}))
            [counts] = self.successResultOf(store.counts_of([subject]))
            self.assertEqual(counts.hour, {"requests": 3 * times})
            change = UserChange(shadow=Shadow(times, 0.0))
            changed = self.successResultOf(store.change_user("ann", change))
            expected = expected._replace(shadow=Shadow(times, 0.0, MICROTOKENS))
            self.assertEqual(changed.after, expected)
            self.successResultOf(store.stop())
            self.assertEqual(version(path), 3)

    def test_a_migration_that_ends_in_the_middle_is_begun_anew(self) -> None:
        """Whichever statement of the migration fails, the file stays one of format 2; the next start migrates it."""
        old = new_path(self)
        path = make_format_2(old)
        statements = failing_migrations(self, path, 2)
        self.assertGreater(statements, 2)
        self.assertEqual(self.successResultOf(self.started(old).user("ann")).capacity, 5)


class ShadowTests(StoreOnClock):
    """The bucket of a shadow policy on disk."""

    def test_its_level_is_there_after_a_restart(self) -> None:
        """What was taken of a shadow is stored with the level of the user, and refilled from then on."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", capacity=100, shadow=Shadow(9, 0.5))))
        self.store.take(digest_of("a"), Asker(), 6)
        self.clock.advance(1)
        self.crash()
        self.now_us += 2 * SECOND
        user = self.successResultOf(self.store.user("ann"))
        self.assertEqual(user.shadow, Shadow(9, 0.5, 4 * MICROTOKENS))

    def test_a_damaged_one(self) -> None:
        """A text that this program cannot have written is said to be damaged."""
        for text in ("x", "{}", "[1]", '["1", 1, 1, 1]', "[0, 1.0, 1, 1]", "[1, 1.0, 1.5, 1]", "[1, 1.0, 1, null]"):
            row = schema.Row(digest_of("a"), "ann", 1, 1.0, 0, 0, shadow=text)
            self.assertFalse(schema.makes_sense(row), text)
        written = schema.shadow_text(3, 1 / 3, -7, 8)
        self.assertEqual(schema.read_shadow(written), (3, 1 / 3, -7, 8))


class CrashTests(StoreOnClock):
    """kill -9 before, within and after each call."""

    def everything(self, store: EmbeddedStore) -> Any:
        """All users, without levels and times of use."""
        return [
            user._replace(level=None)
            for name in ("ann", "bob")
            if (user := self.successResultOf(store.user(name))) is not None
        ]

    def test_each_call_is_done_completely_or_not(self) -> None:
        """A store that goes on with what is on disk has all of a call, or nothing, as long as it is not answered."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", "a2")))
        a2 = id_of("a2")
        calls = [
            lambda store: store.create_user(new_user("bob", "b", "b2", "b3", metadata={"x": 1})),
            lambda store: store.create_key("ann", Key(digest_of("a3"), label="third", bucket=KeyBucket(2, 0.0))),
            lambda store: store.change_key("ann", a2, KeyChange(DISABLED, START + HOUR, "x", KeyBucket(3, 1.0))),
            lambda store: store.rotate_key("ann", a2, HOUR, digest_of("a4")),
            lambda store: store.change_user("ann", UserChange(9, 2.0, 0, True, {"y": 2}, Shadow(3, 1.0, 5))),
            lambda store: store.change_user("ann", UserChange(shadow=Shadow(4, 0.5, 6))),
            lambda store: store.promote_shadow("ann"),
            lambda store: store.change_user("ann", UserChange(quota=Quota(3, REQUESTS, DAY), quota_used=2)),
            lambda store: store.delete_user("bob"),
            lambda store: store.delete_user("ann"),
        ]
        for number, call in enumerate(calls):
            before = self.everything(self.store)
            running, path = self.store, self.data_dir
            self.disk.held = True
            done = call(running)
            self.assertEqual(len(self.disk.waiting), 1, number)
            self.crash()
            self.assertEqual(self.everything(self.store), before, number)
            self.store, self.data_dir = running, path
            [(answer, write)] = self.disk.waiting
            self.disk.waiting.clear()
            write()
            # It is on disk, and nobody has heard of it.
            self.assertEqual(self.everything(running), before, number)
            self.disk.held = False
            self.crash()
            after = self.everything(self.store)
            self.assertNotEqual(after, before, number)
            answer.callback(None)
            self.successResultOf(done)
            self.assertEqual(self.everything(running), after, number)
            self.store, self.data_dir = running, path
        self.assertEqual(self.everything(self.store), [])

    def test_users_that_are_created_together(self) -> None:
        """Users that are created during another write are written at once; of a crash before, none of them is there."""
        self.disk.held = True
        wanted = [new_user("ann", "a"), new_user("bob", "b"), new_user("Bob", "c"), new_user("bob", "d")]
        wanted += [new_user("carl", "e", "b"), new_user("dora", "f", capacity=0), new_user("emil", "g", "h")]
        created = [self.store.create_user(user) for user in wanted]
        deleted = self.store.delete_user("ann")
        later = self.store.create_user(new_user("ann", "a"))
        self.disk.one()
        self.successResultOf(created[0])
        self.failureResultOf(created[5], ValueError)
        self.assertEqual([user.name for user in self.everything(self.store)], ["ann"])
        self.assertEqual(len(self.disk.waiting), 1)
        for outcome in (*created[1:5], created[6]):
            self.assertNoResult(outcome)
        running = self.store
        self.crash()
        self.assertEqual([user.name for user in self.everything(self.store)], ["ann"])
        self.store = running
        self.disk.one()
        for outcome in (created[1], created[2], created[6]):
            self.successResultOf(outcome)
        # Of two that exclude each other, the second one fails when the first one is there.
        for outcome, error in zip(created[3:5], (NameTaken, KeyTaken)):
            self.failureResultOf(outcome, error)
        self.assertEqual([user.name for user in self.everything(self.store)], ["ann", "bob"])
        # What is asked for between creations is done between them.
        self.disk.one()
        self.disk.one()
        self.disk.held = False
        self.assertEqual(self.successResultOf(deleted).name, "ann")
        self.successResultOf(later)
        self.assertEqual(len(self.successResultOf(self.store.user_page("", 9, UserFilter())).users), 4)

    def test_users_that_cannot_be_created_together(self) -> None:
        """When the disk refuses users that are created together, all are told, and their names are free."""
        self.disk.held = True
        created = [self.store.create_user(new_user(name, name)) for name in ("ann", "bob", "carl")]
        self.disk.broken = NotStored("disk is full")
        self.disk.one()
        self.successResultOf(created[0])
        self.disk.held = False
        for outcome in created[1:]:
            self.failureResultOf(outcome, NotStored)
        self.disk.broken = None
        for name in ("bob", "carl"):
            self.successResultOf(self.store.create_user(new_user(name, name)))

    def test_what_cannot_be_stored_changes_nothing(self) -> None:
        """When the disk refuses a call, everything stays as it was, and the same call is possible afterwards."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", "a2")))
        calls = [
            lambda: self.store.create_user(new_user("bob", "b")),
            lambda: self.store.create_key("ann", Key(digest_of("a3"))),
            lambda: self.store.rotate_key("ann", id_of("a"), 0, digest_of("a4")),
            lambda: self.store.change_user("ann", UserChange(disabled=True)),
            lambda: self.store.delete_user("ann"),
        ]
        for call in calls:
            before = self.everything(self.store)
            self.disk.broken = NotStored("cannot use the database x: disk is full")
            self.failureResultOf(call(), NotStored)
            self.assertEqual(self.everything(self.store), before)
            self.disk.broken = None
            self.successResultOf(call())
            self.assertNotEqual(self.everything(self.store), before)

    def test_a_deleted_user_is_not_written_again(self) -> None:
        """Levels and last uses that change while a user is being deleted are forgotten with the user."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", "a2")))
        self.successResultOf(self.store.change_key("ann", id_of("a2"), KeyChange(bucket=KeyBucket(5, 0.0))))
        self.create("other")
        self.disk.held = True
        deleted = self.store.delete_user("ann")
        for key in ("a", "a2", "other"):
            self.take(key)
        self.clock.advance(1.0)
        while self.disk.waiting:
            self.disk.one()
        self.disk.held = False
        self.assertEqual(self.successResultOf(deleted).name, "ann")
        for _ in range(3):
            self.clock.advance(1.0)
        self.assertTrue(self.store.state().up, self.store.state().reason)
        self.restart()
        self.assertIsNone(self.successResultOf(self.store.user("ann")))
        self.assertEqual(self.level("other"), 4 * MICROTOKENS)

    def test_all_is_written_to_a_new_database(self) -> None:
        """When the database is lost, users, keys, states and buckets are written to a new one."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", "a2", metadata={"x": 1})))
        change = KeyChange(state=REVOKED, label="gone", bucket=KeyBucket(5, 0.0, 7))
        self.successResultOf(self.store.change_key("ann", id_of("a2"), change))
        self.successResultOf(self.store.change_key("ann", id_of("a"), KeyChange(expires_at=START + HOUR)))
        before = self.everything(self.store)
        for name in os.listdir(self.data_dir):
            if name.startswith(DATABASE_FILE):
                os.unlink(os.path.join(self.data_dir, name))
        for _ in range(10):
            self.clock.advance(1.0)
        self.assertTrue(self.store.state().up, self.store.state().reason)
        self.restart()
        self.assertEqual(self.everything(self.store), before)


class LastUseTests(StoreOnClock):
    """`last_used`."""

    def used(self, key: str) -> int | None:
        user = self.successResultOf(self.store.find_key(id_of(key)))
        return user.key(id_of(key)).last_used

    def test_it_is_noted_to_the_minute(self) -> None:
        """Of used keys the minute is noted, in one write for all, and is there after a crash; others have none."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", "b", "c", capacity=1)))
        self.successResultOf(self.store.change_key("ann", id_of("b"), KeyChange(expires_at=START + HOUR)))
        self.now_us += 90 * SECOND
        # A refusal by the bucket is a use too.
        for key in ("a", "b", "a", "b"):
            self.take(key)
        self.assertEqual([self.used(key) for key in "abc"], [None, None, None])
        minute = self.now_us // (60 * SECOND) * (60 * SECOND)
        self.clock.pump([NOTE_SECONDS, 1.0])
        self.assertEqual([self.used(key) for key in "abc"], [minute, minute, None])
        writes = self.disk.writes
        self.take("a")
        self.clock.pump([NOTE_SECONDS, 1.0])
        self.assertLessEqual(self.disk.writes - writes, 2)
        self.crash()
        self.assertEqual([self.used(key) for key in "abc"], [minute, minute, None])

    def test_limits_that_were_removed(self) -> None:
        """At the same times, buckets of limits are dropped when they are full, whether there is a request or not."""
        self.successResultOf(self.store.create_user(new_user("ann", "a")))
        limit = LimitRule("limit:route|r|burst", "burst", 5, 1.0).bucket("")
        receiver = Asker()
        self.store.take(digest_of("a"), receiver, 1, limits=(limit,))
        [taken] = receiver.answers
        self.assertTrue(isinstance(taken, Taken) and taken.more)
        self.assertEqual(len(self.store._other_limits._shared), 1)
        self.now_us += 60 * SECOND
        self.clock.pump([NOTE_SECONDS, 1.0])
        self.assertEqual(len(self.store._other_limits._shared), 0)

    def test_it_is_noted_at_the_stop(self) -> None:
        """An orderly stop notes the last uses; a key that must not be used was not used."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", "b")))
        self.successResultOf(self.store.change_key("ann", id_of("b"), KeyChange(state=DISABLED)))
        for key in ("a", "b"):
            self.take(key)
        self.restart()
        self.assertEqual(self.used("a"), START // (60 * SECOND) * (60 * SECOND))
        self.assertIsNone(self.used("b"))

    def test_a_change_keeps_what_is_noted(self) -> None:
        """A change of a key keeps its last use, and a bucket that another key has emptied stays empty."""
        self.successResultOf(self.store.create_user(new_user("ann", "a", "b", capacity=1)))
        self.take("a")
        self.clock.advance(NOTE_SECONDS)
        self.successResultOf(self.store.change_key("ann", id_of("a"), KeyChange(label="x")))
        self.assertIsNotNone(self.used("a"))
        self.assertEqual(self.take("b"), Taken(False, b"ann", 1, 0.0, 0))
