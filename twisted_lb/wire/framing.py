"""The length of a message's body: RFC 9112 section 6.3, with every ambiguous case rejected."""

from __future__ import annotations

from typing import Final

from twisted_lb.wire.errors import RequestError, ResponseError
from twisted_lb.wire.grammar import CONTENT_LENGTH, TOKEN_LIST
from twisted_lb.wire.head import RequestHead, ResponseHead

# A non-negative framing is a Content-Length; these are the others.
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

# The final statuses whose responses never have a body.
NO_CONTENT: Final = 204
NOT_MODIFIED: Final = 304


def request_framing(head: RequestHead) -> int:
    """The body's length in bytes, or CHUNKED.

    Raises RequestError: 400 for an ambiguous message, 501 for an unknown transfer coding.
    """
    notable = head.notable
    # Step 1: Transfer-Encoding.  With Content-Length, or in HTTP/1.0, it is ambiguous.
    if b"transfer-encoding" in notable:
        if b"content-length" in notable:
            raise RequestError(400, "The request has both Content-Length and Transfer-Encoding.")
        if head.minor == 0:
            raise RequestError(400, "An HTTP/1.0 request must not have Transfer-Encoding.")
        codings = notable[b"transfer-encoding"]
        if len(codings) == 1 and codings[0].lower() == b"chunked":
            return CHUNKED
        text = b",".join(codings).lower()
        if TOKEN_LIST.fullmatch(text) and text.count(b"chunked") <= 1 and not text.startswith(b"chunked,"):
            raise RequestError(501, "The only supported transfer coding is chunked.")
        raise RequestError(400, "The Transfer-Encoding is not exactly 'chunked'.")
    # Step 2: Content-Length.
    if b"content-length" in notable:
        length = notable[b"content-length"][0]
        if CONTENT_LENGTH.fullmatch(length) is None:
            raise RequestError(400, "The Content-Length is not a number of at most 18 digits.")
        return int(length)
    # Step 3: no body.
    return 0


def response_framing(head: ResponseHead, request_method: bytes) -> int:
    """The body's length in bytes, CHUNKED or UNTIL_CLOSE.  Raises ResponseError."""
    notable = head.notable
    lengths = notable.get(b"content-length")
    # The same as CONTENT_LENGTH, in a third of the time: nearly every response has one.
    if lengths is not None and (len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18):
        raise ResponseError("The server's Content-Length is repeated, or is not a number.")
    codings = notable.get(b"transfer-encoding")
    if codings is not None:
        if lengths is not None:
            raise ResponseError("The server's response has both Content-Length and Transfer-Encoding.")
        if head.minor == 0:
            raise ResponseError("The server's HTTP/1.0 response has Transfer-Encoding.")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise ResponseError("The server's Transfer-Encoding is not exactly 'chunked'.")
    # Step 1: responses that never have a body.
    status = head.status
    if request_method == b"HEAD" or status < 200 or status == NO_CONTENT or status == NOT_MODIFIED:
        return 0
    # Steps 2 and 3: as declared.
    if codings is not None:
        return CHUNKED
    if lengths is not None:
        return int(lengths[0])
    # Step 4: the body ends with the connection.
    return UNTIL_CLOSE
