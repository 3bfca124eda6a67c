"""Finds the route of a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted_lb.routing.match import Match
from twisted_lb.wire.head import RequestHead


class RouteTable:
    """Interim."""

    def __init__(self, routes: Sequence[tuple[Match, Any]]) -> None:
        self._routes = list(routes)
        self.only: Any = routes[0][1] if len(routes) == 1 and routes[0][0] == Match() else None

    def find(self, head: RequestHead) -> Any:
        """The route."""
        path = head.target.partition(b"?")[0].decode("latin-1")
        host = head.host.partition(b":")[0].decode("latin-1").lower()
        for match, route in self._routes:
            if match.host and match.host != host:
                continue
            if match.path and match.path != path and not (match.path.endswith("/") and path.startswith(match.path)):
                continue
            return route
        return None
