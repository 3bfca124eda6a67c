"""Notices of probable mistakes: routes without requests, pools without routes, and one server name in several pools."""

from __future__ import annotations

from typing import Final

from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.routing.match import Match
from twisted_lb.routing.specs import match_of
from twisted_lb.routing.table import RouteTable
from twisted_lb.steps import Steps, chunks

SHOWN: Final = 10  # of each kind


def route_notices(spec: GatewaySpec, file_name: str) -> Steps[list[str]]:
    """One text for each, made in steps."""
    notices = []
    matches: list[tuple[Match, None]] = []
    for some in chunks(spec.routes):
        matches += [(match_of(one), None) for one in some]
        yield
    table = yield from RouteTable.in_steps(matches)
    shadowed = yield from table.shadowed()
    for index, other in shadowed[:SHOWN]:
        name, first = spec.routes[index].name, spec.routes[other].name
        notices.append(
            f"{file_name}: routes[{index}] ({name}): no request can reach it: routes[{other}] ({first}) takes them all"
        )
    used = {one.pool for one in spec.routes} | {name for one in spec.routes for name, _ in one.split}
    used |= {one.mirror.pool for one in spec.routes if one.mirror is not None}
    for unused in [pool.name for pool in spec.pools if pool.name not in used][:SHOWN]:
        notices.append(f"{file_name}: pools.{unused}: no route leads to it")
    yield
    pools: dict[str, list[str]] = {}
    for pool in spec.pools:
        for server in pool.servers:
            pools.setdefault(server.name, []).append(pool.name)
        yield
    for name in [name for name, found in pools.items() if len(found) > 1][:SHOWN]:
        notices.append(f"{file_name}: {name!r} is the name of servers in the pools {', '.join(pools[name][:SHOWN])}")
    return notices
