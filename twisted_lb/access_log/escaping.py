"""Escapes values, so that none can add a line, a column, or a control sequence of the terminal to the log.

Clients choose targets, hosts, names of users, and fields; servers and operators choose the names of servers.
"""

from __future__ import annotations

import re
from json.encoder import encode_basestring_ascii
from typing import Final

# What nginx writes as \xXX in its access log ("escape=default"): quotes, backslashes, and all but printable ASCII.
_UNSAFE: Final = re.compile(rb'["\\\x00-\x1f\x7f-\xff]')
# The same for a value that is written without quotes.
_UNSAFE_OR_SPACE: Final = re.compile(rb'["\\\x00- \x7f-\xff]')

# Bytes that no format escapes.
_PLAIN: Final = bytes(byte for byte in range(0x21, 0x7F) if byte not in b'"\\')


def json_text(text: str) -> bytes:
    """A JSON string with its quotes (RFC 8259 section 7); all that is not printable ASCII is escaped."""
    quoted_text: str = encode_basestring_ascii(text)
    return quoted_text.encode("ascii")


def json_content(value: bytes) -> bytes:
    """The same for bytes in UTF-8, without the quotes; invalid bytes are replaced by U+FFFD."""
    if value.isalnum():
        return value
    return json_text(value.decode("utf-8", "replace"))[1:-1]


def are_plain(values: list[bytes]) -> bool:
    """Whether none of them has anything to escape in any format; all are examined in one call."""
    joined = b"\n".join(values)
    return len(joined.translate(None, _PLAIN)) == len(values) - 1


def quoted(value: bytes) -> str:
    """A value that is written between quotes, without the quotes; "-" for an empty one."""
    if not value:
        return "-"
    if _UNSAFE.search(value):
        value = _UNSAFE.sub(_hexadecimal, value)
    return value.decode("ascii")


def word(value: bytes) -> str:
    """A value that is written without quotes; "-" for an empty one."""
    if not value:
        return "-"
    if _UNSAFE_OR_SPACE.search(value):
        value = _UNSAFE_OR_SPACE.sub(_hexadecimal, value)
    return value.decode("ascii")


def _hexadecimal(found: re.Match[bytes]) -> bytes:
    return b"\\x%02X" % found[0][0]


def field_value(lines: bytes, mark: bytes) -> bytes:
    """The value of the first field in field lines; `mark` is CRLF, its name in lower case, and a colon."""
    at = lines.lower().find(mark)
    if at < 0:
        return b""
    start = at + len(mark)
    end = lines.find(b"\r\n", start)
    return (lines[start:end] if end >= 0 else lines[start:]).strip(b" \t")
