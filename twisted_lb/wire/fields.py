"""The fields that a gateway must not simply forward: one table, with the treatment of each and the reason.

Names are in lower case.  Fields that are not in the table are forwarded unchanged, unless Connection names them
(RFC 9110 section 7.6.1).  The table has the fields of HTTP; those that an application adds (`own_fields`), and those of
requests that may carry a key, are passed to RequestFields and ResponseFields.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from twisted_lb.wire.grammar import field_splitter


class Use(Enum):
    """The treatment of a field, in one direction."""

    PASSED_ON = "forwarded unchanged"
    HOP_BY_HOP = "concerns the connection: read and removed, whether or not Connection names it"
    CONSUMED = "read and removed"
    REWRITTEN = "removed, and replaced by a new value, which may depend on the old one"


_ON, _HOP, _CONSUMED, _REWRITTEN = Use.PASSED_ON, Use.HOP_BY_HOP, Use.CONSUMED, Use.REWRITTEN


class Field(NamedTuple):
    """One row of the table."""

    name: bytes
    request: Use
    response: Use
    because: str
    # A request that repeats it is ambiguous, and is rejected.
    once: bool = False
    # Whether Connection can remove it as well.  False: it frames the message, or is read, whatever Connection contains.
    nominable: bool = True
    # Whether it may be sent as a trailer; see FORBIDDEN_TRAILERS.
    trailer: bool = False


TABLE: Final = (
    # The connection: RFC 9110 section 7.6.1, RFC 9112 section 9.
    Field(b"connection", _HOP, _HOP, "options of this connection, and names of fields for this hop"),
    Field(b"keep-alive", _HOP, _HOP, "parameters of this connection"),
    Field(b"proxy-connection", _HOP, _HOP, "what some old clients send in place of Connection"),
    Field(b"te", _HOP, _HOP, "transfer codings for this hop; `trailers` is sent to the server in a new TE field"),
    Field(b"transfer-encoding", _HOP, _HOP, "frames the message on this connection (RFC 9112 section 6.1)"),
    Field(b"upgrade", _HOP, _HOP, "a switch to another protocol on this connection; a new field asks the server"),
    Field(b"proxy-authorization", _HOP, _HOP, "credentials for a forward proxy"),
    Field(b"proxy-authenticate", _HOP, _HOP, "the challenge of a forward proxy"),
    Field(b"http2-settings", _HOP, _HOP, "belongs to an upgrade to HTTP/2, which is not forwarded (RFC 7540 3.2)"),
    # The message.
    Field(b"host", _REWRITTEN, _ON, "the requested authority, which is validated (RFC 9110 section 7.2)", True, False),
    Field(b"content-length", _REWRITTEN, _REWRITTEN, "frames the message (RFC 9112 section 6.2)", True, False),
    Field(b"content-type", _REWRITTEN, _ON, "repeated, it would make the content ambiguous", True),
    Field(b"expect", _REWRITTEN, _ON, "100-continue is answered by the server (RFC 9110 section 10.1.1)"),
    Field(b"max-forwards", _REWRITTEN, _ON, "decremented for OPTIONS (RFC 9110 section 7.6.2)", True),
    Field(b"date", _ON, _REWRITTEN, "added if the server sent none (RFC 9110 section 6.6.1)"),
    Field(b"trailer", _ON, _REWRITTEN, "must not announce trailers that are removed (RFC 9110 section 6.6.2)"),
    # The identity of the client.
    Field(b"authorization", _REWRITTEN, _ON, "the key, which servers do not get, or credentials for them", True, False),
    # The values that a client sends are replaced; those that a trusted proxy sends are read, and appended to.
    # Connection cannot remove the latter: its options may have been chosen by a client.
    Field(b"x-forwarded-for", _REWRITTEN, _ON, "the client's address", nominable=False),
    Field(b"x-forwarded-proto", _REWRITTEN, _ON, "the scheme that the client used", nominable=False),
    Field(b"x-forwarded-host", _REWRITTEN, _ON, "the authority that the client requested", nominable=False),
    Field(b"x-forwarded-port", _REWRITTEN, _ON, "the port that the client requested", nominable=False),
    Field(b"x-real-ip", _REWRITTEN, _ON, "the client's address, and nothing else", nominable=False),
    Field(b"forwarded", _REWRITTEN, _ON, "the client's address, scheme and authority (RFC 7239)", nominable=False),
    Field(b"via", _REWRITTEN, _ON, "this gateway is appended (RFC 9110 section 7.6.3)"),
    Field(b"proxy", _CONSUMED, _ON, "CGI converts it to HTTP_PROXY, which many libraries use as their proxy"),
)


def _named(rows: Iterable[Field], direction: str, *uses: Use) -> frozenset[bytes]:
    return frozenset(field.name for field in rows if getattr(field, direction) in uses)


HOP_BY_HOP: Final = _named(TABLE, "request", Use.HOP_BY_HOP)

# RFC 9110 section 6.5.1: fields for framing, routing, authentication and content format must not be trailers.
FORBIDDEN_TRAILERS: Final = frozenset(field.name for field in TABLE if not field.trailer) | {
    b"content-encoding",
    b"content-range",
    b"cache-control",
    b"cookie",
    b"set-cookie",
    b"www-authenticate",
    b"location",
    b"range",
    b"age",
    b"expires",
    b"retry-after",
    b"vary",
}

# The fields that describe the client to servers: see `forwarding`.
ABOUT_THE_CLIENT: Final = frozenset(
    {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-real-ip", b"forwarded"}
)


def _nominable(rows: Iterable[Field]) -> frozenset[bytes]:
    return frozenset(field.name for field in rows if field.nominable) - HOP_BY_HOP


def _forbidden_trailers(rows: Iterable[Field]) -> frozenset[bytes]:
    return FORBIDDEN_TRAILERS | {field.name for field in rows if not field.trailer}


# The id of a request, and its trace context (W3C).  Rewritten where requests get ids, otherwise forwarded unchanged.
REQUEST_ID: Final = b"x-request-id"
TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
ID_ROWS: Final = (
    Field(REQUEST_ID, Use.REWRITTEN, Use.PASSED_ON, "replaced unless it is a valid id"),
    Field(TRACEPARENT, Use.REWRITTEN, Use.PASSED_ON, "replaced unless it is valid (W3C Trace Context)"),
    Field(TRACESTATE, Use.REWRITTEN, Use.PASSED_ON, "goes with traceparent (W3C Trace Context)"),
)


class RequestFields:
    """The treatment of the fields of requests.

    A field that may carry a key is read here, whether or not Connection names it, and is never forwarded: neither in
    the head, nor in a trailer, nor under a name that a server could mistake for it.
    """

    __slots__ = ("notable", "singletons", "nominable", "forbidden_trailers", "split")

    def __init__(self, keys: Iterable[bytes] = (), more: Iterable[Field] = ()) -> None:
        """`keys` are the names of the fields that may carry a key; `more` are rows in addition to TABLE."""
        names = frozenset(keys)
        rows = (*TABLE, *more)
        # Extracted from a head when it is read.
        self.notable = _named(rows, "request", Use.HOP_BY_HOP, Use.CONSUMED, Use.REWRITTEN) | names
        # The fields that may carry a key must not be repeated either.
        self.singletons = frozenset(field.name for field in rows if field.once) | names
        self.nominable = _nominable(rows) - names
        self.forbidden_trailers = _forbidden_trailers(rows) | names
        self.split = field_splitter(self.notable).split


class ResponseFields:
    """The treatment of the fields of responses."""

    __slots__ = ("notable", "nominable", "forbidden_trailers", "consumed", "split")

    def __init__(self, more: Iterable[Field] = (), forbidden_trailers: Iterable[bytes] = ()) -> None:
        """`more` are rows in addition to TABLE; `forbidden_trailers` are further names of forbidden trailers."""
        rows = (*TABLE, *more)
        self.notable = _named(rows, "response", Use.HOP_BY_HOP, Use.CONSUMED, Use.REWRITTEN)
        self.nominable = _nominable(rows)
        self.forbidden_trailers = _forbidden_trailers(rows) | frozenset(forbidden_trailers)
        # Read and removed, also as trailers.
        self.consumed = _named(rows, "response", Use.CONSUMED)
        self.split = field_splitter(self.notable).split


# With the fields of HTTP only.
DEFAULT_FIELDS: Final = RequestFields()
DEFAULT_RESPONSE_FIELDS: Final = ResponseFields()
