"""The URLs and names of servers."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from reprlib import Repr
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
URL_FORM = "http://host[:port] or https://host[:port]"
# Before the scheme: the servers are those of the SRV records of the name (RFC 2782).
SRV = "srv+"
# A host of letters, digits, '-', '_' and '.', or an IPv6 address in brackets.
_URL = re.compile(
    r"(?:srv\+)?(?P<scheme>https?)://(?:\[(?P<ipv6>[^\[\]/?#@]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?/?"
)
# A name that a certificate can be for; RFC 1034 section 3.1 bounds labels and the whole.  Services have names with '_'.
_HOST_NAME = re.compile(r"(?=.{1,253}\.?\Z)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
# A service, its protocol and the domain (RFC 2782).
_SERVICE = re.compile(r"(?=.{1,253}\Z)_[A-Za-z0-9_-]{1,62}\._[A-Za-z0-9_-]{1,62}(?:\.[A-Za-z0-9_-]{1,63})+\.?")
SRV_FORM = "srv+http://_service._proto.domain, such as srv+http://_http._tcp.example.com, without a port"
_LOOKS_LIKE_IPV4 = re.compile(r"[0-9.]+")
SERVER_NAME = "a host name such as api.example.com, or an IP address"

shortened = Repr()
shortened.maxstring = shortened.maxother = 60


def location(url: str) -> tuple[str, int]:
    """Host and port of a server's URL; the port is 0 for SRV records, which have the ports.  Raises ValueError."""
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError(_why_no_url(url))
    if is_srv(url):
        if match["port"] or not match["host"] or not _SERVICE.fullmatch(match["host"]):
            raise ValueError(f"expected {SRV_FORM}, not {shortened.repr(url)}")
        return match["host"], 0
    port = int(match["port"]) if match["port"] else DEFAULT_PORTS[match["scheme"]]
    if not 1 <= port <= 65535:
        raise ValueError(f"expected a port from 1 to 65535, not {port}")
    try:
        if match["ipv6"]:
            return str(IPv6Address(match["ipv6"])), port
        if _LOOKS_LIKE_IPV4.fullmatch(match["host"]):
            return str(IPv4Address(match["host"])), port
    except AddressValueError as error:
        raise ValueError(f"expected an IP address: {error}") from None
    if is_https(url) and not _HOST_NAME.fullmatch(match["host"]):
        raise ValueError(f"expected {SERVER_NAME}, not {shortened.repr(match['host'])}")
    return match["host"], port


def is_https(url: str) -> bool:
    """Whether the server of this valid URL uses TLS."""
    return url.removeprefix(SRV).startswith("https:")


def is_srv(url: str) -> bool:
    """Whether this valid URL stands for the servers of SRV records."""
    return url.startswith(SRV)


def domain_of(service: str) -> str:
    """The domain that a service belongs to: example.com of _http._tcp.example.com (RFC 2782)."""
    labels = service.split(".")
    while len(labels) > 1 and labels[0].startswith("_"):
        del labels[0]
    return ".".join(labels)


def _why_no_url(url: str) -> str:
    expected = f"expected {URL_FORM}, not {shortened.repr(url)}"
    if is_srv(url):
        return f"expected {SRV_FORM}, not {shortened.repr(url)}"
    try:
        parts = urlsplit(url)
    except ValueError:
        return expected
    if parts.scheme not in DEFAULT_PORTS or not parts.netloc:
        return expected
    form = f"{parts.scheme}://host[:port]"
    if "@" in parts.netloc:
        return f"expected {form} without user and password"
    for what, there in (("path", parts.path.strip("/")), ("query", parts.query), ("fragment", parts.fragment)):
        if there:
            return f"expected {form} without a {what}: a request keeps the target that the client sent"
    return expected


def checked_server_name(name: str) -> str:
    """A host name or an IP address, as it is compared with those of a certificate."""
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    # The last label of a host name is not numeric; what looks like an IPv4 address is an invalid one.
    if not _HOST_NAME.fullmatch(name) or _LOOKS_LIKE_IPV4.fullmatch(name):
        raise ValueError(f"expected {SERVER_NAME}, not {shortened.repr(name)}")
    return name
