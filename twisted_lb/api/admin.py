"""The admin listener: is this process alive, may it get traffic, and how are the servers.

It only reads.  What it shows comes from callables, so that it knows neither health nor stores, nor
whether the servers are those of this process.
"""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from hmac import compare_digest

from klein import Klein
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.iweb import IRequest
from twisted.web.server import Request, Site

from twisted_lb.api.answers import ApiRequest, Refusal, answer, failure_answer, json_answer
from twisted_lb.api_key import bearer_token
from twisted_lb.backend import Backend

_IDLE_SECONDS = 60

# Whether traffic is welcome, and why or why not.
_Ready = tuple[bool, str]
Readiness = Callable[[], _Ready | Awaitable[_Ready]]
_Shown = Sequence[Mapping[str, object]]
Servers = Callable[[], _Shown | Awaitable[_Shown]]


class _AdminApi:
    app = Klein()

    def __init__(
        self,
        readiness: Readiness,
        servers: Servers,
        admin_token: str,
    ) -> None:
        self._readiness = readiness
        self._servers = servers
        self._token = admin_token.encode()

    @app.route("/livez", methods=["GET"])
    def _livez(self, request: Request) -> bytes:
        return answer(request, 200, "text/plain; charset=utf-8", b"ok\n")

    @app.route("/readyz", methods=["GET"])
    async def _readyz(self, request: Request) -> bytes:
        found = self._readiness()
        ready, reason = await found if isinstance(found, Awaitable) else found
        return json_answer(request, {"ready": ready, "reason": reason}, 200 if ready else 503)

    @app.route("/servers", methods=["GET"])
    async def _list_servers(self, request: Request) -> bytes:
        self._authorize(request)
        found = self._servers()
        return json_answer(request, await found if isinstance(found, Awaitable) else found)

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)

    def _authorize(self, request: Request) -> None:
        """Raises Refusal unless the request carries the operator's token, or none is set."""
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


class _QuietSite(Site):
    """A Site without an access log, which would hold little but health checks, and without its clock."""

    def startFactory(self) -> None:
        """Nothing to open."""

    def log(self, request: HTTPRequest) -> None:
        """Nothing to write."""


def admin_site(
    reactor: IReactorTime,
    readiness: Readiness,
    servers: Servers,
    admin_token: str = "",
) -> Site:
    """The factory for the admin listener.

    `readiness` says whether traffic is welcome, and why or why not; `servers` gives the fleet in
    the order to show, each server as `shown_server` does; both may return a Deferred or a coroutine.
    A non-empty `admin_token` is asked for by all that shows more than health.
    """
    api = _AdminApi(readiness, servers, admin_token)
    return _QuietSite(
        api.app.resource(),
        requestFactory=ApiRequest,
        parsePOSTFormSubmission=False,
        timeout=_IDLE_SECONDS,
        reactor=reactor,
    )


def shown_server(backend: Backend) -> dict[str, object]:
    """A server as GET /servers shows it: how it is now, and its counts since it was first in the servers file."""
    if not backend.up:
        state, reason = "down", backend.reason
    elif not backend.weight:
        state, reason = "draining", backend.reason if backend.reason == "removed" else "its weight is 0"
    else:
        state, reason = "up", backend.reason
    return {
        "name": backend.name,
        "url": f"http://{backend.authority.decode()}",
        "state": state,
        "reason": reason,
        "weight": backend.weight,
        "effective_weight": round(backend.effective_weight, 3),
        "backup": backend.backup,
        "maxconn": backend.maxconn,
        "in_flight": backend.in_flight,
        "requests": backend.requests,
        "failures": backend.failures,
        "retries": backend.retries,
        "latency_ms": round(backend.latency * 1000, 3) if backend.latency else None,
    }
