"""Sets of IP addresses, as ranges in CIDR notation (RFC 4632, RFC 4291 section 2.3)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Final

from twisted_lb.limits.client_networks import plain_address
from twisted_lb.network.peer import UNIX_ADDRESS

# Cached answers: proxies have few addresses, but there may be many clients.
MAX_ANSWERS: Final = 4096
_BITS: Final = {4: 32, 6: 128}


class AddressRanges:
    """A set of address ranges.  A look-up takes one test for each prefix length in use, not for each range."""

    __slots__ = ("_unix_peers", "_prefixes", "_answers")

    def __init__(self, ranges: Iterable[str]) -> None:
        """`ranges` are as `config.address_ranges` returns them: "192.0.2.0/24", "2001:db8::/32", or "unix:"."""
        self._unix_peers = False  # `_unix` would be `__unix` in the compiled code, a macro of C
        # For each version and prefix length, the first bits of the ranges.
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        self._answers: dict[str, bool] = {}
        for text in ranges:
            if text == UNIX_ADDRESS:
                self._unix_peers = True
                continue
            network = ip_network(text)
            version = 4 if isinstance(network, IPv4Network) else 6
            shift = _BITS[version] - network.prefixlen
            first_bits = int(network.network_address) >> shift
            self._prefixes.setdefault((version, shift), set()).add(first_bits)

    def contain(self, address: str) -> bool:
        """Whether an address, or UNIX_ADDRESS, is in one of the ranges; False for any other text."""
        answer = self._answers.get(address)
        if answer is None:
            answer = self._look(address)
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            self._answers[address] = answer
        return answer

    def _look(self, address: str) -> bool:
        if address == UNIX_ADDRESS:
            return self._unix_peers
        try:
            # A zone (RFC 4007) names the interface, which is not a part of the address.
            parsed = ip_address(plain_address(address).partition("%")[0])
        except ValueError:
            return False
        number = int(parsed)
        for (version, shift), first_bits in self._prefixes.items():
            if version == parsed.version and number >> shift in first_bits:
                return True
        return False


def ranges_or_none(ranges: Iterable[str]) -> AddressRanges | None:
    """The ranges, or None if there are none, so that the caller need not look anything up."""
    texts = tuple(ranges)
    return AddressRanges(texts) if texts else None
