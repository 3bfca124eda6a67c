"""From the routes of the configuration to what they ask of requests."""

from __future__ import annotations

from twisted_lb.config.gateway import RouteSpec
from twisted_lb.routing.match import Match


def match_of(spec: RouteSpec) -> Match:
    """What a route asks of a request."""
    methods = frozenset(method.encode() for method in spec.methods)
    fields = tuple(
        (name.encode(), value.encode() if value is not None else None) for name, value in spec.headers
    )
    return Match(spec.host.encode(), spec.path.encode(), methods, fields)
