"""Reads the responses that a client received, strictly: what is not a response as it should be fails the test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple


class Response(NamedTuple):
    """One response."""

    status: int
    fields: dict[str, list[str]]  # by lower-case name
    body: bytes
    trailers: list[bytes]

    @property
    def members(self) -> dict[str, object]:
        """The members of a problem document."""
        assert self.field("content-type") == "application/problem+json", self.fields
        document = json.loads(self.body)
        assert isinstance(document, dict) and document["status"] == self.status, document
        return document

    @property
    def detail(self) -> str:
        """The sentence of a problem document."""
        detail = self.members["detail"]
        assert isinstance(detail, str)
        return detail

    def field(self, name: str) -> str | None:
        """The value of a field that is there at most once."""
        values = self.fields.get(name.lower())
        if values is None:
            return None
        [value] = values
        return value

    @property
    def closes(self) -> bool:
        return self.field("connection") == "close"


def read_responses(data: bytes, methods: Iterable[str] = (), ended: bool = False) -> list[Response]:
    """All responses in `data`, which must be whole.

    `methods` are those of the requests in order, GET where none is named; `ended`: the connection is
    over, so a body may go on to the end.
    """
    responses = []
    remaining = iter(methods)
    while data:
        response, data = _read_response(data, next(remaining, "GET"), ended)
        responses.append(response)
    return responses


def read_response(data: bytes, method: str = "GET", ended: bool = False) -> Response:
    """The only response in `data`."""
    [response] = read_responses(data, [method], ended)
    return response


def read_request(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The first request in `data`: its target, its content, and what comes after it; None while it is not whole."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    request_line, *lines = head.split(b"\r\n")
    target = request_line.split(b" ")[1]
    fields = dict(line.split(b": ", 1) for line in lines)
    if b"Transfer-Encoding" in fields:
        if b"0\r\n\r\n" not in rest:
            return None
        content, _, rest = _read_chunks(rest)
        return target, content, rest
    length = int(fields.get(b"Content-Length", b"0"))
    return None if len(rest) < length else (target, rest[:length], rest[length:])


def _read_response(data: bytes, method: str, ended: bool) -> tuple[Response, bytes]:
    head, end, rest = data.partition(b"\r\n\r\n")
    assert end, f"not a whole head: {data!r}"
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status_text, _ = status_line.split(" ", 2)
    assert version == "HTTP/1.1", status_line
    status = int(status_text)
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(": ")
        assert colon and name == name.strip(), line
        fields.setdefault(name.lower(), []).append(value)
    trailers: list[bytes] = []
    if method == "HEAD" or status < 200 or status in (204, 304):
        body = b""
    elif "transfer-encoding" in fields:
        assert fields["transfer-encoding"] == ["chunked"] and "content-length" not in fields, fields
        body, trailers, rest = _read_chunks(rest)
    elif "content-length" in fields:
        [length] = fields["content-length"]
        assert len(rest) >= int(length), f"cut short: {rest!r}"
        body, rest = rest[: int(length)], rest[int(length) :]
    else:
        assert ended, "a body without end"
        body, rest = rest, b""
    return Response(status, fields, body, trailers), rest


def read_chunks(data: bytes) -> bytes:
    """The content of one whole chunked body."""
    content, _, rest = _read_chunks(data)
    assert not rest, rest
    return content


def _read_chunks(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        assert end, "no last chunk"
        size = int(line, 16)
        if not size:
            break
        assert data[size : size + 2] == b"\r\n", data
        body += data[:size]
        data = data[size + 2 :]
    trailers: list[bytes] = []
    while True:
        line, end, data = data.partition(b"\r\n")
        assert end, "no end of the trailer section"
        if not line:
            return body, trailers, data
        trailers.append(line)
