"""The health checks and connections of each pool in a process that serves clients, and the routes.

A removed pool still serves its requests, and those whose route was chosen before: its connections and checks end when
it has been idle for some seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred

from twisted_lb.app.gateway import Gateway, PoolInUse
from twisted_lb.app.health_service import HealthService
from twisted_lb.app.limit_rules import LimitRules
from twisted_lb.backend import Backend
from twisted_lb.config.gateway import GatewaySpec, RouteSpec
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.pool import HeaderRules as HeaderRulesSpec
from twisted_lb.config.pool import PoolSpec
from twisted_lb.cors import CorsPolicy
from twisted_lb.hooks.hooks import Hooks
from twisted_lb.limits.pricing import NO_PRICING, Pricing
from twisted_lb.limits.request_limits import RequestLimits
from twisted_lb.network.address_ranges import ranges_or_none
from twisted_lb.network.dialer import Dialer
from twisted_lb.proxy.factory import ProxyFactory
from twisted_lb.proxy.header_rules import AddedField, HeaderRules
from twisted_lb.proxy.route import AS_SET, NO_KEY, OPTIONAL, REQUIRED, Access, AnsweringRoute, Mirror, Route, Split
from twisted_lb.proxy.route_answer import RouteAnswer
from twisted_lb.proxy.server_pool import ServerPool
from twisted_lb.repeated import Repeated
from twisted_lb.routing.match import Match
from twisted_lb.routing.specs import match_of
from twisted_lb.routing.table import RouteTable
from twisted_lb.steps import Steps, chunks, finish

# Longer than a request can wait for its tokens to be taken.
IDLE_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 1.0

KEYS: Final = {"required": REQUIRED, "optional": OPTIONAL, "none": NO_KEY}


class _PoolParts:
    """The health checks and connections of one pool."""

    def __init__(self, health: HealthService, server_pool: ServerPool) -> None:
        self.health = health
        self.server_pool = server_pool
        self.idle_since = 0.0


class PoolsInProcess(MultiService):
    """Follows the gateway; the services in it are the health checks of the pools."""

    def __init__(self, reactor: Any, gateway: Gateway, factory: ProxyFactory, dialer: Dialer) -> None:
        """`dialer` opens the connections of the health checks."""
        super().__init__()
        self._reactor = reactor
        self._gateway = gateway
        self._factory = factory
        self._dialer = dialer
        self._parts: dict[str, _PoolParts] = {}
        self._removed: list[_PoolParts] = []
        self._limit_rules = LimitRules()
        self._looks = Repeated(reactor, self._look, "the end of removed pools")
        finish(self.follow(gateway.spec, gateway.pools))
        gateway.parts = self

    def startService(self) -> None:
        """Start the checks."""
        super().startService()
        self._looks.start(LOOK_SECONDS)

    def stopService(self) -> Deferred[None]:
        """Stop the checks."""
        self._looks.stop()
        stopped: Deferred[None] = super().stopService()
        return stopped

    @property
    def removed(self) -> list[tuple[str, Backend]]:
        """The servers of removed pools that still have exchanges, with the name of the pool."""
        pools = [parts.server_pool for parts in self._removed]
        return [(pool.name, backend) for pool in pools for backend in pool.servers.backends if backend.in_flight]

    def follow(self, spec: GatewaySpec, pools: Mapping[str, PoolInUse]) -> Steps[None]:
        """See Parts."""
        for name, one in pools.items():
            parts = self._parts.get(name)
            if parts is None:
                yield from self._add(one)
            else:
                parts.server_pool.configure(one.spec.retries, one.spec.queue, one.spec.maintenance)
                yield from parts.health.follow_in_steps(one.spec)
            yield
        table = yield from self._table(spec, pools)
        self._limit_rules.forget_unused()
        has_hooks = bool(self._gateway.hooks) or any(one.hooks is not None for one in pools.values())
        self._factory.use(table, None if spec.cors is None else CorsPolicy(spec.cors), has_hooks)
        for name in self._parts.keys() - pools.keys():
            parts = self._parts.pop(name)
            parts.idle_since = self._reactor.seconds()
            self._removed.append(parts)

    def _add(self, one: PoolInUse) -> Steps[None]:
        health = HealthService(self._reactor, one.pool, one.spec, self._dialer)
        spec = one.spec
        pool = self._factory.add_pool(one.pool, health.health.request_ended, spec.retries, spec.queue, spec.name)
        pool.maintenance = spec.maintenance
        yield from health.follow_in_steps(spec)
        self._parts[spec.name] = _PoolParts(health, pool)
        self.addService(health)

    def _table(self, spec: GatewaySpec, pools: Mapping[str, PoolInUse]) -> Steps[RouteTable]:
        routes: list[tuple[Match, Route | AnsweringRoute]] = []
        for some in chunks(list(enumerate(spec.routes))):
            for place, one in some:
                hooks = self._gateway.hooks.get(place)
                routes.append((match_of(one), self._route(one, pools, hooks, spec.limits)))
            yield
        return (yield from RouteTable.in_steps(routes))

    def _route(
        self, spec: RouteSpec, pools: Mapping[str, PoolInUse], hooks: Hooks | None, of_all: Sequence[LimitSpec]
    ) -> Route | AnsweringRoute:
        """`hooks` are the route's own, and `of_all` the limits of all routes."""
        if not spec.pool:
            return new_route(spec, self._limit_rules.limits_of(spec))
        routes = []
        for name, weight in spec.split or ((spec.pool, 1),):
            pool = pools[name]
            limits = self._limit_rules.limits_of(spec, pool.spec, of_all)
            routes.append((self._to_pool(spec, pool, limits, hooks or pool.hooks), weight))
        first, _ = routes[0]
        if spec.mirror is not None:
            mirror = Mirror(self._to_pool(spec, pools[spec.mirror.pool], None, None), spec.mirror.percent, Random())
            for route, _ in routes:
                route.copy_to(mirror)
        if spec.split:
            first.divide(Split(routes, spec.split_by == "client"))
        return first

    def _to_pool(self, spec: RouteSpec, pool: PoolInUse, limits: RequestLimits | None, hooks: Hooks | None) -> Route:
        server_pool = self._parts[pool.spec.name].server_pool
        return new_pool_route(spec, server_pool, pool.pricing, pool.spec, limits, hooks)

    def _look(self) -> None:
        """End the parts of removed pools that no request needs any more."""
        now = self._reactor.seconds()
        for parts in list(self._removed):
            if not parts.server_pool.idle:
                parts.idle_since = now
            elif now - parts.idle_since >= IDLE_SECONDS:
                self._removed.remove(parts)
                self._factory.remove_pool(parts.server_pool)
                self.removeService(parts.health)


