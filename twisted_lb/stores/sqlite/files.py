"""The files of the embedded store: locking, and detection of changes by other programs.

SQLite keeps using its open files, whatever happens to their paths.  Commits after an `rm` are lost with the file, and
commits to an overwritten file do not fit its contents.  So the files are checked before and after each use: the paths
must still lead to the files that were opened, and no other program may have written to them.
"""

from __future__ import annotations

import fcntl
import os
from typing import NamedTuple

from twisted_lb.interfaces import StoreUnavailable

DATABASE_FILE = "tokenlb.sqlite3"
LOCK_FILE = "tokenlb.lock"


class Stamp(NamedTuple):
    """The identity of a file, and the time of its last modification."""

    device: int
    inode: int
    size: int
    written_ns: int

    def same_file(self, other: Stamp) -> bool:
        """Whether it is the same file, written since or not."""
        return self[:2] == other[:2]


class DataFiles:
    """The files of one data directory.  Every method raises StoreUnavailable with the path."""

    def __init__(self, data_dir: str) -> None:
        """Create the directory if it is missing, and lock it for this process."""
        self._directory = data_dir
        self.database = os.path.join(data_dir, DATABASE_FILE)
        self.log = self.database + "-wal"
        self.new = self.database + ".new"  # which is to replace the database
        self._lock_path = os.path.join(data_dir, LOCK_FILE)
        self._lock = -1
        self._known: dict[str, Stamp | None] = {}
        self._placed: Stamp | None = None
        self.take()

    def take(self) -> None:
        """Create the directory and lock it, unless this process still has them."""
        try:
            os.makedirs(self._directory, exist_ok=True)
            if self._lock < 0 or not self._holds_lock():
                taken = _locked(self._lock_path)
                self.close()
                self._lock = taken
        except BlockingIOError:
            raise StoreUnavailable(
                f"the data directory {self._directory} is in use by another process;"
                " give each process its own DATA_DIR, or use Redis (REDIS_URL) to share accounts"
            ) from None
        except OSError as error:
            raise StoreUnavailable(
                f"cannot use the data directory {self._directory}: {error.strerror}; DATA_DIR names it"
            ) from None

    def close(self) -> None:
        """Release the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Detection of changes by other programs

    def opened(self) -> None:
        """Record the present files as the open ones."""
        self._known = {path: self._stamp(path) for path in (self.database, self.log)}

    def used(self) -> None:
        """Record that this process has written to the files."""
        for path, before in self._known.items():
            now = self._stamp(path)
            if now is not None and (before is None or now.same_file(before)):
                self._known[path] = now

    def fault(self) -> str:
        """Why the files that were opened cannot be used any more, or ""."""
        for path, what in ((self.database, "the database"), (self.log, "the write-ahead log")):
            before, now = self._known[path], self._stamp(path)
            if before is None:
                continue
            if now is None:
                return f"{what} {path} was removed"
            if not now.same_file(before):
                return f"{what} {path} was replaced by another file"
            if now.size < before.size:
                return f"{what} {path} was truncated from {before.size} to {now.size} bytes"
            if path == self.log and now != before:
                return f"{what} {path} was written by another program"
        if not self._holds_lock():
            return f"the lock file {self._lock_path} was removed or replaced"
        return ""

    def touched(self) -> bool:
        """Whether another program has, or may have, written to the database."""
        return self._stamp(self.database) != self._known[self.database]

    # A new database

    def check_database(self) -> bool:
        """Whether it exists.  Raises StoreUnavailable for a state that this program never leaves behind."""
        stamp, log = self._stamp(self.database), self._stamp(self.log)
        if stamp is None and log is not None and log.size:
            raise StoreUnavailable(
                f"the database {self.database} is missing, but its write-ahead log {self.log} is there;"
                " restore both from a backup, or remove the log to begin without users"
            )
        if stamp is not None and not stamp.size:
            raise StoreUnavailable(
                f"the database {self.database} is empty (0 bytes), which this program never leaves behind;"
                " restore it from a backup, or remove it to begin without users"
            )
        return stamp is not None

    def make_new(self) -> None:
        """Create an empty file at the path `new`, private to its owner: it will contain the names of all users."""
        try:
            for path in (self.new, self.new + "-journal"):
                _remove(path)
            os.close(os.open(self.new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnavailable(f"cannot write {self.new}: {error.strerror}") from None

    def drop_new(self) -> None:
        """Remove an incomplete new database."""
        try:
            _remove(self.new)
        except OSError:
            """It will be overwritten the next time."""

    def put_in_place(self) -> str:
        """Replace the database with `new`; return the path at which the old file is kept, or "".

        If there was a file at the path of the database, there is one at all times.  The old write-ahead log is removed,
        since SQLite would apply it to the new database.
        """
        try:
            aside = self._set_aside()
            os.replace(self.new, self.database)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise StoreUnavailable(f"cannot replace the database {self.database}: {error.strerror}") from None
        self._placed = self._stamp(self.database)
        return aside

    def _set_aside(self) -> str:
        found, log = self._stamp(self.database), self._stamp(self.log)
        keep = found is not None and found.size > 0 and found != self._placed
        # The log of a lost database is that of this process, which has its contents in memory, or is not ours.
        own_log = self._known.get(self.log)
        keep_log = log is not None and log.size > 0 and (keep or own_log is None or not log.same_file(own_log))
        kept = self._free_name() if keep or keep_log else ""
        if keep:
            try:
                os.link(self.database, kept)
            except OSError:
                # Not every file system supports hard links.
                os.rename(self.database, kept)
        if keep_log:
            os.rename(self.log, f"{kept}-wal")
        _remove(self.log)
        _remove(self.database + "-shm")
        return kept

    def _free_name(self) -> str:
        number = 1
        while os.path.lexists(kept := f"{self.database}.set-aside-{number}") or os.path.lexists(f"{kept}-wal"):
            number += 1
        return kept

    def _holds_lock(self) -> bool:
        at_path = self._stamp(self._lock_path)
        return at_path is not None and at_path.same_file(_stamp_of(os.fstat(self._lock)))

    def _stamp(self, path: str) -> Stamp | None:
        try:
            return _stamp_of(os.stat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreUnavailable(f"cannot look at {path}: {error.strerror}") from None


def _stamp_of(found: os.stat_result) -> Stamp:
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        """It does not exist."""


def _locked(path: str) -> int:
    """The descriptor of the lock file, locked until it is closed or the process ends in any way.

    Raises BlockingIOError when another process has locked it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
