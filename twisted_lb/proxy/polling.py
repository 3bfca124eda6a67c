"""The data path's own poll loop, inside Twisted's.

Twisted's reactor wraps each event in a logging context and each write in two epoll_ctl calls.  A
`Poller` is one descriptor of that reactor (an epoll set can itself be polled), looks after all sockets
of the data path, and treats the events that are there as one *turn*: the reads first, then all writes
that they led to.  Written back to back, bytes wake a peer once instead of once a message.  Measured at
64 connections: a seventh less CPU per request than writing within the event (docs/performance.md).

A turn has a bound in time, after which the writes go out and the reactor looks at its timers and at all else that it
polls.  The events that were not delivered come first in the next turn, so that none waits for ever.

To its transports it is the reactor: it provides what they need of IReactorFDSet and IReactorTime.
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, epoll
from typing import Any, Protocol

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.proxy.posted import PostedWork

MAX_EVENTS = 256  # a poll
TURN_SECONDS = 0.005  # and the event that is under way then

_log = BoundedLog(Logger())


class Unsent(Protocol):
    """A transport that wrote in this turn."""

    def flush(self) -> None:
        """Send it."""


class Poller:
    """Polls the sockets of the data path."""

    def __init__(
        self,
        reactor: Any,
        make_epoll: Callable[[], epoll] = epoll,
        on_lost: Callable[[Failure], None] = lambda reason: None,
    ) -> None:
        """`reactor` provides IReactorFDSet and IReactorTime; `on_lost` is called when it has dropped us."""
        self._on_lost = on_lost
        self._polled = False
        self._lost = False
        self._reactor = reactor
        self._epoll = make_epoll()
        self._events: dict[int, int] = {}
        self._descriptors: dict[int, Any] = {}
        self._unsent: list[Unsent] = []
        self._turning = False
        self._undelivered: list[tuple[Any, int, int]] = []  # descriptor, its number, events
        self._new: set[int] = set()  # numbers of what was registered in this turn
        self._polls = 0  # since the turn was counted
        self.turn = 0  # how often all events that were there have been delivered
        self.seconds: Callable[[], float] = reactor.seconds
        self.callLater: Callable[..., IDelayedCall] = reactor.callLater
        self.posted = PostedWork(self.seconds, self._soon)

    def start(self) -> None:
        """Let the reactor poll us."""
        self._polled = True
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Be polled no more."""
        self._polled = False
        self._reactor.removeReader(self)

    def flush_later(self, transport: Unsent) -> None:
        """Flush `transport` at the end of the turn, or in the reactor's next iteration."""
        if not self._turning and not self._unsent:
            self.callLater(0, self._flush)
        self._unsent.append(transport)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        for transport in unsent:
            try:
                transport.flush()
            except BaseException:
                _log.failure("write", "A write of the data path failed")

    # IReactorFDSet, for the transports

    def addReader(self, descriptor: Any) -> None:
        self._change(descriptor, EPOLLIN, EPOLLRDHUP)

    def addWriter(self, descriptor: Any) -> None:
        self._change(descriptor, EPOLLOUT, 0)

    def removeReader(self, descriptor: Any) -> None:
        self._change(descriptor, 0, EPOLLIN | EPOLLRDHUP)

    def pause_reader(self, descriptor: Any) -> None:
        """Do not read, but call `descriptor.readConnectionEnding()` once when the other side sends no more."""
        self._change(descriptor, EPOLLRDHUP, EPOLLIN)

    def removeWriter(self, descriptor: Any) -> None:
        self._change(descriptor, 0, EPOLLOUT)

    def _change(self, descriptor: Any, more: int, less: int) -> None:
        fd = descriptor.fileno()
        if self._lost:
            return
        if fd < 0:
            # Closed behind our back; the kernel has taken it out of the set.
            for known in [known for known, one in self._descriptors.items() if one is descriptor]:
                del self._descriptors[known], self._events[known]
            return
        before = self._events.get(fd, 0)
        events = (before | more) & ~less
        if events == before:
            return
        if not before:
            self._epoll.register(fd, events)
            self._descriptors[fd] = descriptor
            self._new.add(fd)
        elif events:
            self._epoll.modify(fd, events)
        else:
            self._epoll.unregister(fd)
            del self._descriptors[fd], self._events[fd]
            return
        self._events[fd] = events

    # IReadDescriptor, for the reactor

    def fileno(self) -> int:
        return -1 if self._epoll.closed else self._epoll.fileno()

    def logPrefix(self) -> str:
        return "twisted_lb"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor polls us no more.  `stop` comes before that; without it, no byte would be read again."""
        if self._polled:
            self._polled = False
            self._lost = True
            self._on_lost(reason)

    # Watched by the sweeper: a descriptor that is closed goes without a word.

    deadline = 0.0

    def deadline_passed(self) -> None:
        """See to it that we are polled."""
        if self._polled and (self._epoll.closed or self not in self._reactor.getReaders()):
            self.connectionLost(Failure(ConnectionLost("its descriptor is not polled any more")))

    def give_up(self) -> None:
        """See Watched."""
        self.connectionLost(Failure(ConnectionLost("it cannot be looked at")))

    def doRead(self) -> None:
        """One turn."""
        self._turning = True
        try:
            self._read()
        finally:
            self._turning = False
            self._flush()

    def _read(self) -> None:
        seconds = self.seconds
        end = seconds() + TURN_SECONDS
        descriptors = self._descriptors
        self._new.clear()
        undelivered, self._undelivered = self._undelivered, []
        for position, (descriptor, fd, event) in enumerate(undelivered, 1):
            if descriptors.get(fd) is descriptor:
                self._deliver(descriptor, fd, event)
                if seconds() >= end:
                    self._undelivered = undelivered[position:]
                    return
        events = self._epoll.poll(0, MAX_EVENTS)
        self._polls += 1
        # The kernel reports in order: after so many polls it has reported all that were there.
        if len(events) < MAX_EVENTS or self._polls * MAX_EVENTS > len(descriptors):
            self._polls = 0
            self.turn += 1
        new = self._new
        for position, (fd, event) in enumerate(events, 1):
            # An earlier event of this turn may have ended it, and given its number to another one.
            descriptor = descriptors.get(fd)
            if descriptor is not None and fd not in new:
                self._deliver(descriptor, fd, event)
                if seconds() >= end:
                    rest = events[position:]
                    self._undelivered = [
                        (descriptors[fd], fd, event) for fd, event in rest if fd in descriptors and fd not in new
                    ]
                    return

    def _soon(self, act: Callable[[], None]) -> None:
        self.callLater(0, self._in_turn, act)

    def _in_turn(self, act: Callable[[], None]) -> None:
        """What is not an event, but leads to writes as well."""
        self._turning = True
        try:
            act()
        finally:
            self._turning = False
            self._flush()

    def _deliver(self, descriptor: Any, fd: int, event: int) -> None:
        reading = False
        why: BaseException | None = None
        try:
            if event & EPOLLIN:
                # Reading may have been paused since the event was reported.
                if self._events[fd] & EPOLLIN:
                    reading = True
                    why = descriptor.doRead()
            elif event & (EPOLLHUP | EPOLLERR):
                reading = bool(self._events[fd] & EPOLLIN)
                why = ConnectionDone() if reading else ConnectionLost()
            elif event & EPOLLRDHUP and self._events[fd] & EPOLLRDHUP:
                # It stays so: once is enough.
                self._change(descriptor, 0, EPOLLRDHUP)
                descriptor.readConnectionEnding()
            if why is None and event & EPOLLOUT:
                reading = False
                why = descriptor.doWrite()
        except BaseException as error:
            _log.failure("event", "An event of the data path failed; its connection is closed")
            why = error
            reading = False
        if why is not None:
            try:
                self._disconnect(descriptor, why, reading)
            except BaseException:
                _log.failure("end", "A connection of the data path did not end in good order")

    def _disconnect(self, descriptor: Any, why: BaseException, reading: bool) -> None:
        self.removeReader(descriptor)
        if reading and isinstance(why, ConnectionDone):
            # The other side sends no more, which need not be the end.
            descriptor.readConnectionLost(Failure(why))
        else:
            self.removeWriter(descriptor)
            descriptor.connectionLost(Failure(why))
