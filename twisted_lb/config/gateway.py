"""The whole of servers.yaml as immutable objects: pools of servers, and routes that lead to them."""

from __future__ import annotations

from dataclasses import dataclass

from twisted_lb.config.cors import Cors
from twisted_lb.config.pool import PoolSpec, ServerSpec


@dataclass(frozen=True)
class RouteSpec:
    """Which requests a route is for, and the pool that they go to."""

    pool: str
    name: str = ""  # for people; unique
    host: str = ""  # in lower case, without a port; "": any, "*.a.test": every name below a.test
    path: str = ""  # "": any; with a slash at the end, a prefix of whole segments
    methods: tuple[str, ...] = ()  # none: any
    headers: tuple[tuple[str, str | None], ...] = ()  # the name in lower case, and the value; None: any


@dataclass(frozen=True)
class GatewaySpec:
    """The pools and the routes in the order of the file."""

    pools: tuple[PoolSpec, ...]
    routes: tuple[RouteSpec, ...]
    cors: Cors | None = None  # None: preflights are passed to the servers, whose responses are not changed

    @property
    def has_routes(self) -> bool:
        """Whether requests are told apart."""
        return len(self.routes) > 1 or self.routes[0] != RouteSpec(self.pools[0].name, "/")

    @property
    def servers(self) -> tuple[ServerSpec, ...]:
        """Those of all pools."""
        return tuple(server for pool in self.pools for server in pool.servers)
