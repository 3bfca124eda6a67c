"""Removes one parameter from the query of a target; all other bytes of the target are unchanged.

    query = pair *( ( "&" / ";" ) pair )        pair = name [ "=" value ]

The structure of a query is not standardized (RFC 3986 section 3.4).  Servers split it at "&", and some also at ";"
(HTML 4.01 section B.2.2).  Here both end a pair, so that everything that a server may read as the parameter is found.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

_PAIRS: Final = re.compile(rb"([&;])")
_VISIBLE: Final = re.compile(rb"[!-~]*+")


def take_parameter(target: bytes, name: bytes) -> tuple[bytes, list[bytes]]:
    """The target without the parameters of this name, and their values.

    Names and values are percent-decoded once; a value that then is not visible ASCII is returned as it was sent.  A
    pair is removed with the separator before it (the first pair: after it), and so is the question mark if the query
    becomes empty.
    """
    path, mark, query = target.partition(b"?")
    if name not in query and b"%" not in query:
        return target, []
    parts = [b"", *_PAIRS.split(query)]  # each separator before its pair
    values = []
    kept: list[bytes] = []
    for separator, pair in zip(parts[::2], parts[1::2]):
        found, _, value = pair.partition(b"=")
        if found == name or (b"%" in found and unquote_to_bytes(found) == name):
            values.append(_visible(value))
        else:
            kept += [separator, pair] if kept else [pair]
    if not values:
        return target, []
    return (path + mark + b"".join(kept) if kept else path), values


def mask_parameter(target: bytes, name: bytes, mask: bytes) -> bytes:
    """The target with `mask` in place of each value of the parameters of this name; see `take_parameter`."""
    path, mark, query = target.partition(b"?")
    if name not in query and b"%" not in query:
        return target
    parts = _PAIRS.split(query)
    for i in range(0, len(parts), 2):
        found, equals, _ = parts[i].partition(b"=")
        if equals and (found == name or (b"%" in found and unquote_to_bytes(found) == name)):
            parts[i] = found + equals + mask
    return path + mark + b"".join(parts)


def _visible(value: bytes) -> bytes:
    plain = unquote_to_bytes(value)
    return plain if _VISIBLE.fullmatch(plain) else value
