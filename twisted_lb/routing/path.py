"""The form in which paths are compared.  Servers get the path as the client has sent it.

1. Percent-encoded unreserved characters are decoded, and the hexadecimal digits of other encodings are in upper case
   (RFC 3986 section 6.2.2): `/%7Euser` is `/~user`.  An encoded slash stays encoded, and separates no segments.
2. Several slashes in a row are one.
3. Dot segments are removed (RFC 3986 section 5.2.4): `/a/../b` is `/b`.  Above the root is the root.
"""

from __future__ import annotations

import re
from typing import Final

# What may have another form: a percent sign, an empty segment, or one that begins with a dot.
_UNUSUAL: Final = re.compile(rb"%|//|/\.")
_ENCODED: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_SLASHES: Final = re.compile(rb"//++")
_ENCODED_SLASH: Final = re.compile(rb"%2F|%5C|\\")
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def comparable(path: bytes) -> bytes:
    """The form of a path, which begins with a slash, in which it is compared."""
    if _UNUSUAL.search(path) is None:
        return path
    if b"%" in path:
        path = _ENCODED.sub(_decoded, path)
    if b"//" in path:
        path = _SLASHES.sub(b"/", path)
    return _without_dots(path) if b"/." in path else path


def is_ambiguous(path: bytes) -> bool:
    """Whether dot segments come to light when encoded slashes, or backslashes, are read as slashes.

    Some servers read them so, and would find another path than the one that was compared.
    """
    if b"%" not in path and b"\\" not in path:
        return False
    path = _ENCODED.sub(_decoded, path)
    if _ENCODED_SLASH.search(path) is None:
        return False
    segments = _ENCODED_SLASH.sub(b"/", path).split(b"/")
    return b".." in segments or b"." in segments


def _decoded(encoded: re.Match[bytes]) -> bytes:
    text = encoded.group()
    octet = int(text[1:], 16)
    return bytes([octet]) if octet in _UNRESERVED else text.upper()


def _without_dots(path: bytes) -> bytes:
    kept: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments[1:]:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        # What is left is a directory.
        kept.append(b"")
    return b"/" + b"/".join(kept)


def without_prefix(target: bytes, prefix: bytes) -> bytes:
    """The target without the first segments of its path, which are `prefix` in the form in which paths are compared.

    All other bytes are those of the client, unless the path has empty segments or dot segments: then it has the form in
    which paths are compared, since what is left could mean something else.
    """
    path, mark, query = target.partition(b"?")
    if b"//" in path or b"/." in path or (b"%" in path and comparable(path).count(b"/") != path.count(b"/")):
        path = comparable(path)
    rest = path.split(b"/", prefix.count(b"/") + 1)[-1] if path.count(b"/") > prefix.count(b"/") else b""
    return b"/" + rest + mark + query
