"""REDIS_URL: where Redis is, and as whom to speak to it.

    redis://[user:password@]host[:port][/db]
    unix://[user:password@]/path/to/socket

No message ever repeats a part of the URL: any part may hold a password in the wrong place.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

DEFAULT_PORT = 6379
EXPECTED = "expected redis://[user:password@]host[:port][/db] or unix://[user:password@]/path/to/socket"


class RedisAddress(NamedTuple):
    """A parsed REDIS_URL.  Exactly one of `host` and `path` is not empty."""

    host: str
    port: int
    path: str  # of a Unix socket
    username: str
    password: str
    db: int

    @property
    def place(self) -> str:
        """Where it is, for messages: without user and password."""
        if self.path:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_redis_url(url: str) -> RedisAddress:
    """The parts of a Redis URL; raises ValueError with a text that names REDIS_URL and what was expected."""
    # User, password and path may hold any percent-encoded byte, but none that is not printable ASCII as it is.
    if re.search(r"[^!-~]", url):
        raise _bad("it holds a space, a control character or a character outside ASCII")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _bad("the host or the port cannot be read") from None
    if parts.scheme == "rediss":
        raise ValueError(f"REDIS_URL: rediss:// (TLS) is not supported yet; {EXPECTED}")
    if parts.scheme not in ("redis", "unix"):
        raise _bad("it does not begin with redis:// or unix://")
    if parts.query or parts.fragment:
        raise _bad("there is a '?' or '#' in it; in a password they are written %3F and %23")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if username and not password:
        raise _bad("there is a user without a password")
    if parts.scheme == "unix":
        if parts.hostname or not parts.path.strip("/"):
            raise _bad("unix:// takes the absolute path of a socket, with three slashes")
        return RedisAddress("", 0, unquote(parts.path), username, password, 0)
    if not parts.hostname:
        raise _bad("there is no host")
    if port == 0:
        raise _bad("the port is 0")
    db = parts.path.strip("/")
    if not re.fullmatch(r"[0-9]{0,6}", db):
        raise _bad("what follows the host is not a database number; in a password '/' is written %2F")
    return RedisAddress(parts.hostname, port or DEFAULT_PORT, "", username, password, int(db or 0))


def _bad(what: str) -> ValueError:
    return ValueError(f"REDIS_URL: {what}; {EXPECTED}")
