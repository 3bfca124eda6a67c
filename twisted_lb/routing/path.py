"""The forms of a path: the one in which paths are compared, and the one that servers get when a prefix is removed.

Both are without empty segments and dot segments (RFC 3986 section 5.2.4): `/a//../b` is `/b`, and `/..` is `/`.  An
encoded slash stays encoded, and separates no segments; so does an encoded percent sign, so that nothing is
decoded twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

# What may have another form: a percent sign, an empty segment, or one that begins with a dot.
_UNUSUAL: Final = re.compile(rb"%|//|/\.")
_SLASHES: Final = re.compile(rb"//++")
_HEX: Final = "0123456789abcdefABCDEF"
_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


def _decoding(decoded: Iterable[int]) -> dict[bytes, bytes]:
    """By each two hexadecimal digits, what replaces them and the percent sign: only octets in `decoded` are decoded."""
    octets = frozenset(decoded)
    pairs = [high + low for high in _HEX for low in _HEX]
    return {
        pair.encode(): bytes([int(pair, 16)]) if int(pair, 16) in octets else b"%" + pair.upper().encode()
        for pair in pairs
    }


_ALL: Final = _decoding(set(range(256)) - set(b"%/"))
_ONLY_UNRESERVED: Final = _decoding(_UNRESERVED)


def path_of(target: bytes) -> bytes:
    """The path of a request target; empty for `*`."""
    query = target.find(b"?")
    if query >= 0:
        return target[:query]
    return b"" if target == b"*" else target


def comparable(path: bytes) -> bytes:
    """The form of a path, which begins with a slash, in which it is compared: `/%7Euser` and `/~user` are the same."""
    if _UNUSUAL.search(path) is None:
        return path
    return resolved(decoded(path))


def normalized(path: bytes) -> bytes:
    """The path with the same meaning to every server (RFC 3986 section 6.2.2), valid in a request."""
    if _UNUSUAL.search(path) is None:
        return path
    return resolved(_decoded(path, _ONLY_UNRESERVED))


def decoded(path: bytes) -> bytes:
    """The path without percent-encoding, apart from that of slashes and percent signs."""
    return _decoded(path, _ALL)


def resolved(path: bytes) -> bytes:
    """The path without empty segments, and then without dot segments."""
    if b"//" in path:
        path = _SLASHES.sub(b"/", path)
    return without_dots(path) if b"/." in path else path


def _decoded(path: bytes, decoding: Mapping[bytes, bytes]) -> bytes:
    if b"%" not in path:
        return path
    parts = path.split(b"%")
    found = [parts[0]]
    for part in parts[1:]:
        octet = decoding.get(part[:2])
        # A percent sign that encodes nothing stands for itself.
        found.append(b"%25" + part if octet is None else octet + part[2:])
    return b"".join(found)


def without_dots(path: bytes) -> bytes:
    """The path without dot segments (RFC 3986 section 5.2.4)."""
    kept: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments[1:]:
        if segment == b"..":
            if kept:
                kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        # As a directory, the path ends in a slash.
        kept.append(b"")
    return b"/" + b"/".join(kept)


def without_prefix(target: bytes, prefix: bytes) -> bytes:
    """The target without the first segments of its path, which are `prefix` in the form in which paths are compared.

    All other bytes are those of the client, unless the path has empty segments or dot segments: then it is normalized,
    since what is left could mean something else.
    """
    path, mark, query = target.partition(b"?")
    if b"//" in path or b"/." in path or (b"%" in path and normalized(path).count(b"/") != path.count(b"/")):
        path = normalized(path)
    rest = path.split(b"/", prefix.count(b"/") + 1)[-1] if path.count(b"/") > prefix.count(b"/") else b""
    return b"/" + rest + mark + query
