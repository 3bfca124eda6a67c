"""Where a request goes, and on what terms."""

from __future__ import annotations

from twisted_lb.cors import CorsPolicy
from twisted_lb.limits.pricing import Pricing
from twisted_lb.pool.retry_budget import RetryBudget
from twisted_lb.proxy.server_pool import Seen, ServerPool


class Route:
    """A pool, and what is done with requests for it on their way.

    There is one route for all requests.  The attributes may be replaced: a request has those of the moment at which it
    needs them, except for the pricing, which it has from its beginning to its end.
    """

    __slots__ = ("pool", "pricing", "cors", "seen", "retries")

    def __init__(
        self,
        pool: ServerPool,
        pricing: Pricing,
        cors: CorsPolicy | None = None,
        seen: Seen | None = None,
        retries: RetryBudget | None = None,
    ) -> None:
        """`cors` None: pages of other origins are the servers' business.

        `seen` and `retries` take the place of the pool's own, for requests that must not count.
        """
        self.pool = pool
        self.pricing = pricing
        self.cors = cors
        self.seen = pool.seen if seen is None else seen
        self.retries = pool.retries if retries is None else retries
