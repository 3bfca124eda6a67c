"""The body of an operator's request, collected in memory up to a maximum size."""

from __future__ import annotations

from twisted_lb.wire.body import decoder
from twisted_lb.wire.errors import RequestError
from twisted_lb.wire.head import RequestHead


def check_size(size: int, bound: int) -> None:
    """Raises RequestError for a body that is too large."""
    if size > bound:
        raise RequestError(413, f"A body here has at most {bound} bytes.")


class OperatorBody:
    """The body of the request with this head; `bound` is its maximum size in bytes."""

    def __init__(self, head: RequestHead, framing: int, bound: int) -> None:
        self.head = head
        self.content: list[bytes] = []
        self.complete = False
        self._decoder = decoder(framing, lambda detail: RequestError(400, detail))
        self._bound = bound
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """Receive data, and return what follows the body.  Raises RequestError."""
        while data and not self.complete:
            content = self._decoder.feed(data)
            self._size += len(content)
            check_size(self._size, self._bound)
            self.content.append(content)
            data, self.complete = self._decoder.rest, self._decoder.done
        return data
