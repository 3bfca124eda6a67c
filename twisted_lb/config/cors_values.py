"""Validates the origins, methods and field names of `cors` in servers.yaml.

Each is a list, or one text separated by commas.  A ValueError says what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from reprlib import repr as shortened

from twisted_lb.config.cors import Cors
from twisted_lb.listed import from_list

# scheme://host[:port]; a host may begin with "*." for any subdomain, and a port be "*" for any.  RFC 6454 section 6.2.
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|(?:\*\.)?[a-z0-9_][a-z0-9_-]*(?:\.[a-z0-9_-]+)*)"
    r"(?::(?P<port>[0-9]{1,5}|\*))?"
)
_ORIGIN_FORM = "an origin such as https://app.example.com, https://*.example.com, http://localhost:*, 'null' or '*'"
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]{1,64}")


def origins(value: object) -> tuple[str, ...]:
    """Origins in lower case, as browsers send them, or patterns; at least one."""
    return _each(value, "origins", 1, _origin)


def methods(value: object) -> tuple[str, ...]:
    """Methods; at least one."""
    return _each(value, "methods", 1, _method)


def header_names(value: object) -> tuple[str, ...]:
    """Names of header fields."""
    return _each(value, "header names", 0, _header_name)


def _each(value: object, what: str, lowest: int, one: Callable[[str], str]) -> tuple[str, ...]:
    texts = from_list(value)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or len(texts) < lowest:
        some = "one or more" if lowest else "any number"
        raise ValueError(f"expected a list of {some} of {what}, not {shortened(value)}")
    return tuple(dict.fromkeys(map(one, texts)))


def _origin(text: str) -> str:
    origin = text.lower()
    if origin in ("*", "null"):
        return origin
    match = _ORIGIN.fullmatch(origin)
    if match is None:
        raise ValueError(f"expected {_ORIGIN_FORM}, without a path, not {shortened(text)}")
    scheme, port = match["scheme"], match["port"]
    if port is not None and _DEFAULT_PORTS.get(scheme) == port:
        bare = origin.removesuffix(f":{port}")
        raise ValueError(f"expected {bare!r} without its default port, which browsers leave out, not {text!r}")
    if port is not None and port != "*" and not 1 <= int(port) <= 65535:
        raise ValueError(f"expected a port from 1 to 65535 in {text!r}")
    return origin


def is_token(text: str) -> bool:
    """Whether it can be a method or the name of a field (RFC 9110 section 5.6.2), at most 64 characters long."""
    return _TOKEN.fullmatch(text) is not None


def _method(text: str) -> str:
    if not is_token(text):
        raise ValueError(f"expected a method such as GET or PATCH, or '*' for any, not {shortened(text)}")
    return text.upper() if text.upper() in Cors.allowed_methods else text


def _header_name(text: str) -> str:
    if not is_token(text):
        raise ValueError(f"expected the name of a header field, or '*' for any, not {shortened(text)}")
    return text
