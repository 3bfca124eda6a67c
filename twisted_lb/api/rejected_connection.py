"""Rejects requests and connections of operators and probes: a problem document, and then the connection is closed."""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol
from twisted.internet.protocol import Protocol as Connection
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import datetimeToString
from zope.interface import implementer

from twisted_lb.api.operator_token import CHALLENGE
from twisted_lb.wire.forwarding import own_head
from twisted_lb.wire.head import RequestHead
from twisted_lb.wire.problem import CONTENT_TYPE, problem

# How long a client whose input is discarded may pause before the connection is closed.  Closing it at once could reset
# it before the client has read the response (RFC 9112 section 9.6).
LINGERING_PAUSE_SECONDS = 5.0
MAX_TURNED_AWAY = 64  # rejected connections that linger, in addition to the others


class Counting(Protocol):
    """The factory of the connections."""

    reactor: Any
    turned_away: int  # rejected connections that have not ended yet


def own_answer(head: RequestHead | None, status: int, detail: str) -> bytes:
    """A response with a problem document and `Connection: close`; `head` is that of the request, if it is known."""
    body = problem(status, detail)
    fields = b"\r\nServer: twisted_lb\r\nDate: %b\r\nContent-Type: %b\r\nCache-Control: no-store" % (
        datetimeToString(),
        CONTENT_TYPE.encode(),
    )
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields += b"\r\nRetry-After: 1"
    elif status == HTTPStatus.UNAUTHORIZED:
        fields += b"\r\nWWW-Authenticate: " + CHALLENGE.encode()
    data = own_head(status, HTTPStatus(status).phrase.encode(), fields, len(body), True, 1)
    return data if head is not None and head.method == b"HEAD" else data + body


@implementer(IHalfCloseableProtocol)
class RejectedConnection(Connection):
    """A connection above the maximum number.  Its input is discarded."""

    transport: Any

    def __init__(self, factory: Counting) -> None:
        self._factory = factory
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._factory.turned_away += 1
        self.transport.write(own_answer(None, 503, "There are too many connections here. Try again later."))
        if self._factory.turned_away > MAX_TURNED_AWAY:
            self.transport.loseConnection()
            return
        self.transport.loseWriteConnection()
        self._timer = self._factory.reactor.callLater(LINGERING_PAUSE_SECONDS, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """The response was sent."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._factory.turned_away -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
