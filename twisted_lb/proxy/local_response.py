"""Responses that are made here, in place of a server's: problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from twisted_lb.wire.forwarding import own_head
from twisted_lb.wire.head import RequestHead
from twisted_lb.wire.problem import CONTENT_TYPE, problem


def problem_response(
    head: RequestHead | None,
    status: int,
    detail: str,
    fields: bytes,
    members: Mapping[str, object],
    close: bool,
    date: bytes,
    request_id: bytes = b"",
) -> bytes:
    """A whole response to the request with this head, if there is one; `members` are extension members.

    `fields` are more field lines, each with a CRLF before it; `close` tells the client that the connection ends;
    `request_id` is sent in a field and in the document, unless it is empty.
    """
    if request_id:
        fields += b"\r\nX-Request-ID: " + request_id
        body = problem(status, detail, **members, request_id=request_id.decode("ascii"))
    else:
        body = problem(status, detail, **members)
    fields = b"\r\nContent-Type: %b\r\nDate: %b%b" % (CONTENT_TYPE.encode(), date, fields)
    reason = HTTPStatus(status).phrase.encode()
    data = own_head(status, reason, fields, len(body), close, head.minor if head else 1)
    return data if head is not None and head.method == b"HEAD" else data + body
