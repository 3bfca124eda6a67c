"""Reads a message in pieces, as from a connection, and returns the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from twisted_lb.own_fields import RESPONSE_FIELDS, request_fields
from twisted_lb.wire.body import decoder
from twisted_lb.wire.errors import RequestError, ResponseError, WireError
from twisted_lb.wire.framing import request_framing, response_framing
from twisted_lb.wire.head import (
    MAX_RESPONSE_HEAD_BYTES,
    HeadLimits,
    RequestHead,
    ResponseHead,
    read_request_head,
    read_response_head,
    skip_empty_lines,
)

LIMITS = HeadLimits(table=request_fields())

# Byte by byte, a long message would take minutes and say no more than in pieces of this size.
LONG_BYTES = 3000
PIECE_BYTES = 997


@dataclass
class Body:
    """A body, as far as it came."""

    framing: int
    content: bytes
    trailers: list[bytes]
    rest: bytes
    done: bool


def read_request(pieces: Iterable[bytes]) -> tuple[RequestHead, Body] | None:
    """The first request, or None while its head is not whole.  Raises WireError."""
    feed = iter(pieces)
    data = b""
    scanned = empty_lines = 0
    for piece in feed:
        data += piece
        if data.startswith(b"\r\n"):
            data, empty_lines = skip_empty_lines(data, empty_lines)
            scanned = 0
        head = read_request_head(data, scanned, LIMITS)
        if head is not None:
            return head, read_body(request_framing(head), data[head.size :], feed, _refuse_request)
        scanned = len(data)
    return None


def read_response(pieces: Iterable[bytes], method: bytes) -> tuple[ResponseHead, Body] | None:
    """The first response, or None while its head is not whole.  Raises WireError."""
    feed = iter(pieces)
    data = b""
    scanned = 0
    for piece in feed:
        data += piece
        head = read_response_head(data, scanned, MAX_RESPONSE_HEAD_BYTES, RESPONSE_FIELDS)
        if head is not None:
            return head, read_body(response_framing(head, method), data[head.size :], feed, ResponseError, True)
        scanned = len(data)
    return None


def read_body(
    framing: int, begun: bytes, feed: Iterable[bytes], refuse: Callable[[str], WireError], any_name: bool = False
) -> Body:
    """A body that begins with `begun` and goes on with `feed`; `any_name` goes for those of responses."""
    body = decoder(framing, refuse, any_name=any_name, forbidden=LIMITS.table.forbidden_trailers)
    content = b""
    rest = b""
    for piece in [begun, *feed]:
        if body.done:
            rest += piece
        elif piece:
            content += body.feed(piece)
            while body.rest and not body.done:
                content += body.feed(body.rest)
    return Body(framing, content, body.trailers, body.rest + rest, body.done)


def byte_by_byte(data: bytes) -> list[bytes]:
    """`data` in the smallest pieces that are worth it."""
    step = 1 if len(data) < LONG_BYTES else PIECE_BYTES
    return [data[i : i + step] for i in range(0, len(data), step)]


def _refuse_request(detail: str) -> WireError:
    return RequestError(400, detail)
