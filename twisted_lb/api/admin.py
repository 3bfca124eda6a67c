"""The admin listener: is this process alive, may it get traffic, how are the servers and the store, who are the users.

It only reads.  All that it shows comes from a `Running`, so that it knows neither health nor stores, nor
whether the servers are those of this process.
"""

# twisted.web is typed in parts only.
# mypy: allow-untyped-calls

from __future__ import annotations

import re
from collections.abc import Awaitable
from hmac import compare_digest

from klein import Klein
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.iweb import IRequest
from twisted.web.server import Request, Site

from twisted_lb.api.answers import ApiRequest, Refusal, answer, failure_answer, json_answer
from twisted_lb.api.bodies import MAX_NAME_CHARACTERS
from twisted_lb.api.metrics import CONTENT_TYPE, metrics_text
from twisted_lb.api.report import Report, Running
from twisted_lb.api_key import bearer_token

USUAL_PAGE = 100
LARGEST_PAGE = 200
_PAGE_SIZE = re.compile(rb"[0-9]{1,3}")

_IDLE_SECONDS = 60


class _AdminApi:
    app = Klein()

    def __init__(self, running: Running, admin_token: str) -> None:
        self._running = running
        self._token = admin_token.encode()

    @app.route("/livez", methods=["GET"])
    def _livez(self, request: Request) -> bytes:
        return answer(request, 200, "text/plain; charset=utf-8", b"ok\n")

    @app.route("/readyz", methods=["GET"])
    async def _readyz(self, request: Request) -> bytes:
        report = await self._report()
        shown = {"ready": report.ready, "degraded": report.degraded, "reason": report.reason}
        return json_answer(request, shown, 200 if report.ready else 503)

    @app.route("/servers", methods=["GET"])
    async def _servers(self, request: Request) -> bytes:
        self._authorize(request)
        return json_answer(request, (await self._report()).servers)

    @app.route("/metrics", methods=["GET"])
    async def _metrics(self, request: Request) -> bytes:
        self._authorize(request)
        return answer(request, 200, CONTENT_TYPE, metrics_text(await self._report()))

    @app.route("/users", methods=["GET"])
    async def _users(self, request: Request) -> bytes:
        self._authorize(request)
        after, count = _page_asked_for(request)
        return json_answer(request, await self._running.users(after, count))

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)

    async def _report(self) -> Report:
        report = self._running.report()
        return await report if isinstance(report, Awaitable) else report

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


def admin_site(reactor: IReactorTime, running: Running, admin_token: str = "") -> Site:
    """The factory for the admin listener.

    A non-empty `admin_token` is asked for by all that shows more than health.
    """
    api = _AdminApi(running, admin_token)
    return _QuietSite(
        api.app.resource(),
        requestFactory=ApiRequest,
        parsePOSTFormSubmission=False,
        timeout=_IDLE_SECONDS,
        reactor=reactor,
    )


def _page_asked_for(request: Request) -> tuple[str, int]:
    """The name that a page of users comes after, and how many users it has.  Raises Refusal."""
    wrong = [name for name, values in request.args.items() if name not in (b"after", b"limit") or len(values) > 1]
    if wrong:
        raise Refusal(400, "/users takes after=NAME and limit=N, each once at most, and nothing else.")
    try:
        after = request.args.get(b"after", [b""])[0].decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(400, "after is not a name in percent-encoded UTF-8.") from None
    # No user has such a name.
    if len(after) > MAX_NAME_CHARACTERS or not after.isprintable():
        raise Refusal(400, f"after is not a name of up to {MAX_NAME_CHARACTERS} printable characters.")
    limit = request.args.get(b"limit", [b"%d" % USUAL_PAGE])[0]
    if _PAGE_SIZE.fullmatch(limit) is None or not 1 <= int(limit) <= LARGEST_PAGE:
        raise Refusal(400, f"limit is not a whole number from 1 to {LARGEST_PAGE}.")
    return after, int(limit)
