"""The tables of the embedded store.

A user is a row of `account`, named by the digest of the user's first key.  A key is a row of `api_key`; a first key
with default values has none, as in a database of format 1, which has no such table.  `usage`, which is new in format 3,
has counts by time (see `twisted_lb.usage`), with a row for each counter of a subject.

In `account`, `shadow` and `quota` are those of the user as JSON (see `shadow_text` and `QuotaCount.text`), or empty;
`notice` has the notices that are not delivered yet.  Formats 1 and 2 have none of these.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Final, NamedTuple

from twisted_lb.limits.bucket import check_policy
from twisted_lb.limits.quota_count import count_from_text
from twisted_lb.users import ACTIVE, DISABLED, REVOKED

# Stored in the file (PRAGMA user_version); files with other numbers are rejected.
SCHEMA_VERSION: Final = 3
READABLE: Final = (1, 2, SCHEMA_VERSION)

_ACCOUNT: Final = """
CREATE TABLE account (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    capacity INTEGER NOT NULL,
    rate_per_sec REAL NOT NULL,
    level INTEGER NOT NULL,
    stamp_us INTEGER NOT NULL,
    disabled INTEGER NOT NULL DEFAULT 0,
    metadata TEXT NOT NULL DEFAULT '',
    created_us INTEGER NOT NULL DEFAULT 0,
    shadow TEXT NOT NULL DEFAULT '',
    quota TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID
"""
# A capacity of 0: the key has no bucket of its own.
_API_KEY: Final = """
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
) WITHOUT ROWID
"""
# Both BLOBs have slot, number, slot, number, ...: integers of 64 bits, little-endian.
_USAGE: Final = """
CREATE TABLE usage (
    subject TEXT NOT NULL,
    counter TEXT NOT NULL,
    minutes BLOB NOT NULL,
    half_hours BLOB NOT NULL,
    PRIMARY KEY (subject, counter)
) WITHOUT ROWID
"""
# Notices that are not delivered yet.
_NOTICE: Final = """
CREATE TABLE notice (
    id TEXT PRIMARY KEY,
    content TEXT NOT NULL
) WITHOUT ROWID
"""
SELECT: Final = "SELECT * FROM account"
SELECT_KEYS: Final = "SELECT * FROM api_key"
SELECT_USAGE: Final = "SELECT * FROM usage"
SELECT_NOTICES: Final = "SELECT * FROM notice"
INSERT: Final = "INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_KEY: Final = "INSERT OR REPLACE INTO api_key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
INSERT_USAGE: Final = "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?)"
INSERT_NOTICE: Final = "INSERT OR REPLACE INTO notice VALUES (?, ?)"


class Row(NamedTuple):
    """A user as stored: capacity in tokens, rate in tokens per second, level in microtokens at stamp_us."""

    digest: str  # of the first key
    name: str
    capacity: int
    rate_per_sec: float
    level: int
    stamp_us: int
    disabled: int = 0
    metadata: str = ""  # JSON; empty: none
    created_us: int = 0  # 0: not known
    shadow: str = ""  # JSON; empty: none
    quota: str = ""  # see QuotaCount.text; empty: none


class UsageRow(NamedTuple):
    """A counter of a subject as stored."""

    subject: str
    counter: str
    minutes: bytes
    half_hours: bytes


class KeyRow(NamedTuple):
    """A key as stored, with its own bucket."""

    digest: str
    owner: str  # the digest of the user's first key
    state: str = ACTIVE
    expires_us: int = 0  # 0: it does not expire
    label: str = ""
    created_us: int = 0  # 0: not known
    used_us: int = 0  # 0: not known
    capacity: int = 0  # 0: no bucket of its own
    rate_per_sec: float = 0.0
    level: int = 0
    stamp_us: int = 0


def create(connection: sqlite3.Connection) -> None:
    """Create the tables, within a transaction."""
    connection.execute(_ACCOUNT)
    connection.execute(_API_KEY)
    connection.execute(_USAGE)
    connection.execute(_NOTICE)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Convert a database of an earlier format to the present one.

    This is one transaction: it is done completely or not at all.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version == 1:
            for column in ("disabled INTEGER NOT NULL DEFAULT 0", "metadata TEXT NOT NULL DEFAULT ''"):
                connection.execute(f"ALTER TABLE account ADD COLUMN {column}")
            connection.execute("ALTER TABLE account ADD COLUMN created_us INTEGER NOT NULL DEFAULT 0")
            connection.execute(_API_KEY)
        connection.execute("ALTER TABLE account ADD COLUMN shadow TEXT NOT NULL DEFAULT ''")
        connection.execute("ALTER TABLE account ADD COLUMN quota TEXT NOT NULL DEFAULT ''")
        connection.execute(_USAGE)
        connection.execute(_NOTICE)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def makes_sense(row: Row) -> bool:
    """Whether this program can have written the row: SQLite columns accept values of any type."""
    texts = (row.digest, row.name, row.metadata, row.shadow, row.quota)
    numbers = (row.level, row.stamp_us, row.created_us)
    if not all(type(text) is str for text in texts) or not all(type(number) is int for number in numbers):
        return False
    try:
        read_shadow(row.shadow)
    except ValueError:
        return False
    return row.disabled in (0, 1) and _is_policy(row.capacity, row.rate_per_sec) and _is_quota(row.quota)


def key_makes_sense(row: KeyRow) -> bool:
    """The same for a key."""
    numbers = (row.expires_us, row.created_us, row.used_us, row.level, row.stamp_us)
    if not all(type(text) is str for text in (row.digest, row.owner, row.label)):
        return False
    if not all(type(number) is int for number in numbers) or row.state not in (ACTIVE, DISABLED, REVOKED):
        return False
    return row.capacity == 0 or _is_policy(row.capacity, row.rate_per_sec)


def shadow_text(capacity: int, rate_per_sec: float, level: int, stamp_us: int) -> str:
    """The bucket of a shadow policy as it is stored; empty if the capacity is 0."""
    return json.dumps([capacity, rate_per_sec, level, stamp_us]) if capacity else ""


def read_shadow(text: str) -> tuple[int, float, int, int] | None:
    """Capacity, rate, level and time stamp.  Raises ValueError for a text that `shadow_text` cannot have written."""
    if not text:
        return None
    read = json.loads(text)
    if not isinstance(read, list) or len(read) != 4:
        raise ValueError(text)
    capacity, rate_per_sec, level, stamp_us = read
    check_policy(capacity, rate_per_sec)
    if type(level) is not int or type(stamp_us) is not int:
        raise ValueError(text)
    return capacity, float(rate_per_sec), level, stamp_us


def _is_quota(text: str) -> bool:
    try:
        return not text or count_from_text(text).amount > 0
    except ValueError:
        return False


def _is_policy(capacity: object, rate_per_sec: object) -> bool:
    try:
        check_policy(capacity, rate_per_sec)
    except (ValueError, TypeError):
        return False
    return True
