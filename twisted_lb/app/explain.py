"""Which route a request would take, and why not the others: GET /explain on the admin listener.

Nothing is asked of stores: it spends nothing, and changes nothing.  For servers see `explain_servers`, and for limits
`explain_limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from twisted_lb.api.user_paths import is_user_path
from twisted_lb.app.describe import shown_end
from twisted_lb.app.explain_limits import limits_met
from twisted_lb.app.explain_servers import question
from twisted_lb.app.gateway import Gateway
from twisted_lb.app.pools_in_process import access_of, answer_of
from twisted_lb.config.gateway import RouteSpec
from twisted_lb.interfaces import Limits
from twisted_lb.limits.client_networks import network_of
from twisted_lb.request_record import BAD_REQUEST, FORBIDDEN, MAINTENANCE, NO_ROUTE
from twisted_lb.routing.match import Match
from twisted_lb.routing.path import comparable, path_of
from twisted_lb.routing.readings import certain_route
from twisted_lb.routing.specs import match_of
from twisted_lb.routing.table import RouteTable
from twisted_lb.wire.field_value import field_value
from twisted_lb.wire.head import RequestHead

MOST_OTHERS: Final = 100


class Explainer:
    """Explains by the configuration that is in use."""

    def __init__(self, gateway: Gateway, limits: Limits = Limits()) -> None:
        """`limits` are those that all routes have."""
        self._gateway = gateway
        self._limits = limits
        self._table = RouteTable(())
        self._routes: Sequence[RouteSpec] = ()  # those in the table

    def explain(self, head: RequestHead, client: str, digest: str = "") -> dict[str, Any]:
        """What becomes of a request from this address, "" for any, as far as routes decide; `servers` are the caller's.

        `digest` is that of its key, "" for none; the levels of `limits` are the caller's, too.

        `pool` is the name of the pool, or null; where a split decides, `pools` of the route are those that may have it.
        """
        routes = self._gateway.spec.routes
        path = path_of(head.target)
        if self._routes is not routes:
            self._table = RouteTable([(match_of(one), place) for place, one in enumerate(routes)])
            self._routes = routes
        table = self._table
        found, fault = certain_route(table, head) if table.only is None else (table.only, "")
        outcome = _ended(400, f"{BAD_REQUEST}: {fault}") if fault else self._outcome(routes, found, head, path, client)
        route = None if found is None else routes[found]
        limits = []
        if route is not None and not is_user_path(path) and outcome["reason"] not in (FORBIDDEN, MAINTENANCE):
            pools = {name: one.spec for name, one in self._gateway.pools.items()}
            of_all = self._gateway.spec.limits
            limits = limits_met(route, pools, of_all, self._limits, digest, network_of(client) if client else "")
        return {
            "compared_as": comparable(path).decode("utf-8", "replace") or "*",
            "route": None if route is None else shown_route(route),
            **outcome,
            "limits": limits,
            "others": [
                {"name": one.name, "why_not": why_not(one, head)}
                for one in islice((one for place, one in enumerate(routes) if place != found), MOST_OTHERS)
            ],
        }

    def question(self, head: RequestHead, client: str, user: str, pools: Sequence[str]) -> dict[str, Any]:
        """See Explaining."""
        return question(head, client, user, pools)

    def _outcome(
        self, routes: Sequence[RouteSpec], found: int | None, head: RequestHead, path: bytes, client: str
    ) -> dict[str, Any]:
        if is_user_path(path):
            return _ended(None, "the user API serves this path, whatever the routes are")
        if found is None:
            return _ended(404, NO_ROUTE)
        route = routes[found]
        access = access_of(route)
        if access is not None and client and not access.permits(client):
            return _ended(403, FORBIDDEN)
        if route.maintenance:
            return _ended(503, MAINTENANCE)
        if route.split:
            resting = [name for name, weight in route.split if weight and self._gateway.pools[name].spec.maintenance]
            also = f"; {', '.join(resting)} in maintenance" if resting else ""
            return _ended(None, f"it goes to one of the {shown_end(route)}{also}")
        if route.pool:
            if self._gateway.pools[route.pool].spec.maintenance:
                return _ended(503, MAINTENANCE)
            return {"pool": route.pool, "status": None, "reason": f"it goes to the pool {route.pool}"}
        answer = answer_of(route)
        location = answer.location(head.host, head.target)
        if location is None:
            return _ended(400, BAD_REQUEST)
        where = f" to {location.partition(b': ')[2].decode('latin-1')}" if location else ""
        return _ended(answer.status, f"the route answers itself{where}")


def _ended(status: int | None, reason: str) -> dict[str, Any]:
    return {"pool": None, "status": status, "reason": reason}


def shown_route(route: RouteSpec) -> dict[str, Any]:
    """A route, without the values of fields, which may be secrets."""
    return {
        "name": route.name,
        "host": route.host or None,
        "path": route.path or None,
        "methods": list(route.methods),
        "headers": [name for name, _ in route.headers],
        "pools": [name for name, _ in route.split] or ([route.pool] if route.pool else []),
        "mirror": route.mirror.pool if route.mirror is not None else None,
        "hooks": route.hooks.name if route.hooks is not None else None,
        "key": route.key,
        "cost": route.cost,
    }


def why_not(route: RouteSpec, head: RequestHead) -> str:
    """Why a route does not have the request."""
    match = match_of(route)
    if not _fits(Match(match.host), head):
        return f"its host is {route.host}"
    if not _fits(Match(match.host, match.path), head):
        return f"its path is {route.path}"
    if not _fits(Match(match.host, match.path, match.methods), head):
        return f"its methods are {', '.join(route.methods)}"
    for name, value in match.headers:
        if not _fits(Match(headers=((name, value),)), head):
            has_another = field_value(head, name) is not None
            return f"it asks for {'another value of ' if has_another else ''}{name.decode()}"
    return "another route is more specific, or comes first"


def _fits(match: Match, head: RequestHead) -> bool:
    return RouteTable([(match, True)]).find(head) is not None
