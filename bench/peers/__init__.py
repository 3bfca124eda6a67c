"""The peers of the comparison, by name.  A new one is a module with a class and a line in PEERS."""

from __future__ import annotations

from pathlib import Path

from bench.load import Tls
from bench.peers.haproxy import HaproxyPeer
from bench.peers.interface import Peer
from bench.peers.nginx import NginxPeer
from bench.peers.nginx_lua import NginxLuaPeer
from bench.peers.tokenlb import TokenlbPeer
from bench.peers.twisted_web_proxy import TwistedWebProxyPeer

PEERS: dict[str, Peer] = {
    "nginx": NginxPeer(),
    "twisted_lb": TokenlbPeer(with_redis=False),
    "twisted_lb+redis": TokenlbPeer(with_redis=True),
    "twisted_lb+log": TokenlbPeer(with_redis=False, with_log=True),
    "nginx+lua": NginxLuaPeer(),
    "haproxy": HaproxyPeer(),
    "twisted.web.proxy": TwistedWebProxyPeer(),
    "twisted_lb+limits": TokenlbPeer(with_redis=False, with_limits=True),
    "twisted_lb+redis+limits": TokenlbPeer(with_redis=True, with_limits=True),
    # With TLS: connections that are kept, and a connection with a full handshake for each request.
    "nginx+tls": NginxPeer(Tls.KEPT),
    "haproxy+tls": HaproxyPeer(Tls.KEPT),
    "twisted_lb+tls": TokenlbPeer(with_redis=False, tls=Tls.KEPT),
    "nginx+handshakes": NginxPeer(Tls.NEW),
    "haproxy+handshakes": HaproxyPeer(Tls.NEW),
    "twisted_lb+handshakes": TokenlbPeer(with_redis=False, tls=Tls.NEW),
}

DEFAULT_PEERS = tuple(name for name in PEERS if not name.endswith(("+limits", "+tls", "+handshakes")))


def find_peer(name: str) -> Peer:
    """The peer of that name; `twisted_lb@PATH` is that of another venv.  Raises ValueError when there is none."""
    kind, at, path = name.partition("@")
    peer = PEERS.get(kind)
    if peer is None:
        raise ValueError(f"no peer {kind!r}; there are {', '.join(PEERS)}")
    if not at:
        return peer
    if not isinstance(peer, TokenlbPeer):
        raise ValueError(f"{name!r}: only twisted_lb can be that of another venv")
    return peer.of(Path(path).absolute())
