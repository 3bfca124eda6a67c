"""A program: twisted.web.proxy on a port, over servers in turn.  Arguments: its port, then the servers' ports.

Both of Twisted's logs are off (one line per request and two per connection), as they are in the other peers.
"""

# mypy: allow-untyped-calls, allow-subclassing-any
# (twisted.web.proxy has no annotations.)

from __future__ import annotations

import itertools
import sys
from typing import Any

from twisted.internet import reactor as installed_reactor
from twisted.web.http import Request
from twisted.web.proxy import ProxyClientFactory, ReverseProxyResource
from twisted.web.resource import Resource
from twisted.web.server import Site


class RoundRobinResource(Resource):
    """Gives each request to the ReverseProxyResource of the next server."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__()
        self._next = itertools.cycle([ReverseProxyResource("127.0.0.1", port, b"") for port in ports])

    def getChild(self, path: bytes, request: Request) -> Resource:
        resource: Resource = next(self._next).getChild(path, request)
        return resource


class SilentSite(Site):
    """A Site without an access log."""

    def log(self, request: Request) -> None:
        """Say nothing."""


class SilentClientFactory(ProxyClientFactory):
    """A client factory that does not log its start and its stop."""

    noisy = False


def main() -> None:
    """Listen and serve until SIGTERM."""
    reactor: Any = installed_reactor  # the interface that it is declared with lacks listenTCP
    port, *servers = (int(argument) for argument in sys.argv[1:])
    ReverseProxyResource.proxyClientFactoryClass = SilentClientFactory
    reactor.listenTCP(port, SilentSite(RoundRobinResource(servers)), backlog=4096, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
