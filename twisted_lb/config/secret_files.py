"""Secrets in files, as Docker and Kubernetes provide them: the text of a file without its last line end."""

from __future__ import annotations

from typing import Final

from twisted_lb.files import read_regular_file

MAX_BYTES: Final = 64 * 1024


class SecretError(Exception):
    """The file cannot be used; the text says why, without its content."""


def read_secret(path: str) -> bytes:
    """The content of a file.  Raises SecretError."""
    try:
        return read_regular_file(path, MAX_BYTES)
    except OSError as error:
        raise SecretError(f"it cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SecretError(str(error)) from None


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
