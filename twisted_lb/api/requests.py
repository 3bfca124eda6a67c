"""Common to all endpoints of the user API: reading the body, and completing calls of the store after a disconnect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.web.server import Request
from werkzeug.http import parse_options_header

from twisted_lb.api.bodies import BadBody
from twisted_lb.api.responses import Refusal

MAX_BODY_BYTES = 64 * 1024  # the largest sensible body is below 1 KiB

_Body = TypeVar("_Body")
_Result = TypeVar("_Result")


def undisturbed(work: Deferred[_Result]) -> Deferred[_Result]:
    """The result of `work`, which continues if the returned Deferred is cancelled, as when the client disconnects.

    If `work` were cancelled too, a call of several steps could be left incomplete in the store.
    """
    waiting: Deferred[_Result] = Deferred()
    work.chainDeferred(waiting)
    return waiting


def body_of(request: Request, read: Callable[[bytes], _Body]) -> _Body:
    """The body, parsed by `read`.  Raises Refusal."""
    content: bytes = request.content.read(MAX_BODY_BYTES + 1) if request.content else b""
    if len(content) > MAX_BODY_BYTES:
        raise Refusal(413, f"The body is longer than {MAX_BODY_BYTES} bytes.")
    _check_content_type(request)
    try:
        return read(content)
    except BadBody as error:
        raise Refusal(400, str(error)) from None


def _check_content_type(request: Request) -> None:
    """A body is JSON in UTF-8 (RFC 8259 section 8.1); without a Content-Type this is assumed."""
    codings = request.requestHeaders.getRawHeaders(b"content-encoding", [])
    if any(coding.strip().lower() not in (b"", b"identity") for coding in codings):
        raise Refusal(415, "The body has a Content-Encoding; send it plain.", {"Accept-Encoding": "identity"})
    values = request.requestHeaders.getRawHeaders(b"content-type")
    if values is None:
        return
    media_type, parameters = parse_options_header(b",".join(values).decode("latin-1"))
    main, _, sub = media_type.lower().partition("/")
    if main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise Refusal(415, "The body must be JSON; with curl, add -H 'Content-Type: application/json'.")
    if parameters.get("charset", "utf-8").lower() != "utf-8":
        raise Refusal(415, "JSON is UTF-8; with curl, add -H 'Content-Type: application/json'.")
