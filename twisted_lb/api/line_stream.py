"""A response of many lines of JSON, which is written no faster than the client reads it."""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

CONTENT_TYPE: Final = "application/x-ndjson"


class ClientLeft(Exception):
    """The client has disconnected."""


@implementer(IPushProducer)
class LineStream:
    """The lines of one response."""

    def __init__(self, reactor: Any, request: Request) -> None:
        self._reactor = reactor
        self._request = request
        self._paused = False
        self._left = False
        self._waiting: Deferred[None] | None = None
        request.notifyFinish().addErrback(self._gone)
        fields = request.responseHeaders
        fields.setRawHeaders("Content-Type", [CONTENT_TYPE])
        fields.setRawHeaders("Cache-Control", ["no-store"])
        request.setResponseCode(200, b"OK")
        request.registerProducer(self, True)

    async def write(self, values: Iterable[object]) -> None:
        """Write a line for each value, and wait until there is room for more.  Raises ClientLeft."""
        lines = [json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() for value in values]
        if lines and not self._left:
            self._request.write(b"\n".join([*lines, b""]))
        if not self._left:
            # Go on in a later iteration of the event loop, so that other connections are served in between.
            self._waiting = Deferred()
            if not self._paused:
                self._reactor.callLater(0, self._go_on)
            try:
                await self._waiting
            except CancelledError:
                self._left, self._waiting = True, None
        if self._left:
            raise ClientLeft

    def end(self) -> None:
        """End the response, which is complete."""
        if not self._left:
            self._request.unregisterProducer()

    def cut(self) -> None:
        """Close the connection: the response is incomplete, and the client has to see that."""
        if not self._left:
            self._request.unregisterProducer()
            self._request.loseConnection()

    def _go_on(self) -> None:
        if self._paused and not self._left:
            return
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def _gone(self, failure: Failure) -> None:
        self._left = True
        self._go_on()

    # IPushProducer

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._reactor.callLater(0, self._go_on)

    def stopProducing(self) -> None:
        self._left = True
        self._go_on()
