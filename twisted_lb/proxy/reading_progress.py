"""Whether the other side of a connection reads what was written to it.

The buffer of the kernel is large: it may take nothing more for long while a slow reader reads steadily.  So what counts
is what the other side has confirmed, and not what the kernel has taken.
"""

from __future__ import annotations

from typing import Any

from twisted_lb.network.transport import acknowledged, all_acknowledged


class ReadingProgress:
    """That of one transport.  A period begins when this is made."""

    __slots__ = ("_transport", "_acknowledged", "_slow")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._acknowledged = acknowledged(transport)  # bytes, when the period began
        self._slow = False  # the last period was not enough for all of it

    def next_period(self, least: float = 1) -> bool:
        """Begin another period.

        Return whether at least `least` bytes, and at least one, were read in the last one; in the first period also
        whether some are left, so that what is read at once prolongs nothing.
        """
        before, self._acknowledged = self._acknowledged, acknowledged(self._transport)
        read = self._acknowledged - before >= max(1, least)
        self._slow = read and (self._slow or not all_acknowledged(self._transport))
        return self._slow
