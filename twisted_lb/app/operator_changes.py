"""Changes over the admin API: of servers, and of the maintenance of pools.

1. The change is made in the text in use (`config.edits`), which is read and validated like any other servers file.
2. What it says now is compared with what it said before: only what was meant may differ.
3. With ADMIN_WRITES=file the text is written to the file.  Otherwise it is live, and lost with the next other text.
4. It is applied like a reload, in all workers.  When a balancer does not accept it, the file gets its text back.

Changes and reloads are sequential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_lb.api.changes import ADD, REMOVE, SET, Change, Changed, ChangeRefused, Promotion
from twisted_lb.app.edit_effects import difference, only, pool_named, target, with_change
from twisted_lb.app.explain import shown_route
from twisted_lb.app.limit_rules import POOL, ROUTE
from twisted_lb.app.listed_limits import owners_of_limits, shown_limit
from twisted_lb.app.reload import ServersFile
from twisted_lb.app.servers_reader import NotRead, Read
from twisted_lb.app.servers_writer import ChangedMeanwhile, NotWritten
from twisted_lb.config.edits import Edit, LimitPlace, NotEditable
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.pool import PoolSpec
from twisted_lb.config.servers_file import server_problems
from twisted_lb.config.servers_schema import ServerModel
from twisted_lb.config.servers_specs import name_from_url
from twisted_lb.config.settings import Misconfigured
from twisted_lb.steps import run_in_turns

LIVE: Final = "live"
FILE: Final = "file"
SHARED: Final = "In the servers file, this is a part of other things as well: a YAML alias or merge key leads to it."
_log = Logger()

# Replaces the first text of the file by the second.
Write = Callable[[str, str], Deferred[None]]


class OperatorChanges:
    """See api.changes.Changing."""

    def __init__(self, reactor: Any, file: ServersFile, write: Write | None = None) -> None:
        """`write` writes the text of the file; None: changes are live."""
        self._reactor = reactor
        self._file = file
        self._write = write

    @property
    def _spec(self) -> GatewaySpec:
        assert self._file.spec is not None
        return self._file.spec

    def writes(self) -> str:
        """See Changing."""
        return LIVE if self._write is None else FILE

    def live_changes(self) -> list[dict[str, Any]]:
        """See Changing."""
        return [_shown_change(*place, changed) for place, changed in self._file.live.items()]

    def pools(self) -> list[dict[str, Any]]:
        """See Changing."""
        return [
            {"name": pool.name, "balancer": pool.balancer, "maintenance": pool.maintenance}
            for pool in self._spec.pools
        ]

    def server_names(self, pool: str) -> Sequence[str]:
        """See Changing."""
        return [one.name for found in self._spec.pools if found.name == pool for one in found.servers]

    def routes(self) -> list[dict[str, Any]]:
        """See Changing."""
        return [{**shown_route(route), "maintenance": route.maintenance} for route in self._spec.routes]

    def change(self, change: Change) -> Deferred[Changed]:
        """See Changing."""
        return self._file.lock.run(lambda: Deferred.fromCoroutine(self._change(change)))

    def promote(self, promotion: Promotion) -> Deferred[Changed]:
        """See Changing."""
        return self._file.lock.run(lambda: Deferred.fromCoroutine(self._promote(promotion)))

    def limits(self) -> list[dict[str, Any]]:
        """See Changing."""
        return [
            shown_limit(kind, owner, limit)
            for kind, owner, limits in owners_of_limits(self._spec)
            for limit in limits
        ]

    async def _promote(self, promotion: Promotion) -> Changed:
        edit = planned_promotion(self._spec, promotion)
        return await self._edit(edit, Change(SET, "", "", {}))

    async def _change(self, change: Change) -> Changed:
        return await self._edit(planned(self._spec, change), change)

    async def _edit(self, edit: Edit, change: Change) -> Changed:
        before = self._spec
        try:
            read = await self._file.edited(edit)
            if change.keys.get("maintenance", False) is None and pool_of(read.spec, change.pool).maintenance:
                # The key at the top is that of all pools.
                read = await self._file.edited(edit._replace(keys={"maintenance": False}))
        except NotEditable as error:
            raise ChangeRefused(409, f"This cannot be changed in the servers file: {error}.") from None
        except NotRead as error:
            raise ChangeRefused(503, f"Nothing was changed: {_sentence(error.problems)}") from None
        except Misconfigured as error:
            raise ChangeRefused(400, _without_places(error)) from None
        if not await run_in_turns(self._reactor, only(edit, before, read.spec)):
            raise ChangeRefused(409, SHARED)
        changed = difference(edit, before, read.spec)
        if target(edit, read.spec) != target(edit, before):
            await self._use(read, edit, changed)
        return changed

    async def _use(self, read: Read, edit: Edit, changed: Changed) -> None:
        former = self._file.text
        await self._store(former, read.text)
        try:
            await self._file.swap_in(read)
        except Misconfigured as error:
            remains = await self._restored(read.text, former)
            raise ChangeRefused(409, _without_places(error) + (f" {remains}" if remains else "")) from None
        except Exception:
            if remains := await self._restored(read.text, former):
                _log.error("A change failed. {remains}", remains=remains)
            raise
        if self._write is not None:
            self._file.text = read.text
        else:
            self._file.live = with_change(self._file.live, edit, changed)

    async def _restored(self, written: str, former: str) -> str:
        """Give the file its former text back, after a change that was written failed; what to say where it keeps it."""
        if self._write is not None:
            try:
                await self._write(written, former)
            except NotWritten as error:
                return f"It is not in use, but the servers file has the change, and keeps it: {error}."
        return ""

    async def _store(self, before: str, after: str) -> None:
        if self._write is None:
            return
        try:
            await self._write(before, after)
        except ChangedMeanwhile as error:
            raise ChangeRefused(409, f"Nothing was changed: {error}.") from None
        except NotWritten as error:
            raise ChangeRefused(503, f"Nothing was changed: {error}.") from None


def _shown_change(pool: str, server: str, changed: Changed) -> dict[str, Any]:
    values = {"before": changed.before or None, "after": changed.after or None}
    if pool:
        return {"pool": pool, "server": server or None, **values}
    # It is of a limit; no limit has a space in its name.
    of, _, limit = server.rpartition(" ")
    return {"pool": None, "server": None, "limit": limit, "of": of, **values}


def planned_promotion(spec: GatewaySpec, promotion: Promotion) -> Edit:
    """The edit of the text that makes a shadow a limit that is enforced.  Raises ChangeRefused."""
    kind, owner, name = promotion
    limits: Sequence[LimitSpec] = spec.limits
    route = 0
    if kind == POOL:
        limits = pool_of(spec, owner).limits
    elif kind == ROUTE:
        named = [place for place, one in enumerate(spec.routes) if one.name == owner]
        if not named:
            raise ChangeRefused(404, f"There is no route {owner!r}.")
        # Of several routes of a name, only one may have limits.
        route = next((place for place in named if spec.routes[place].limits), named[0])
        limits = spec.routes[route].limits
    whose = f"The {kind} {owner}" if owner else "The list global_limits"
    place = next((place for place, limit in enumerate(limits) if limit.name == name), None)
    if place is None:
        raise ChangeRefused(404, f"{whose} has no limit {name!r}.")
    if not limits[place].shadow:
        raise ChangeRefused(409, f"The limit {name} is no shadow: it is enforced already.")
    of = f"{kind} {owner}" if owner else kind
    return Edit("", f"{of} {name}", {"shadow": None}, limit=LimitPlace(kind, route, owner, place))


def pool_of(spec: GatewaySpec, name: str) -> PoolSpec:
    """The pool of this name.  Raises ChangeRefused."""
    pool = pool_named(spec, name)
    if pool is None:
        raise ChangeRefused(404, f"There is no pool {name!r}.")
    return pool


def planned(spec: GatewaySpec, change: Change) -> Edit:
    """The edit of the text that makes a change.  Raises ChangeRefused."""
    pool = pool_of(spec, change.pool)
    if not change.server and change.action != ADD:
        return Edit(pool.name, "", change.keys)
    names = [server.name for server in pool.servers]
    if change.action == ADD:
        _check(change.keys)
        name = str(change.keys.get("name") or name_from_url(change.keys["url"]))
        if name in names:
            raise ChangeRefused(409, f"The pool {pool.name} has a server {name!r} already.")
        return Edit(pool.name, name, change.keys, new=True)
    if change.server not in names:
        whole, at, _ = change.server.partition("@")
        if at and whole in names:
            raise ChangeRefused(409, f"{change.server} is one of the servers that {whole} stands for: change {whole}.")
        where = f" in the servers file; those of its list are changed in {pool.discover.file}"
        raise ChangeRefused(
            404, f"The pool {pool.name} has no server {change.server!r}{where if pool.discover.file else ''}."
        )
    if change.action == REMOVE:
        if len(names) == 1 and not pool.discover.file:
            instead = "disable it, or put the pool into maintenance"
            raise ChangeRefused(409, f"It is the only server of the pool {pool.name}, which needs one: {instead}.")
        return Edit(pool.name, change.server, None)
    for key in ("name", "url"):
        if key in change.keys:
            raise ChangeRefused(400, f"{key}: expected none: add another server, and remove this one.")
    # Where a key is null there is nothing to check but its name.
    null = [key for key, value in change.keys.items() if value is None and key in ServerModel.model_fields]
    _check({"url": "http://a", **{key: value for key, value in change.keys.items() if key not in null}})
    return Edit(pool.name, change.server, change.keys)


def _check(keys: Mapping[str, Any]) -> None:
    problems = server_problems(keys)
    if problems:
        raise ChangeRefused(400, _sentence(problems))


def _without_places(error: Misconfigured) -> str:
    """The problems without the lines of the text, which the operator does not see."""
    return _sentence([problem.partition(": ")[2] or problem for problem in error.problems])


def _sentence(problems: Sequence[str]) -> str:
    text = "; ".join(problems)
    return text if text.endswith("?") else f"{text}."
