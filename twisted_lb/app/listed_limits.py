"""All limits of servers.yaml, for operators: GET /limits on the admin listener, and `tokenlb limits`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from twisted_lb.app.limit_rules import ALL, POOL, ROUTE, LimitRules
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.limits import LimitSpec
from twisted_lb.limits.request_limits import PER_KEY, PER_NETWORK
from twisted_lb.limits.shadow_counts import subject_of


def owners_of_limits(spec: GatewaySpec) -> Iterator[tuple[str, str, Sequence[LimitSpec]]]:
    """What may have limits: its kind, its name, and its limits."""
    for route in spec.routes:
        yield ROUTE, route.name, route.limits
    for pool in spec.pools:
        yield POOL, pool.name, pool.limits
    yield ALL, "", spec.limits


def shown_limit(kind: str, owner: str, spec: LimitSpec) -> dict[str, Any]:
    """See Changing.limits."""
    [limit] = LimitRules().requested(kind, owner, (spec,))
    several = spec.per in (PER_KEY, PER_NETWORK)
    return {
        "name": spec.name,
        "of": f"{kind} {owner}" if owner else kind,
        "per": spec.per,
        "capacity": spec.capacity,
        "rate_per_sec": spec.rate_per_sec,
        "shadow": spec.shadow,
        "bucket": None if several else limit.rule.key,
        # With PER_KEY, requests without a key have buckets of another rule.
        "subjects": [
            subject_of(key, spec.capacity, spec.rate_per_sec)
            for key in dict.fromkeys([limit.rule.key, limit.of_networks.key])
        ],
    }
