"""Files that are read as a whole, and again when they have changed."""

from __future__ import annotations

import os
from stat import S_ISREG

# What distinguishes two versions of a file without reading it; None while it does not exist.
Look = tuple[int, int, int, int] | None


def look_at(path: str) -> Look:
    """The current version of a file; a symbolic link is followed."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def read_regular_file(path: str, most_bytes: int) -> bytes:
    """The content of a file.

    Raises OSError, and ValueError for more than `most_bytes`, and for a directory, device or pipe, which is not opened:
    that could wait for ever.
    """
    try:
        status = os.stat(path)
    except ValueError:
        # It has a null character.
        raise ValueError("it cannot be read: the path is not valid") from None
    if not S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes} bytes")
    return content
