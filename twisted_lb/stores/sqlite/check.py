"""Checks whether the embedded store could use a data directory, without changing anything.

A running instance may be using the directory while its next configuration is checked.  So the lock is not taken and the
database is not opened: only the header of the file is read (https://www.sqlite.org/fileformat.html).
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted_lb.stores.sqlite.files import DATABASE_FILE, LOCK_FILE
from twisted_lb.stores.sqlite.schema import READABLE, SCHEMA_VERSION

MAGIC = b"SQLite format 3\0"
HEAD_BYTES = 100
TRIAL_PREFIX = ".tokenlb-check-"
USER_VERSION = slice(60, 64)

_EFFECTIVE = os.access in os.supports_effective_ids


def data_dir_problem(data_dir: str) -> str:
    """Why the store could not use it, or "".  The contents of the database are not checked."""
    directory = Path(os.path.abspath(data_dir))
    try:
        return _directory_problem(directory) or _file_problem(directory / LOCK_FILE) or _database_problem(directory)
    except (OSError, ValueError) as error:
        return f"cannot use the data directory {directory}: {getattr(error, 'strerror', None) or error}"


def _directory_problem(directory: Path) -> str:
    there = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
    act = "use" if there == directory else "make"
    if not there.is_dir():
        return f"cannot {act} the data directory {directory}: {there} is not a directory"
    try:
        # Permissions are not enough: a file system may be read-only, full, or special, such as /proc.
        with TemporaryDirectory(prefix=TRIAL_PREFIX, dir=there) as trial:
            os.makedirs(trial / directory.relative_to(there), exist_ok=True)
    except OSError as error:
        return f"cannot {act} the data directory {directory}: cannot create files in {there}: {error.strerror}"
    return ""


def _file_problem(path: Path) -> str:
    if not os.path.lexists(path):
        return ""
    if not path.is_file():
        return f"cannot use {path}: it is not a file"
    if os.access(path, os.R_OK | os.W_OK, effective_ids=_EFFECTIVE):
        return ""
    return f"cannot use {path}: this user has no permission to read and write it"


def _database_problem(directory: Path) -> str:
    database, log = directory / DATABASE_FILE, directory / f"{DATABASE_FILE}-wal"
    if problem := _file_problem(database) or _file_problem(log):
        return problem
    if not database.exists():
        has_log = log.exists() and log.stat().st_size
        return f"the database {database} is missing, but its write-ahead log {log} is there" if has_log else ""
    with database.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        return f"the database {database} is empty (0 bytes), which this program never leaves behind"
    if len(head) < HEAD_BYTES or not head.startswith(MAGIC):
        return f"cannot use the database {database}: it is not an SQLite file"
    version = int.from_bytes(head[USER_VERSION], "big")
    # 0: of another program, or just created; this shows only when the database is opened.
    if version == 0 or version in READABLE:
        return ""
    return f"the database {database} has format {version}, and this version of tokenlb reads format {SCHEMA_VERSION}"

