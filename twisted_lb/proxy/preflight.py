"""CORS preflights, which carry no key (Fetch standard): answered here, or passed to a server.

A preflight that is passed on costs no tokens, so clients must gain nothing by sending it for its own sake:

1. The number that is under way at a time is limited, for one network and in total, and together they take at most a
   quarter of the requests that the servers may have.  Those that wait for a server wait as one user.
2. They do not count for a server's health, are retried only if a server cannot be reached, and name no user.
3. What follows one on its connection is posted, as after other requests that cost no tokens (see `posted`).
"""

from __future__ import annotations

from typing import Final

from zope.interface import implementer

from twisted_lb.cors import CorsPolicy
from twisted_lb.credentials import AmbiguousKey
from twisted_lb.interfaces import IDoor, IReply, IServing, Taken
from twisted_lb.limits.pricing import NO_PRICING
from twisted_lb.pool.pool import Pool
from twisted_lb.pool.retry_budget import RetryBudget
from twisted_lb.proxy.admission import RETRY_SOON
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.exchange import Exchange
from twisted_lb.proxy.route import Route
from twisted_lb.proxy.server_pool import NO_RETRIES, unseen
from twisted_lb.proxy.streams import IClientStream
from twisted_lb.request_record import BAD_REQUEST, NO_ROOM
from twisted_lb.wire.head import RequestHead

# Preflights that are under way at servers at a time, in this process.
MAX_PREFLIGHTS: Final = 1024
MAX_OF_A_NETWORK: Final = 256  # a front end that shares connections sends those of many clients at once
# One in this many of the requests that the servers may have at a time may be a preflight.
SHARE: Final = 4

# Admitted, without a user.
_NOBODY: Final = Taken(True, b"", 0, 0.0, 0)
# The one user as which all of them wait.
_ALL: Final = b"\0"
# Used in place of a key, which is replaced in the head: no head contains it.
_NO_KEY: Final = b"\0"


class Preflights:
    """The preflights of one process that are under way, and what they share."""

    def __init__(self, context: ProxyContext) -> None:
        # No bucket is used, so there are no limits to report.
        self.context = context.copied()
        self.context.limit_fields = lambda taken: b""
        self.context.counts_in_flight = False
        self._no_retries = RetryBudget(NO_RETRIES, context.seconds)
        self._count = 0
        self._networks: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def route(self, route: Route) -> Route:
        """The same for preflights, which have no user: they do not count for health, and are sent once."""
        return Route(
            route.pool,
            NO_PRICING,
            route.name,
            unseen,
            self._no_retries,
            response_rules=route.response_rules,
            timeout=route.timeout,
            strip_prefix=route.strip_prefix,
            request_rules=route.request_rules,
        )

    def begin(self, network: str, servers: Pool) -> str:
        """Begin one more, to one of these servers; return why it must not begin, or an empty text."""
        of_network = self._networks.get(network, 0)
        if of_network >= MAX_OF_A_NETWORK:
            return f"Your network has {of_network} preflight requests under way, as many as it may. Try again."
        if self._count and not self._room(servers):
            return "There are as many preflight requests under way as there may be. Try again."
        self._count += 1
        self._networks[network] = of_network + 1
        return ""

    def end(self, network: str) -> None:
        """One that has begun is over."""
        self._count -= 1
        left = self._networks.pop(network) - 1
        if left:
            self._networks[network] = left

    def _room(self, servers: Pool) -> bool:
        """Whether one more is within the share of the requests that the servers may have."""
        if self._count >= MAX_PREFLIGHTS:
            return False
        needed = SHARE * (self._count + 1)
        room = 0
        for backend in servers.backends:
            if backend.available:
                room += backend.maxconn or needed
                if room >= needed:
                    return True
        return False


class Preflight(Exchange):
    """One that is passed to a server, and its response."""

    __slots__ = ("_preflights", "_counted")

    free = True

    def __init__(self, preflights: Preflights, route: Route, client: IClientStream, head: RequestHead) -> None:
        """`route` is that of the requests which the preflight asks for."""
        # No tunnel is opened without a key.
        head.upgrade = b""
        Exchange.__init__(self, preflights.context, preflights.route(route), client, head, 0)
        self._preflights = preflights
        self._counted = False

    def _ask(self) -> None:
        """No tokens are taken.  A key can only be in the target, as browsers send it, and is not used."""
        try:
            self._key = self._context.keys.take(self._head.notable) or _NO_KEY
        except AmbiguousKey as error:
            self._answer(BAD_REQUEST, 400, str(error))
            return
        self._tokens.taken = _NOBODY
        why_not = self._preflights.begin(self.peer.network, self._route.pool.servers)
        if why_not:
            self._answer(NO_ROOM, 503, why_not, RETRY_SOON)
            return
        self._counted = True
        self._admitted()

    def _queue_user(self, taken: Taken) -> bytes:
        return _ALL

    def _end(self) -> None:
        if self._counted:
            self._counted = False
            self._preflights.end(self.peer.network)
        Exchange._end(self)


@implementer(IDoor, IServing)
class PreflightAnswer:
    """Answers a preflight here."""

    max_body_bytes = 0

    def __init__(self, cors: CorsPolicy, request: RequestHead, date: bytes) -> None:
        self._cors = cors
        self._request = request
        self._date = date

    def owns(self, path: bytes) -> bool:
        """It is made for one request."""
        return False

    def serve(self, head: bytes, body: bytes, peer: object, reply: IReply) -> IServing:
        """See IDoor."""
        close = b"\r\nConnection: close\r\n" in head
        fields = b"\r\nDate: " + self._date + self._cors.preflight(self._request)
        if close:
            fields += b"\r\nConnection: close"
        elif not self._request.minor:
            fields += b"\r\nConnection: keep-alive"
        # RFC 9110 section 8.6: without Content-Length.
        reply.write(b"HTTP/1.1 204 No Content%b\r\n\r\n" % fields)
        reply.finished(close)
        return self

    def abandon(self) -> None:
        """The answer was given at once."""
