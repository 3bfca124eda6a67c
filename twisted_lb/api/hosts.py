"""Under which names an operator may ask for what is not for everybody, while no token is asked for.

A page of any site can have its own name point at 127.0.0.1 (DNS rebinding), and then read what a browser on this
machine gets from there.  What it cannot have is another name in Host: its browser sends the one of the page.  So a
name counts only when nobody can point it elsewhere.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address


def counts_as_local(host: bytes, here: str) -> bool:
    """Whether a request for `host`, with or without a port, can only be meant for this machine.

    That is localhost, a loopback address, and the address that the connection has come to (`here`; "" where it has
    come to none, as with a Unix socket, which no browser opens).  A request of HTTP/1.0 that names no host comes from
    no browser either.
    """
    if not here or not host:
        return True
    name = host.decode("ascii", "replace").lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    else:
        name = name.partition(":")[0].removesuffix(".")
        if name == "localhost":
            return True
    address = _address(name)
    # The address of a connection may name its interface.
    return address is not None and (address.is_loopback or address == _address(here.partition("%")[0]))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """None where it is no address.  One of IPv4 is the same written as one of IPv6 (RFC 4291 section 2.5.5.2)."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
