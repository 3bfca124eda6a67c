"""The errors of invalid messages, with their statuses."""

from __future__ import annotations


class WireError(Exception):
    """A message that must not be forwarded.  The connection it came from must not be read any further."""

    def __init__(self, status: int, detail: str) -> None:
        """`status` is the status of the response to the client; `detail` is a sentence that explains it."""
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


class RequestError(WireError):
    """A client's message is rejected: 400, or a more specific status (413, 414, 417, 431, 501, 505)."""


class ResponseError(WireError):
    """A server's message is rejected; the client gets 502."""

    def __init__(self, detail: str) -> None:
        super().__init__(502, detail)
