"""What an operator may not have meant: routes that have no requests, and servers with one name in several pools."""

from __future__ import annotations

from typing import Final

from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.routing.specs import match_of
from twisted_lb.routing.table import RouteTable

SHOWN: Final = 10  # of each kind


def route_notices(spec: GatewaySpec, file_name: str) -> list[str]:
    """One text for each."""
    notices = []
    routes = spec.routes
    for index, other in RouteTable([(match_of(one), None) for one in routes]).shadowed()[:SHOWN]:
        name, first = routes[index].name, routes[other].name
        notices.append(
            f"{file_name}: routes[{index}] ({name}): no request can have it: routes[{other}] ({first}) has them all"
        )
    used = {one.pool for one in routes}
    for pool in [pool.name for pool in spec.pools if pool.name not in used][:SHOWN]:
        notices.append(f"{file_name}: pools.{pool}: no route leads to it")
    pools: dict[str, list[str]] = {}
    for one in spec.pools:
        for server in one.servers:
            pools.setdefault(server.name, []).append(one.name)
    for name in [name for name, found in pools.items() if len(found) > 1][:SHOWN]:
        notices.append(f"{file_name}: {name!r} is the name of servers in the pools {', '.join(pools[name][:SHOWN])}")
    return notices
