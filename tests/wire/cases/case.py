"""The form of a wire case."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """A request that is accepted.  What is None is not looked at."""

    method: bytes = b"GET"
    target: bytes = b"/"
    host: bytes = b"a.test"
    content: bytes = b""
    fields: bytes | None = None  # the lines passed on unchanged, each with a CRLF before it
    trailers: list[bytes] = field(default_factory=list)
    minor: int = 1
    keep_alive: bool = True


@dataclass(frozen=True)
class Response:
    """A response that is accepted.  What is None is not looked at."""

    status: int = 200
    content: bytes = b""
    fields: bytes | None = None
    trailers: list[bytes] = field(default_factory=list)
    keep_alive: bool = True
    until_close: bool = False


@dataclass(frozen=True)
class Refused:
    """A message that is refused with this status."""

    status: int


@dataclass(frozen=True)
class Unfinished:
    """A message of which more must come."""


BAD = Refused(400)
BAD_GATEWAY = Refused(502)
UNFINISHED = Unfinished()


@dataclass(frozen=True)
class Case:
    """A message and what comes of it."""

    claim: str
    rfc: str  # RFC and section
    data: bytes
    expected: Request | Response | Refused | Unfinished
    method: bytes = b"GET"  # of the request, where `data` is a response
    at_proxy: bool = True  # whether the same is expected of a whole proxy


def get(*lines: bytes, target: bytes = b"/") -> bytes:
    """A GET request for a.test with these field lines."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a.test", *lines, b"", b""])


def post(body: bytes, *lines: bytes) -> bytes:
    """A POST request for a.test with these field lines."""
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: a.test", *lines, b"", body])


def chunked(body: bytes) -> bytes:
    """A chunked POST request."""
    return post(body, b"Transfer-Encoding: chunked")


def response(body: bytes, *lines: bytes) -> bytes:
    """A response of status 200."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", body])
