"""Pools and routes as operators see them, with states and sums that are computed from those of their servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from twisted_lb.listed import listed
from twisted_lb.pool.pool import REMOVED

SUMS: Final = ("in_flight", "tunnels", "requests", "failures", "retries")
STATES: Final = ("up", "down", "draining", "disabled")
SHOWN_SERVERS: Final = 5  # in a reason

# A server as GET /servers shows it.
Server = Mapping[str, Any]


class Totals(NamedTuple):
    """Sums over the servers of a pool.

    They are computed once for each pool, and added for a route with several pools: there may be many routes to pools
    with many servers.
    """

    sums: tuple[int, ...]  # in the order of SUMS
    latency: float  # the sum of latency_ms times requests, over the servers that have a latency
    measured: int  # the sum of the requests of these servers


def shown_pool(pool: Mapping[str, Any], servers: Sequence[Server], live: bool) -> dict[str, Any]:
    """A pool of `Changing.pools` as it is shown; `live`: it has changes that are not in the file."""
    state, reason = pool_state(pool, servers)
    states = _states(servers)
    return {
        "name": pool["name"],
        "balancer": pool["balancer"],
        "state": state,
        "reason": reason,
        "maintenance": pool["maintenance"] or None,
        "live": live,
        "server_states": {one: states[one] for one in STATES if states[one]},
        **counts(servers),
    }


def pool_state(pool: Mapping[str, Any], servers: Sequence[Server]) -> tuple[str, str]:
    """The state of a pool, and the reason for it."""
    states = _states(servers)
    known = sum(states.values())
    if pool["maintenance"]:
        return "maintenance", f"requests are answered 503 with Retry-After: {pool['maintenance']:g}"
    if not states["up"]:
        return "down", "no server is up" if known else "there is no server"
    if states["down"]:
        names = [one["name"] for one in servers if one["state"] == "down"]
        return "degraded", f"{states['up']} of {known} servers are up; down: {listed(names, SHOWN_SERVERS)}"
    return "up", f"{states['up']} of {known} servers are up"


def shown_route(
    route: Mapping[str, Any], states: Mapping[str, tuple[str, str]], totals: Mapping[str, Totals]
) -> dict[str, Any]:
    """A route of `Changing.routes` as it is shown, from the states and the totals of pools by their names."""
    pools = route["pools"]
    if route["maintenance"]:
        state, reason = "maintenance", f"requests are answered 503 with Retry-After: {route['maintenance']:g}"
    elif not pools:
        state, reason = "up", "it answers itself"
    else:
        state, reason = _state_of_pools({name: states[name] for name in pools})
    counted = _counts([totals[name] for name in pools]) if pools else {}
    return {**route, "state": state, "reason": reason, "maintenance": route["maintenance"] or None, **counted}


def _state_of_pools(states: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    kinds = {state for state, _ in states.values()}
    reason = "; ".join(f"pool {name}: {reason}" for name, (_, reason) in states.items())
    return kinds.pop() if len(kinds) == 1 else "degraded", reason


def total(servers: Sequence[Server]) -> Totals:
    """The sums over these servers."""
    measured = [(one["latency_ms"], max(one["requests"], 1)) for one in servers if one["latency_ms"] is not None]
    sums = tuple([sum(one[name] for one in servers) for name in SUMS])
    return Totals(sums, sum(latency * number for latency, number in measured), sum(number for _, number in measured))


def counts(servers: Sequence[Server]) -> dict[str, Any]:
    """The sums over these servers, and their mean latency, weighted by requests."""
    return _counts([total(servers)])


def _counts(totals: Sequence[Totals]) -> dict[str, Any]:
    requests = sum(one.measured for one in totals)
    latency = round(sum(one.latency for one in totals) / requests, 3) if requests else None
    sums = map(sum, zip(*[one.sums for one in totals]))
    return {**dict(zip(SUMS, sums)), "latency_ms": latency}


def _states(servers: Sequence[Server]) -> Counter[str]:
    return Counter(one["state"] for one in servers if one["reason"] != REMOVED)
