"""Refuses a path that servers may read in another way than it is compared, if that is a path of another route.

Otherwise a client could evade a requirement of a route, such as a key: its request takes a route without it, and the
server returns what belongs to the other one.  These readings are considered, and their combinations:

- encoded slashes and backslashes are slashes (WSGI servers, Windows);
- a semicolon and what follows it in a segment are not part of the name (RFC 3986 section 3.3; Java servlets);
- dot segments are removed before empty ones, so that `/a//../b` is `/a/b` (RFC 3986 section 5.2.4 as written).

The part of the path that is the route's own path, such as `/a%2Fb/`, has one reading only.
"""

from __future__ import annotations

import re
from typing import Any, Final

from twisted_lb.routing.path import comparable, decoded, path_of, resolved, without_dots
from twisted_lb.routing.table import RouteTable
from twisted_lb.wire.head import RequestHead

_STRANGE: Final = re.compile(rb"[%;\\]|//")
_MALFORMED: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SLASH: Final = re.compile(rb"%2F|\\")
_PARAMETERS: Final = re.compile(rb";[^/]*+")

MALFORMED: Final = "The path has a percent sign that two hexadecimal digits do not follow."
ZERO: Final = "The path has an encoded zero byte."
DOTS: Final = "The path has dot segments between encoded slashes."
AMBIGUOUS: Final = (
    "Servers may read this path in several ways, which are different things here. "
    "Send it without ';', backslashes, encoded slashes and empty segments."
)


def certain_route(table: RouteTable, head: RequestHead) -> tuple[Any, str]:
    """The route of a request, None if there is none, and why the request has to be refused, or ""."""
    path = path_of(head.target)
    if _STRANGE.search(path) is None:
        return table.find(head), ""
    fault = why_refused(path)
    if fault:
        return None, fault
    found = table.find_path(head, comparable(path))
    if found is None:
        return None, ""
    for reading in other_readings(path, found.path):
        if table.find_path(head, reading) is not found:
            return None, AMBIGUOUS
    return found.route, ""


def why_refused(path: bytes) -> str:
    """Why a path is refused whatever routes there are; "" if it is not."""
    if _MALFORMED.search(path) is not None:
        return MALFORMED
    if b"%00" in path:
        return ZERO
    path = decoded(path)
    if _SLASH.search(path) is not None:
        segments = _SLASH.sub(b"/", path).split(b"/")
        if b".." in segments or b"." in segments:
            return DOTS
    return ""


def other_readings(path: bytes, meant: bytes) -> set[bytes]:
    """The paths that servers may read, in the form in which they are compared; `meant` is the path of the route."""
    path = decoded(path)
    start = len(meant) if (path + b"/").startswith(meant) else 0
    first, rest = path[:start], path[start:]
    rests = {rest, _SLASH.sub(b"/", rest)}
    rests |= {_PARAMETERS.sub(b"", one) for one in rests}
    paths = {first + one for one in rests}
    return {resolved(one) for one in paths} | {resolved(without_dots(one)) for one in paths}
