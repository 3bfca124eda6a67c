"""An exchange on a route with hooks or a mirror: what is done for them in addition to the steps of every exchange.

    admitted -> request_received, now or later -> the servers, or a response of the hooks
    a server is chosen -> server_chosen
    connected -> a copy of the request for the mirror begins, and gets the content as it comes
    a response starts -> response_started
    the request's record is complete -> request_finished
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.credentials import REDACTED
from twisted_lb.hooks.field_changes import FieldChanges
from twisted_lb.hooks.hooks import HooksFailed, OwnResponse
from twisted_lb.interfaces import IHookRequest
from twisted_lb.proxy.admission import Admission
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.exchange import HOOKS_FAILED, Exchange
from twisted_lb.proxy.guard import guarded
from twisted_lb.proxy.header_rules import HeaderRules, RequestValues
from twisted_lb.proxy.mirrored_request import MirroredRequest
from twisted_lb.proxy.pending_hook import PendingHook
from twisted_lb.proxy.request_view import HookResponseView
from twisted_lb.proxy.route import Route
from twisted_lb.proxy.route_answer import RouteAnswer
from twisted_lb.proxy.streams import NO_TRAILERS, IClientStream, IServerStream
from twisted_lb.request_record import HOOK_TIMEOUT, INTERNAL_ERROR, RequestRecord
from twisted_lb.wire.head import RequestHead, ResponseHead

HOOKS_TIMED_OUT: Final = "The hooks of this route did not answer in time."


@implementer(IHookRequest)
class ExtendedExchange(Exchange):
    """A request to a server and its response, with hooks or a mirror."""

    __slots__ = ("_hooks_asked", "_pending_hook", "_response_changes", "_copy")

    def __init__(
        self, context: ProxyContext, route: Route, client: IClientStream, head: RequestHead, framing: int
    ) -> None:
        Exchange.__init__(self, context, route, client, head, framing)
        self._hooks_asked = False  # whether request_received was called
        self._pending_hook: PendingHook | None = None  # whose answer it waits for
        self._response_changes: FieldChanges | None = None
        self._copy: MirroredRequest | None = None  # while it gets the content

    # IHookRequest

    @property
    def fields(self) -> FieldChanges:
        """See IHookRequest."""
        changes = self._changes
        if changes is None:
            self._changes = changes = FieldChanges(of_request=True)
        return changes

    @property
    def state(self) -> object:
        """See IHookRequest.  Where routes have hooks, requests have records."""
        return self._record.state if self._record is not None else None

    @state.setter
    def state(self, state: object) -> None:
        if self._record is not None:
            self._record.state = state

    # Hooks

    def _next_server(self) -> bool:
        hooks = self._route.hooks
        if hooks is None or self._hooks_asked:
            return Exchange._next_server(self)
        self._hooks_asked = True
        try:
            response = hooks.request_received(self)
        except HooksFailed:
            self._hooks_failed()
            return True
        if isinstance(response, Deferred):
            context = self._context
            self._pending_hook = PendingHook(context.sweeper, context.settings.hook_timeout, self, response)
            self._pending_hook.begin()
            return True
        return self._hooks_answered(response)

    def _hooks_answered(self, response: OwnResponse | None) -> bool:
        if response is None:
            return Exchange._next_server(self)
        answer = RouteAnswer(response.status, response.fields, response.body)
        self._answer_with(answer, b"", self._route.response_rules)
        return True

    def _hooks_failed(self) -> None:
        self._tokens.refund()
        self._answer(INTERNAL_ERROR, 500, HOOKS_FAILED)

    @guarded
    def hook_answered(self, result: object) -> None:
        """See WaitingForHook."""
        hooks = self._route.hooks
        assert hooks is not None
        self._pending_hook = None
        try:
            response = hooks.response_of(result)
        except HooksFailed:
            self._hooks_failed()
            return
        self._client.request_resumed()
        self._hooks_answered(response)

    @guarded
    def hook_failed(self, failure: Failure) -> None:
        """See WaitingForHook."""
        hooks = self._route.hooks
        assert hooks is not None
        self._pending_hook = None
        hooks.failed(failure)
        self._hooks_failed()

    @guarded
    def hook_timed_out(self) -> None:
        """See WaitingForHook."""
        self._pending_hook = None
        self._context.failures.note("", HOOKS_TIMED_OUT)
        self._tokens.refund()
        self._answer(HOOK_TIMEOUT, 504, HOOKS_TIMED_OUT)

    @property
    def waits(self) -> bool:
        """Whether it waits for tokens, for hooks, or for a server."""
        return self.waiting or self.queued or self._pending_hook is not None

    def _choose(self) -> tuple[Backend | None, bool]:
        backend, full = Exchange._choose(self)
        hooks = self._route.hooks
        if backend is not None and hooks is not None and hooks.hears_of_choices:
            hooks.server_chosen(self, backend)
        return backend, full

    def _trailers_to_send(self, trailers: list[bytes]) -> list[bytes]:
        trailers = Exchange._trailers_to_send(self, trailers)
        return trailers if self._changes is None else self._changes.kept_trailers(trailers)

    def _response_fields(self, head: ResponseHead) -> bytes:
        fields = Exchange._response_fields(self, head)
        hooks, backend = self._route.hooks, self._backend
        if hooks is None or not hooks.hears_of_responses:
            return fields
        assert backend is not None
        response = HookResponseView(head, self._tokens.view_of(head).token_cost)
        hooks.response_started(self, backend, response)
        self._response_changes = changes = response.fields
        head.fields = changes.apply(head.fields)
        return changes.without_removed(fields)

    def _finish(self, trailers: list[bytes]) -> None:
        if trailers and self._response_changes is not None:
            trailers = self._response_changes.kept_trailers(trailers)
        Exchange._finish(self, trailers)

    def _enter(self, record: RequestRecord, reason: str) -> None:
        Admission._enter(self, record, reason)
        hooks = self._route.hooks
        if hooks is not None:
            record.finished = hooks.request_finished

    # The mirror

    def connected(self, server: IServerStream) -> None:
        """See Waiting."""
        mirror = self._route.mirror
        if mirror is None or self._attempts or self._head.upgrade or self._over or not mirror.wants():
            Exchange.connected(self, server)
            return
        kept = self._content
        content = b"" if kept is None else kept.so_far
        Exchange.connected(self, server)
        if self._attempts and not self._over:
            self._begin_copy(mirror.route, content)

    def _begin_copy(self, route: Route, content: bytes) -> None:
        """Send a copy, with the content that the server has received."""
        kept = self._content
        copy = MirroredRequest(self._context, route, self, self._framing)
        if kept is None:
            copy.start(b"", True, NO_TRAILERS, self._route.pool.name)
            return
        if not kept.whole:
            self._copy = copy
        copy.start(content, kept.whole, self._trailers_of_copy(kept.trailers), self._route.pool.name)

    def head_of_copy(
        self, authority: bytes, rules: tuple[HeaderRules, ...], own_fields: bytes, values: RequestValues
    ) -> bytes:
        """See CopiedRequest."""
        head: bytes = self._client.forwarded.request_head(self._head, self._framing, own_fields, authority)
        if self._key and self._key in head:
            head = head.replace(self._key, REDACTED)
        return self._with_rules(head, rules, values)

    def _trailers_of_copy(self, trailers: list[bytes]) -> list[bytes]:
        """The trailers that the rules of the mirror and its pool, and then hooks, do not remove."""
        mirror = self._route.mirror
        assert mirror is not None
        for rules in mirror.route.request_rules:
            trailers = rules.kept_trailers(trailers)
        return trailers if self._changes is None else self._changes.kept_trailers(trailers)

    def content_received(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """See Exchange."""
        Exchange.content_received(self, content, whole, trailers)
        copy = self._copy
        if copy is not None:
            copy.send(content, whole, self._trailers_of_copy(self._without_key(trailers)) if trailers else trailers)
            if whole:
                self._copy = None

    # The end

    def _end(self) -> None:
        Exchange._end(self)
        if self._pending_hook is not None:
            self._pending_hook.cancel()
            self._pending_hook = None
        if self._copy is not None:
            self._copy.source_ended()
            self._copy = None

    @guarded
    def abandon(self) -> None:
        """The client has left."""
        if self._pending_hook is not None:
            # No server was asked.
            self._tokens.refund()
        Exchange.abandon(self)
