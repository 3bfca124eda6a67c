"""Back-pressure: a slow reader on one side stops the other side's sender.

Each connection has a `Tap`, which pauses reading while at least one reason applies, and a `Throttle`, the producer that
Twisted pauses when the connection's write buffer is full.  For the duration of an exchange the throttle of each side is
connected to the tap of the other.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from twisted_lb.deadlines import NEVER, Sweeper

# The reasons to pause reading, as bits.
PEER_FULL: Final = 1  # the other side's write buffer is full
NOT_NOW: Final = 2  # what was read already must be processed first
BACKLOG: Final = 4  # data that was read is waiting: later requests for the current response, or posted work


class Tap:
    """Pauses and resumes reading from one connection."""

    __slots__ = ("_transport", "_held")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held = 0

    @property
    def held(self) -> bool:
        """Whether nothing is read now."""
        return self._held != 0

    def hold(self, reason: int) -> None:
        """Read no more until `reason` is released."""
        if not self._held:
            self._transport.pauseProducing()
        self._held |= reason

    def release(self, reason: int) -> None:
        """`reason` no longer applies."""
        if self._held & reason:
            self._held &= ~reason
            if not self._held and not self._transport.disconnecting:
                self._transport.resumeProducing()


class TimedTap(Tap):
    """A Tap that records when the other side last held it, by a coarse clock."""

    __slots__ = ("kept_shut_until", "_sweeper", "_shut_at")

    def __init__(self, transport: Any, sweeper: Sweeper) -> None:
        Tap.__init__(self, transport)
        self._sweeper = sweeper
        self._shut_at = 0.0
        # By the sweeper's clock.  A pause that began and ended within one of its ticks is not counted: each large
        # response has many of these, and they are too short to make a server time out.
        self.kept_shut_until = -NEVER

    def hold(self, reason: int) -> None:
        """Read no more until `reason` is released."""
        if reason == PEER_FULL and not self._held & PEER_FULL:
            self._shut_at = self._sweeper.now
        Tap.hold(self, reason)

    def release(self, reason: int) -> None:
        """`reason` no longer applies."""
        if self._held & reason:
            if reason == PEER_FULL and self._sweeper.now != self._shut_at:
                self.kept_shut_until = self._sweeper.now
            Tap.release(self, reason)

    def kept_shut_within(self, seconds: float) -> bool:
        """Whether the other side's write buffer is full now, or was in the last `seconds`."""
        return self._held & PEER_FULL != 0 or self.kept_shut_until + seconds > self._sweeper.now


@implementer(IPushProducer)
class Throttle:
    """The producer of one transport: holds and releases the tap of the connection whose data is written to it."""

    __slots__ = ("source", "full", "owner")

    def __init__(self, owner: Any) -> None:
        """`owner` has a method `pressure_changed(full)`, for its deadlines; it may be replaced."""
        self.source: Tap | None = None
        self.full = False
        self.owner = owner

    def connect(self, source: Tap) -> None:
        """From now on the data that is written comes from `source`."""
        self.source = source
        if self.full:
            source.hold(PEER_FULL)

    def disconnect(self) -> None:
        """The exchange has ended."""
        if self.source is not None:
            self.source.release(PEER_FULL)
            self.source = None

    def pauseProducing(self) -> None:
        self.full = True
        if self.source is not None:
            self.source.hold(PEER_FULL)
        self.owner.pressure_changed(True)

    def resumeProducing(self) -> None:
        self.full = False
        if self.source is not None:
            self.source.release(PEER_FULL)
        self.owner.pressure_changed(False)

    def stopProducing(self) -> None:
        """The transport is closed; what follows is done by connectionLost."""
