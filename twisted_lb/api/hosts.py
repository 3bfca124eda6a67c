"""The values of Host that are accepted for restricted paths while no admin token is configured.

The owner of a web page can make the page's own name resolve to 127.0.0.1 (DNS rebinding), and then read responses
through a browser on this machine.  The page cannot change Host: the browser sends the page's name.  So only names that
an attacker cannot control are accepted.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted_lb.limits.client_networks import plain_address
from twisted_lb.routing.table import plain_host


def counts_as_local(host: bytes, here: str) -> bool:
    """Whether `host`, with or without a port, is a local name.

    That is localhost, a loopback address, or the local address of the connection (`here`; "" if there is none, as with
    a Unix socket, which browsers cannot open).  HTTP/1.0 requests without a host are not sent by browsers either.
    """
    if not here or not host:
        return True
    name = plain_host(host).decode("ascii", "replace")
    if name == "localhost":
        return True
    address = _address(name.removeprefix("[").removesuffix("]"))
    # The address of a connection may include a zone (RFC 4007 section 11), such as fe80::1%eth0.
    return address is not None and (address.is_loopback or address == _address(here.partition("%")[0]))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, or None."""
    try:
        return ip_address(plain_address(text))
    except ValueError:
        return None
