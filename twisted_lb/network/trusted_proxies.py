"""The client of a request that a trusted proxy (TRUSTED_PROXIES) has forwarded.

1. A proxy appends the address of its client to X-Forwarded-For, or to Forwarded.  From the right, each entry was added
   by a proxy that is trusted, as long as the address to the right of it is trusted.  The client is therefore the first
   address from the right that is not trusted, or the left-most one if all are trusted.
2. An entry that is not an address (`unknown`, an obfuscated identifier, a name, anything malformed) ends the list: what
   is to the left of it cannot be attributed.  The client is then the trusted proxy that has added the entry.
3. If there are both X-Forwarded-For and Forwarded, they must lead to the same client.  Otherwise one of them was sent
   by the client, and forwarded unchanged by the proxy, and neither is used.
4. X-Forwarded-Proto, X-Forwarded-Host and X-Forwarded-Port have one value, or as many as X-Forwarded-For: then the one
   at the client's position is used.  Anything else is ignored, as are a scheme other than http and https, a host that
   would be refused in Host, and a port that is not one.
5. If there is Forwarded without X-Forwarded-For, its element for the client gives scheme and host.  If there are both,
   these are used only if the other fields agree: a value in only one of them may have been sent by the client.

docs/client-address.md describes this for operators.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.limits.client_networks import network_of, plain_address
from twisted_lb.network.address_ranges import AddressRanges
from twisted_lb.network.peer import UNIX_ADDRESS, PeerInfo, forwarded_fields
from twisted_lb.wire.forwarded import MAX_ENTRIES, NO_NODE, Elements, Node, entries, read_node
from twisted_lb.wire.forwarding import ForwardedFields, Received
from twisted_lb.wire.grammar import AUTHORITY, MAX_AUTHORITY_BYTES
from twisted_lb.wire.head import Notable

# Proxies send the scheme of a WebSocket as ws or wss (RFC 6455 section 3).
_SCHEMES: Final = {b"http": b"http", b"https": b"https", b"ws": b"http", b"wss": b"https"}
_UNIX: Final = UNIX_ADDRESS.encode()
_UNIX_NODE: Final = Node(UNIX_ADDRESS, 0)
_NONE: Final[list[bytes]] = []
_NO_PAIRS: Final[dict[bytes, bytes]] = {}

_log = BoundedLog(Logger(__name__))


class _Found(NamedTuple):
    """The client in one of the two lists."""

    node: Node  # NO_NODE: the proxy whose connection it is
    place: int  # in X-Forwarded-For: of the entry that was read last, from the right; 0 for the right-most
    entries: int  # of the entries there
    pairs: dict[bytes, bytes]  # of the element of Forwarded that was read last


class TrustedProxy:
    """One connection of a trusted proxy, which carries requests of several clients."""

    __slots__ = ("peer", "_trusted")

    def __init__(self, peer: PeerInfo, trusted: AddressRanges) -> None:
        """`peer` is the proxy; `trusted` are the addresses of all trusted proxies."""
        self.peer = peer
        self._trusted = trusted

    def client_of(self, notable: Notable) -> tuple[PeerInfo, ForwardedFields]:
        """The client of a request with these fields, and the fields that describe it to servers."""
        found_x = self._in_x_forwarded_for(notable) if b"x-forwarded-for" in notable else None
        found = self._in_forwarded(notable) if b"forwarded" in notable else None
        if found_x is not None and found is not None and found_x.node.address != found.node.address:
            _log.warn(
                "lists",
                "The trusted proxy {proxy} has sent an X-Forwarded-For and a Forwarded of two clients; neither is "
                "believed.  Configure it to set both, or to remove the one that it does not set",
                proxy=self.peer.address,
            )
            return self.peer, forwarded_fields(self.peer)
        peer = self.peer
        place, count, pairs = 0, 0, _NO_PAIRS
        node = NO_NODE
        if found is not None:
            node, pairs = found.node, found.pairs
        if found_x is not None:
            node, place, count = found_x.node, found_x.place, found_x.entries
        address, port = (node.address, node.port) if node.address else (peer.address, peer.port)
        scheme = _scheme(_in_place(notable, b"x-forwarded-proto", place, count))
        host = _authority(_in_place(notable, b"x-forwarded-host", place, count))
        port_of_host = _port(_in_place(notable, b"x-forwarded-port", place, count))
        if found is not None:
            scheme_there, host_there = _scheme(pairs.get(b"proto", b"")), _authority(pairs.get(b"host", b""))
            if found_x is None:
                scheme, host = scheme_there, host_there
            else:
                scheme, host = scheme if scheme == scheme_there else b"", host if host == host_there else b""
            port_of_host = b""
        received = Received(
            address,
            scheme or peer.scheme,
            host,
            port_of_host,
            b", ".join(notable.get(b"x-forwarded-for", _NONE)),
            b", ".join(notable.get(b"forwarded", _NONE)),
        )
        client = PeerInfo(
            address,
            network_of(address),
            received.scheme,
            peer.tls,
            port,
            peer.destination,
            peer.destination_port,
        )
        return client, forwarded_fields(peer, received)

    def _in_x_forwarded_for(self, notable: Notable) -> _Found | None:
        """The client in X-Forwarded-For; None if that is empty."""
        listed = entries(notable[b"x-forwarded-for"])
        if not listed:
            return None
        client, place = NO_NODE, 0
        for place, entry in enumerate(listed[: -MAX_ENTRIES - 1 : -1]):
            node = self._node(entry)
            client = node if node.address else client
            if not self._trusted.contain(node.address):
                break
        return _Found(client, place, len(listed), _NO_PAIRS)

    def _in_forwarded(self, notable: Notable) -> _Found | None:
        """The client in Forwarded; None if that is empty."""
        elements = Elements(notable[b"forwarded"])
        found = None
        client = NO_NODE
        for _ in range(MAX_ENTRIES):
            pairs = elements.previous()
            if pairs is None:
                break
            node = self._node(pairs.get(b"for", b""))
            client = node if node.address else client
            found = _Found(client, 0, 0, pairs)
            if not self._trusted.contain(node.address):
                break
        return found

    def _node(self, text: bytes) -> Node:
        # A proxy that accepts clients on a Unix socket writes this for them, as this gateway does.
        if text == _UNIX and self._trusted.contain(UNIX_ADDRESS):
            return _UNIX_NODE
        node = read_node(text)
        return Node(plain_address(node.address), node.port) if ":" in node.address else node


def _in_place(notable: Notable, name: bytes, place: int, count: int) -> bytes:
    """The one value of a field, or the one at the client's position; b"" if there is no such value."""
    values = notable.get(name)
    if values is None:
        return b""
    listed = entries(values)
    if len(listed) == 1:
        return listed[0]
    return listed[-1 - place] if listed and len(listed) == count else b""


def _scheme(value: bytes) -> bytes:
    return _SCHEMES.get(value.lower(), b"")


def _authority(value: bytes) -> bytes:
    if len(value) > MAX_AUTHORITY_BYTES or AUTHORITY.fullmatch(value) is None:
        return b""
    return value


def _port(value: bytes) -> bytes:
    return b"%d" % int(value) if value.isdigit() and len(value) <= 5 and 0 < int(value) <= 65535 else b""
