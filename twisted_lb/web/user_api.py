"""The user API as a resource of another site."""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from twisted_lb.network.address_ranges import AddressRanges
from twisted_lb.network.peer import twisted_address
from twisted_lb.network.trusted_proxies import TrustedProxy
from twisted_lb.web.request_stream import peer_of
from twisted_lb.wire.fields import ABOUT_THE_CLIENT
from twisted_lb.wire.head import Notable


class UserApiResource(Resource):
    """Serves /user/create and so on by their complete paths, at any place of a site.

    Return it from a route for /user/ with `branch=True`, or add it as the child `user` of the root.
    """

    isLeaf = True

    def __init__(self, api: IResource, trusted_proxies: AddressRanges | None = None) -> None:
        """Requests from `trusted_proxies` count as requests of the clients that they report."""
        super().__init__()
        self._api = api
        self._trusted_proxies = trusted_proxies

    def render(self, request: Request) -> Any:
        """See IResource."""
        path = request.uri.partition(b"?")[0]
        request.prepath = []
        request.postpath = [unquote_to_bytes(segment) for segment in path[1:].split(b"/")]
        trusted = self._trusted_proxies
        peer = peer_of(request)
        if trusted is not None and trusted.contain(peer.address):
            # What `getClientAddress` returns, for the limits of addresses.
            request.client = twisted_address(TrustedProxy(peer, trusted).client_of(_notable(request))[0])
        return self._api.render(request)


def _notable(request: Request) -> Notable:
    fields = request.requestHeaders
    return {name: list(values) for name in ABOUT_THE_CLIENT if (values := fields.getRawHeaders(name))}
