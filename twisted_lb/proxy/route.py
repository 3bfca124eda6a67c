"""Where a request goes, and on what terms."""

from __future__ import annotations

from twisted_lb.limits.pricing import Pricing
from twisted_lb.pool.retry_budget import RetryBudget
from twisted_lb.proxy.server_pool import Seen, ServerPool


class Route:
    """A pool, and what is done with requests for it on their way.

    A request has its route from its beginning to its end, also when another configuration is in use by then.
    """

    __slots__ = ("name", "pool", "pricing", "seen", "retries")

    def __init__(
        self,
        pool: ServerPool,
        pricing: Pricing,
        name: str = "/",
        seen: Seen | None = None,
        retries: RetryBudget | None = None,
    ) -> None:
        """`name` is for people.

        `seen` and `retries` take the place of the pool's own, for requests that must not count.
        """
        self.name = name
        self.pool = pool
        self.pricing = pricing
        self.seen = pool.seen if seen is None else seen
        self.retries = pool.retries if retries is None else retries
