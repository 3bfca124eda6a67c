"""Parses heads: the values that a proxy needs, and the field lines that it forwards unchanged.

One pattern validates a whole head; another extracts the *notable* fields: those that frame the message, concern the
connection, carry the key, or are rewritten.  The code that decides about a notable field adds it to the forwarded head
again.  All other lines are kept unchanged, in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Final

from twisted_lb.wire.errors import RequestError, ResponseError
from twisted_lb.wire.field_names import UNUSUAL_NAME, may_go_on
from twisted_lb.wire.fields import DEFAULT_FIELDS, DEFAULT_RESPONSE_FIELDS, RequestFields, ResponseFields
from twisted_lb.wire.grammar import (
    ABSOLUTE_FORM,
    AUTHORITY,
    BROKEN_LINE,
    EMPTY_LINES,
    FIELD_LINE,
    LONG_METHOD,
    MAX_AUTHORITY_BYTES,
    MAX_EMPTY_LINES,
    MAX_HOST_BYTES,
    MAX_METHOD_BYTES,
    REQUEST_HEAD,
    REQUEST_LINE,
    RESPONSE_HEAD,
    TOKEN_LIST,
    USUAL_REQUEST_HEAD,
)
from twisted_lb.wire.upgrade import requested_protocols

# Limits for a server's response heads.
MAX_RESPONSE_HEAD_BYTES: Final = 64 * 1024  # precedents: nginx 4 to 8 KiB, Go 10 MiB, Node 16 KiB, Envoy 60 KiB
MAX_INTERIM_RESPONSES: Final = 32  # before one final response

# Values of Host known to be valid: most requests have one of a few hosts, and the pattern is slower than a lookup.
MAX_GOOD_HOSTS: Final = 1024
_good_hosts: set[bytes] = set()

Notable = dict[bytes, list[bytes]]


@dataclass(frozen=True)
class HeadLimits:
    """The maximum size of a request head, and the treatment of its fields."""

    head_bytes: int = 32 * 1024  # precedents: nginx 4 * 8 KiB, HAProxy 16 KiB, Envoy 60 KiB
    target_bytes: int = 8 * 1024  # RFC 9112 section 3 recommends at least 8000
    fields: int = 100  # precedents: Apache and HAProxy 100
    any_name: bool = False  # allow names with characters other than letters, digits and hyphens, see `field_names`
    table: RequestFields = DEFAULT_FIELDS


class RequestHead:
    """The validated head of a request.  `fields` are the lines to forward unchanged, each preceded by CRLF."""

    __slots__ = ("method", "target", "minor", "host", "notable", "fields", "size", "keep_alive", "upgrade")

    method: bytes
    target: bytes  # origin-form, or "*"
    minor: int  # of HTTP/1.x
    host: bytes  # the requested authority; empty only in HTTP/1.0
    notable: Notable  # by lower-case name
    fields: bytes
    size: int  # bytes on the wire
    keep_alive: bool  # whether the connection persists (RFC 9112 section 9.3); never after a requested upgrade
    upgrade: bytes  # the protocols that the client asks to switch to, as a list; mostly b"", see `wire.upgrade`


class ResponseHead:
    """The validated head of a response.  `fields` are the lines to forward unchanged, each preceded by CRLF."""

    __slots__ = ("status", "minor", "reason", "notable", "fields", "size", "keep_alive")

    status: int
    minor: int
    reason: bytes  # with its leading space, or empty
    notable: Notable
    fields: bytes
    size: int
    keep_alive: bool


def read_request_head(data: bytes, scanned: int, limits: HeadLimits) -> RequestHead | None:
    """The head at the beginning of `data`, or None while it is incomplete.

    `scanned` is the length of the part of `data` that was passed to an earlier call.  Raises RequestError for invalid
    data, even before the head is complete.
    """
    # Nearly all heads are received whole, and match this.
    found = USUAL_REQUEST_HEAD.match(data) if not scanned else None
    usual = found is not None
    end = found.end() - 4 if found is not None else data.find(b"\r\n\r\n", scanned - 3 if scanned > 3 else 0)
    if end < 0 or end >= limits.head_bytes:
        _check_partial_request(data, scanned, limits)
        return None
    if found is None:
        found = REQUEST_HEAD.match(data)
        if found is None or found.end() != end + 4:
            raise _why_refused(data[: end + 2])
    head = RequestHead()
    method, target, minor, block = found.groups()
    head.method = method
    head.target = target
    head.minor = 1 if minor == b"1" else 0
    head.size = end + 4
    if len(target) > limits.target_bytes:
        raise RequestError(414, f"The request target is longer than {limits.target_bytes} bytes.")
    # A line has four bytes or more.
    if len(block) > 4 * limits.fields and block.count(b"\r\n") > limits.fields:
        raise _too_many_fields(limits)
    table = limits.table
    parts = table.split(block)
    head.fields = b"".join(parts[::3])
    notable: Notable = {}
    head.notable = notable
    for i in range(1, len(parts), 3):
        name = parts[i].lower()
        value = _trimmed(parts[i + 1])
        if name not in notable:
            notable[name] = [value]
        elif name in table.singletons:
            raise _repeated(name)
        else:
            notable[name].append(value)
    if not usual and UNUSUAL_NAME.search(head.fields):
        _keep_lines(head, lambda name: may_go_on(name, table.notable, limits.any_name))
    persists = _drop_connection_fields(head, table.nominable) if b"connection" in notable else head.minor == 1
    if persists is None:
        raise RequestError(400, "The Connection field is not a list of tokens.")
    head.keep_alive = persists
    head.upgrade = b""
    if b"upgrade" in notable and head.minor:
        head.upgrade = requested_protocols(notable[b"upgrade"], nominated(notable))
        # A client may assume that the upgrade succeeds, and send data that is not HTTP.  If the protocol is not
        # switched, that data would be read as requests, so the connection is closed instead.
        head.keep_alive = persists and not head.upgrade
    _resolve_target(head)
    return head


def skip_empty_lines(data: bytes, before: int) -> tuple[bytes, int]:
    """`data` without leading empty lines, and the number of empty lines, including the `before` of earlier calls.

    RFC 9112 section 2.2: empty lines are ignored.  Raises RequestError for more than MAX_EMPTY_LINES, so that a client
    cannot keep this process busy with them.
    """
    found = EMPTY_LINES.match(data)
    size = found.end() if found else 0
    lines = before + size // 2
    if lines > MAX_EMPTY_LINES:
        raise RequestError(400, f"There are more than {MAX_EMPTY_LINES} empty lines before the request line.")
    return data[size:], lines


def read_response_head(
    data: bytes, scanned: int, max_bytes: int, table: ResponseFields = DEFAULT_RESPONSE_FIELDS
) -> ResponseHead | None:
    """The head at the beginning of `data`, or None while it is incomplete.  Raises ResponseError."""
    found = RESPONSE_HEAD.match(data) if not scanned else None
    end = found.end() - 4 if found is not None else data.find(b"\r\n\r\n", scanned - 3 if scanned > 3 else 0)
    if end < 0 or end >= max_bytes:
        if len(data) > max_bytes:
            raise ResponseError(f"The server's response head is longer than {max_bytes} bytes.")
        if BROKEN_LINE.search(data, scanned - 1 if scanned else 0) or not _STATUS_PREFIX.startswith(data[:7]):
            raise ResponseError("The server's response is not HTTP/1.1.")
        return None
    if found is None:
        found = RESPONSE_HEAD.match(data)
    if found is None or found.end() != end + 4:
        raise ResponseError("The server's response head is malformed.")
    minor, status, reason, block = found.groups()
    head = ResponseHead()
    # Three digits.
    head.status = 100 * status[0] + 10 * status[1] + status[2] - 111 * 0x30
    head.minor = 1 if minor == b"1" else 0
    head.reason = reason
    head.size = end + 4
    notable: Notable = {}
    head.notable = notable
    parts = table.split(block)
    head.fields = b"".join(parts[::3])
    for i in range(1, len(parts), 3):
        name = parts[i].lower()
        value = _trimmed(parts[i + 1])
        if name in notable:
            notable[name].append(value)
        else:
            notable[name] = [value]
    persists = _drop_connection_fields(head, table.nominable) if b"connection" in notable else head.minor == 1
    if persists is None:
        raise ResponseError("The server's Connection field is not a list of tokens.")
    head.keep_alive = persists
    return head


_STATUS_PREFIX: Final = b"HTTP/1."


def _trimmed(value: bytes) -> bytes:
    """A value without the white space at its end, which few have: a space or a tab."""
    return value.rstrip(b" \t") if value and value[-1] <= 0x20 else value


def _drop_connection_fields(head: RequestHead | ResponseHead, nominable: Set[bytes]) -> bool | None:
    """Drop the fields that Connection names (RFC 9110 section 7.6.1); return whether the connection persists.

    Of the notable fields only those in `nominable` are dropped.  None if Connection is not a list of tokens.
    """
    values = head.notable[b"connection"]
    if len(values) == 1 and (text := values[0].lower()) in (b"keep-alive", b"close"):
        return text == b"keep-alive"
    options = nominated(head.notable)
    if not all(map(TOKEN_LIST.fullmatch, options)):
        return None
    _keep_lines(head, lambda name: name not in options)
    for name in options & nominable:
        head.notable.pop(name, None)
    # RFC 9112 section 9.3: close takes precedence over all other options.
    if b"close" in options:
        return False
    return head.minor == 1 or b"keep-alive" in options


def nominated(notable: Notable) -> frozenset[bytes]:
    """The options in Connection, in lower case: names of fields, including trailers, that are not forwarded."""
    if b"connection" not in notable:
        return frozenset()
    text = b",".join(notable[b"connection"]).lower()
    return frozenset(option.strip(b" \t") for option in text.split(b",")) - {b""}


def _keep_lines(head: RequestHead | ResponseHead, wanted: Callable[[bytes], bool]) -> None:
    """Drop the fields for whose lower-case name `wanted` returns False."""
    lines = head.fields.split(b"\r\n")
    head.fields = b"\r\n".join([b"", *(line for line in lines[1:] if wanted(line.partition(b":")[0].lower()))])


def _resolve_target(head: RequestHead) -> None:
    """Convert the target to the form that servers get, and determine the host (RFC 9112 section 3.2)."""
    hosts = head.notable.get(b"host")
    if hosts is None:
        if head.minor == 1:
            raise RequestError(400, "An HTTP/1.1 request must have a Host field.")
        head.host = b""
    else:
        head.host = host = hosts[0]
        # An empty Host is for targets without an authority; http targets always have one.
        if host not in _good_hosts:
            _check_authority(host, "Host field")
            if len(_good_hosts) >= MAX_GOOD_HOSTS:
                _good_hosts.clear()
            _good_hosts.add(host)
    target = head.target
    if head.method == b"CONNECT":
        raise RequestError(501, "CONNECT is not supported: this is a gateway, not a tunnel.")
    if target[0] == 0x2F:  # "/", the origin-form
        return
    if target == b"*":
        if head.method != b"OPTIONS":
            raise RequestError(400, "The target * is valid for OPTIONS only.")
        return
    # The authority of an absolute target takes precedence over Host (RFC 9112 section 3.2.2).
    absolute = ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise RequestError(400, "The request target is neither a path nor an absolute http URL.")
    authority, rest = absolute.groups()
    _check_authority(authority, "authority of the request target")
    head.host = authority
    if rest[:1] != b"/":
        # RFC 9112 section 3.2.4: OPTIONS for an authority without a path concerns the server itself.
        rest = b"*" if head.method == b"OPTIONS" and not rest else b"/" + rest
    head.target = rest


def _check_authority(authority: bytes, what: str) -> None:
    """Reject anything but a host with an optional port, and a host that is longer than any name in the DNS.

    The length is limited because each connection keeps the host of its last request, and servers get it three times.
    """
    long = len(authority) > MAX_AUTHORITY_BYTES
    found = None if long else AUTHORITY.fullmatch(authority)
    if long or (found is not None and found.end(1) > MAX_HOST_BYTES):
        raise RequestError(400, f"The {what} is too long: a host has at most {MAX_HOST_BYTES} bytes.")
    if found is None:
        raise RequestError(400, f"The {what} is not a host with an optional port.")


def _check_partial_request(data: bytes, scanned: int, limits: HeadLimits) -> None:
    """Reject data that can no longer become a valid head within the limits."""
    line_end = data.find(b"\r\n")
    if LONG_METHOD.match(data):
        raise _long_method()
    if (len(data) if line_end < 0 else line_end) > limits.target_bytes + 64:
        raise RequestError(414, f"The request target is longer than {limits.target_bytes} bytes.")
    # Data beyond the limit may belong to another message.
    if BROKEN_LINE.search(data, scanned - 1 if scanned else 0, limits.head_bytes):
        raise RequestError(400, "A line of the request head ends in a bare CR or LF, or contains a control byte.")
    if line_end < 0:
        # The version can be checked before its line is complete.
        if (first := REQUEST_LINE.match(data)) and (error := _wrong_version(first)):
            raise error
    else:
        _check_lines(data, data.rfind(b"\r\n", 0, scanned), data.rfind(b"\r\n", 0, limits.head_bytes), limits)
    if len(data) > limits.head_bytes:
        raise RequestError(431, f"The request head is longer than {limits.head_bytes} bytes.")


def _check_lines(data: bytes, known: int, last: int, limits: HeadLimits) -> None:
    """Validate the complete lines of an incomplete head.

    `known` is the line end up to which an earlier call has validated (-1: none), `last` the last line end.  Each line
    is validated once, so that a head received in tiny pieces costs no more than any other.
    """
    if last > known:
        lines = data[known + 2 if known >= 0 else 0 : last].split(b"\r\n")
        error = _first_wrong_line(lines) if known < 0 else _first_wrong_field(lines)
        if error is not None:
            raise error
        if data.count(b"\r\n", 0, last) > limits.fields:
            raise _too_many_fields(limits)
        before = data[:last].lower()
        for line in lines:
            name = line.partition(b":")[0].lower()
            if name in limits.table.singletons and before.count(b"\r\n%b:" % name) > 1:
                raise _repeated(name)
    if data[last + 2 : last + 3] in (b" ", b"\t"):
        raise _folded()


def _why_refused(head: bytes) -> RequestError:
    """The error for a complete head that does not match the pattern."""
    if BROKEN_LINE.search(head):
        return RequestError(400, "A line of the request head ends in a bare CR or LF, or contains a control byte.")
    error = _first_wrong_line(head.removesuffix(b"\r\n").split(b"\r\n"))
    return error or RequestError(400, "The request head is malformed.")


def _first_wrong_line(lines: list[bytes]) -> RequestError | None:
    first = REQUEST_LINE.match(lines[0])
    if first is not None and (error := _wrong_version(first)):
        return error
    if first is None or first.end() != len(lines[0]):
        if LONG_METHOD.match(lines[0]):
            return _long_method()
        return RequestError(400, "The request line is not of the form: method, one space, target, one space, HTTP/1.1.")
    return _first_wrong_field(lines[1:])


def _first_wrong_field(lines: list[bytes]) -> RequestError | None:
    for line in lines:
        if FIELD_LINE.fullmatch(line) is None:
            if line[:1] in (b" ", b"\t"):
                return _folded()
            return RequestError(400, "A header line is not of the form: name, colon, value.")
    return None


def _wrong_version(first: re.Match[bytes]) -> RequestError | None:
    """The error for the version of a request line, which may end with the version."""
    if first.group(3) == b"1" and first.group(4) in b"01":
        return None
    return RequestError(505, "Only HTTP/1.1 and HTTP/1.0 are supported.")


def _repeated(name: bytes) -> RequestError:
    return RequestError(400, f"The field {name.decode()} appears more than once.")


def _too_many_fields(limits: HeadLimits) -> RequestError:
    return RequestError(431, f"The request has more than {limits.fields} header fields.")


def _long_method() -> RequestError:
    return RequestError(501, f"The method is longer than {MAX_METHOD_BYTES} bytes.")


def _folded() -> RequestError:
    return RequestError(400, "A header field is folded over two lines (obs-fold).")
