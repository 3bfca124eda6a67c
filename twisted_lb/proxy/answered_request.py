"""A request that its route answers itself, after it has passed the limits like a request to a server."""

from __future__ import annotations

from typing import Final

from twisted_lb.proxy.admission import Admission
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.guard import guarded, take_steps
from twisted_lb.proxy.route import AnsweringRoute
from twisted_lb.proxy.route_answer import RouteAnswer
from twisted_lb.proxy.streams import IClientStream
from twisted_lb.request_record import BAD_REQUEST, CLIENT_LEFT, INTERNAL_ERROR
from twisted_lb.wire.head import RequestHead

NO_HOST: Final = "The request does not name a host that it could be redirected to."


class AnsweredRequest(Admission):
    """A request that its route answers."""

    __slots__ = ("_answer_of_route",)

    queued = False
    expecting = False  # no server has to send 100 (Continue) first
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
        """The content is not needed."""

    @property
    def waits(self) -> bool:
        """Whether it waits for tokens."""
        return self.waiting

    def _admitted(self) -> None:
        answer = self._answer_of_route
        location = answer.location(self.value_of(b"host"), self.target)
        if location is None:
            self._tokens.refund()
            self._answer(BAD_REQUEST, 400, NO_HOST)
            return
        self._answer_with(answer, location, self._terms.response_rules)

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
