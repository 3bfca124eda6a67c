"""Fields that pools and routes set, add and remove in requests to servers and in responses to clients.

They apply to heads that are otherwise complete, so a rule may replace any field except those of the framing and of the
connection.  A value may contain values of the request, see `config.header_rules.VALUES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from twisted_lb.wire.field_names import folded


class RequestValues(Protocol):
    """A request, as rules see it."""

    def value_of(self, name: bytes) -> bytes:
        """The value of one of `config.header_rules.VALUES`; empty if there is none."""


class AddedField:
    """A field that is added: its name, and its value as pairs of a text and the name of the value after it, or b""."""

    __slots__ = ("name", "value")

    def __init__(self, name: bytes, value: Sequence[tuple[bytes, bytes]]) -> None:
        self.name = name
        self.value = tuple(value)

    def line(self, request: RequestValues) -> bytes:
        """The line with a CRLF before it; nothing if the value is empty."""
        value = b""
        for text, name in self.value:
            value += text
            if name:
                value += request.value_of(name)
        # RFC 9112 section 3.2: a request has a Host, which may be empty.
        return b"\r\n%b: %b" % (self.name, value) if value or self.name.lower() == b"host" else b""


class HeaderRules:
    """The rules of a pool or a route for one direction."""

    __slots__ = ("_removed", "_added")

    def __init__(self, removed: Iterable[bytes], added: Sequence[AddedField], of_requests: bool = False) -> None:
        """`removed` are the names of fields that are removed first.

        With `of_requests`, so are names that servers may not distinguish from these; see `wire.field_names`.
        """
        names = b"|".join(sorted(_lookalikes(name) if of_requests else re.escape(name) for name in removed))
        self._removed = re.compile(rb"\r\n(?:" + names + rb"):[^\r]*", re.IGNORECASE) if names else None
        self._added = tuple(added)

    def apply(self, lines: bytes, request: RequestValues) -> bytes:
        """Apply the rules to field lines, each with a CRLF before it."""
        lines = self.without_removed(lines)
        for field in self._added:
            lines += field.line(request)
        return lines

    def without_removed(self, lines: bytes) -> bytes:
        """The field lines without those that are removed; none are added."""
        return lines if self._removed is None else self._removed.sub(b"", lines)

    def kept_trailers(self, trailers: list[bytes]) -> list[bytes]:
        """The lines of trailers that are not removed; fields are added to heads only."""
        return [line for line in trailers if self.without_removed(b"\r\n" + line)]


def _lookalikes(name: bytes) -> bytes:
    """A pattern of the names that are equal to this one when they are folded."""
    return b"".join([re.escape(bytes((one,))) if one != 0x2D else b"[^0-9A-Za-z:\r]" for one in folded(name)])
