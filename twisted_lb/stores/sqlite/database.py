"""The accounts and bucket levels of the embedded store, on disk.

One SQLite file in write-ahead mode.  Every commit is synced (synchronous=FULL), so that it survives kill -9 and power
loss.  A lock file excludes a second process: buckets are in memory, and each of two processes would admit the whole
capacity.

The process that has opened the database has all its contents in memory.  So when the file was lost or changed,
DatabaseLost is raised until all accounts have been written to a new database: begin_anew, add_rows as often as needed,
finish_anew.  A new database is written to another path and then renamed, so that it is never incomplete.

This module does not use Twisted: the calls block, and the store makes them in its own thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from typing import Any

from twisted_lb.interfaces import NotStored, StoreUnavailable
from twisted_lb.stores.sqlite.files import DataFiles
from twisted_lb.stores.sqlite.schema import (
    INSERT,
    INSERT_KEY,
    INSERT_NOTICE,
    INSERT_USAGE,
    READABLE,
    SCHEMA_VERSION,
    SELECT,
    SELECT_KEYS,
    SELECT_NOTICES,
    SELECT_USAGE,
    KeyRow,
    Row,
    UsageRow,
    create,
    key_makes_sense,
    makes_sense,
    migrate,
)

DELETE_KEY = "DELETE FROM api_key WHERE digest = ?"
DELETE_NOTICE = "DELETE FROM notice WHERE id = ?"
# A statement, and the arguments of each time that it is executed.
Write = tuple[str, Sequence[tuple[object, ...]]]

# How long a write waits for the lock of another program, such as sqlite3 at a terminal.
BUSY_SECONDS = 1.0

# The file is not, or no longer, the database of this program.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_MOVED = {sqlite3.SQLITE_READONLY_DBMOVED}


class DatabaseLost(NotStored):
    """The open database was removed or damaged: a new one with all accounts is needed."""


class AccountDatabase:
    """The open database of one data directory.  Every method raises StoreUnavailable with the path."""

    def __init__(self, data_dir: str) -> None:
        """Open or create the database in `data_dir`, creating the directory too, and lock it for this process."""
        self._files = DataFiles(data_dir)
        self.path = self._files.database
        self._connection: sqlite3.Connection | None = None
        self._new: sqlite3.Connection | None = None
        self._lost = ""
        self._accounts = 0
        try:
            self.created = not self._files.check_database()  # whether it did not exist before
            if self.created:
                self.begin_anew()
                self.finish_anew()
            else:
                self._open()
        except StoreUnavailable:
            self.close()
            raise

    def rows(self) -> list[Row]:
        """Every user."""
        rows = [Row(*row) for row in self._select(SELECT)]
        for row in rows:
            if not makes_sense(row):
                raise StoreUnavailable(f"the database {self.path} is damaged: it has an account {tuple(row)!r}")
        return rows

    def key_rows(self) -> list[KeyRow]:
        """All rows of keys; see `schema` for the keys that have none."""
        rows = [KeyRow(*row) for row in self._select(SELECT_KEYS)]
        for row in rows:
            if not key_makes_sense(row):
                raise StoreUnavailable(f"the database {self.path} is damaged: it has a key {tuple(row)!r}")
        return rows

    def usage_rows(self) -> list[UsageRow]:
        """What was counted of every subject."""
        return [UsageRow(*row) for row in self._select(SELECT_USAGE)]

    def notice_rows(self) -> list[tuple[str, str]]:
        """The ids and contents of all notices."""
        return self._select(SELECT_NOTICES)

    def _select(self, statement: str) -> list[Any]:
        connection = self._usable()
        try:
            return connection.execute(statement).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def names(self, after: str, count: int) -> list[tuple[str, str]]:
        """The first `count` names after `after`, in UTF-8 order, and their digests."""
        connection = self._usable()
        try:
            # The index of the unique column has this order, so this reads only `count` rows.
            return connection.execute(
                "SELECT name, digest FROM account WHERE name > ? ORDER BY name LIMIT ?", (after, count)
            ).fetchall()
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def insert(self, row: Row, keys: Sequence[KeyRow] = ()) -> None:
        """Add a user, and the rows of keys that are needed, durably.  Digest and name must be new."""
        self.insert_all([row], keys)

    def insert_all(self, rows: Sequence[Row], keys: Sequence[KeyRow]) -> None:
        """The same for several users, in one transaction."""
        self._write((INSERT, rows), (INSERT_KEY, keys))
        self._accounts += len(rows)

    def delete(self, digest: str, keys: Sequence[str]) -> None:
        """Remove a user, and these keys, durably."""
        self._write(("DELETE FROM account WHERE digest = ?", [(digest,)]), may_miss=(DELETE_KEY, _column(keys)))
        self._accounts -= 1

    def write_keys(self, keys: Sequence[KeyRow], removed: Sequence[str] = ()) -> None:
        """Store these keys as given, and remove others, all in one transaction."""
        self._write((INSERT_KEY, keys), may_miss=(DELETE_KEY, _column(removed)))

    def change(
        self,
        digest: str,
        capacity: int | None,
        rate_per_sec: float | None,
        level: int,
        stamp_us: int,
        disabled: bool | None = None,
        metadata: str | None = None,
        shadow: str | None = None,
        quota: str | None = None,
        notices: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Set what is not None, and the level at the time of the change, for a user, durably; add these notices."""
        self._write(
            (
                "UPDATE account SET capacity = coalesce(?, capacity), rate_per_sec = coalesce(?, rate_per_sec),"
                " level = ?, stamp_us = ?, disabled = coalesce(?, disabled), metadata = coalesce(?, metadata),"
                " shadow = coalesce(?, shadow), quota = coalesce(?, quota) WHERE digest = ?",
                [(capacity, rate_per_sec, level, stamp_us, disabled, metadata, shadow, quota, digest)],
            ),
            (INSERT_NOTICE, notices),
        )

    def write_levels(
        self,
        levels: Sequence[tuple[int, int, str]],
        shadows: Sequence[tuple[str, str]] = (),
        quotas: Sequence[tuple[str, str]] = (),
        notices: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Set (level, stamp_us), (shadow) and (quota) of each digest, and add notices, all in one transaction."""
        self._write(
            ("UPDATE account SET level = ?, stamp_us = ? WHERE digest = ?", levels),
            ("UPDATE account SET shadow = ? WHERE digest = ?", shadows),
            ("UPDATE account SET quota = ? WHERE digest = ?", quotas),
            (INSERT_NOTICE, notices),
        )

    def write_usage(self, rows: Sequence[UsageRow], removed: Sequence[str]) -> None:
        """Set the counts of some subjects, and remove those of others, all in one transaction."""
        self._write((INSERT_USAGE, rows), may_miss=("DELETE FROM usage WHERE subject = ?", _column(removed)))

    def remove_notices(self, ids: Sequence[str]) -> None:
        """Remove notices that may be there."""
        self._write(may_miss=(DELETE_NOTICE, _column(ids)))

    def look(self) -> None:
        """Check whether the file still exists, unchanged.  Raises DatabaseLost."""
        self._usable()

    def try_to_write(self) -> None:
        """Check whether it can be written, by writing the present format number again."""
        connection = self._usable()
        try:
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise self._failed(error) from None
        finally:
            self._files.used()

    def close(self) -> None:
        """Close the file, and release the directory."""
        try:
            self._drop_new()
            self._close_connection()
        finally:
            self._files.close()

    # A new one

    def begin_anew(self) -> None:
        """Create a database that is to replace this one."""
        self._drop_new()
        # The old connection is useless, and the space of a removed file is freed only when it is closed.
        self._close_connection()
        self._lost = self._lost or f"the database {self.path} is being written anew"
        self._files.take()
        self._files.make_new()
        try:
            self._new = sqlite3.connect(self._files.new, isolation_level=None, check_same_thread=False)
            self._new.execute("PRAGMA synchronous=FULL")
            self._new.execute("BEGIN IMMEDIATE")
            create(self._new)
        except sqlite3.Error as error:
            self._drop_new()
            raise self._unavailable(error, self._files.new) from None

    def add_rows(
        self, rows: Sequence[Row], keys: Sequence[KeyRow] = (), notices: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Add users, keys and notices to the new database."""
        self._add((INSERT, rows), (INSERT_KEY, keys), (INSERT_NOTICE, notices))

    def add_usage(self, rows: Sequence[UsageRow]) -> None:
        """Add counts to the new database."""
        self._add((INSERT_USAGE, rows))

    def _add(self, *writes: Write) -> None:
        assert self._new is not None, "begun"
        try:
            for statement, rows in writes:
                self._new.executemany(statement, rows)
        except sqlite3.Error as error:
            self._drop_new()
            raise self._unavailable(error, self._files.new) from None

    def finish_anew(self) -> str:
        """Replace the database with the new one; return the path at which the old file is kept, or ""."""
        assert self._new is not None, "begun"
        try:
            self._new.execute("COMMIT")
            self._new.close()
        except sqlite3.Error as error:
            self._drop_new()
            raise self._unavailable(error, self._files.new) from None
        self._new = None
        aside = self._files.put_in_place()
        self._open()
        self._lost = ""
        return aside

    def _drop_new(self) -> None:
        if self._new is not None:
            try:
                self._new.close()
            except sqlite3.Error:
                """It is of no use either way."""
            self._new = None
            self._files.drop_new()

    # The file

    def _open(self) -> None:
        try:
            # SQLite would open a read-only file, and fail at the first write.
            os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise StoreUnavailable(f"cannot use the database {self.path}: {error.strerror}") from None
        connection = None
        try:
            connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
            )
            self._check_format(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            [self._accounts] = connection.execute("SELECT count(*) FROM account").fetchone()
            self._files.opened()
        except (sqlite3.Error, StoreUnavailable) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise self._unavailable(error) from None
            raise
        self._connection = connection

    def _check_format(self, connection: sqlite3.Connection) -> None:
        """Check the format before anything is written: the file may belong to another program."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
            if tables:
                raise StoreUnavailable(
                    f"the database {self.path} is not tokenlb's: it has the table {tables[0][0]};"
                    " move it away, or set DATA_DIR"
                )
            # A process of an earlier version was killed just after it had created the file.
            connection.execute("BEGIN IMMEDIATE")
            create(connection)
            connection.execute("COMMIT")
            version = SCHEMA_VERSION
        elif version not in READABLE:
            raise StoreUnavailable(
                f"the database {self.path} has format {version}, and this version of tokenlb"
                f" reads format {SCHEMA_VERSION}"
            )
        [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            what = " ".join(found.split())
            raise StoreUnavailable(f"the database {self.path} is damaged: {what}; restore it from a backup")
        if version != SCHEMA_VERSION:
            migrate(connection, version)
        for statement in (SELECT, SELECT_KEYS, SELECT_USAGE, SELECT_NOTICES):
            connection.execute(f"{statement} LIMIT 1").fetchall()

    def _usable(self) -> sqlite3.Connection:
        """The connection, if the file is unchanged.  Raises DatabaseLost."""
        if self._lost:
            raise DatabaseLost(self._lost)
        self._check_files()
        if self._files.touched():
            if not self._intact():
                raise self._gone(f"the database {self.path} was overwritten")
            self._files.used()
        assert self._connection is not None, "open as long as it is not lost"
        return self._connection

    def _check_files(self) -> None:
        if fault := self._files.fault():
            raise self._gone(fault)

    def _intact(self) -> bool:
        """Whether the file itself, not the cache of this process, has all accounts."""
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_SECONDS)
            try:
                [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
                [accounts] = connection.execute("SELECT count(*) FROM account").fetchone()
            finally:
                connection.close()
        except sqlite3.Error:
            return False
        return bool(found == "ok" and accounts == self._accounts)

    def _write(self, *writes: Write, may_miss: Write | None = None) -> None:
        """Write all in one transaction; each row of `writes` must exist, those of `may_miss` need not."""
        connection = self._usable()
        try:
            if connection.in_transaction:
                # It was left by a call that could not be completed.
                connection.rollback()
            # As a context manager, a connection rolls back on an error; it does not begin a transaction.
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                lost = False
                for statement, rows in writes:
                    lost |= bool(rows) and connection.executemany(statement, rows).rowcount != len(rows)
                if may_miss is not None:
                    connection.executemany(*may_miss)
        except sqlite3.Error as error:
            raise self._failed(error) from None
        finally:
            self._files.used()
        if lost:
            raise self._gone(f"the database {self.path} has lost accounts")
        # The commit may have gone to a file that was removed meanwhile.
        self._check_files()

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.close()
        except sqlite3.Error as error:
            raise self._unavailable(error) from None

    def _gone(self, why: str) -> DatabaseLost:
        self._lost = why
        return DatabaseLost(why)

    def _failed(self, error: sqlite3.Error) -> StoreUnavailable:
        """The StoreUnavailable for an error of a call."""
        code = getattr(error, "sqlite_errorcode", 0)
        # An existing account that this process does not know was written by another program.
        if code & 0xFF in _DAMAGED or code in _MOVED or isinstance(error, sqlite3.IntegrityError):
            return self._gone(str(self._unavailable(error)))
        return self._unavailable(error)

    def _unavailable(self, error: sqlite3.Error, path: str = "") -> NotStored:
        return NotStored(f"cannot use the database {path or self.path}: {error}")


def _column(texts: Sequence[str]) -> list[tuple[str]]:
    return [(text,) for text in texts]
