"""What an edit of servers.yaml has changed, whether that is all that has changed, and how edits are combined."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import zip_longest
from typing import Any, Final

from twisted_lb.api.changes import Changed
from twisted_lb.app.limit_rules import ALL, ROUTE
from twisted_lb.config.edits import Edit, LimitPlace
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.pool import PoolSpec, ServerSpec, ServerTls
from twisted_lb.steps import STEP, Steps, chunks

# Fields of a server that are not keys of the file, or are shown in another form.
DERIVED: Final = ("name", "host", "port", "authority", "health_check", "tls")
NOT_SHOWN: Final = "(made of a reference)"
PLAIN: Final = tuple(field.name for field in fields(ServerSpec) if field.name not in DERIVED)


def pool_named(spec: GatewaySpec, name: str) -> PoolSpec | None:
    """The pool of this name."""
    return next((pool for pool in spec.pools if pool.name == name), None)


def only(edit: Edit, before: GatewaySpec, after: GatewaySpec) -> Steps[bool]:
    """Whether nothing has changed except what the edit is meant to change."""
    limit = edit.limit
    if limit is not None and limit_at(limit, after) is not None:
        before = _with_limit(before, limit, limit_at(limit, after))
    if len(before.pools) != len(after.pools) or len(before.routes) != len(after.routes):
        return False
    count = 0
    for pool, other in zip(before.pools, after.pools):
        if _without_servers(edit, pool) != _without_servers(edit, other):
            return False
        for some, same in zip_longest(chunks(_others(edit, pool)), chunks(_others(edit, other))):
            if some != same:
                return False
            count += len(some)
            if count >= STEP:
                count = 0
                yield
        count += 1
    for routes, same_routes in zip(chunks(before.routes), chunks(after.routes)):
        if routes != same_routes:
            return False
        if len(routes) == STEP:
            yield
    return replace(before, pools=(), routes=()) == replace(after, pools=(), routes=())


def _without_servers(edit: Edit, pool: PoolSpec) -> PoolSpec:
    if pool.name == edit.pool and not edit.server:
        return replace(pool, servers=(), maintenance=0.0)
    return replace(pool, servers=())


def _others(edit: Edit, pool: PoolSpec) -> Sequence[ServerSpec]:
    """The servers except the one that is meant to change."""
    if pool.name != edit.pool or not edit.server:
        return pool.servers
    return [server for server in pool.servers if server.name != edit.server]


def limit_at(limit: LimitPlace, spec: GatewaySpec) -> LimitSpec | None:
    """The limit of this place."""
    limits = _limits_of(limit, spec)
    return limits[limit.place] if limit.place < len(limits) else None


def _limits_of(limit: LimitPlace, spec: GatewaySpec) -> tuple[LimitSpec, ...]:
    if limit.kind == ALL:
        return spec.limits
    if limit.kind == ROUTE:
        return spec.routes[limit.route].limits if limit.route < len(spec.routes) else ()
    pool = pool_named(spec, limit.pool)
    return () if pool is None else pool.limits


def _with_limit(spec: GatewaySpec, limit: LimitPlace, new: LimitSpec | None) -> GatewaySpec:
    """The configuration with another limit in this place, where there is one."""
    limits = _limits_of(limit, spec)
    if new is None or limit.place >= len(limits):
        return spec
    limits = (*limits[: limit.place], new, *limits[limit.place + 1 :])
    if limit.kind == ALL:
        return replace(spec, limits=limits)
    if limit.kind == ROUTE:
        place, route = limit.route, replace(spec.routes[limit.route], limits=limits)
        return replace(spec, routes=(*spec.routes[:place], route, *spec.routes[place + 1 :]))
    pools = [replace(pool, limits=limits) if pool.name == limit.pool else pool for pool in spec.pools]
    return replace(spec, pools=tuple(pools))


def target(edit: Edit, spec: GatewaySpec) -> ServerSpec | LimitSpec | float | None:
    """What is meant to change: a server, a limit, or the maintenance of a pool."""
    if edit.limit is not None:
        return limit_at(edit.limit, spec)
    pool = pool_named(spec, edit.pool)
    if pool is None:
        return None
    if not edit.server:
        return pool.maintenance
    return next((server for server in pool.servers if server.name == edit.server), None)


def difference(edit: Edit, before: GatewaySpec, after: GatewaySpec) -> Changed:
    """What an edit has changed."""
    was, now = (_shown(edit, spec) for spec in (before, after))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    if not was or not now:
        return Changed(edit.server, was, now)
    return Changed(edit.server, {key: was[key] for key in keys}, {key: now[key] for key in keys})


def _shown(edit: Edit, spec: GatewaySpec) -> dict[str, Any]:
    found = target(edit, spec)
    if isinstance(found, ServerSpec):
        return _keys(found, spec.hidden)
    if isinstance(found, LimitSpec):
        return {"shadow": found.shadow}
    return {} if found is None else {"maintenance": found}


def _keys(server: ServerSpec, hidden: Collection[str]) -> dict[str, Any]:
    """The keys of a server, as plain values, without those of references, except in its URL, which is shown anyway."""
    check = server.health_check
    return {
        **{key: getattr(server, key) for key in PLAIN},
        "health_check": _without(hidden, asdict(check)) if check is not None else False,
        "tls": _without(hidden, _shown_tls(server.tls)) if server.tls is not None else False,
    }


def _without(hidden: Collection[str], keys: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: NOT_SHOWN if isinstance(value, str) and any(one in value for one in hidden) else value
        for key, value in keys.items()
    }


def _shown_tls(tls: ServerTls) -> dict[str, Any]:
    # Without the contents of the files.
    shown = {field.name: getattr(tls.files, field.name) for field in fields(tls.files) if field.compare}
    del shown["digest"]
    return {"server_name": tls.server_name, **shown}


def with_change(live: dict[tuple[str, str], Changed], edit: Edit, new: Changed) -> dict[tuple[str, str], Changed]:
    """The live changes with one more; those of one server are combined: from its state in the file to now."""
    if not new.before and not new.after:
        return live
    place = edit.pool, edit.server  # of a limit, see `OperatorChanges.live_changes`
    others = {one: changed for one, changed in live.items() if one != place}
    old = live.get(place, Changed(edit.server, {}, {}))
    if place in live and not old.before:
        # It is not in the file.
        return {**others, place: Changed(edit.server, {}, {**old.after, **new.after})} if new.after else others
    before, after = {**new.before, **old.before}, {**old.after, **new.after} if new.after else {}
    if before and after:
        before, after = ({key: one[key] for key in before if before[key] != after.get(key)} for one in (before, after))
    return {**others, place: Changed(edit.server, before, after)} if before or after else others
