"""A resource of twisted.web that sends the requests below it to the servers of a load balancer."""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from twisted_lb.web.load_balancer import LoadBalancer


class ProxyResource(Resource):
    """Sends all requests for it, and for all paths below it, to a server of the pool.

    The key, limits, balancer, retries and the queue work as on a listener of the program.  In Klein, return it from
    a route with `branch=True`; in twisted.web, add it as a child.
    """

    isLeaf = True

    def __init__(self, balancer: LoadBalancer, strip_prefix: bytes | str = b"") -> None:
        """Requests are served while `balancer` runs.

        `strip_prefix`, such as "/v1", is removed from the path before the request is sent to a server; by default
        servers get the target as the client has sent it.  A path that does not begin with it is not changed.
        """
        super().__init__()
        self._balancer = balancer
        self._prefix = strip_prefix.encode() if isinstance(strip_prefix, str) else strip_prefix
        self._prefix = self._prefix.rstrip(b"/")

    def render(self, request: Request) -> int:
        """See IResource."""
        self._balancer.serve(request, self._target(request.uri))
        return NOT_DONE_YET

    def _target(self, uri: bytes) -> bytes:
        prefix = self._prefix
        if not prefix or not uri.startswith(prefix):
            return uri
        rest = uri[len(prefix) :]
        if not rest or rest[:1] == b"?":
            return b"/" + rest
        return rest if rest[:1] == b"/" else uri
