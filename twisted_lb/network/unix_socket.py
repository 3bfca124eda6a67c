"""The path of a Unix socket: what prevents listening there, and removing what a process that has ended left behind.

bind(2) reports "address already in use" whatever exists at the path.  So the path is examined first:

1. A socket that accepts a connection, or whose queue is full, belongs to a running process and is never removed.  One
   that refuses the connection was left behind by a process that has ended: it is removed (unix(7)).
2. Anything else at the path is left as it is, and reported.
3. The lock file (`PATH.lock`, a symbolic link to a process id, as `twisted.python.lockfile` makes it) keeps two
   processes that start at the same time from removing each other's socket.  One that names a process that has ended,
   or this one, is left over: in a container each start may have the process id of the one before.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import struct
from typing import NamedTuple

from twisted.python.lockfile import FilesystemLock

LOCK_SUFFIX = ".lock"
_UCRED = struct.Struct("3i")  # pid, uid, gid (unix(7), SO_PEERCRED)


class Obstacle(NamedTuple):
    """Why no socket can be bound to a path."""

    detail: str
    in_use: bool = False  # by a running process: perhaps an earlier start of this program


class PathNotUsable(Exception):
    """A Unix socket cannot be bound; the text names the path and what is in the way."""


def obstacle(path: str, lock: bool) -> Obstacle | None:
    """What prevents listening on `path` now; None: nothing, or only what `claim` removes.

    `lock`: whether it has a lock file.  Briefly makes a file in the directory, and connects to a socket that is there;
    changes nothing else.
    """
    directory = os.path.dirname(path) or os.curdir
    if not os.path.isdir(directory):
        return Obstacle(f"there is no directory {directory}")
    found = _at_path(path)
    if found is None and lock:
        found = _at_lock(path + LOCK_SUFFIX)
    return found or _not_writable(directory)


def claim(path: str, lock: bool) -> FilesystemLock | None:
    """Take the lock file, if `lock`, and remove a socket that was left behind.  Raises PathNotUsable."""
    found = obstacle(path, lock)
    if found is not None:
        raise PathNotUsable(found.detail)
    held: FilesystemLock | None = None
    try:
        if lock:
            held = _lock(path + LOCK_SUFFIX)
            # Another process may have been faster.
            found = _at_path(path)
            if found is not None:
                held.unlock()
                raise PathNotUsable(found.detail)
        if os.path.lexists(path):
            os.unlink(path)
    except OSError as error:
        if held is not None:
            held.unlock()
        raise PathNotUsable(f"{path}: {error.strerror}") from None
    return held


def _lock(name: str) -> FilesystemLock:
    if _pid_in(name) == os.getpid():
        os.unlink(name)
    lock = FilesystemLock(name)
    if not lock.lock():
        found = _at_lock(name)
        raise PathNotUsable(found.detail if found is not None else f"{name} was made by another process just now")
    return lock


def _at_path(path: str) -> Obstacle | None:
    """What is at the path, unless it is nothing, or a socket on which no process listens."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return Obstacle(f"{path}: {error.strerror}")
    if stat.S_ISLNK(mode):
        nowhere = "" if os.path.exists(path) else ", which does not exist"
        return Obstacle(f"{path} is a symbolic link to {os.readlink(path)}{nowhere}; a socket cannot be bound to one")
    if stat.S_ISSOCK(mode):
        return _listener(path)
    kind = "a directory" if stat.S_ISDIR(mode) else "a regular file" if stat.S_ISREG(mode) else "not a socket"
    return Obstacle(f"{path} is {kind}")


def _listener(path: str) -> Obstacle | None:
    """The process that listens on a socket, if there is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError as error:
            # Full, or of another type such as SOCK_DGRAM.
            if error.errno in (errno.EAGAIN, errno.EPROTOTYPE):
                return Obstacle(f"{path} is in use by another process", True)
            return Obstacle(f"{path} is a socket, and whether a process listens on it is unknown: {error.strerror}")
        return Obstacle(f"{path} is in use by {_peer(probe)}", True)


def _peer(connection: socket.socket) -> str:
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return "another process"
    pid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, option, _UCRED.size))[0]
    # 0: of another pid namespace, such as that of a container.
    return _process(pid) if pid else "a process of another container"


def _process(pid: int) -> str:
    """A description of a process."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f"process {pid} ({file.read().strip()})"
    except OSError:
        return f"process {pid}"


def _at_lock(name: str) -> Obstacle | None:
    """What prevents taking the lock file."""
    try:
        if not os.path.islink(name):
            what = "it was not made by this program"
            return Obstacle(f"the lock file {name} is in the way: {what}") if os.path.lexists(name) else None
    except OSError as error:
        return Obstacle(f"{name}: {error.strerror}")
    pid = _pid_in(name)
    if pid is None:
        return Obstacle(f"the lock file {name} is in the way: it does not name a process")
    if pid == os.getpid() or not _runs(pid):
        return None
    return Obstacle(
        f"the lock file {name} names {_process(pid)}, which runs; remove the file if that does not serve the socket"
    )


def _pid_in(name: str) -> int | None:
    """The process id in a lock file."""
    try:
        pid = int(os.readlink(name))
    except (OSError, ValueError):
        return None
    return pid if 0 < pid < 2**31 else None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Another user's.
        return True
    return True


def _not_writable(directory: str) -> Obstacle | None:
    """Why no socket can be made in a directory.  One is made to find out: permission bits are not enough to tell.

    Where possible its path goes through the descriptor of the directory, so that it is never too long.
    """
    name = f".{secrets.token_hex(8)}"
    try:
        descriptor = os.open(directory, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return Obstacle(f"no socket can be made in {directory}: {error.strerror}")
    by_descriptor = f"/proc/self/fd/{descriptor}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(os.path.join(by_descriptor if os.path.isdir(by_descriptor) else directory, name))
        os.unlink(name, dir_fd=descriptor)
    except OSError as error:
        return Obstacle(f"no socket can be made in {directory}: {error.strerror or error}")
    finally:
        os.close(descriptor)
    return None
