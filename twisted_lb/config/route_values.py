"""Validates the hosts, paths, methods and fields of routes in servers.yaml.  A ValueError says what was expected."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

from twisted_lb.config.address_ranges import EXPECTED, read_ranges
from twisted_lb.config.cors_values import is_token
from twisted_lb.config.readers import size
from twisted_lb.config.sections import read_with
from twisted_lb.config.server_url import shortened
from twisted_lb.listed import from_list
from twisted_lb.routing.path import normalized

HOST_FORM = "a host such as api.example.com, or *.example.com for every name below example.com"
PATH_FORM = "a path such as /health, or one that ends in a slash, such as /v1/, for all paths below it"
PREFIX_FORM = "segments at the beginning of the path, such as /v1"
FIELDS_FORM = "a mapping of field names to values, or to null for any value"

_HOST = re.compile(r"(?:\*\.)?(?=[^*]{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
# The segments of RFC 3986 section 3.3.
_PATH = re.compile(r"/(?:[-A-Za-z0-9._~!$&'()+,;=:@/]|%[0-9A-Fa-f]{2}){0,1023}")


def checked_host(text: str) -> str:
    """The host in lower case, without a dot at the end."""
    host = text.lower().removesuffix(".")
    if host.startswith("[") and host.endswith("]"):
        try:
            return f"[{IPv6Address(host[1:-1])}]"
        except AddressValueError as error:
            raise ValueError(f"expected an IP address: {error}") from None
    if _HOST.fullmatch(host):
        return host
    expected = f"expected {HOST_FORM}, not {shortened.repr(text)}"
    if not text.isascii():
        try:
            expected += f"; its form in ASCII is {text.encode('idna').decode()}"
        except UnicodeError:
            pass
    elif "://" in text:
        expected += ": without http:// or https://"
    elif "/" in text:
        expected += ": a path has a key of its own"
    elif ":" in text:
        expected += ": without a port, which is not compared"
    raise ValueError(expected)


def checked_path(text: str) -> str:
    """The path."""
    if _PATH.fullmatch(text):
        return text
    expected = f"expected {PATH_FORM}, not {shortened.repr(text)}"
    if "*" in text:
        expected += ": without '*', since a slash at the end says the same"
    elif "?" in text:
        expected += ": without a query, which is not compared"
    raise ValueError(expected)


def route_methods(value: object) -> tuple[str, ...]:
    """Methods, which are compared as they are (RFC 9110 section 9.1): a list, or one text separated by commas."""
    texts = from_list(value)
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"expected a list of one or more methods, not {shortened.repr(value)}")
    for text in texts:
        if not isinstance(text, str) or not is_token(text):
            raise ValueError(f"expected a method such as GET or PATCH, not {shortened.repr(text)}")
        if text != text.upper() and text.upper() in _USUAL_METHODS:
            raise ValueError(f"expected {text.upper()}, not {text!r}: methods are compared with their case")
    return tuple(dict.fromkeys(texts))


_USUAL_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")


def route_fields(value: object) -> tuple[tuple[str, str | None], ...]:
    """Names of fields in lower case, and their values, None for any."""
    if not isinstance(value, dict):
        raise ValueError(f"expected {FIELDS_FORM}, not {shortened.repr(value)}")
    pairs: dict[str, str | None] = {}
    for name, content in value.items():
        if not isinstance(name, str) or not is_token(name):
            raise ValueError(f"expected the name of a header field, not {shortened.repr(name)}")
        if content is not None and (not isinstance(content, str) or not content.isprintable() or not content.isascii()):
            raise ValueError(f"expected a text of visible ASCII, or null for any value, not {shortened.repr(content)}")
        if name.lower() in pairs:
            raise ValueError(f"expected each field once, not {name!r} twice")
        pairs[name.lower()] = content.strip() if content is not None else None
    return tuple(pairs.items())


def route_ranges(value: object) -> tuple[str, ...]:
    """Ranges of addresses: a list, or one text separated by spaces or commas."""
    text = value if isinstance(value, str) else None
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        text = " ".join(value)
    if text is None:
        raise ValueError(f"expected {EXPECTED}, not {shortened.repr(value)}")
    return read_ranges(text)


def size_in_bytes(value: object) -> int:
    """A number of bytes, or a text with a unit."""
    return int(read_with(_SIZE, value))


_SIZE = size(0, 1 << 50)


def stripped_prefix(text: str) -> str:
    """Whole segments at the beginning of a path."""
    if text == checked_path(text) and text != "/" and normalized_text(text) == text:
        return text.removesuffix("/")
    raise ValueError(f"expected {PREFIX_FORM}, not {shortened.repr(text)}")


def normalized_text(path: str) -> str:
    """See `routing.path`."""
    return normalized(path.encode()).decode()


def redirect_place(text: str) -> tuple[tuple[str, str], ...]:
    """The location of a redirect in pairs of a text and the name that follows it."""
    if not _PLACE.fullmatch(text):
        raise ValueError(f"expected {PLACE_FORM}, not {shortened.repr(text)}")
    parts = _NAMED.split(text)
    pairs = list(zip(parts[::2], [*parts[1::2], ""]))
    for _, name in pairs:
        if name not in ("", "host", "path", "query"):
            raise ValueError(f"expected {{host}}, {{path}} or {{query}}, not {{{name}}}")
    return tuple(pairs)


PLACE_FORM = (
    "an absolute URL or a path, such as https://example.com{path} or /new{path}, with any of {host}, {path} and {query}"
)
_NAMED = re.compile(r"\{([^{}]*)\}")
# A path without a host must not begin with text from the client, or with two slashes: it would lead to another host.
_PLACE = re.compile(r"(?:https?://(?:[A-Za-z0-9]|\[|\{host\})|/(?:[!-.0-\[\]-z|~]|\Z))(?:[!-z|~]|\{[a-z]*\})*")
