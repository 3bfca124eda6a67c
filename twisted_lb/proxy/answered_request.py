"""A request that its route answers itself: it goes its way through the limits first, as one to a server does."""

from __future__ import annotations

from typing import Final

from twisted_lb.proxy.admission import Admission
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.guard import guarded, take_steps
from twisted_lb.proxy.route import AnsweringRoute
from twisted_lb.proxy.route_answer import RouteAnswer
from twisted_lb.proxy.streams import NO_TRAILERS, IClientStream
from twisted_lb.request_record import BAD_REQUEST, CLIENT_LEFT, COMPLETE, INTERNAL_ERROR
from twisted_lb.wire.head import RequestHead, ResponseHead

NO_HOST: Final = "The request does not name a host that it could be redirected to."


class AnsweredRequest(Admission):
    """A request that its route answers."""

    __slots__ = ("_answer_of_route",)

    queued = False
    expecting = False  # its client waits for no server's word
    max_body_bytes = 0

    def __init__(
        self,
        context: ProxyContext,
        route: AnsweringRoute,
        client: IClientStream,
        head: RequestHead,
        framing: int,
    ) -> None:
        Admission.__init__(self, context, route, client, head, framing)
        self._answer_of_route: RouteAnswer = route.answer

    def start(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Begin; the content is not needed."""
        self._ask()

    def content_received(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Nobody needs it."""

    @property
    def waits(self) -> bool:
        """Whether it waits for tokens."""
        return self.waiting

    def _admitted(self) -> None:
        answer = self._answer_of_route
        location = answer.location(self.value_of(b"host"), self.target)
        tokens = self._tokens
        taken = tokens.taken
        assert taken is not None
        if location is None:
            tokens.refund()
            self._answer(BAD_REQUEST, 400, NO_HOST)
            return
        fields = self._limit_fields(taken)
        for rules in self._terms.response_rules:
            fields = rules.without_removed(fields)
        fields += location
        context = self._context
        if context.cors is not None:
            fields += context.cors.fields(self._head.fields)
        self._end()
        tokens.settle_as_taken()
        if self._record is not None:
            self._enter(self._record, COMPLETE)
        head = ResponseHead()
        head.status = answer.status
        head.minor = 1
        head.reason = answer.reason
        head.notable = {b"content-length": [b"%d" % len(answer.content)]}
        head.fields = answer.fields
        for rules in self._terms.response_rules:
            head.fields = rules.apply(head.fields, self)
        head.size = 0
        head.keep_alive = True
        client = self._client
        client.respond(head, len(answer.content), fields, b"" if self.method == b"HEAD" else answer.content)
        client.finish(NO_TRAILERS)

    def _end(self) -> None:
        self._over = True

    @guarded
    def abandon(self) -> None:
        """The client has left."""
        self._end()
        self._leave_wait_queue()
        self._tokens.settle_as_taken()
        if self._record is not None:
            self._enter(self._record, CLIENT_LEFT)

    def broke(self) -> None:
        """See Breakable."""
        take_steps(
            self._end,
            self._leave_wait_queue,
            self._tokens.refund,
            lambda: self._enter(self._record, INTERNAL_ERROR) if self._record is not None else None,
        )
        self._client.failed(self)

    def __repr__(self) -> str:
        return f"<AnsweredRequest {self.method.decode()} {self.target.decode('latin-1')}>"
