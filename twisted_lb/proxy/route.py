"""Routes: where a request is sent, and the rules and limits that apply to it."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from random import Random
from typing import Final

from twisted_lb.hooks.hooks import Hooks
from twisted_lb.limits.pricing import Pricing
from twisted_lb.limits.request_limits import RequestLimits
from twisted_lb.network.address_ranges import AddressRanges
from twisted_lb.pool.retry_budget import RetryBudget
from twisted_lb.proxy.header_rules import HeaderRules
from twisted_lb.proxy.route_answer import RouteAnswer
from twisted_lb.proxy.server_pool import Seen, ServerPool

# A request without a key is refused, or its client's network pays for it; with NO_KEY the network pays for all.
REQUIRED: Final = 0
OPTIONAL: Final = 1
NO_KEY: Final = 2

# The limit of the settings applies.
AS_SET: Final = -1


class Access:
    """Which client addresses may use a route."""

    __slots__ = ("_allowed", "_denied")

    def __init__(self, allowed: AddressRanges | None, denied: AddressRanges | None) -> None:
        """`allowed` None: all that are not denied."""
        self._allowed = allowed
        self._denied = denied

    def permits(self, address: str) -> bool:
        """Whether the client with this address may."""
        if self._denied is not None and self._denied.contain(address):
            return False
        return self._allowed is None or self._allowed.contain(address)


class Terms:
    """What all routes have.  A request keeps its route to its end, even if another configuration is in use by then."""

    __slots__ = ("name", "pricing", "key", "access", "maintenance", "response_rules", "limits", "depends_on_client")

    def __init__(
        self,
        name: str,
        pricing: Pricing,
        key: int = REQUIRED,
        access: Access | None = None,
        maintenance: float = 0.0,
        response_rules: Sequence[HeaderRules] = (),
        limits: RequestLimits | None = None,
    ) -> None:
        """`name` is for people; `key` is REQUIRED, OPTIONAL or NO_KEY; `access` None: all clients.

        `maintenance`: all requests are answered 503, with so many seconds in Retry-After; 0: they are not.

        `response_rules` apply to responses, in their order.  `limits` None: only those of all routes.
        """
        self.name = name
        self.pricing = pricing
        self.key = key
        self.access = access
        self.maintenance = maintenance
        self.response_rules = tuple(response_rules)
        self.limits = limits
        # Whether the pool, of a split, or the buckets depend on the client.
        self.depends_on_client = limits is not None


class Route(Terms):
    """A route to a pool, and what is done with the requests for it."""

    __slots__ = (
        "pool",
        "seen",
        "retries",
        "attempts",
        "timeout",
        "max_body_bytes",
        "strip_prefix",
        "request_rules",
        "hooks",
        "restricted",
        "extended",
        "split",
        "mirror",
    )

    def __init__(
        self,
        pool: ServerPool,
        pricing: Pricing,
        name: str = "/",
        seen: Seen | None = None,
        retries: RetryBudget | None = None,
        key: int = REQUIRED,
        access: Access | None = None,
        maintenance: float = 0.0,
        response_rules: Sequence[HeaderRules] = (),
        attempts: int = AS_SET,
        timeout: float = AS_SET,
        max_body_bytes: int = AS_SET,
        strip_prefix: bytes = b"",
        request_rules: Sequence[HeaderRules] = (),
        limits: RequestLimits | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """`seen` and `retries` replace the pool's own, for requests that must not count.

        `attempts` replaces that of `retries`, `timeout` (in seconds) UPSTREAM_TIMEOUT, and `max_body_bytes`
        MAX_BODY_BYTES.  `strip_prefix` is removed from the paths that servers get: segments, without a slash at the
        end.  `request_rules` apply to the heads that servers get, in their order, and `hooks` come after them.
        """
        Terms.__init__(self, name, pricing, key, access, maintenance, response_rules, limits)
        self.pool = pool
        self.seen = pool.seen if seen is None else seen
        self.retries = pool.retries if retries is None else retries
        self.attempts = attempts
        self.timeout = timeout
        self.max_body_bytes = max_body_bytes
        self.strip_prefix = strip_prefix
        self.request_rules = tuple(request_rules)
        self.hooks = hooks
        # Whether it may refuse requests.
        self.restricted = access is not None or maintenance > 0
        self.extended = hooks is not None  # whether its exchanges are ExtendedExchanges: with hooks, or a mirror
        self.split: Split | None = None  # the pools among which the requests are divided; this one's is the first
        self.mirror: Mirror | None = None  # where copies of the requests are sent; see `copy_to`

    def copy_to(self, mirror: Mirror) -> None:
        """Send copies of the requests to this mirror as well."""
        self.mirror = mirror
        self.extended = True

    def divide(self, split: Split) -> None:
        """Divide the requests among the routes of `split`, of which this one is the first."""
        self.split = split
        self.extended = split.extended
        self.depends_on_client = True

    def most_attempts(self) -> int:
        """How often a request may be sent."""
        return self.retries.attempts if self.attempts == AS_SET else self.attempts


class Split:
    """Divides the requests of a route among several pools, by their clients: each client always has the same pool.

    The position of a client in [0, 1) is a hash; the pools have intervals, in their order.  If the first pool gets a
    larger share, it keeps the clients that it had.
    """

    __slots__ = ("by_network", "extended", "_routes", "_ends")

    def __init__(self, routes: Sequence[tuple[Route, int]], by_network: bool) -> None:
        """The routes to the pools and their weights, of which one at least is above 0.

        `by_network`: clients are identified by their networks, even if they have a key.
        """
        self.by_network = by_network
        self.extended = any(route.extended for route, _ in routes)
        self._routes = [route for route, weight in routes if weight]
        total = sum([weight for _, weight in routes])
        self._ends: list[float] = []
        end = 0
        for _, weight in routes:
            if weight:
                end += weight
                self._ends.append(end / total)

    def route_of(self, client: str) -> Route:
        """The route of a client, which is given by the digest of its key or by its network."""
        position = int.from_bytes(sha256(client.encode()).digest()[:6], "big") / (1 << 48)
        for route, end in zip(self._routes, self._ends):
            if position < end:
                return route
        return self._routes[-1]


class Mirror:
    """Sends copies of some requests of a route to another pool."""

    __slots__ = ("route", "_percent", "_chance")

    def __init__(self, route: Route, percent: float, chance: Random) -> None:
        """`route` is the route of the copies, to the other pool; `percent` of the requests are copied."""
        self.route = route
        self._percent = percent
        self._chance = chance

    def wants(self) -> bool:
        """Whether the present request is copied."""
        return self._percent >= 100 or self._chance.random() * 100 < self._percent


class AnsweringRoute(Terms):
    """A route that answers requests itself, in place of a server."""

    __slots__ = ("answer",)

    def __init__(
        self,
        answer: RouteAnswer,
        pricing: Pricing,
        name: str = "/",
        key: int = REQUIRED,
        access: Access | None = None,
        maintenance: float = 0.0,
        response_rules: Sequence[HeaderRules] = (),
        limits: RequestLimits | None = None,
    ) -> None:
        Terms.__init__(self, name, pricing, key, access, maintenance, response_rules, limits)
        self.answer = answer
