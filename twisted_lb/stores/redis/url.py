"""REDIS_URL: the address of Redis, and the credentials for it.

    redis://[user:password@]host[:port][/db]
    rediss://...  the same over TLS
    unix://[user:password@]/path/to/socket
    redis+sentinel://[user:password@]host[:port],host[:port]...[/service[/db]]  sentinels that know its address
    rediss+sentinel://...  the same, with TLS to the sentinels and to Redis

No message repeats a part of the URL, since any part may be a misplaced password.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from twisted.internet.abstract import isIPv6Address

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
DEFAULT_SERVICE = "mymaster"
EXPECTED = (
    "expected redis://[user:password@]host[:port][/db], rediss:// for the same over TLS,"
    " unix://[user:password@]/path/to/socket"
    " or redis+sentinel://[user:password@]host[:port],host[:port][/service[/db]] (rediss+sentinel:// over TLS)"
)
_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NOT_PRINTABLE = re.compile(r"[^!-~]")
_SERVICE = re.compile(r"[\w.-]+", re.ASCII)
_DATABASE = re.compile(r"[0-9]{0,6}")
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")


class RedisSecurity(NamedTuple):
    """Certificates and passwords besides those in REDIS_URL.  The files are PEM."""

    ca_file: str = ""  # "": the system's authorities
    cert_file: str = ""  # our certificate, and after it the intermediate ones; "": none
    key_file: str = ""  # of that certificate
    sentinel_password: str = ""


class RedisAddress(NamedTuple):
    """A parsed REDIS_URL.  Exactly one of `host`, `path` and `sentinels` is not empty."""

    host: str
    port: int
    path: str  # of a Unix socket
    username: str
    password: str
    db: int
    tls: bool = False
    sentinels: tuple[tuple[str, int], ...] = ()  # host and port of each
    service: str = ""  # the name by which the sentinels know the master

    @property
    def place(self) -> str:
        """Where it is, for messages: without user and password."""
        if self.path:
            return self.path
        if self.sentinels:
            return f"{self.service} (sentinels {', '.join(place_of(*sentinel) for sentinel in self.sentinels)})"
        return place_of(self.host, self.port)


def place_of(host: str, port: int) -> str:
    """Host and port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_redis_url(url: str) -> RedisAddress:
    """The parts of a Redis URL; raises ValueError with a text that names REDIS_URL and what was expected."""
    # User, password and path may contain any byte percent-encoded, but only printable ASCII as it is.
    if _NOT_PRINTABLE.search(url):
        raise _bad("it holds a space, a control character or a character outside ASCII")
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _SCHEMES:
        raise _bad("it does not begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://")
    if "?" in rest or "#" in rest:
        raise _bad("there is a '?' or '#' in it; in a password they are written %3F and %23")
    authority, slash, path = rest.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    user, _, secret = credentials.partition(":")
    username, password = unquote(user), unquote(secret)
    if username and not password:
        raise _bad("there is a user without a password")
    if scheme == "unix":
        if hosts or not path.strip("/"):
            raise _bad("unix:// takes the absolute path of a socket, with three slashes")
        return RedisAddress("", 0, unquote(slash + path), username, password, 0)
    tls = scheme.startswith("rediss")
    if scheme.endswith("+sentinel"):
        sentinels = tuple(_host_and_port(one, DEFAULT_SENTINEL_PORT) for one in hosts.split(","))
        service, _, db = path.partition("/")
        service = unquote(service) or DEFAULT_SERVICE
        if not _SERVICE.fullmatch(service):
            raise _bad("what follows the sentinels is not the name of a master; in a password '/' is written %2F")
        return RedisAddress("", 0, "", username, password, _database(db), tls, sentinels, service)
    host, port = _host_and_port(hosts, DEFAULT_PORT)
    return RedisAddress(host, port, "", username, password, _database(path), tls)


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    if "," in text:
        raise _bad("there is a ',' in the host; several hosts are for redis+sentinel://")
    try:
        parts = urlsplit("//" + text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _bad("the host or the port cannot be read") from None
    if not host:
        raise _bad("there is no host")
    if port == 0:
        raise _bad("the port is 0")
    if not isIPv6Address(host) and not _HOST.fullmatch(host):
        # This includes names with '_': no connection to such a name is ever tried.
        raise _bad("the host is neither a host name (letters, digits, '-' and '.') nor an IP address")
    return host, port or default_port


def _database(text: str) -> int:
    db = text.strip("/")
    if not _DATABASE.fullmatch(db):
        raise _bad("what follows the host is not a database number; in a password '/' is written %2F")
    return int(db or 0)


def _bad(what: str) -> ValueError:
    return ValueError(f"REDIS_URL: {what}; {EXPECTED}")
