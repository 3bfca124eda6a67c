"""Responses that are made here, in place of a server's: problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from twisted_lb.problem import CONTENT_TYPE, problem
from twisted_lb.wire.forwarding import own_head
from twisted_lb.wire.head import RequestHead


def problem_response(
    head: RequestHead | None,
    status: int,
    detail: str,
    fields: bytes,
    members: Mapping[str, object],
    close: bool,
    date: bytes,
) -> bytes:
    """A whole response to the request with this head, if there is one; `members` are extension members.

    `fields` are more field lines, each with a CRLF before it; `close` tells the client that the connection ends.
    """
    body = problem(status, detail, **members)
    fields = b"\r\nContent-Type: %b\r\nDate: %b%b" % (CONTENT_TYPE.encode(), date, fields)
    reason = HTTPStatus(status).phrase.encode()
    data = own_head(status, reason, fields, len(body), close, head.minor if head else 1)
    return data if head is not None and head.method == b"HEAD" else data + body
