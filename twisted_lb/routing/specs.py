"""The conditions of routes, from the configuration."""

from __future__ import annotations

from twisted_lb.config.gateway import RouteSpec
from twisted_lb.routing.match import Match


def match_of(spec: RouteSpec) -> Match:
    """The conditions of a route."""
    methods = frozenset(method.encode() for method in spec.methods)
    fields = tuple(
        (name.encode(), value.encode() if value is not None else None) for name, value in spec.headers
    )
    return Match(spec.host.encode(), spec.path.encode(), methods, fields)
