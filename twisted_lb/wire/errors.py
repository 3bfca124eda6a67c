"""What can be wrong with a message, and the status that says so."""

from __future__ import annotations


class WireError(Exception):
    """A message that must not be passed on.  After it the connection it came from is out of step."""

    def __init__(self, status: int, detail: str) -> None:
        """`status` is the answer that the client gets; `detail` is a sentence for a person."""
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


class RequestError(WireError):
    """A client's message is refused: 400 unless a status says it better (413, 414, 417, 431, 501, 505)."""


class ResponseError(WireError):
    """A server's message is refused; the client gets 502."""

    def __init__(self, detail: str) -> None:
        super().__init__(502, detail)
