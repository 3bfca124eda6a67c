"""A second reader of HTTP/1.1, to check the first: slow, plain, and without a pattern in common.

It rejects everything that two readers could interpret differently, so what it accepts has one meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
TEXT = frozenset([9, *range(0x20, 0x7F), *range(0x80, 0x100)])
VISIBLE = frozenset(range(0x21, 0x7F))


class Doubtful(ValueError):
    """There is no message here, or more than one way to read it."""


@dataclass
class Message:
    """A message as sent.  `start` are the three parts of the first line."""

    start: tuple[bytes, bytes, bytes]
    fields: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]

    def values(self, name: bytes) -> list[bytes]:
        """The values of all fields of this lower-case name."""
        return [value for field, value in self.fields if field.lower() == name]


def read_requests(data: bytes) -> list[Message]:
    """All requests in `data`, which must end with the last one."""
    messages = []
    while data:
        start, fields, data = _head(data)
        method, target, version = start
        _demand(bool(method) and TOKEN.issuperset(method), "method")
        _demand(bool(target) and VISIBLE.issuperset(target), "target")
        _demand(version in (b"HTTP/1.0", b"HTTP/1.1"), "version")
        message = Message(start, fields, b"", [])
        _demand(len(message.values(b"host")) == 1, "Host")
        data = _body(message, data, None)
        messages.append(message)
    return messages


def read_response(data: bytes, method: bytes) -> Message:
    """The one final response in `data`, which a connection's end follows."""
    start, fields, data = _head(data)
    version, status, _ = start
    _demand(version == b"HTTP/1.1", "version")
    _demand(len(status) == 3 and status.isdigit(), "status")
    message = Message(start, fields, b"", [])
    if method == b"HEAD" or status in (b"204", b"304"):
        rest = data
        _demand(not message.values(b"transfer-encoding"), "Transfer-Encoding without content")
    else:
        rest = _body(message, data, data)
    _demand(not rest, "surplus")
    return message


def _head(data: bytes) -> tuple[tuple[bytes, bytes, bytes], list[tuple[bytes, bytes]], bytes]:
    line, data = _line(data)
    parts = line.split(b" ", 2)
    _demand(len(parts) == 3, "first line")
    fields, data = _fields(data)
    return (parts[0], parts[1], parts[2]), fields, data


def _fields(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    fields: list[tuple[bytes, bytes]] = []
    while True:
        line, data = _line(data)
        if not line:
            return fields, data
        name, colon, value = line.partition(b":")
        _demand(bool(colon) and bool(name) and TOKEN.issuperset(name), "field name")
        fields.append((name, value.strip(b" \t")))


def _line(data: bytes) -> tuple[bytes, bytes]:
    line, end, rest = data.partition(b"\n")
    _demand(bool(end) and line.endswith(b"\r"), "line end")
    line = line[:-1]
    _demand(TEXT.issuperset(line), "text")
    return line, rest


def _body(message: Message, data: bytes, otherwise: bytes | None) -> bytes:
    """Take the body off `data`; where nothing frames it, it is `otherwise`."""
    lengths = message.values(b"content-length")
    codings = message.values(b"transfer-encoding")
    _demand(len(lengths) + len(codings) <= 1, "framing")
    if lengths:
        _demand(lengths[0].isdigit() and lengths[0].isascii(), "Content-Length")
        length = int(lengths[0])
        _demand(len(data) >= length, "short body")
        message.body = data[:length]
        return data[length:]
    if codings:
        _demand(codings[0] == b"chunked", "Transfer-Encoding")
        while True:
            line, data = _line(data)
            _demand(bool(line) and all(byte in b"0123456789abcdef" for byte in line), "chunk size")
            size = int(line, 16)
            if not size:
                message.trailers, data = _fields(data)
                return data
            _demand(data[size : size + 2] == b"\r\n", "chunk end")
            message.body += data[:size]
            data = data[size + 2 :]
    if otherwise is None:
        return data
    message.body = otherwise
    return b""


def _demand(right: bool, what: str) -> None:
    if not right:
        raise Doubtful(what)
