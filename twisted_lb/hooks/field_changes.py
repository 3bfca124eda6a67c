"""What hooks change in the header fields of one request or response (IFieldChanges).

Fields are validated when they are given, so that an invalid one raises an exception in the user's class.
"""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from twisted_lb.interfaces import IFieldChanges
from twisted_lb.wire.field_names import folded
from twisted_lb.wire.fields import HOP_BY_HOP, TABLE
from twisted_lb.wire.grammar import AUTHORITY, FIELD_LINE

# The fields of the framing and the connection, and Date, are set by the gateway alone.
NOT_FOR_HOOKS: Final = HOP_BY_HOP | {b"content-length", b"date", b"expect", b"trailer"}
# A request that repeats one of these is ambiguous.
_ONCE: Final = frozenset(field.name for field in TABLE if field.once)


@implementer(IFieldChanges)
class FieldChanges:
    """The changes to one head."""

    __slots__ = ("_of_request", "_removed", "_added")

    def __init__(self, of_request: bool) -> None:
        """In a request, a name also stands for names that servers may mistake for it; see `wire.field_names`."""
        self._of_request = of_request
        self._removed: set[bytes] = set()  # names in their comparable form
        self._added: list[tuple[bytes, bytes, bytes]] = []  # name in lower case, name, value

    def set(self, name: bytes, value: bytes) -> None:
        """See IFieldChanges."""
        field = self._checked(name, value)
        self._remove(name)
        self._added.append(field)

    def add(self, name: bytes, value: bytes) -> None:
        """See IFieldChanges."""
        field = self._checked(name, value)
        if self._of_request and field[0] in _ONCE:
            raise ValueError(f"{_text(name)} cannot be added to a request, which has it once; it can be set")
        self._added.append(field)

    def remove(self, name: bytes) -> None:
        """See IFieldChanges."""
        lower = self._checked(name, b"")[0]
        if self._of_request and lower == b"host":
            raise ValueError("Host cannot be removed from a request; it can be set")
        self._remove(name)

    def _checked(self, name: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
        """The field.  Raises ValueError and TypeError."""
        if type(name) is not bytes or type(value) is not bytes:
            raise TypeError("the name and the value of a header field are bytes")
        if b":" in name or FIELD_LINE.fullmatch(b"%b:%b" % (name, value)) is None:
            # The message leaves out the value, which may be a secret.
            raise ValueError(f"{_text(name)} with this value is not a valid header field")
        lower = name.lower()
        if lower in NOT_FOR_HOOKS:
            raise ValueError(f"{_text(name)} cannot be changed: it concerns the framing or the connection")
        value = value.strip(b" \t")
        if self._of_request and lower == b"host" and value and AUTHORITY.fullmatch(value) is None:
            raise ValueError("the value of Host is not a valid authority")
        return lower, name, value

    def _remove(self, name: bytes) -> None:
        removed = self._comparable(name)
        self._removed.add(removed)
        self._added = [field for field in self._added if self._comparable(field[0]) != removed]

    def _comparable(self, name: bytes) -> bytes:
        return folded(name) if self._of_request else name.lower()

    def apply(self, lines: bytes) -> bytes:
        """The field lines, each preceded by CRLF, as they are after the changes."""
        lines = self.without_removed(lines)
        for _, name, value in self._added:
            lines += b"\r\n%b: %b" % (name, value)
        return lines

    def without_removed(self, lines: bytes) -> bytes:
        """The field lines without the removed ones; fields that are added are not in them."""
        comparable = self._comparable(lines)
        if not any([name in comparable for name in self._removed]):
            # The usual case: it takes a tenth of the time.
            return lines
        return b"".join([b"\r\n" + line for line in lines.split(b"\r\n")[1:] if self._keeps(line)])

    def kept_trailers(self, trailers: list[bytes]) -> list[bytes]:
        """The lines of trailers that are not removed; a field that replaces another one is in the head."""
        return [line for line in trailers if self._keeps(line)]

    def _keeps(self, line: bytes) -> bool:
        return self._comparable(line.partition(b":")[0]) not in self._removed

    def value(self, name: bytes, before: bytes | None) -> bytes | None:
        """The value of a field after the changes; `before` is its value before them.  See IRequest.header."""
        lower = name.lower()
        removed = self._comparable(name) in self._removed
        values = [] if before is None or removed else [before]
        values += [value for other, _, value in self._added if other == lower]
        if not values or lower == b"set-cookie":
            return values[0] if values else None
        return (b"; " if lower == b"cookie" else b", ").join(values)


def _text(name: bytes) -> str:
    return name.decode("latin-1")
