"""The whole of servers.yaml as immutable objects: pools of servers, and routes that lead to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from twisted_lb.config.cors import Cors
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.pool import ClassSpec, HeaderRules, PoolSpec, ServerSpec


@dataclass(frozen=True)
class Respond:
    """A fixed response of a route."""

    status: int
    content_type: str
    content: bytes


@dataclass(frozen=True)
class Redirect:
    """A redirect of a route."""

    status: int
    place: tuple[tuple[str, str], ...]  # texts, each with the part of the request that follows: host, path, query or ""


@dataclass(frozen=True)
class Mirror:
    """Where copies of the requests of a route are sent."""

    pool: str
    percent: float = 100.0  # of the requests


@dataclass(frozen=True)
class RouteSpec:
    """Which requests a route matches, and what is done with them."""

    pool: str  # the first one of `split`, or "": the route answers itself
    name: str = ""  # for people; unique
    host: str = ""  # in lower case, without a port; "": any, "*.a.test": every subdomain of a.test
    path: str = ""  # "": any; with a slash at the end, a prefix of whole segments
    methods: tuple[str, ...] = ()  # none: any
    headers: tuple[tuple[str, str | None], ...] = ()  # the name in lower case, and the value; None: any
    key: str = "required"  # or "optional" or "none"
    cost: int | None = None  # tokens; None: as the pool's pricing says
    timeout: float | None = None  # None: UPSTREAM_TIMEOUT
    attempts: int | None = None  # None: as the pool's retries say
    max_body: int | None = None  # bytes; None: MAX_BODY_BYTES
    strip_prefix: str = ""  # segments, without a slash at the end
    allow: tuple[str, ...] = ()  # ranges of addresses; none: all
    deny: tuple[str, ...] = ()
    maintenance: float = 0.0  # seconds of Retry-After; 0: no maintenance
    request_headers: HeaderRules | None = None
    response_headers: HeaderRules | None = None
    respond: Respond | None = None
    redirect: Redirect | None = None
    split: tuple[tuple[str, int], ...] = ()  # pools and their weights; none: all requests go to `pool`
    split_by: str = "key"  # or "client"
    limits: tuple[LimitSpec, ...] = ()  # before those of the pool
    hooks: ClassSpec | None = None  # None: those of the pool
    mirror: Mirror | None = None


@dataclass(frozen=True)
class GatewaySpec:
    """The pools and the routes in the order of the file."""

    pools: tuple[PoolSpec, ...]
    routes: tuple[RouteSpec, ...]
    cors: Cors | None = None  # None: preflights are passed to the servers, whose responses are not changed
    limits: tuple[LimitSpec, ...] = ()  # of all requests that a route sends to a pool
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)  # files, and their contents
    hidden: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # the values of references

    @property
    def has_routes(self) -> bool:
        """Whether requests can have different routes."""
        return len(self.routes) > 1 or self.routes[0] != RouteSpec(self.pools[0].name, "/")

    @property
    def servers(self) -> tuple[ServerSpec, ...]:
        """The servers of all pools."""
        return tuple(server for pool in self.pools for server in pool.servers)
