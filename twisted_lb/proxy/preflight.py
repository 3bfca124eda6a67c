"""CORS preflights, which carry no key (Fetch standard): answered here, or passed to a server.

One that is passed costs nobody anything, so it must not be worth sending for itself:

1. Few of them are under way at a time, of one network and in all, and together they take a quarter of what the servers
   can have at most.  What waits for a server waits as one user, whoever sent it.
2. They say nothing of a server's health, have no retries beyond servers that cannot be reached, and name no user.
3. What follows one on its connection waits for its turn, as after other requests that cost nothing (see `posted`).
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

# That are passed to servers at a time, in this process.
MAX_PREFLIGHTS: Final = 1024
MAX_OF_A_NETWORK: Final = 256  # a front end that shares connections sends those of many clients at once
# Of the requests that the servers may have at a time, one in so many may be a preflight.
SHARE: Final = 4

# Admitted, of nobody.
_NOBODY: Final = Taken(True, b"", 0, 0.0, 0)
# In the place of a key, which is looked for in the head: it is in none.
_NO_KEY: Final = b"\0"


class Preflights:
    """Those of one process that are under way, and what they share."""

    def __init__(self, context: ProxyContext) -> None:
        # Nothing is taken of any bucket, and there are no limits to tell.
        self.context = context.copied()
        self.context.limit_fields = lambda taken: b""
        self.context.counts_in_flight = False
        self._no_retries = RetryBudget(NO_RETRIES, context.seconds)
        self._count = 0
        self._networks: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def route(self, route: Route) -> Route:
        """The same for preflights: a stranger's request says nothing of a server, and is sent once."""
        return Route(
            route.pool,
            NO_PRICING,
            route.name,
            unseen,
            self._no_retries,
            response_rules=route.response_rules,
            strip_prefix=route.strip_prefix,
            request_rules=route.request_rules,
        )

    def begin(self, network: str, servers: Pool) -> str:
        """One more, to one of these servers; why it may not be, or an empty text."""
        of_network = self._networks.get(network, 0)
        if of_network >= MAX_OF_A_NETWORK:
            return f"Your network has {of_network} preflight requests under way, as many as it may. Try again."
        if self._count and not self._room(servers):
            return "There are as many preflight requests under way as there may be. Try again."
        self._count += 1
        self._networks[network] = of_network + 1
        return ""

    def end(self, network: str) -> None:
        """One that could begin is over."""
        self._count -= 1
        left = self._networks.pop(network) - 1
        if left:
            self._networks[network] = left

    def _room(self, servers: Pool) -> bool:
        """Whether one more is within the share of what the servers can have."""
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
        """There is nothing to take: a key can only be in the target, as browsers send it, and counts for nothing."""
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
