"""A request's content on its way to a server: framed, and kept as long as it may have to be sent again."""

from __future__ import annotations

from twisted_lb.wire.body import chunk, last_chunk
from twisted_lb.wire.framing import CHUNKED

# Kept while there is no server to send it to, and for sending it once more.
MAX_KEPT_BYTES = 64 * 1024


class RequestContent:
    """What comes after a request's head, as servers get it."""

    __slots__ = ("whole", "kept_bytes", "_framing", "_kept")

    def __init__(self, framing: int) -> None:
        """`framing` is the length in bytes, or CHUNKED."""
        self.whole = False  # all of it has been received
        self.kept_bytes = 0
        self._framing = framing
        self._kept: list[bytes] | None = []

    def receive(self, content: bytes, whole: bool, trailers: list[bytes], sending: bool) -> bytes:
        """Frame `content`, and return it so.  `sending`: there is a server that gets it now."""
        self.whole = whole
        if self._framing == CHUNKED:
            data = chunk(content) if content else b""
            if whole:
                data += last_chunk(trailers)
        else:
            data = content
        if self._kept is not None:
            self.kept_bytes += len(data)
            if not sending or self.kept_bytes <= MAX_KEPT_BYTES:
                self._kept.append(data)
            else:
                self._kept = None
        return data

    def forget(self) -> None:
        """None of it will be sent again."""
        self._kept = None

    @property
    def sendable(self) -> bool:
        """Whether all that was received can be sent (again)."""
        return self._kept is not None

    @property
    def too_much(self) -> bool:
        """Whether no more may be received before there is a server."""
        return self.kept_bytes > MAX_KEPT_BYTES

    def begin(self) -> bytes:
        """What goes out behind the head; it is kept further unless it is too much."""
        data = b"".join(self._kept or ())
        if self.too_much:
            self._kept = None
        return data
