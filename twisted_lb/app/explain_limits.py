"""Which limits a request would meet: a part of GET /explain.

The levels are asked of the store by the admin listener (`api.explained_limits`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twisted_lb.app.limit_rules import ALL, POOL, ROUTE, LimitRules
from twisted_lb.config.gateway import RouteSpec
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.pool import PoolSpec
from twisted_lb.interfaces import GLOBAL, IN_FLIGHT, KEY, Limits
from twisted_lb.limits.request_limits import PER_KEY, PER_NETWORK
from twisted_lb.limits.shared_buckets import address_bucket, address_rule

Shown = dict[str, Any]


def limits_met(
    route: RouteSpec,
    pools: Mapping[str, PoolSpec],
    of_all: Sequence[LimitSpec],
    limits: Limits,
    digest: str,
    network: str,
) -> list[Shown]:
    """The limits in the order in which they are asked, without levels; `bucket` is the key of a shared bucket.

    `of_all` are the limits of all routes.  `digest` is that of the request's key, "" for none, and `network` that of
    its client, "" for one that is not known.
    """
    digest = "" if route.key == "none" else digest
    found: list[Shown] = []
    if digest:
        found.append(_shown(KEY, "key", "", None, 0, 0.0))
        if limits.in_flight:
            found.append(_shown(IN_FLIGHT, "key", "", None, limits.in_flight, 0.0))
    own = [*_of(ROUTE, route.name, route.limits, digest, network)]
    for name in [name for name, _ in route.split] or ([route.pool] if route.pool else []):
        own += _of(POOL, name, pools[name].limits, digest, network)
    if route.pool:
        own += _of(ALL, "", of_all, digest, network)
    found += [one for one in own if not one["shadow"]]
    if digest and limits.global_bucket.capacity:
        found.append(_shown(GLOBAL, "", "", "global", *limits.global_bucket))
    elif not digest and not found and limits.address.capacity:
        rule = address_rule(limits.address)
        bucket = address_bucket(rule, network).key if network else None
        found.append(_shown(rule.name, PER_NETWORK, "", bucket, *limits.address))
    return found + [one for one in own if one["shadow"]]


def _of(kind: str, owner: str, specs: Sequence[LimitSpec], digest: str, network: str) -> Iterator[Shown]:
    for spec, limit in zip(specs, LimitRules().requested(kind, owner, specs)):
        known = network or (spec.per == PER_KEY and digest) or spec.per not in (PER_KEY, PER_NETWORK)
        bucket = limit.bucket(digest, network).key if known else None
        of = f"{kind} {owner}" if owner else ALL
        yield _shown(spec.name, spec.per, of, bucket, spec.capacity, spec.rate_per_sec, spec.shadow)


def _shown(
    name: str, per: str, of: str, bucket: str | None, capacity: int, rate_per_sec: float, shadow: bool = False
) -> Shown:
    return {
        "name": name,
        "per": per or None,
        "of": of or None,
        "capacity": capacity or None,
        "rate_per_sec": rate_per_sec,
        "shadow": shadow,
        "level": None,
        "bucket": bucket,
    }
