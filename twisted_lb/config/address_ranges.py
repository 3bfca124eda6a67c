"""Reads lists of address ranges in CIDR notation (RFC 4632, RFC 4291 section 2.3)."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

UNIX: Final = "unix:"
EXPECTED: Final = (
    "a list of addresses and ranges such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32, and unix: for Unix sockets, "
    "separated by spaces or commas, or none"
)
_PREFIX: Final = re.compile("[0-9]{1,3}")
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


class NotRanges(ValueError):
    """A list that cannot be used.  The text says what is wrong with it."""


def read_ranges(text: str) -> tuple[str, ...]:
    """The ranges in canonical form: "10.0.0.0/8", "2001:db8::/32" or "unix:".  Raises NotRanges.

    An address is a range of one.  A range of IPv4-mapped addresses (RFC 4291 section 2.5.5.2) becomes one of IPv4, as
    such an address does.
    """
    words = text.replace(",", " ").split()
    if [word.lower() for word in words] == ["none"]:
        return ()
    if not words:
        raise NotRanges(f"it is empty; expected {EXPECTED}")
    return tuple(dict.fromkeys(map(_range, words)))


def _range(word: str) -> str:
    if word.lower() in (UNIX, "unix"):
        return UNIX
    text, slash, prefix = word.partition("/")
    try:
        address = ip_address(text)
    except ValueError:
        why = "is not an address or a range, and names are not looked up"
        raise NotRanges(f"{word!r} {why}; expected {EXPECTED}") from None
    if "%" in text:
        raise NotRanges(f"{word!r} has a zone, which is not a part of an address; expected {text.partition('%')[0]!r}")
    bits = address.max_prefixlen
    if slash and (_PREFIX.fullmatch(prefix) is None or int(prefix) > bits):
        raise NotRanges(f"{word!r} needs a prefix length from 0 to {bits} after the slash, such as {text}/{bits // 2}")
    network = ip_network((address, int(prefix) if slash else bits), strict=False)
    if network.network_address != address:
        raise NotRanges(f"{word!r} has bits set after its prefix; the range that it is in is {network}")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        network = IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return str(network)
