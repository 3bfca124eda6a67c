"""The admin listener: liveness, readiness, the state of the servers and the store, the users, and metrics.

There may be another listener for probes, which serves only the first two.  Both are read-only.  All data comes from a
`Running`, so that this module depends neither on health nor on stores, nor on which process serves clients.
"""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

import re
import unicodedata
from hmac import compare_digest
from typing import Any

from klein import Klein
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from twisted_lb import BUILD
from twisted_lb.api.explained_limits import with_levels
from twisted_lb.api.explained_request import explained_key, explained_request
from twisted_lb.api.hosts import counts_as_local
from twisted_lb.api.metrics import CONTENT_TYPE, metrics_text
from twisted_lb.api.operators import OperatorFactory
from twisted_lb.api.responses import Refusal, answer, failure_answer, json_answer
from twisted_lb.api.status import Explaining, Running, report_of
from twisted_lb.credentials import bearer_token
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.user_names import MAX_NAME_CHARACTERS
from twisted_lb.wire.head import RequestHead

USUAL_PAGE = 100
LARGEST_PAGE = 200
_PAGE_SIZE = re.compile(rb"[0-9]{1,3}")

# Served without restrictions and for any Host: Kubernetes uses the address of the pod.
HEALTH_PATHS = frozenset((b"/livez", b"/readyz"))
MAX_CONNECTIONS = 256


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

    def __init__(self, running: Running, explaining: Explaining | None, admin_token: str) -> None:
        self._running = running
        self._explaining = explaining
        self._token = admin_token.encode()

    @app.route("/livez", methods=["GET"])
    def _livez(self, request: Request) -> bytes:
        return _alive(request)

    @app.route("/readyz", methods=["GET"])
    async def _readyz(self, request: Request) -> bytes:
        return await _readiness(request, self._running)

    @app.route("/servers", methods=["GET"])
    async def _servers(self, request: Request) -> bytes:
        self._authorize(request)
        return json_answer(request, (await report_of(self._running)).servers)

    @app.route("/metrics", methods=["GET"])
    async def _metrics(self, request: Request) -> bytes:
        self._authorize(request)
        return answer(request, 200, CONTENT_TYPE, metrics_text(await report_of(self._running)))

    @app.route("/users", methods=["GET"])
    async def _users(self, request: Request) -> bytes:
        self._authorize(request)
        after, count = _page_asked_for(request)
        return json_answer(request, await self._running.users(after, count))

    @app.route("/explain", methods=["GET"])
    async def _explain(self, request: Request) -> bytes:
        self._authorize(request)
        head, client = explained_request(request.args)
        if self._explaining is None:
            raise Refusal(404, "This process has no routes.")
        digest = explained_key(request.args)
        found = self._explaining.explain(head, client, digest)
        pools = found["route"]["pools"] if found["route"] is not None and found["status"] is None else []
        servers = (await report_of(self._running)).servers if pools else []
        limits = await self._with_levels(found["limits"], digest)
        servers = [one for one in servers if one["pool"] in pools]
        return json_answer(request, {**found, "servers": servers, "limits": limits})

    async def _with_levels(self, limits: list[dict[str, Any]], digest: str) -> list[dict[str, Any]]:
        """The limits with their levels, which are null while the store is unavailable."""
        buckets = [[one["bucket"], one["capacity"], one["rate_per_sec"]] for one in limits if one["bucket"]]
        try:
            levels = await self._running.levels(digest, buckets) if limits else None
        except StoreUnavailable:
            levels = None
        return with_levels(limits, levels)

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)

    def _authorize(self, request: Request) -> None:
        """Raises Refusal unless the request carries the operator's token, or no token is configured."""
        if not self._token:
            return
        values = request.requestHeaders.getRawHeaders(b"authorization", [])
        given = bearer_token(values[0]) if len(values) == 1 else None
        if given is None or not compare_digest(given, self._token):
            raise Refusal(
                401,
                "This needs the admin token; send it as Authorization: Bearer <token>.",
                {"WWW-Authenticate": 'Bearer realm="twisted_lb admin"'},
            )


def _judge(head: RequestHead, here: str) -> tuple[int, str] | None:
    """Without a token, everything but liveness and readiness requires a local name in Host; see `hosts`."""
    if head.target.partition(b"?")[0] in HEALTH_PATHS or counts_as_local(head.host, here):
        return None
    return 403, "The Host is neither localhost nor a loopback address; for another name, set ADMIN_TOKEN and send it."


def admin_factory(
    reactor: Any,
    running: Running,
    admin_token: str = "",
    max_connections: int = MAX_CONNECTIONS,
    explaining: Explaining | None = None,
) -> OperatorFactory:
    """The factory for the admin listener; `explaining` is for /explain.

    A non-empty `admin_token` is required for everything but liveness and readiness; without one, these paths accept
    only local names in Host.
    """
    resource = _AdminApi(running, explaining, admin_token).app.resource()
    if admin_token:
        return OperatorFactory(reactor, resource, max_connections)
    return OperatorFactory(reactor, resource, max_connections, _judge)


def health_factory(reactor: Any, running: Running, max_connections: int = MAX_CONNECTIONS) -> OperatorFactory:
    """The factory for listeners that serve only liveness and readiness."""
    return OperatorFactory(reactor, _HealthApi(running).app.resource(), max_connections)


def _page_asked_for(request: Request) -> tuple[str, int]:
    """The `after` and `limit` of a page of users.  Raises Refusal."""
    wrong = [name for name, values in request.args.items() if name not in (b"after", b"limit") or len(values) > 1]
    if wrong:
        raise Refusal(400, "/users takes after=NAME and limit=N, each once at most, and nothing else.")
    try:
        after = request.args.get(b"after", [b""])[0].decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "after is not a name in percent-encoded UTF-8.") from None
    # No user has such a name.  Other rules are not checked: there may be users created before they existed.
    if len(after) > MAX_NAME_CHARACTERS or any(unicodedata.category(character) == "Cc" for character in after):
        raise Refusal(400, f"after is not a name of up to {MAX_NAME_CHARACTERS} printable characters.")
    limit = request.args.get(b"limit", [b"%d" % USUAL_PAGE])[0]
    if _PAGE_SIZE.fullmatch(limit) is None or not 1 <= int(limit) <= LARGEST_PAGE:
        raise Refusal(400, f"limit is not a whole number from 1 to {LARGEST_PAGE}.")
    return after, int(limit)
