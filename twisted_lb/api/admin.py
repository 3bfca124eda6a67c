"""The admin listener: liveness, readiness, the state of the servers and the store, and metrics.

There may be another listener for probes, which serves only the first two.  Pools and routes are in `pools`, users and
keys in `users` and `users_transfer`.  All data comes from a `Running` and a store, so that this module depends neither
on health nor on stores, nor on which process serves clients.
"""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from klein import Klein
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import Request
from zope.interface import implementer

from twisted_lb import BUILD
from twisted_lb.api.audit import Auditing, NoRecording, Recording
from twisted_lb.api.changes import Changing
from twisted_lb.api.explained_limits import refusal_of, with_levels
from twisted_lb.api.explained_request import explained_key, explained_request, explained_user
from twisted_lb.api.hosts import counts_as_local
from twisted_lb.api.limits import PATH as LIMITS_PATH
from twisted_lb.api.limits import LimitsApi
from twisted_lb.api.operator_token import NO_TOKENS, UNKNOWN_TOKEN, OperatorTokens
from twisted_lb.api.operators import OperatorFactory
from twisted_lb.api.pools import MAX_BODY_BYTES, PoolsApi
from twisted_lb.api.pools import PATHS as POOL_PATHS
from twisted_lb.api.recorded_change import RecordedChanges
from twisted_lb.api.responses import Refusal, answer, failure_answer, json_answer
from twisted_lb.api.status import Explaining, Running, report_of
from twisted_lb.api.users import PATHS as USER_PATHS
from twisted_lb.api.users import UserAdministration, UsersApi
from twisted_lb.api.users_transfer import MAX_IMPORT_BYTES, TransferApi
from twisted_lb.api.users_transfer import PATHS as TRANSFER_PATHS
from twisted_lb.config.admin_tokens import AdminToken
from twisted_lb.interfaces import KEY, IUserStore, StoreUnavailable
from twisted_lb.pool.pool import REMOVED
from twisted_lb.steps import run_in_turns
from twisted_lb.wire.head import RequestHead

# Served without restrictions and for any Host: Kubernetes uses the address of the pod.
HEALTH_PATHS = frozenset((b"/livez", b"/readyz"))
MAX_CONNECTIONS = 256
NO_RECORDING = NoRecording()
CHANGING = (b"POST", b"PUT", b"PATCH", b"DELETE")


def _alive(request: Request) -> bytes:
    return answer(request, 200, "text/plain; charset=utf-8", b"ok\n")


async def _readiness(request: Request, running: Running) -> bytes:
    report = await report_of(running)
    shown = {"ready": report.ready, "degraded": report.degraded, "reason": report.reason, "build": BUILD}
    return json_answer(request, shown, 200 if report.ready else 503)


class _HealthApi:
    app = Klein()

    def __init__(self, running: Running) -> None:
        self._running = running

    @app.route("/livez", methods=["GET"])
    def _livez(self, request: Request) -> bytes:
        return _alive(request)

    @app.route("/readyz", methods=["GET"])
    async def _readyz(self, request: Request) -> bytes:
        return await _readiness(request, self._running)

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)


