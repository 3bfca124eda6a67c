"""The fields that are this product's own: rows for the table of `wire.fields`, which knows only those of HTTP.

The names of the fields that carry keys are configurable; KEY_FIELDS are the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote_from_bytes

from twisted_lb.wire.fields import FORBIDDEN_TRAILERS, ID_ROWS, Field, RequestFields, ResponseFields, Use

CONSUMER: Final = b"x-consumer-username"
CERTIFICATE_SUBJECT: Final = b"x-client-cert-subject"
TOKEN_COST: Final = b"x-token-cost"
MIRRORED_FROM: Final = b"x-mirrored-from"

_ON, _CONSUMED, _REWRITTEN = Use.PASSED_ON, Use.CONSUMED, Use.REWRITTEN

OWN_FIELDS: Final = (
    Field(CONSUMER, _REWRITTEN, _ON, "tells servers the key's user; clients must not set it"),
    Field(CERTIFICATE_SUBJECT, _REWRITTEN, _ON, "tells servers the subject of the client's verified certificate"),
    Field(MIRRORED_FROM, _CONSUMED, _ON, "tells servers that a request is a copy; clients must not claim that"),
    # The limits: this gateway reports them, and the fields of a server would contradict it.
    Field(b"x-ratelimit-limit", _ON, _REWRITTEN, "of the key's limits"),
    Field(b"x-ratelimit-remaining", _ON, _REWRITTEN, "of the key's limits"),
    Field(b"x-ratelimit-reset", _ON, _REWRITTEN, "of the key's limits"),
    Field(b"ratelimit", _ON, _REWRITTEN, "of the key's limits (draft-ietf-httpapi-ratelimit-headers)"),
    Field(b"ratelimit-policy", _ON, _REWRITTEN, "of the key's limits (draft-ietf-httpapi-ratelimit-headers)"),
    Field(TOKEN_COST, _ON, _CONSUMED, "the cost of the request, which may be known only at its end", trailer=True),
)

KEY_FIELDS: Final = (b"authorization", b"x-api-key", b"apikey")

# Fields with another meaning for this gateway or for servers, which therefore cannot carry a key.
NO_KEY_FIELDS: Final = (
    (FORBIDDEN_TRAILERS - {b"authorization"})
    | {field.name for field in OWN_FIELDS}
    | {
        b"accept",
        b"accept-charset",
        b"accept-encoding",
        b"accept-language",
        b"access-control-request-headers",
        b"access-control-request-method",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"origin",
        b"prefer",
        b"referer",
        b"traceparent",
        b"tracestate",
        b"user-agent",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-request-id",
    }
)


def request_fields(keys: Iterable[bytes] = KEY_FIELDS, ids: bool = False) -> RequestFields:
    """The treatment of the fields of requests.

    `keys` are the names of those that may carry a key; `ids` says that requests get ids.
    """
    return RequestFields(keys, (*OWN_FIELDS, *ID_ROWS) if ids else OWN_FIELDS)


# Responses carry no keys, but what authenticates must not be a trailer.
RESPONSE_FIELDS: Final = ResponseFields(OWN_FIELDS, KEY_FIELDS)

# Servers that decode values as Latin-1 (WSGI, Node) see NEL and NBSP where the UTF-8 of a letter has the bytes 0x85
# and 0xA0: some strip both from the end, and some treat the first as a line break.  No valid name contains control
# bytes; if a store contained one, it would break the line for every server.
_NEEDS_ENCODING: Final = re.compile(rb"[%\x85\x00-\x1f\x7f]|\xa0\Z")
_ASCII_BUT_PERCENT: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")

# The lines for the names of present users: each request has one, and the pattern is slower than a lookup.
MAX_CONSUMER_LINES: Final = 1024
_consumer_lines: dict[bytes, bytes] = {b"": b""}


def consumer_line(name: bytes) -> bytes:
    """The line, preceded by CRLF, that names a user to servers; empty without a user.  `name` is in UTF-8."""
    line = _consumer_lines.get(name)
    if line is None:
        if len(_consumer_lines) >= MAX_CONSUMER_LINES:
            _consumer_lines.clear()
            _consumer_lines[b""] = b""
        _consumer_lines[name] = line = b"\r\nX-Consumer-Username: " + username_value(name)
    return line


def username_value(name: bytes) -> bytes:
    """The value of X-Consumer-Username for a name in UTF-8: unchanged, unless a server could truncate it.

    In that case all bytes that are not ASCII are percent-encoded (RFC 3986 section 2.1).  `%` is encoded in every name,
    so that different names have different values, and percent-decoding any value gives the name.
    """
    return quote_from_bytes(name, _ASCII_BUT_PERCENT).encode() if _NEEDS_ENCODING.search(name) else name


def mirrored_line(pool: str) -> bytes:
    """The line, with a CRLF before it, that tells servers that a request is a copy of one for this pool."""
    return b"\r\nX-Mirrored-From: " + pool.encode()


def certificate_line(subject: bytes) -> bytes:
    """The line, with a CRLF before it, that tells servers the subject of the client's certificate; b"" for none."""
    return b"\r\nX-Client-Cert-Subject: " + subject if subject else b""
