"""Validates the hosts, paths, methods and fields of routes in servers.yaml.  A ValueError says what was expected."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

from twisted_lb.config.cors_values import is_token
from twisted_lb.config.server_url import shortened

HOST_FORM = "a host such as api.example.com, or *.example.com for every name below example.com"
PATH_FORM = "a path such as /health, or one that ends in a slash, such as /v1/, for all paths below it"
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
    texts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
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
