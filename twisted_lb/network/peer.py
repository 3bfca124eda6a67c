"""The other end of a client's connection, and the client of a request."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from twisted_lb.limits.client_networks import LOCAL_NETWORK, network_of, plain_address
from twisted_lb.network.client_certificate import subject_of
from twisted_lb.network.tls_layer import TlsLayer
from twisted_lb.own_fields import certificate_line
from twisted_lb.wire.forwarding import ForwardedFields, Received
from twisted_lb.wire.proxy_protocol import ProxyHeader, proxy_header

# The header fields about a client are built once for all its requests, but idle connections must not hold them.
MAX_FORWARDED: Final = 2048

# nginx's text for a client of a Unix socket.
UNIX_ADDRESS: Final = "unix:"


class TlsInfo(NamedTuple):
    """What a client and this program have negotiated.  A text is empty if it is not known."""

    version: str = ""  # such as "TLSv1.3"
    cipher: str = ""  # OpenSSL's name of the suite
    protocol: str = ""  # negotiated by ALPN, such as "http/1.1"
    resumed: bool = False
    subject: bytes = b""  # of the client's certificate, if it has sent one and it was verified; see `subject_of`


class PeerInfo(NamedTuple):
    """A client, as the limits, the balancers and the servers see it.

    It is made once for each connection, where the connection is accepted; no other code gets it from the transport.
    Each request from a trusted proxy has one of its own (`trusted_proxies`).
    """

    address: str = UNIX_ADDRESS  # an IP address, an IPv4-mapped one as IPv4; or UNIX_ADDRESS
    network: str = LOCAL_NETWORK  # of the address, for requests without a valid key; see `client_networks`
    scheme: bytes = b"http"  # b"https" when the client uses TLS
    tls: TlsInfo | None = None  # of the connection; None: it has no TLS
    port: int = 0  # of the client; 0: not known
    # What the client has connected to, if a header of the PROXY protocol says so; "": our end of the connection.
    destination: str = ""
    destination_port: int = 0


def peer_info(transport: Any, announced: ProxyHeader | None = None) -> PeerInfo:
    """The client of a transport that was just connected; `announced` is its header of the PROXY protocol, if any."""
    tls = tls_info(transport)
    if announced is not None and announced.source:
        address = plain_address(announced.source)
        return PeerInfo(
            address,
            network_of(address),
            b"https" if tls is not None or announced.tls else b"http",
            tls,
            announced.source_port,
            plain_address(announced.destination),
            announced.destination_port,
        )
    peer = transport.getPeer()
    address = plain_address(getattr(peer, "host", UNIX_ADDRESS))
    scheme = b"https" if tls is not None or (announced is not None and announced.tls) else b"http"
    return PeerInfo(address, network_of(address), scheme, tls, getattr(peer, "port", 0))


def twisted_address(peer: PeerInfo) -> IAddress:
    """The client's address, as a transport of Twisted would have it."""
    if peer.address == UNIX_ADDRESS:
        return UNIXAddress(None)
    kind = IPv6Address if ":" in peer.address else IPv4Address
    return kind("TCP", peer.address, peer.port)


def header_for_server(peer: PeerInfo, transport: Any, version: int) -> bytes:
    """The header of the PROXY protocol for this client, to send to a server; `transport` is that of its connection."""
    if peer.destination:
        return proxy_header(version, peer.address, peer.port, peer.destination, peer.destination_port)
    here = transport.getHost()
    destination = plain_address(getattr(here, "host", UNIX_ADDRESS))
    return proxy_header(version, peer.address, peer.port, destination, getattr(here, "port", 0))


def forwarded_fields(peer: PeerInfo, received: Received | None = None) -> ForwardedFields:
    """The fields about the client for servers, or, with `received`, about the client of one request from this proxy."""
    own_lines = certificate_line(peer.tls.subject) if peer.tls is not None else b""
    return ForwardedFields(peer.address, peer.scheme, own_lines, received)


@lru_cache(maxsize=MAX_FORWARDED)
def forwarded_of(address: str, scheme: bytes, tls: TlsInfo | None) -> ForwardedFields:
    """The fields about a client for servers, shared by all its connections and requests."""
    return forwarded_fields(PeerInfo(address, "", scheme, tls))


def tls_info(transport: Any) -> TlsInfo | None:
    """The TLS of a transport; None if it has none."""
    layer: TlsLayer | None = getattr(transport, "tls", None)
    if layer is None:
        # Twisted's own wrapper has no further information.
        return TlsInfo() if getattr(transport, "TLS", False) else None
    certificate = layer.certificate
    subject = b"" if certificate is None else subject_of(certificate)
    return TlsInfo(layer.version, layer.cipher, layer.protocol, layer.resumed, subject)
