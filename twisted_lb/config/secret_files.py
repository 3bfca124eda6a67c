"""Secrets in files, as Docker and Kubernetes provide them: the text of a file without its last line end."""

from __future__ import annotations

import os
from stat import S_ISREG
from typing import Final

MAX_BYTES: Final = 64 * 1024


class SecretError(Exception):
    """The file cannot be used; the text says why, without its content."""


def read_secret(path: str) -> bytes:
    """The content of a file.  Raises SecretError."""
    try:
        status = os.stat(path)
        if not S_ISREG(status.st_mode):
            raise SecretError("it is not a regular file")
        if status.st_size > MAX_BYTES:
            raise SecretError(f"it has more than {MAX_BYTES} bytes")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise SecretError(f"it cannot be read: {error.strerror}") from None
    except ValueError:
        # A path with a null character.
        raise SecretError("it cannot be read: the path is not valid") from None


def secret_text(content: bytes) -> str:
    """The secret in the content of a file.  Raises SecretError."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise SecretError("it is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SecretError("it is empty")
    return text
