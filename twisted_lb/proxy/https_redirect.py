"""The redirect of plain requests to https (HTTP_REDIRECT=https).

1. Every request that did not come over https is answered with 308 (RFC 9110 section 15.4.9), which keeps method and
   content, as Caddy does.  No key is looked up, no token is taken, and no path is exempt.
2. The scheme is that of the request's client, so a proxy in front of this one that terminates TLS, and reports it, does
   not cause a redirect loop.
3. The location is always an absolute URL with the host that the request was for, so no target can lead to another host;
   the port is that of the TLS listener.  A host that no URL can have is refused.  X-Forwarded-Host is ignored.
"""

from __future__ import annotations

import re
from typing import Final

from twisted_lb.wire.errors import RequestError

HTTPS_PORT: Final = 443
STATUS: Final = 308

# A host of a URL that all clients parse in the same way: letters, digits, "-", "_" and dots, or an IPv6 address in
# brackets.  The reader of the head has checked its length, and allows more (RFC 3986 section 3.2.2).
_HOST: Final = re.compile(rb"([0-9A-Za-z](?:[-._0-9A-Za-z]*+)|\[[0-9A-Fa-f:.]++\])(?::[0-9]*+)?")


class HttpsRedirect:
    """Builds the locations."""

    __slots__ = ("_port",)

    def __init__(self, port: int) -> None:
        """`port` is that of https, 0: the default port."""
        self._port = b"" if port in (0, HTTPS_PORT) else b":%d" % port

    def location(self, host: bytes, target: bytes) -> bytes:
        """The URL for a request's host, with or without a port, and its target as the client sent it.

        Raises RequestError if there is no host, or one to which no client could be redirected.
        """
        found = _HOST.fullmatch(host)
        if found is None:
            raise RequestError(400, "This is served over https only, and the request does not name a host to go to.")
        # RFC 9112 section 3.2.4: "*" is the target of a URL without path.
        return b"https://%b%b%b" % (found.group(1), self._port, b"" if target == b"*" else target)