class _AdminApi:
    app = Klein()

    def __init__(
        self,
        reactor: Any,
        running: Running,
        explaining: Explaining | None,
        tokens: OperatorTokens,
        users: IUserStore | None,
    ) -> None:
        self._reactor = reactor
        self._running = running
        self._explaining = explaining
        self._tokens = tokens
        self._users = users

    @app.route("/livez", methods=["GET"])
    def _livez(self, request: Request) -> bytes:
        return _alive(request)

    @app.route("/readyz", methods=["GET"])
    async def _readyz(self, request: Request) -> bytes:
        return await _readiness(request, self._running)

    @app.route("/servers", methods=["GET"])
    async def _servers(self, request: Request) -> bytes:
        self._tokens.check_reader(request)
        return json_answer(request, (await report_of(self._running)).servers)

    @app.route("/metrics", methods=["GET"])
    async def _metrics(self, request: Request) -> bytes:
        self._tokens.check_reader(request)
        report = await report_of(self._running)
        # The client of Prometheus is loaded by the first scrape.
        from twisted_lb.api.metrics import CONTENT_TYPE, metrics_steps

        text = await run_in_turns(self._reactor, metrics_steps(report))
        return answer(request, 200, CONTENT_TYPE, text)

    @app.route("/openapi.json", methods=["GET"])
    async def _openapi(self, request: Request) -> bytes:
        self._tokens.check_reader(request)
        # What describes the APIs is loaded when it is first asked for.
        from twisted_lb.api.openapi import openapi_text

        return answer(request, 200, "application/json", openapi_text().encode())

    @app.route("/explain", methods=["GET"])
    async def _explain(self, request: Request) -> bytes:
        self._tokens.check_reader(request)
        head, client = explained_request(request.args)
        if self._explaining is None:
            raise Refusal(404, "This process has no routes.")
        user = explained_user(request.args)
        digest = await self._digest(*explained_key(request.args))
        found = self._explaining.explain(head, client, digest)
        levels = await self._levels(found["limits"], digest)
        if levels is not None and any(limit["name"] == KEY for limit in found["limits"]):
            refusal = refusal_of(levels)
            if refusal is not None:
                status, reason = refusal
                found = {**found, "pool": None, "status": status, "reason": reason, "limits": []}
            else:
                user = user or levels["key"]["user"]
        pools = found["route"]["pools"] if found["route"] is not None and found["status"] is None else []
        servers = await self._explained_servers(self._explaining.question(head, client, user, pools)) if pools else []
        return json_answer(request, {**found, "servers": servers, "limits": with_levels(found["limits"], levels)})

    async def _digest(self, key_id: str, digest: str) -> str:
        """The digest of the key that is named in one of the two ways, "" for none.  Raises Refusal."""
        if not key_id:
            return digest
        user = None if self._users is None else await self._users.find_key(key_id)
        key = None if user is None else user.key(key_id)
        if key is None:
            raise Refusal(404, f"There is no key {key_id}.")
        return key.digest

    async def _explained_servers(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        """The servers of the pools with their places among the choices, and why not each of them."""
        try:
            chosen = self._running.choices(asked)
            by_pool = await chosen if isinstance(chosen, Awaitable) else chosen
        except StoreUnavailable:
            # No worker responds.
            by_pool = {}
        places: dict[tuple[str, str], int] = {}
        for name, pool in by_pool.items():
            for place, server in enumerate(pool["order"] or [], 1):
                places.setdefault((name, server), place)
        found = []
        for one in (await report_of(self._running)).servers:
            if one["pool"] in asked["pools"]:
                pool, removed = by_pool.get(one["pool"], {"why_not": {}}), one["reason"] == REMOVED
                choice = None if removed else places.get((one["pool"], one["name"]))
                why_not = REMOVED if removed else pool["why_not"].get(one["name"])
                found.append({**one, "choice": choice, "why_not": why_not})
        return found

    async def _levels(self, limits: list[dict[str, Any]], digest: str) -> dict[str, Any] | None:
        """The levels of the limits; None while the store is unavailable."""
        buckets = [[one["bucket"], one["capacity"], one["rate_per_sec"]] for one in limits if one["bucket"]]
        try:
            return await self._running.levels(digest, buckets) if limits else None
        except StoreUnavailable:
            return None

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)


def _judge(head: RequestHead, here: str) -> tuple[int, str] | None:
    """Without a token, everything but liveness and readiness requires a local name in Host; see `hosts`."""
    if head.target.partition(b"?")[0] in HEALTH_PATHS or counts_as_local(head.host, here):
        return None
    return 403, "The Host is neither localhost nor a loopback address; for another name, set ADMIN_TOKEN and send it."


