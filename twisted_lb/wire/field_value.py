"""The names of the fields of a head, and the value of one."""

from __future__ import annotations

from twisted_lb.wire.head import RequestHead, ResponseHead


def field_value(head: RequestHead | ResponseHead, name: bytes) -> bytes | None:
    """The value of the field of this name, in any case; None where there is none.

    Several fields with this name are combined into one list (RFC 9110 section 5.3), several Cookie fields into one
    cookie string (RFC 9113 section 8.2.3).  Set-Cookie is not a list; its first field is used.
    """
    name = name.lower()
    values = head.notable.get(name) or _values(head.fields, b"\r\n%b:" % name)
    if len(values) < 2 or name == b"set-cookie":
        return values[0] if values else None
    return (b"; " if name == b"cookie" else b", ").join(values)


def field_names(head: RequestHead | ResponseHead) -> set[bytes]:
    """The names of the fields, in lower case."""
    lines = head.fields.lower().split(b"\r\n")[1:]
    return {line.partition(b":")[0] for line in lines}.union(head.notable)


def _values(lines: bytes, mark: bytes) -> list[bytes]:
    """What follows each `mark`, which is in lower case, to the end of the line."""
    lower = lines.lower()
    values = []
    at = lower.find(mark)
    while at >= 0:
        start = at + len(mark)
        end = lines.find(b"\r\n", start)
        values.append((lines[start:end] if end >= 0 else lines[start:]).strip(b" \t"))
        at = lower.find(mark, start)
    return values
