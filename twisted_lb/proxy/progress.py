"""Whether a client sends a request body fast enough: enough content, in chunks of a sensible size.

The time is divided into periods.  In each period a minimum of content must arrive.  It is proportional to the length of
the period, so that a body cannot be sent arbitrarily slowly, and grows with the number of chunks: each costs this
process as much as hundreds of bytes, so a body that is sent in tiny chunks for a whole period counts as slow.
"""

from __future__ import annotations

from typing import Final

# The number of chunks of any size that a client may send: events, or keystrokes.
FREE_CHUNKS_PER_SECOND: Final = 100
# The average size of the chunks beyond that number.
MIN_CHUNK_BYTES: Final = 16


class BodyProgress:
    """The content of one connection's present request."""

    __slots__ = ("received", "chunks", "_received_then", "_chunks_then")

    def __init__(self) -> None:
        self.received = 0  # bytes of content
        self.chunks = 0
        # The same when the period began.
        self._received_then = 0
        self._chunks_then = 0

    def start(self) -> None:
        """A body begins."""
        self.received = self.chunks = self._received_then = self._chunks_then = 0

    def next_period(self) -> None:
        """A period begins."""
        self._received_then = self.received
        self._chunks_then = self.chunks

    def in_sensible_chunks(self, seconds: float) -> bool:
        """Whether the chunks of this period of `seconds` were few, or large enough."""
        beyond = self.chunks - self._chunks_then - FREE_CHUNKS_PER_SECOND * seconds
        return beyond * MIN_CHUNK_BYTES <= self.received - self._received_then

    def enough(self, seconds: float, rate: int) -> bool:
        """Whether at least `rate` bytes per second came in this period of `seconds`, and at least one byte."""
        return self.received - self._received_then >= max(1, rate * seconds)
