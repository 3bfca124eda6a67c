"""The files that configure how names are resolved: /etc/resolv.conf and /etc/hosts (resolv.conf(5), hosts(5)).

Other sources of nsswitch.conf (mDNS, LDAP, ...) are not supported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Generic, NamedTuple, TypeVar

DNS_PORT = 53
MAX_SERVERS = 3  # MAXNS of glibc
MAX_NDOTS = 15  # RES_MAXNDOTS

NameServer = tuple[str, int]
T = TypeVar("T")


class ResolverConfig(NamedTuple):
    """The configuration of the resolver."""

    servers: tuple[NameServer, ...] = (("127.0.0.1", DNS_PORT),)
    search: tuple[str, ...] = ()
    ndots: int = 1  # a name with this many dots is tried as it is before the search list

    def candidates(self, name: str) -> list[str]:
        """The full names that `name` may stand for, in the order in which they are tried."""
        if name.endswith("."):
            return [name[:-1]]
        searched = [f"{name}.{domain}" for domain in self.search]
        return [name, *searched] if name.count(".") >= self.ndots else [*searched, name]


def read_resolv_conf(text: str) -> ResolverConfig:
    """Read the text of a resolv.conf.  Unknown lines are ignored, as by glibc."""
    servers: list[NameServer] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver" and _is_address(words[1]):
            servers.append((words[1], DNS_PORT))
        elif words[0] in ("search", "domain"):
            search = tuple(word.rstrip(".") for word in words[1:] if word.rstrip("."))
        elif words[0] == "options":
            for option in words[1:]:
                name, _, value = option.partition(":")
                if name == "ndots" and value.isdecimal():
                    ndots = min(int(value), MAX_NDOTS)
    return ResolverConfig(tuple(servers[:MAX_SERVERS]) or ResolverConfig().servers, search, ndots)


def read_hosts(text: str) -> dict[str, list[str]]:
    """Read the text of a hosts file: the addresses of each name, by the name in lower case."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if len(words) < 2 or not _is_address(words[0]):
            continue
        for name in words[1:]:
            addresses = found.setdefault(name.lower().rstrip("."), [])
            if words[0] not in addresses:
                addresses.append(words[0])
    return found


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def read_name_servers(words: Sequence[str]) -> tuple[NameServer, ...]:
    """Read addresses of name servers, such as 127.0.0.1, 127.0.0.1:5353, ::1 or [::1]:53.

    Raises ValueError with the word that is not an address.
    """
    servers = []
    for word in words:
        host, port = word, str(DNS_PORT)
        if word.startswith("["):
            host, closed, port = word[1:].partition("]")
            port = (port.removeprefix(":") or str(DNS_PORT)) if closed else ""
        elif word.count(":") == 1:
            host, _, port = word.partition(":")
        if not _is_address(host) or not port.isdecimal() or not 1 <= int(port) <= 65535:
            raise ValueError(word)
        servers.append((host, int(port)))
    return tuple(servers)


class WatchedFile(Generic[T]):
    """A small file that is read again when it has changed."""

    def __init__(self, path: str, read: Callable[[str], T]) -> None:
        self._path = path
        self._read = read
        self._stamp: tuple[int, int, int] | None = None
        self._value = read("")

    @property
    def value(self) -> T:
        """The result of `read` for the current content; a file that cannot be read counts as empty."""
        try:
            status = os.stat(self._path)
            stamp = status.st_mtime_ns, status.st_size, status.st_ino
            if stamp != self._stamp:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._value = self._read(file.read())
                self._stamp = stamp
        except OSError:
            if self._stamp is not None:
                self._value = self._read("")
                self._stamp = None
        return self._value
