"""Writes servers.yaml: the whole file at once, or not at all.

1. The file must be writable, and still have the text that was last read.
2. The new text is written to a temporary file beside it, with the same owner and mode, and synchronized (fsync).
3. If the file is still the same, the temporary one is renamed to it.  So readers see either the old text or the new.

A symbolic link stays one.  A single file that is mounted into a container cannot be replaced: mount its directory.
"""

from __future__ import annotations

import errno
import os
import tempfile

from twisted_lb.files import Look, look_at


class NotWritten(Exception):
    """The file was not changed; the text says why."""


class ChangedMeanwhile(NotWritten):
    """The file was changed since it was read."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} was changed, and has not been reloaded yet, or was rejected; see the log")


def write_text(path: str, before: str, after: str) -> None:
    """Replace the file, whose text is `before`.  Raises NotWritten."""
    path = os.path.realpath(path)
    try:
        _replace(path, before, after)
    except OSError as error:
        hint = " (mount its directory, not the file alone)" if error.errno == errno.EBUSY else ""
        raise NotWritten(f"{path} cannot be written: {error.strerror}{hint}") from None


def _replace(path: str, before: str, after: str) -> None:
    seen = look_at(path)
    with open(path, "rb") as file:
        content = file.read()
    new_content = _with_its_line_ends(content, before.encode(), after.encode())
    if new_content is None:
        raise ChangedMeanwhile(path)
    if not os.access(path, os.W_OK):
        raise NotWritten(f"{path} cannot be written: it is read-only")
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb") as file:
            _own_alike(file.fileno(), os.stat(path))
            file.write(new_content)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path, seen)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync(os.path.dirname(path))


def _with_its_line_ends(content: bytes, before: bytes, after: bytes) -> bytes | None:
    """The content of the file with the changes from `before` to `after`, whose line ends are all LF.

    None: the content is not that of `before`.
    """
    lines = content.splitlines(keepends=True)
    if b"".join(line.rstrip(b"\r\n") + b"\n" * line.endswith((b"\r", b"\n")) for line in lines) != before:
        return None
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    first = 0
    while first < min(len(old), len(new)) and old[first] == new[first]:
        first += 1
    same = 0
    while same < min(len(old), len(new)) - first and old[-1 - same] == new[-1 - same]:
        same += 1
    usual = lines[0][len(lines[0].rstrip(b"\r\n")) :] if lines else b""
    changed = b"".join(new[first : len(new) - same]).replace(b"\n", usual or b"\n")
    return b"".join(lines[:first]) + changed + b"".join(lines[len(lines) - same :])


def _own_alike(descriptor: int, status: os.stat_result) -> None:
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, status.st_mode & 0o7777)


def _rename(temporary: str, path: str, seen: Look) -> None:
    if look_at(path) != seen:
        raise ChangedMeanwhile(path)
    os.rename(temporary, path)


def _sync(directory: str) -> None:
    """Synchronize the rename, if the file system supports that: the file has the new text in any case."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
