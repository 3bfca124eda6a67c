"""Pools, routes and servers on the admin listener: their states, and changes while the program runs.

A change is answered when it is in effect in all processes; see `recorded_change`.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from twisted_lb.api.audit import Attempt
from twisted_lb.api.bodies import BadBody, read_nothing, read_object
from twisted_lb.api.changes import ADD, REMOVE, SET, Change, Changed, ChangeRefused, Changing
from twisted_lb.api.operator_token import OperatorTokens
from twisted_lb.api.pool_summary import counts, pool_state, shown_pool, shown_route, total
from twisted_lb.api.recorded_change import Outcome, RecordedChanges
from twisted_lb.api.responses import Refusal, failure_answer, json_answer
from twisted_lb.api.status import Running, report_of
from twisted_lb.config.admin_tokens import SERVERS
from twisted_lb.config.readers import duration
from twisted_lb.config.sections import read_with
from twisted_lb.pool.pool import REMOVED

# The first segments of the paths that are served here.
PATHS: Final = (b"pools", b"routes")
MAX_BODY_BYTES: Final = 64 * 1024
# The value of `admin_state` that each order sets; None is the default, ready.
ORDERS: Final = {"drain": "drain", "undrain": None, "disable": "disabled", "enable": None}

# Reads the change from the body of a request.  Raises Refusal.
Plan = Callable[[bytes], Change]
# Makes the response after a change.
Show = Callable[[Changed], Awaitable[bytes]]


class PoolsApi:
    """See the module."""

    app = Klein()

    def __init__(self, running: Running, changing: Changing, tokens: OperatorTokens, changes: RecordedChanges) -> None:
        self._running = running
        self._changing = changing
        self._tokens = tokens
        self._changes = changes

    # Reading

    @app.route("/pools", methods=["GET"])
    async def _pools(self, request: Request) -> bytes:
        self._tokens.check_reader(request)
        servers = await self._servers_by_pool()
        live = self._changing.live_changes()
        changed = _changed(live)
        pools = [shown_pool(one, servers[one["name"]], one["name"] in changed) for one in self._changing.pools()]
        return json_answer(request, {"pools": pools, "writes": self._changing.writes(), "live_changes": live})

    @app.route("/pools/<pool>", methods=["GET"])
    async def _pool(self, request: Request, pool: str) -> bytes:
        self._tokens.check_reader(request)
        return json_answer(request, await self._shown_pool(pool))

    @app.route("/pools/<pool>/servers", methods=["GET"])
    async def _servers(self, request: Request, pool: str) -> bytes:
        self._tokens.check_reader(request)
        return json_answer(request, (await self._shown_pool(pool))["servers"])

    @app.route("/pools/<pool>/servers/<server>", methods=["GET"])
    async def _server(self, request: Request, pool: str, server: str) -> bytes:
        self._tokens.check_reader(request)
        return json_answer(request, await self._shown_server(pool, server))

    @app.route("/routes", methods=["GET"])
    async def _routes(self, request: Request) -> bytes:
        self._tokens.check_reader(request)
        servers = await self._servers_by_pool()
        states = {pool["name"]: pool_state(pool, servers[pool["name"]]) for pool in self._changing.pools()}
        totals = {name: total(servers[name]) for name in states}
        return json_answer(request, [shown_route(route, states, totals) for route in self._changing.routes()])

    # Changing

    @app.route("/pools/<pool>/servers", methods=["POST"])
    def _add(self, request: Request, pool: str) -> Deferred[bytes]:
        async def show(changed: Changed) -> bytes:
            request.responseHeaders.setRawHeaders("Location", [f"/pools/{quote(pool)}/servers/{quote(changed.server)}"])
            return json_answer(request, await self._shown_server(pool, changed.server), 201)

        return self._change(request, "add", pool, "", lambda body: Change(ADD, pool, "", _object(body)), show)

    @app.route("/pools/<pool>/servers/<server>", methods=["PATCH"])
    def _set(self, request: Request, pool: str, server: str) -> Deferred[bytes]:
        def plan(body: bytes) -> Change:
            keys = _object(body)
            if not keys:
                raise Refusal(400, "There is nothing to change: give weight, or another key of a server.")
            return Change(SET, pool, server, keys)

        return self._change(request, "set", pool, server, plan, self._server_shown(request, pool))

    @app.route("/pools/<pool>/servers/<server>/<any(drain,undrain,disable,enable):order>", methods=["POST"])
    def _order(self, request: Request, pool: str, server: str, order: str) -> Deferred[bytes]:
        def plan(body: bytes) -> Change:
            _nothing(body)
            return Change(SET, pool, server, {"admin_state": ORDERS[order]})

        return self._change(request, order, pool, server, plan, self._server_shown(request, pool))

    @app.route("/pools/<pool>/servers/<server>", methods=["DELETE"])
    def _remove(self, request: Request, pool: str, server: str) -> Deferred[bytes]:
        def plan(body: bytes) -> Change:
            _nothing(body)
            return Change(REMOVE, pool, server, {})

        return self._change(request, "remove", pool, server, plan, _nothing_shown(request))

    @app.route("/pools/<pool>/maintenance", methods=["PUT"])
    def _begin_maintenance(self, request: Request, pool: str) -> Deferred[bytes]:
        async def show(changed: Changed) -> bytes:
            return json_answer(request, await self._shown_pool(pool))

        def plan(body: bytes) -> Change:
            return Change(SET, pool, "", {"maintenance": _maintenance(body)})

        return self._change(request, "begin_maintenance", pool, "", plan, show)

    @app.route("/pools/<pool>/maintenance", methods=["DELETE"])
    def _end_maintenance(self, request: Request, pool: str) -> Deferred[bytes]:
        def plan(body: bytes) -> Change:
            _nothing(body)
            return Change(SET, pool, "", {"maintenance": None})

        return self._change(request, "end_maintenance", pool, "", plan, _nothing_shown(request))

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)

    def _change(
        self, request: Request, action: str, pool: str, server: str, plan: Plan, show: Show
    ) -> Deferred[bytes]:
        async def make(body: bytes, attempt: Attempt) -> Outcome:
            change = plan(body)
            try:
                changed = await self._changing.change(change)
            except ChangeRefused as error:
                raise Refusal(error.status, error.detail) from None
            more = {"server": changed.server or None, "writes": self._changing.writes()}
            return Outcome(changed.before, changed.after, changed, more)

        about = {"pool": pool, "server": server or None}
        changing = self._changes.make(request, SERVERS, action, about, make)
        return changing.addCallback(lambda changed: Deferred.fromCoroutine(_shown(show, changed)))

    def _server_shown(self, request: Request, pool: str) -> Show:
        async def show(changed: Changed) -> bytes:
            return json_answer(request, await self._shown_server(pool, changed.server))

        return show

    # What is shown

    async def _servers_by_pool(self) -> defaultdict[str, list[dict[str, Any]]]:
        found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for one in (await report_of(self._running)).servers:
            found[one["pool"]].append(one)
        return found

    async def _shown_pool(self, name: str) -> dict[str, Any]:
        pool = next((one for one in self._changing.pools() if one["name"] == name), None)
        if pool is None:
            raise Refusal(404, f"There is no pool {name!r}.")
        servers = (await self._servers_by_pool())[name]
        live = name in _changed(self._changing.live_changes())
        return {**shown_pool(pool, servers, live), "servers": servers}

    async def _shown_server(self, pool: str, name: str) -> dict[str, Any]:
        """A server of the file; an entry that stands for several servers, named `name@address`, is shown with these."""
        servers = [one for one in (await self._shown_pool(pool))["servers"] if one["reason"] != REMOVED]
        for server in servers:
            if server["name"] == name:
                found: dict[str, Any] = server
                return found
        if name not in self._changing.server_names(pool):
            raise Refusal(404, f"The pool {pool} has no server {name!r}.")
        several = [one for one in servers if one["name"].startswith(f"{name}@")]
        return {"name": name, "pool": pool, "servers": several, **counts(several)}


async def _shown(show: Show, changed: Changed) -> bytes:
    return await show(changed)


def _changed(live: Iterable[dict[str, Any]]) -> set[str]:
    """The names of the pools with live changes; that of a limit has its pool in `of`, such as `pool models`."""
    owners = [one["of"].partition(" ") for one in live if one["pool"] is None]
    of_limits = {name for kind, _, name in owners if kind == "pool"}
    return of_limits | {one["pool"] for one in live if one["pool"] is not None}


def _nothing_shown(request: Request) -> Show:
    async def show(changed: Changed) -> bytes:
        request.setResponseCode(204, b"No Content")
        return b""

    return show


def _object(body: bytes) -> dict[str, Any]:
    try:
        return read_object(body)
    except BadBody as error:
        raise Refusal(400, str(error)) from None


def _nothing(body: bytes) -> None:
    try:
        read_nothing(body)
    except BadBody as error:
        raise Refusal(400, str(error)) from None


def _maintenance(body: bytes) -> object:
    """The value of `maintenance` in servers.yaml."""
    members = _object(body) if body else {}
    unknown = [name for name in members if name != "retry_after"]
    if unknown:
        raise Refusal(400, f"{unknown[0]}: unknown key; expected retry_after or no body.")
    if "retry_after" not in members:
        return True
    try:
        return read_with(duration(1), members["retry_after"])
    except ValueError as error:
        raise Refusal(400, f"retry_after: {error}.") from None
