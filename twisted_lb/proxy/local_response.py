"""Responses that are made here, in place of a server's: problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from twisted_lb.problem import CONTENT_TYPE, problem
from twisted_lb.wire.forwarding import own_head
from twisted_lb.wire.head import RequestHead

_TYPE_FIELD = b"\r\nContent-Type: " + CONTENT_TYPE.encode()


def problem_response(
    head: RequestHead | None,
    status: int,
    detail: str,
    fields: bytes,
    members: Mapping[str, object],
    close: bool,
) -> bytes:
    """The bytes of a response with a problem.

    `head` is that of the request, or None where none was understood; `fields` are more header lines, each with a
    CRLF before it; `members` are extension members; `close` tells the client that the connection ends.
    """
    body = problem(status, detail, **members)
    reason = HTTPStatus(status).phrase.encode()
    data = own_head(status, reason, _TYPE_FIELD + fields, len(body), close, head.minor if head else 1)
    return data if head is not None and head.method == b"HEAD" else data + body
