"""Clients without a valid key: their networks, and the keys known from each network.

A network is what one customer of an access provider gets: an IPv4 address, or a /64 of IPv6 (RFC 6177), within which a
client can choose any address.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

# Connections without an IP address are those over a Unix socket of this machine.
LOCAL_NETWORK: Final = "local"

# A key is in use if tokens were taken from its bucket within this time.  It is admitted even if the bucket of the
# client's network is empty.
IN_USE_SECONDS: Final = 30 * 86_400

# For a key that is used from more networks than this, the network's bucket is checked again occasionally.
MAX_NETWORKS_OF_A_KEY: Final = 8


# An IPv4-compatible address has an IPv4 address in its last 32 bits, and zeros before them.  Those of 0.0.0.0/8 ("this
# network") are excluded: :: and ::1 are IPv6 addresses.
_LOWEST_COMPATIBLE: Final = 1 << 24


def plain_address(address: str) -> str:
    """The canonical form of an IP address: an IPv4 address that is written as an IPv6 address becomes IPv4.

    RFC 4291 section 2.5.5: "::ffff:192.0.2.7", the form of IPv4 clients on a listener on `::`, also in hexadecimal, and
    "::192.0.2.7".  Other embedded addresses, such as those of 64:ff9b::/96 (RFC 6052), are treated as IPv6.  Any other
    text is returned unchanged.
    """
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    number = int(parsed)
    return str(IPv4Address(number)) if _LOWEST_COMPATIBLE <= number < 1 << 32 else address


@lru_cache(maxsize=65_536)
def network_of(address: str) -> str:
    """The network of a client's IP address, as text such as "192.0.2.7" or "2001:db8:1:2::/64"."""
    try:
        parsed = ip_address(plain_address(address).partition("%")[0])
    except ValueError:
        return LOCAL_NETWORK
    if not isinstance(parsed, IPv6Address):
        text = str(parsed)
        # The same object if they are equal: each connection keeps both.
        return address if address == text else text
    return str(IPv6Network((parsed, 64), strict=False))


class KnownKeys:
    """Which valid keys were used from which networks.

    A bounded number of keys is kept in two generations: when the younger one is full, the older one is dropped.  If a
    dropped key is used again, the network's bucket is checked once more.
    """

    def __init__(self, keys: int) -> None:
        """`keys` is the maximum number of keys."""
        self._half = max(1, keys // 2)
        self._young: dict[str, tuple[str, ...]] = {}  # digest -> networks
        self._old: dict[str, tuple[str, ...]] = {}

    def knows(self, digest: str, network: str) -> bool:
        """Whether this key was used from this network and is valid."""
        networks = self._young.get(digest)
        if networks is None:
            networks = self._old.get(digest)
            if networks is None:
                return False
            # It is in use, so it moves to the younger generation.
            self._keep(digest, networks)
        return network in networks

    def learn(self, digest: str, network: str) -> None:
        """Record that this key was used from this network and is valid."""
        networks = self._young.get(digest) or self._old.get(digest, ())
        if network not in networks:
            self._keep(digest, (network, *networks)[:MAX_NETWORKS_OF_A_KEY])

    def _keep(self, digest: str, networks: tuple[str, ...]) -> None:
        if len(self._young) >= self._half and digest not in self._young:
            self._old = self._young
            self._young = {}
        self._young[digest] = networks
