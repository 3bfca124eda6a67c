"""Back-pressure: a slow reader on one side stops the other side's sender.

Each connection has a `Tap` on its reading, which several may hold shut for their own reasons, and is
watched by a `Throttle`, which Twisted tells when the connection's write buffer is full.  For the
length of an exchange the throttle of each side points to the tap of the other.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

# The reasons to hold a tap.
PEER_FULL = 1  # the other side's write buffer is full
NOT_NOW = 2  # what was read already must be used first
BACKLOG = 4  # what was read already waits: later requests for the present response, or posted work for its turn


class Tap:
    """The reading of one connection."""

    __slots__ = ("_transport", "_held")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held = 0

    @property
    def held(self) -> bool:
        """Whether nothing is read at present."""
        return self._held != 0

    def hold(self, reason: int) -> None:
        """Read no more until `reason` is released."""
        if not self._held:
            self._transport.pauseProducing()
        self._held |= reason

    def release(self, reason: int) -> None:
        """`reason` holds no longer."""
        if self._held & reason:
            self._held &= ~reason
            if not self._held and not self._transport.disconnecting:
                self._transport.resumeProducing()


@implementer(IPushProducer)
class Throttle:
    """Told by one transport how full it is; turns the tap of whoever writes to it."""

    __slots__ = ("source", "full", "_owner")

    def __init__(self, owner: Any) -> None:
        """`owner` has a method `pressure_changed(full)`, for its deadlines."""
        self.source: Tap | None = None
        self.full = False
        self._owner = owner

    def connect(self, source: Tap) -> None:
        """From now on what is written comes from `source`."""
        self.source = source
        if self.full:
            source.hold(PEER_FULL)

    def disconnect(self) -> None:
        """The exchange is over."""
        if self.source is not None:
            self.source.release(PEER_FULL)
            self.source = None

    def pauseProducing(self) -> None:
        self.full = True
        if self.source is not None:
            self.source.hold(PEER_FULL)
        self._owner.pressure_changed(True)

    def resumeProducing(self) -> None:
        self.full = False
        if self.source is not None:
            self.source.release(PEER_FULL)
        self._owner.pressure_changed(False)

    def stopProducing(self) -> None:
        """The transport is gone; its connectionLost says so to everybody else."""
