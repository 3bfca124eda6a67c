"""The limits of routes and pools, and of all routes, from one configuration to the next.

A limit that stays is the same LimitRule, with another policy, which also applies to requests that began before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from twisted_lb.config.gateway import RouteSpec
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.pool import PoolSpec
from twisted_lb.interfaces import LimitRule
from twisted_lb.limits.request_limits import PER_KEY, PER_NETWORK, RequestLimit, RequestLimits

# Whose a limit is.
ROUTE: Final = "route"
POOL: Final = "pool"
ALL: Final = "all"


class LimitRules:
    """The rules in use, by their keys."""

    def __init__(self) -> None:
        self._rules: dict[str, LimitRule] = {}
        self._used: dict[str, LimitRule] = {}

    def limits_of(
        self, route: RouteSpec, pool: PoolSpec | None = None, of_all: Iterable[LimitSpec] = ()
    ) -> RequestLimits | None:
        """The limits of requests that this route sends to this pool; None: there are none.

        `of_all` are those of all routes.
        """
        limits = list(self.requested(ROUTE, route.name, route.limits))
        if pool is not None:
            limits += self.requested(POOL, pool.name, pool.limits)
            limits += self.requested(ALL, "", of_all)
        return RequestLimits(limits) if limits else None

    def forget_unused(self) -> None:
        """Drop the rules for which was not asked since the last call."""
        self._rules, self._used = self._used, {}

    def requested(self, kind: str, owner: str, specs: Iterable[LimitSpec]) -> Iterable[RequestLimit]:
        """The limits of one ROUTE or POOL with this name, or of ALL routes."""
        for spec in specs:
            # No name has a "|".
            key = f"limit:{kind}|{owner}|{spec.name}"
            of_networks = self._rule(f"{key}|network", spec, unbounded=True)
            rule = self._rule(f"{key}|key" if spec.per == PER_KEY else key, spec)
            of_all = of_networks if spec.per == PER_NETWORK else rule
            yield RequestLimit(spec.per, of_all, of_networks, spec.shadow)

    def _rule(self, key: str, spec: LimitSpec, unbounded: bool = False) -> LimitRule:
        rule = self._used.get(key) or self._rules.get(key)
        if rule is None:
            rule = LimitRule(key, spec.name, spec.capacity, spec.rate_per_sec, unbounded)
        rule.capacity, rule.rate_per_sec = spec.capacity, spec.rate_per_sec
        self._used[key] = rule
        return rule
