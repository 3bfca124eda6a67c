"""One whole response, for who asks for its status and the end of its content only.

It is read as the data path reads one, by the same readers and within the same bounds: what is refused there is
refused here, and so is what has no end.  Interim responses are counted and dropped, content is counted and dropped.
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
        """`enough` is how many bytes of content are waited for; a longer response is whole with them."""
        self.status = 0  # of the final response; 0: its head is not whole yet
        self.done = False
        self._method = method
        self._left = enough
        self._interims = 0
        self._buffer = b""  # an unfinished head
        self._framing = 0
        self._decoder: Decoder | None = None

    def feed(self, data: bytes) -> None:
        """Read on.  Raises ResponseError as soon as a bound is passed, or the response is wrong.

        Not to be called once done, or after an error.
        """
        if self._decoder is None:
            data = self._after_head(data)
        body = self._decoder
        if body is None:
            return
        # A decoder may leave the rest of many tiny chunks for another call; here there are few, for little is enough.
        while data and not body.done and self._left > 0:
            self._left -= len(body.feed(data))
            data = body.rest
        # What comes after the response is nobody's; the connection is not used again.
        self.done = body.done or self._left <= 0

    def connection_ended(self) -> bool:
        """The server has closed the connection in order; whether the response is whole."""
        if self.status and self._framing == UNTIL_CLOSE:
            self.done = True
        return self.done

    def _after_head(self, data: bytes) -> bytes:
        """What follows the head of the final response in `data`; nothing while that is not whole."""
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
            # Nobody asked for another protocol.
            if head.status == 101 or self._interims > MAX_INTERIM_RESPONSES:
                raise ResponseError("The server sent an interim response that nobody asked for.")
            scanned = 0
        self._buffer = data
        return b""
