"""Descriptions of changes of the configuration, for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Final

from twisted_lb.config.gateway import GatewaySpec, RouteSpec
from twisted_lb.config.pool import ONLY_POOL, ClassSpec, PoolSpec
from twisted_lb.listed import listed
from twisted_lb.pool.pool import Change
from twisted_lb.steps import Steps, chunks

SHOWN_NAMES: Final = 10  # of each kind, in a log line
# Fields of the configuration whose changes are described separately.
SAID_IN_FULL: Final = ("name", "servers", "balancer", "options", "pricing", "pricing_options", "hooks")
NO_CLASS: Final = ClassSpec("", {})
NOTHING: Final = "the same servers and balancer as before"


def what_changed(before: GatewaySpec, now: GatewaySpec, changes: Mapping[str, Change]) -> Steps[str]:
    """A description of a change, on one line, made in steps; `changes` are those of the pools in `now`."""
    former = {pool.name: pool for pool in before.pools}
    names = {pool.name for pool in now.pools}
    parts = [
        _listed("added the pool", [pool.name for pool in now.pools if pool.name not in former], "added the pools"),
        _listed("removed the pool", [name for name in former if name not in names], "removed the pools"),
    ]
    for pool in now.pools:
        if pool.name in former and (text := what_changed_in_pool(former[pool.name], pool, changes[pool.name])):
            parts.append(text if pool.name == ONLY_POOL else f"pool {pool.name}: {text}")
        yield
    parts.append((yield from _other_routes(before.routes, now.routes)))
    parts.append("cors changed" if before.cors != now.cors else "")
    parts.append("global_limits changed" if before.limits != now.limits else "")
    return "; ".join(part for part in parts if part) or NOTHING


def _other_routes(before: Sequence[RouteSpec], now: Sequence[RouteSpec]) -> Steps[str]:
    former: dict[str, list[RouteSpec]] = {}
    for route in before:
        former.setdefault(route.name, []).append(route)
    yield
    added: list[str] = []
    changed: list[str] = []
    for some in chunks(now):
        for route in some:
            same_name = former.get(route.name, [])
            if route in same_name:
                same_name.remove(route)
            else:
                (changed if same_name else added).append(route.name)
        yield
    removed = [name for name, left in former.items() if left and name not in changed]
    parts = [_listed("added the route", added), _listed("removed the route", removed)]
    parts.append(_listed("changed the route", changed))
    if not any(parts):
        for some, others in zip(chunks(before), chunks(now)):
            if some != others:
                parts.append("order of the routes")
                break
            yield
    return "; ".join(part for part in parts if part)


def what_changed_in_pool(before: PoolSpec, now: PoolSpec, change: Change) -> str:
    """A description of the change of a pool, on one line; empty when there is none."""
    moved = {backend.name for backend in change.added} & {backend.name for backend in change.removed}
    parts = [
        _listed("added", [f"{one.name} {one.url}" for one in change.added if one.name not in moved]),
        _listed("removed", [one.name for one in change.removed if one.name not in moved]),
        _listed("moved", [f"{one.name} to {one.url}" for one in change.added if one.name in moved]),
        _listed("changed", [f"{one.name} ({difference})" for one, difference in change.changed]),
        _listed("health check of", _other_checks(before, now)),
        "order of the servers" if change.reordered else "",
    ]
    parts.append(_other_class("balancer", before.balancer, before.options, now.balancer, now.options))
    parts.append(_other_class("pricing", before.pricing, before.pricing_options, now.pricing, now.pricing_options))
    was, is_now = before.hooks or NO_CLASS, now.hooks or NO_CLASS
    parts.append(_other_class("hooks", was.name, was.options, is_now.name, is_now.options))
    for field in fields(PoolSpec):
        if field.name not in SAID_IN_FULL and getattr(before, field.name) != getattr(now, field.name):
            parts.append(f"{field.name} changed")
    return "; ".join(part for part in parts if part)


def _other_class(
    key: str, before: str, options_before: Mapping[str, object], now: str, options: Mapping[str, object]
) -> str:
    if before != now:
        return f"{key} {before or 'none'} -> {now or 'none'}"
    # An option may be a secret: only its name is shown.
    names = options_before.keys() | options.keys()
    differing = sorted(name for name in names if _option(options_before, name) != _option(options, name))
    return f"changed options of {now}: {', '.join(differing)}" if differing else ""


def _option(options: Mapping[str, object], name: str) -> tuple[bool, object]:
    return name in options, options.get(name)


def _other_checks(before: PoolSpec, now: PoolSpec) -> list[str]:
    checks = {one.name: one.health_check for one in before.servers}
    return [one.name for one in now.servers if one.name in checks and checks[one.name] != one.health_check]


def _listed(what: str, names: Sequence[str], whats: str = "") -> str:
    if not names:
        return ""
    what = whats or what if len(names) > 1 else what
    return f"{what} {listed(names, SHOWN_NAMES)}"
