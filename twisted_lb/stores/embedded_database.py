"""The accounts and bucket levels of the embedded store, on disk.

One SQLite file in write-ahead mode.  Every commit is synced (synchronous=FULL), so that what was
committed survives kill -9 and power loss.  A lock file keeps a second process out: buckets are held
in memory, and two memories would each admit the whole capacity.

Nothing here knows Twisted: the calls block, and the store makes them from one thread of its own.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from typing import Iterable, NamedTuple

from twisted_lb.interfaces import StoreUnavailable

DATABASE_FILE = "tokenlb.sqlite3"
LOCK_FILE = "tokenlb.lock"

# Written into the file (PRAGMA user_version); another number is a file that this program does not know.
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE account (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    capacity INTEGER NOT NULL,
    rate_per_sec REAL NOT NULL,
    level INTEGER NOT NULL,
    stamp_us INTEGER NOT NULL
) WITHOUT ROWID
"""


class Row(NamedTuple):
    """An account as stored: capacity in tokens, rate in tokens per second, level in microtokens at stamp_us."""

    digest: str
    name: str
    capacity: int
    rate_per_sec: float
    level: int
    stamp_us: int


class AccountDatabase:
    """The open database of one data directory.  Every method raises StoreUnavailable, naming the path."""

    def __init__(self, data_dir: str) -> None:
        """Open or create the database in `data_dir`, creating the directory too, and lock it for this process."""
        self._path = os.path.join(data_dir, DATABASE_FILE)
        try:
            os.makedirs(data_dir, exist_ok=True)
            self._lock = _locked(os.path.join(data_dir, LOCK_FILE))
        except BlockingIOError:
            raise StoreUnavailable(
                f"the data directory {data_dir} is in use by another process;"
                " give each process its own DATA_DIR, or use Redis (REDIS_URL) to share accounts"
            ) from None
        except OSError as error:
            raise StoreUnavailable(
                f"cannot use the data directory {data_dir}: {error.strerror}; DATA_DIR names it"
            ) from None
        try:
            self._connection = self._opened()
        except StoreUnavailable:
            os.close(self._lock)
            raise

    def _opened(self) -> sqlite3.Connection:
        try:
            # It has the names of all users, which are not everybody's business; SQLite's other files follow its mode.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnavailable(f"cannot use the database {self._path}: {error.strerror}") from None
        try:
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._unavailable(error) from None
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                # One transaction: a process that is killed here leaves an empty file, not half a schema.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(SCHEMA)
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                connection.execute("COMMIT")
            elif version != SCHEMA_VERSION:
                raise StoreUnavailable(
                    f"the database {self._path} has format {version}, and this version of tokenlb"
                    f" reads format {SCHEMA_VERSION}"
                )
        except sqlite3.Error as error:
            connection.close()
            raise self._unavailable(error) from None
        except StoreUnavailable:
            connection.close()
            raise
        return connection

    def rows(self) -> list[Row]:
        """Every account."""
        try:
            return [
                Row(*row)
                for row in self._connection.execute(
                    "SELECT digest, name, capacity, rate_per_sec, level, stamp_us FROM account"
                )
            ]
        except sqlite3.Error as error:
            raise self._unavailable(error) from None

    def names(self, after: str, count: int) -> list[tuple[str, str]]:
        """The first `count` names in their order as UTF-8, which come after `after`, and their digests."""
        try:
            # The index of the unique column is in this order, so this reads `count` rows and no more.
            return self._connection.execute(
                "SELECT name, digest FROM account WHERE name > ? ORDER BY name LIMIT ?", (after, count)
            ).fetchall()
        except sqlite3.Error as error:
            raise self._unavailable(error) from None

    def insert(self, row: Row) -> None:
        """Add an account, durably.  Its digest and its name must be new."""
        self._write("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?)", [row])

    def change(
        self, digest: str, capacity: int | None, rate_per_sec: float | None, level: int, stamp_us: int
    ) -> None:
        """Set what is not None of an account's policy, and the level from which the new policy counts, durably."""
        self._write(
            "UPDATE account SET capacity = coalesce(?, capacity), rate_per_sec = coalesce(?, rate_per_sec),"
            " level = ?, stamp_us = ? WHERE digest = ?",
            [(capacity, rate_per_sec, level, stamp_us, digest)],
        )

    def write_levels(self, levels: Iterable[tuple[int, int, str]]) -> None:
        """Set (level, stamp_us) of each digest, all in one transaction."""
        self._write("UPDATE account SET level = ?, stamp_us = ? WHERE digest = ?", levels)

    def close(self) -> None:
        """Close the file and let the next process have the directory."""
        try:
            self._connection.close()
        except sqlite3.Error as error:
            raise self._unavailable(error) from None
        finally:
            os.close(self._lock)

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        try:
            # As a context manager a connection rolls back on an error.  That alone does not begin.
            with self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: sqlite3.Error) -> StoreUnavailable:
        return StoreUnavailable(f"cannot use the database {self._path}: {error}")


def _locked(path: str) -> int:
    """The descriptor of the lock file, locked until it is closed or the process ends, however it ends.

    Raises BlockingIOError when another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
