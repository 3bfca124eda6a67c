"""Starts twisted.web.proxy, what Twisted itself offers for the purpose, as its own process."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.ground import Ground
from bench.machine import free_port
from bench.peers.interface import StartedPeer, unknown_keys
from bench.stage import Stage

SCRIPT = Path(__file__).with_name("reverse_proxy_script.py")


class TwistedWebProxyPeer:
    """ReverseProxyResource over the three servers in turn: no keys, no limits, no Redis."""

    uses_redis = False

    def missing(self) -> str:
        """See Peer."""
        return ""

    def start(self, stage: Stage, ground: Ground, cores: str, profile: Path | None = None) -> StartedPeer:
        """See Peer."""
        directory, port = stage.directory("twisted_web_proxy"), free_port()
        interpreter = [sys.executable, *(["-m", "cProfile", "-o", str(profile)] if profile else [])]
        argv = [*interpreter, str(SCRIPT), str(port), *(str(server) for server in ground.server_ports)]
        running = stage.start("twisted_web_proxy", argv, cores, directory, port)
        return StartedPeer(running, port, unknown_keys())
