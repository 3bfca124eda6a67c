"""CORS on behalf of the servers (Fetch standard, section "CORS protocol").

1. Preflights are answered here, without a key, which no preflight can carry.
2. Every response to a request with an allowed Origin can be read by the page: those of servers, whose own CORS fields
   are replaced, and those generated here, so that a page can read a Retry-After.
3. Responses depend on Origin, so every one has `Vary: Origin`, even without an Origin.

Only an origin that is allowed by name or pattern is ever sent back to a client.
"""

from __future__ import annotations

import re
from typing import Final

from twisted_lb.config.cors import Cors
from twisted_lb.wire.field_names import folded
from twisted_lb.wire.grammar import TOKEN_LIST
from twisted_lb.wire.head import RequestHead, ResponseHead

# Exposed to pages always, in addition to the CORS-safelisted fields.
EXPOSED: Final = (
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)
# Fetch standard: a "CORS-safelisted method" is always allowed.
SAFELISTED_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST"))
MAX_ORIGIN_BYTES: Final = 512  # a scheme, the longest name in the DNS, and a port
# Origins whose lines are cached.
MAX_KNOWN_ORIGINS: Final = 1024

_ORIGIN: Final = re.compile(rb"\r\norigin:[ \t]*+([^\r\n]*+)", re.IGNORECASE)
_REQUEST_METHOD: Final = re.compile(rb"\r\naccess-control-request-method:[ \t]*+([^\r\n]*+)", re.IGNORECASE)
_REQUEST_HEADERS: Final = re.compile(rb"\r\naccess-control-request-headers:[ \t]*+([^\r\n]*+)", re.IGNORECASE)
# Some servers execute the method in one of these instead.  Browsers do not send them in a preflight.
_OVERRIDES: Final = frozenset((b"x-http-method", b"x-http-method-override", b"x-method-override"))
_OUR_LINES: Final = re.compile(rb"\r\n(?:access-control-|vary:)", re.IGNORECASE)
_PREFLIGHT_VARY: Final = b"\r\nVary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


def is_preflight(head: RequestHead, framing: int) -> bool:
    """Whether an OPTIONS request without a key is a CORS preflight; a preflight has no content."""
    fields = head.fields
    return (
        not framing
        and b"authorization" not in head.notable
        and _only(_ORIGIN, fields) != b""
        and _only(_REQUEST_METHOD, fields) != b""
        and not _overrides_method(fields)
    )


def _overrides_method(lines: bytes) -> bool:
    """Whether a server may take one of the fields for one of _OVERRIDES, see `field_names`."""
    return any(folded(line.partition(b":")[0]) in _OVERRIDES for line in lines.split(b"\r\n"))


