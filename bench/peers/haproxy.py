"""HAProxy as the proxy: one thread, connections to the servers kept alive and shared between clients."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.ground import SERVER_NAMES, Ground
from bench.load import Tls
from bench.machine import free_port
from bench.peers.interface import StartedPeer, make_certificate, unknown_keys
from bench.stage import Stage

# The same forwarding fields as in the other peers.  Bodies are spliced, which is not the default.
CONFIGURATION = """
global
    nbthread 1
    maxconn 6000
defaults
    mode http
    timeout connect 5s
    timeout client 75s
    timeout server 60s
    timeout http-keep-alive 75s
    option splice-auto
frontend clients
    bind 127.0.0.1:{port} backlog 4096{bind}
    default_backend servers
backend servers
    balance roundrobin
    http-reuse always
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
    http-request set-header X-Forwarded-Proto http
    http-request set-header Forwarded for=%[src];host=\\"%[req.hdr(Host)]\\";proto=http
    http-request set-header Via "1.1 haproxy"
    http-request set-header X-Consumer-Username user1
    http-request del-header Authorization
    option forwardfor
{servers}
"""


class HaproxyPeer:
    """Plain HAProxy: no keys, no limits, no Redis."""

    uses_redis = False

    def __init__(self, tls: Tls = Tls.NONE) -> None:
        """`tls` is how clients connect."""
        self._tls = tls

    def missing(self) -> str:
        """See Peer."""
        return "" if shutil.which("haproxy") else "apt-get install haproxy"

    def start(self, stage: Stage, ground: Ground, cores: str, profile: Path | None = None) -> StartedPeer:
        """See Peer."""
        if profile is not None:
            raise ValueError("HAProxy is not a Python program: use perf or strace")
        directory, port = stage.directory("haproxy"), free_port()
        pairs = zip(SERVER_NAMES, ground.server_ports, strict=True)
        servers = "\n".join(f"    server {name} 127.0.0.1:{server} pool-max-conn -1" for name, server in pairs)
        file = directory / "haproxy.cfg"
        bind = ""
        if self._tls is not Tls.NONE:
            both = directory / "both.pem"
            both.write_text("".join(part.read_text() for part in make_certificate(directory)))
            bind = f" ssl crt {both}"
        file.write_text(CONFIGURATION.format(port=port, servers=servers, bind=bind))
        running = stage.start("haproxy", ["haproxy", "-db", "-f", str(file)], cores, directory, port)
        return StartedPeer(running, port, unknown_keys(), self._tls)