def new_route(spec: RouteSpec, limits: RequestLimits | None = None) -> AnsweringRoute:
    """A route that answers itself."""
    pricing = NO_PRICING if spec.cost is None else Pricing(default_cost=spec.cost)
    rules = rules_in_order(spec.response_headers)
    key = KEYS[spec.key]
    return AnsweringRoute(answer_of(spec), pricing, spec.name, key, access_of(spec), spec.maintenance, rules, limits)


def new_pool_route(
    spec: RouteSpec,
    pool: ServerPool,
    pricing: Pricing = NO_PRICING,
    pool_spec: PoolSpec | None = None,
    limits: RequestLimits | None = None,
    hooks: Hooks | None = None,
) -> Route:
    """A route to a pool, which has this pricing and this configuration."""
    if spec.cost is not None:
        pricing = Pricing(default_cost=spec.cost)
    of_pool = (None, None) if pool_spec is None else (pool_spec.request_headers, pool_spec.response_headers)
    return Route(
        pool,
        pricing,
        spec.name,
        key=KEYS[spec.key],
        access=access_of(spec),
        maintenance=spec.maintenance,
        response_rules=rules_in_order(of_pool[1], spec.response_headers),
        attempts=AS_SET if spec.attempts is None else spec.attempts,
        timeout=AS_SET if spec.timeout is None else spec.timeout,
        max_body_bytes=AS_SET if spec.max_body is None else spec.max_body,
        strip_prefix=spec.strip_prefix.encode(),
        request_rules=rules_in_order(of_pool[0], spec.request_headers, of_requests=True),
        limits=limits,
        hooks=hooks,
    )


def rules_in_order(*specs: HeaderRulesSpec | None, of_requests: bool = False) -> list[HeaderRules]:
    """The rules of a pool and a route."""
    found = []
    for spec in specs:
        if spec is not None:
            added = [
                AddedField(name.encode(), [(text.encode(), value.encode()) for text, value in parts])
                for name, parts in spec.added
            ]
            found.append(HeaderRules([name.encode() for name in spec.removed], added, of_requests))
    return found


def access_of(spec: RouteSpec) -> Access | None:
    """Which clients may use a route; None: all."""
    if not spec.allow and not spec.deny:
        return None
    return Access(ranges_or_none(spec.allow), ranges_or_none(spec.deny))


def answer_of(spec: RouteSpec) -> RouteAnswer:
    """The answer of a route without a pool."""
    respond, redirect = spec.respond, spec.redirect
    if redirect is not None:
        place = [(text.encode(), name.encode()) for text, name in redirect.place]
        return RouteAnswer(redirect.status, place=place)
    if respond is not None:
        fields = f"\r\nContent-Type: {respond.content_type}".encode() if respond.content else b""
        return RouteAnswer(respond.status, fields, respond.content)
    # It is in maintenance, which is answered before this.
    return RouteAnswer(503)
