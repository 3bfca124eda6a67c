"""The limits of servers.yaml on the admin listener: list them, and promote shadow limits, which are enforced from then.

The policies of users are in `users`.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from twisted_lb.api.audit import Attempt
from twisted_lb.api.bodies import BadBody, read_nothing
from twisted_lb.api.changes import Changed, ChangeRefused, Changing, Promotion
from twisted_lb.api.operator_token import OperatorTokens
from twisted_lb.api.recorded_change import Outcome, RecordedChanges
from twisted_lb.api.responses import Refusal, failure_answer, json_answer
from twisted_lb.api.shadow import shown_counts
from twisted_lb.api.status import Running
from twisted_lb.config.admin_tokens import SERVERS
from twisted_lb.interfaces import MICROTOKENS, IUsageReport, StoreUnavailable

# The first segment of the paths that are served here, or the third one in paths of pools and routes.
PATH: Final = b"limits"


class LimitsApi:
    """See the module."""

    app = Klein()

    def __init__(
        self,
        running: Running,
        changing: Changing,
        usage: IUsageReport | None,
        tokens: OperatorTokens,
        changes: RecordedChanges,
    ) -> None:
        self._running = running
        self._changing = changing
        self._usage = usage
        self._tokens = tokens
        self._changes = changes

    @app.route("/limits", methods=["GET"])
    async def _limits(self, request: Request) -> bytes:
        self._tokens.check_reader(request)
        return json_answer(request, {"limits": await self._shown(self._changing.limits())})

    @app.route("/limits/<limit>/promote", methods=["POST"])
    def _promote(self, request: Request, limit: str) -> Deferred[bytes]:
        return self._change(request, Promotion("all", "", unquote(limit)))

    @app.route("/routes/<route>/limits/<limit>/promote", methods=["POST"])
    def _promote_of_route(self, request: Request, route: str, limit: str) -> Deferred[bytes]:
        return self._change(request, Promotion("route", unquote(route), unquote(limit)))

    @app.route("/pools/<pool>/limits/<limit>/promote", methods=["POST"])
    def _promote_of_pool(self, request: Request, pool: str, limit: str) -> Deferred[bytes]:
        return self._change(request, Promotion("pool", unquote(pool), unquote(limit)))

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)

    def _change(self, request: Request, promotion: Promotion) -> Deferred[bytes]:
        of = f"{promotion.kind} {promotion.owner}" if promotion.owner else promotion.kind

        async def make(body: bytes, attempt: Attempt) -> Outcome:
            try:
                read_nothing(body)
                changed: Changed = await self._changing.promote(promotion)
            except BadBody as error:
                raise Refusal(400, str(error)) from None
            except ChangeRefused as error:
                raise Refusal(error.status, error.detail) from None
            return Outcome(changed.before, changed.after, changed, {"writes": self._changing.writes()})

        async def shown() -> bytes:
            found = [one for one in self._changing.limits() if (one["of"], one["name"]) == (of, promotion.limit)]
            [limit] = await self._shown(found)
            return json_answer(request, limit)

        about = {"limit": promotion.limit, "of": of}
        changing = self._changes.make(request, SERVERS, "promote_limit", about, make)
        return changing.addCallback(lambda _: Deferred.fromCoroutine(shown()))

    async def _shown(self, limits: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The limits with their levels (None for several buckets), shadows with counts; None: not available."""
        levels = await self._levels(limits)
        counts = await self._counts(limits)
        shown = []
        for limit in limits:
            one = {name: value for name, value in limit.items() if name not in ("bucket", "subjects")}
            level = levels.get(limit["bucket"])
            one["level"] = None if level is None else level / MICROTOKENS
            if limit["shadow"]:
                found = [counts[subject] for subject in limit["subjects"] if subject in counts]
                one |= shown_counts(found) if found else {"hour": None, "day": None}
            shown.append(one)
        return shown

    async def _levels(self, limits: list[dict[str, Any]]) -> dict[str, int]:
        buckets = [[one["bucket"], one["capacity"], one["rate_per_sec"]] for one in limits if one["bucket"]]
        try:
            return (await self._running.levels("", buckets))["levels"] if buckets else {}
        except StoreUnavailable:
            return {}

    async def _counts(self, limits: list[dict[str, Any]]) -> dict[str, Any]:
        subjects = [subject for one in limits if one["shadow"] for subject in one["subjects"]]
        if self._usage is None or not subjects:
            return {}
        try:
            return dict(zip(subjects, await self._usage.counts_of(subjects)))
        except StoreUnavailable:
            return {}
