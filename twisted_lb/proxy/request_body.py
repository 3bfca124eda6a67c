"""The content of a request, kept as long as it may have to be sent again."""

from __future__ import annotations

from typing import Final

from twisted_lb.proxy.streams import NO_TRAILERS

# Kept while no server is connected, and for a retry.
MAX_KEPT_BYTES: Final = 64 * 1024
# If there are more pieces they are joined, since a tiny piece takes more memory than its bytes.
MAX_PIECES: Final = 64


class RequestContent:
    """The content of one request."""

    __slots__ = ("whole", "kept_bytes", "trailers", "_kept")

    def __init__(self) -> None:
        self.whole = False  # all of it has been received
        self.kept_bytes = 0
        self.trailers = NO_TRAILERS  # known when it is whole
        self._kept: list[bytes] | None = []

    def receive(self, content: bytes, whole: bool, trailers: list[bytes], sending: bool) -> None:
        """Keep `content` if it may be needed.  `sending`: it is also sent to a server now."""
        self.whole = whole
        self.trailers = trailers
        if self._kept is not None and content:
            self.kept_bytes += len(content)
            if sending and self.kept_bytes > MAX_KEPT_BYTES:
                self._kept = None
                return
            self._kept.append(content)
            if len(self._kept) > MAX_PIECES:
                self._kept = [b"".join(self._kept)]

    def forget(self) -> None:
        """None of it will be sent again."""
        self._kept = None

    @property
    def sendable(self) -> bool:
        """Whether all that was received can be sent (again)."""
        return self._kept is not None

    @property
    def too_much(self) -> bool:
        """Whether no more may be received before a server is connected."""
        return self.kept_bytes > MAX_KEPT_BYTES

    @property
    def so_far(self) -> bytes:
        """The content that was received, as far as it is kept."""
        return b"".join(self._kept or ())

    def begin(self) -> bytes:
        """The content to send after the head; it is kept for a retry unless it is too long."""
        data = self.so_far
        if self.too_much:
            self._kept = None
        return data
