"""Parses one complete response, for callers that need only its status and the end of its content (health checks).

It uses the parsers and limits of the data path: a response that is rejected there is rejected here, and so is an
endless one.  Interim responses and content are counted and discarded.
"""

from __future__ import annotations

from twisted_lb.wire.body import Decoder, decoder
from twisted_lb.wire.errors import ResponseError
from twisted_lb.wire.framing import UNTIL_CLOSE, response_framing
from twisted_lb.wire.head import MAX_INTERIM_RESPONSES, MAX_RESPONSE_HEAD_BYTES, read_response_head


def _refuse(detail: str) -> ResponseError:
    return ResponseError(f"The server's body is malformed: {detail}")


class ResponseReader:
    """The response to one request."""

    __slots__ = ("status", "done", "_method", "_left", "_interims", "_buffer", "_framing", "_decoder")

    def __init__(self, method: bytes, enough: int) -> None:
        """After `enough` bytes of content the response counts as complete."""
        self.status = 0  # of the final response; 0: its head is incomplete
        self.done = False
        self._method = method
        self._left = enough
        self._interims = 0
        self._buffer = b""  # an incomplete head
        self._framing = 0
        self._decoder: Decoder | None = None

    def feed(self, data: bytes) -> None:
        """Parse more data.  Raises ResponseError as soon as a limit is exceeded, or the response is invalid.

        Must not be called once `done` is True, or after an error.
        """
        if self._decoder is None:
            data = self._after_head(data)
        body = self._decoder
        if body is None:
            return
        # A decoder leaves the rest of many tiny chunks for another call.  Here the loop is short, since `enough` is
        # small.
        while data and not body.done and self._left > 0:
            self._left -= len(body.feed(data))
            data = body.rest
        # Data after the response is ignored; the connection is not reused.
        self.done = body.done or self._left <= 0

    def connection_ended(self) -> bool:
        """The server has closed the connection without a reset; return whether the response is complete."""
        if self.status and self._framing == UNTIL_CLOSE:
            self.done = True
        return self.done

    def _after_head(self, data: bytes) -> bytes:
        """The data after the head of the final response; b"" while that is incomplete."""
        scanned = len(self._buffer)
        data = self._buffer + data
        while (head := read_response_head(data, scanned, MAX_RESPONSE_HEAD_BYTES)) is not None:
            data = data[head.size :]
            if head.status >= 200:
                self._buffer = b""
                self._framing = response_framing(head, self._method)
                self._decoder = decoder(self._framing, _refuse)
                self.status = head.status
                return data
            self._interims += 1
            # No switch to another protocol was requested.
            if head.status == 101 or self._interims > MAX_INTERIM_RESPONSES:
                raise ResponseError("The server sent an unexpected interim response.")
            scanned = 0
        self._buffer = data
        return b""
