"""Converts the models of servers.yaml to the objects that the rest of the program uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, NamedTuple

from twisted_lb.config.cors import Cors
from twisted_lb.config.gateway import Mirror, Redirect, Respond, RouteSpec
from twisted_lb.config.header_rules import rules_of
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.limits_schema import LimitModel
from twisted_lb.config.pool import (
    LISTED_HOST,
    ClassSpec,
    Discover,
    Ejection,
    HealthCheck,
    Queue,
    Retries,
    ServerSpec,
    ServerTls,
)
from twisted_lb.config.routes_schema import RouteModel
from twisted_lb.config.sections import Named, Section
from twisted_lb.config.server_url import location
from twisted_lb.config.servers_schema import (
    NO_CHECK,
    NO_EJECTION,
    DiscoverModel,
    FileModel,
    PoolKeys,
    ServerModel,
)


def _layered(kind: Callable[..., Any], *sections: Section | None) -> Any:
    """An object of the keys of all sections, of which the later ones take precedence."""
    keys: dict[str, Any] = {}
    for section in sections:
        for name in section.model_fields_set if section is not None else ():
            keys[name] = getattr(section, name)
    return kind(**keys)


class Keys(NamedTuple):
    """The keys of a pool, and those that all pools have; where there is one pool only, both are the file's."""

    own: PoolKeys
    general: PoolKeys

    def of(self, key: str) -> Any:
        """The value of a key that is not a section."""
        return getattr(self.own if key in self.own.model_fields_set else self.general, key)

    def sections(self, key: str) -> tuple[Section | None, Section | None]:
        """The sections of a key, the more general first."""
        own = getattr(self.own, key)
        if _is_nothing(own):
            return None, own
        general = getattr(self.general, key)
        # A pool's own section is not combined with a general `false`.
        return (None if _is_nothing(general) and own is not None else general), own


def _is_nothing(section: Section | None) -> bool:
    """Whether the section was written as `false`, rather than as keys with the same effect."""
    return section is NO_CHECK or section is NO_EJECTION


def pool_parts(keys: Keys) -> dict[str, Any]:
    """Everything but the servers, by the names of PoolSpec's fields."""
    word, options = keys.of("balancer")
    pricing, pricing_options = keys.of("pricing")
    return {
        "balancer": word,
        "options": MappingProxyType(options),
        "pricing": pricing,
        "pricing_options": MappingProxyType(pricing_options),
        "hooks": class_spec(keys.of("hooks")),
        "ejection": _layered(Ejection, *keys.sections("ejection")),
        "panic_threshold": keys.of("panic_threshold"),
        "maintenance": keys.of("maintenance"),
        "request_headers": rules_of(keys.of("request_headers")),
        "response_headers": rules_of(keys.of("response_headers")),
        "retries": _layered(Retries, *keys.sections("retries")),
        "queue": _layered(Queue, *keys.sections("queue")),
        "limits": limit_specs(keys.of("limits")),
    }


def class_spec(named: Named | None) -> ClassSpec | None:
    """A class and its options."""
    return None if named is None else ClassSpec(*named)


def server_spec(server: ServerModel, keys: Keys, tls: ServerTls | None) -> ServerSpec:
    """The server; what it does not set of its health check and `send_proxy` is taken from its pool."""
    host, port = location(server.url)
    return ServerSpec(
        server.name or name_from_url(server.url),
        server.url,
        host,
        port,
        server.weight,
        server.maxconn,
        server.backup,
        server.slowstart,
        _check(server.health_check, *keys.sections("health_check")),
        (server.send_proxy if server.send_proxy is not None else keys.of("send_proxy")) or 0,
        tls,
        server.admin_state,
        server.expand,
    )


# Stands for the servers of a discovered list: it gets the settings that its pool has for all servers.
_TEMPLATE = ServerModel.model_construct(name="listed", url=f"https://{LISTED_HOST}")


def discover_spec(
    found: DiscoverModel | None, directory: str, spec_of: Callable[[ServerModel], ServerSpec]
) -> Discover:
    """Where servers are found; relative paths are relative to `directory`, and `spec_of` makes a server of the pool."""
    if found is None:
        return Discover()
    if not found.file:
        return Discover(max_ttl=found.max_ttl)
    return Discover(os.path.join(directory, found.file), found.max_ttl, spec_of(_TEMPLATE))


def name_from_url(url: str) -> str:
    """The name of a server that has none of its own: its host and port."""
    return url.partition("//")[2].partition("/")[0].lower()


def route_name(route: RouteModel) -> str:
    """The name of a route."""
    return route.name or f"{route.host}{route.path or '/'}"


def route_spec(route: RouteModel) -> RouteSpec:
    """The route."""
    name = route_name(route)
    respond, redirect, split, mirror = route.respond, route.redirect, route.split, route.mirror
    shares = tuple(split.pools.items()) if split is not None else ()
    return RouteSpec(
        shares[0][0] if shares else route.pool,
        name,
        route.host,
        route.path,
        route.methods,
        route.headers,
        route.key,
        route.cost,
        route.timeout,
        route.retries.attempts if route.retries is not None else None,
        route.max_body,
        route.strip_prefix,
        route.allow,
        route.deny,
        route.maintenance,
        rules_of(route.request_headers),
        rules_of(route.response_headers),
        Respond(respond.status, respond.content_type, respond.body.encode()) if respond is not None else None,
        Redirect(redirect.status, redirect.to) if redirect is not None else None,
        shares,
        split.by if split is not None else RouteSpec.split_by,
        limit_specs(route.limits),
        class_spec(route.hooks),
        Mirror(mirror.pool, mirror.percent) if mirror is not None else None,
    )


def limit_specs(limits: Iterable[LimitModel]) -> tuple[LimitSpec, ...]:
    """The limits of a route, a pool, or all routes."""
    # Never -0.0, by which Lua would divide.
    return tuple(LimitSpec(one.name, one.per, one.capacity, one.rate_per_sec + 0.0, one.shadow) for one in limits)


def cors_of(file: FileModel) -> Cors | None:
    """What pages of other origins may do."""
    return _layered(Cors, file.cors) if file.cors is not None else None


def _check(own: Section | None, *general: Section | None) -> HealthCheck | None:
    if own is NO_CHECK:
        return None
    present = [section for section in (*general, own) if section is not None and section is not NO_CHECK]
    return _layered(HealthCheck, *present) if present else None
