"""The response that a route sends itself, in place of a server: a fixed response, or a redirect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from twisted_lb.routing.table import plain_host

_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
# A host that all clients parse in the same way; see `https_redirect`.
_HOST: Final = re.compile(rb"[0-9a-z](?:[-._0-9a-z]*+)|\[[0-9a-f:.]++\]")


class RouteAnswer:
    """A status, fields and content; for a redirect, the location."""

    __slots__ = ("status", "reason", "fields", "content", "_place", "_keeps_query")

    def __init__(
        self, status: int, fields: bytes = b"", content: bytes = b"", place: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """`fields` are lines, each with a CRLF before it.

        `place` is the location, as pairs of a text and what follows it: b"host", b"path" or b"query" of the request, or
        b"".  Unless it has a query of its own, that of the request is appended.
        """
        self.status = status
        self.reason = b" " + (HTTPStatus(status).phrase.encode() if status in _STATUSES else b"")
        self.fields = fields
        self.content = content
        self._place = tuple(place)
        self._keeps_query = bool(place) and not any(b"?" in text or name == b"query" for text, name in place)

    def location(self, host: bytes, target: bytes) -> bytes | None:
        """The line of the Location field; b"" if this is not a redirect, and None for a host that no URL can have."""
        if not self._place:
            return b""
        path, mark, query = target.partition(b"?")
        line = b"\r\nLocation: "
        for text, name in self._place:
            line += text
            if name == b"host":
                plain = plain_host(host)
                if _HOST.fullmatch(plain) is None:
                    return None
                line += plain
            elif name == b"path":
                # RFC 9112 section 3.2.4: "*" is the target of a URL without path.
                line += b"/" if path == b"*" else path
            elif name == b"query":
                line += mark + query
        return line + mark + query if self._keeps_query else line