class CorsPolicy:
    """The `cors` of servers.yaml, prepared for requests."""

    def __init__(self, spec: Cors) -> None:
        self._any = "*" in spec.allowed_origins
        self._exact = frozenset(origin.encode() for origin in spec.allowed_origins)
        patterns = [_pattern(origin) for origin in spec.allowed_origins if "*" in origin and origin != "*"]
        self._pattern = re.compile(b"|".join(patterns)) if patterns else None
        self._methods = _names(spec.allowed_methods)
        self._headers = frozenset(name.lower().encode() for name in spec.allowed_headers)
        self._header_list = _names(spec.allowed_headers)
        self._credentials = b"\r\nAccess-Control-Allow-Credentials: true" if spec.allow_credentials else b""
        self._exposed = b"\r\nAccess-Control-Expose-Headers: " + b", ".join(_names((*EXPOSED, *spec.exposed_headers)))
        self._max_age = b"\r\nAccess-Control-Max-Age: %d" % spec.max_age
        self._any_lines = b"\r\nAccess-Control-Allow-Origin: *" + self._exposed
        self._known: dict[bytes, bytes] = {}  # origin -> the lines for it

    def fields(self, lines: bytes) -> bytes:
        """The lines for a response generated here; `lines` are those of the request's head, as far as received."""
        return self._of_origin(_only(_ORIGIN, lines.partition(b"\r\n\r\n")[0])) + b"\r\nVary: Origin"

    def on_answer(self, request: RequestHead, answer: ResponseHead) -> bytes:
        """The lines for a server's response; its own CORS lines are removed from it."""
        vary = b"\r\nVary: Origin"
        if _OUR_LINES.search(answer.fields):
            vary = b"\r\nVary: " + _vary_without(answer)
        return self._of_origin(_only(_ORIGIN, request.fields)) + vary

    def preflight(self, request: RequestHead) -> bytes:
        """The lines for the response to a preflight; one that is not allowed gets no lines that grant access."""
        fields = request.fields
        origin = _only(_ORIGIN, fields)
        method = _only(_REQUEST_METHOD, fields)
        headers = b", ".join(value.strip(b" \t") for value in _REQUEST_HEADERS.findall(fields))
        allowed = self._allow_origin(origin)
        if not allowed or not method or not TOKEN_LIST.fullmatch(method) or b"," in method:
            return _PREFLIGHT_VARY
        any_method = b"*" in self._methods
        if not any_method and method not in self._methods and method not in SAFELISTED_METHODS:
            return _PREFLIGHT_VARY
        if headers and not (TOKEN_LIST.fullmatch(headers) and self._all_allowed(headers)):
            return _PREFLIGHT_VARY
        # With credentials "*" is not a wildcard; and Authorization must always be named.
        any_header = b"*" in self._headers
        header_list = headers if any_header else b", ".join(self._header_list)
        allowed += b"\r\nAccess-Control-Allow-Methods: " + (method if any_method else b", ".join(self._methods))
        if header_list:
            allowed += b"\r\nAccess-Control-Allow-Headers: " + header_list
        return allowed + self._max_age + _PREFLIGHT_VARY

    def _all_allowed(self, headers: bytes) -> bool:
        return b"*" in self._headers or self._headers.issuperset(
            name.strip(b" \t") for name in headers.lower().split(b",")
        )

    def _of_origin(self, origin: bytes) -> bytes:
        if self._any:
            return self._any_lines if origin else b""
        lines = self._known.get(origin)
        if lines is None:
            lines = self._allow_origin(origin)
            if lines:
                lines += self._exposed
                if len(self._known) >= MAX_KNOWN_ORIGINS:
                    self._known.clear()
                self._known[origin] = lines
        return lines

    def _allow_origin(self, origin: bytes) -> bytes:
        """The lines that allow the origin; b"" if it is not allowed, or empty."""
        if not origin:
            return b""
        if self._any:
            return b"\r\nAccess-Control-Allow-Origin: *"
        if origin in self._exact or (
            self._pattern is not None and len(origin) <= MAX_ORIGIN_BYTES and self._pattern.fullmatch(origin)
        ):
            return b"\r\nAccess-Control-Allow-Origin: " + origin + self._credentials
        return b""


def _only(pattern: re.Pattern[bytes], lines: bytes) -> bytes:
    """The value of the field; b"" unless there is exactly one."""
    values: list[bytes] = pattern.findall(lines)
    return values[0].rstrip(b" \t") if len(values) == 1 else b""


def _names(names: tuple[str, ...]) -> tuple[bytes, ...]:
    """Each once, in order; field names and methods are ASCII."""
    seen: dict[str, bytes] = {}
    for name in names:
        seen.setdefault(name.lower(), name.encode())
    return tuple(seen.values())


def _pattern(origin: str) -> bytes:
    """An origin with "*." before its host, for any subdomains, or with "*" as its port."""
    text = re.escape(origin.encode())
    text = text.replace(rb"://\*\.", rb"://(?:[a-z0-9_-]+\.)+")
    return text.removesuffix(rb":\*") + rb"(?::[0-9]{1,5})?" if text.endswith(rb":\*") else text


def _vary_without(answer: ResponseHead) -> bytes:
    """The server's Vary with Origin added (RFC 9110 section 12.5.5); its lines of CORS and of Vary are dropped."""
    kept = []
    members: list[bytes] = []
    for line in answer.fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        lower = name.lower()
        if lower == b"vary":
            members += [member for part in value.split(b",") if (member := part.strip(b" \t"))]
        elif not lower.startswith(b"access-control-"):
            kept.append(line)
    answer.fields = b"\r\n".join(kept)
    if b"*" in members:
        return b"*"
    if not any(member.lower() == b"origin" for member in members):
        members.append(b"Origin")
    return b", ".join(members)
