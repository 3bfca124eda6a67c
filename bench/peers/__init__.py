"""The peers of the comparison, by name.  A new one is a module with a class and a line in PEERS."""

from __future__ import annotations

from bench.peers.interface import Peer
from bench.peers.nginx import NginxPeer
from bench.peers.tokenlb import TokenlbPeer
from bench.peers.twisted_web_proxy import TwistedWebProxyPeer

PEERS: dict[str, Peer] = {
    "twisted_lb": TokenlbPeer(with_redis=False),
    "twisted_lb+redis": TokenlbPeer(with_redis=True),
    "twisted_lb+limits": TokenlbPeer(with_redis=False, with_limits=True),
    "twisted_lb+redis+limits": TokenlbPeer(with_redis=True, with_limits=True),
    "nginx": NginxPeer(),
    "twisted.web.proxy": TwistedWebProxyPeer(),
}