def admin_factory(
    reactor: Any,
    running: Running,
    tokens: OperatorTokens | Sequence[AdminToken] = (),
    max_connections: int = MAX_CONNECTIONS,
    explaining: Explaining | None = None,
    changing: Changing | None = None,
    recording: Recording = NO_RECORDING,
    users: UserAdministration | None = None,
) -> OperatorFactory:
    """The factory for the admin listener; `explaining` is for /explain, `changing` for /pools and /routes.

    If there are `tokens`, one of them is required for everything but liveness and readiness; without any, these paths
    accept only local names in Host, and nothing can be changed.  `recording` gets an entry for each change.
    """
    if not isinstance(tokens, OperatorTokens):
        tokens = OperatorTokens(tokens)
    audit = Auditing(recording, reactor)
    changes = RecordedChanges(tokens, audit)
    store = None if users is None else users.store
    others: Any = _AdminApi(reactor, running, explaining, tokens, store).app.resource()
    apis: dict[bytes, Any] = {}
    if changing is not None:
        apis |= dict.fromkeys(POOL_PATHS, PoolsApi(running, changing, tokens, changes).app.resource())
        usage = None if users is None else users.usage
        apis[LIMITS_PATH] = LimitsApi(running, changing, usage, tokens, changes).app.resource()
    if users is not None:
        apis |= dict.fromkeys(USER_PATHS, UsersApi(users, tokens, changes).app.resource())
        apis |= dict.fromkeys(TRANSFER_PATHS, TransferApi(reactor, users, tokens, changes).app.resource())
    judge = _Judge(tokens)
    resource = _ByPath(apis, others)
    return OperatorFactory(reactor, resource, max_connections, judge.judge, _body_bound, audit.rejected)


class _Judge:
    """What is refused before the body is read."""

    def __init__(self, tokens: OperatorTokens) -> None:
        self._tokens = tokens

    def judge(self, head: RequestHead, here: str) -> tuple[int, str] | None:
        """See operators.Judge."""
        required = self._tokens.required
        if _first(head) in TRANSFER_PATHS and not self._tokens.knows(head.notable.get(b"authorization", ())):
            # Only operators may send a large body.
            return (401, UNKNOWN_TOKEN) if required else (403, NO_TOKENS)
        return None if required else _judge(head, here)


@implementer(IResource)
class _ByPath:
    """Several resources, by the first segment of the path, and one for all other paths.

    Each segment is percent-encoded again, so that a "/" in it is not read as the end of the segment.
    """

    isLeaf = True

    def __init__(self, by_first: Mapping[bytes, Any], others: Any) -> None:
        self._by_first = by_first
        self._others = others

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        raise NotImplementedError("a leaf has no children")

    def putChild(self, path: bytes, child: IResource) -> None:
        raise NotImplementedError("a leaf has no children")

    def render(self, request: Request) -> Any:
        first = request.postpath[0] if request.postpath else b""
        if first in POOL_PATHS and LIMITS_PATH in (request.postpath or ())[2:3]:
            first = LIMITS_PATH
        if first == LIMITS_PATH or first in USER_PATHS:
            request.postpath = [quote(segment, safe="").encode() for segment in request.postpath or ()]
        return self._by_first.get(first, self._others).render(request)


def _body_bound(head: RequestHead) -> int:
    """Only changes have a body."""
    if head.method not in CHANGING:
        return 0
    first = _first(head)
    if first in TRANSFER_PATHS:
        return MAX_IMPORT_BYTES
    return MAX_BODY_BYTES if first in (*POOL_PATHS, LIMITS_PATH, *USER_PATHS) else 0


def _first(head: RequestHead) -> bytes:
    """The first segment of the path."""
    return b"".join(head.target.partition(b"?")[0].split(b"/")[1:2])


def health_factory(reactor: Any, running: Running, max_connections: int = MAX_CONNECTIONS) -> OperatorFactory:
    """The factory for listeners that serve only liveness and readiness."""
    return OperatorFactory(reactor, _HealthApi(running).app.resource(), max_connections)
