"""The data path on any reactor of Twisted: select, poll, kqueue, asyncio.

Each event and each write costs more than in `epoll`, and an iteration has no bound in time; for clients and servers
there is no difference.  Twisted's reactors do not detect the end of a connection that is not being read, so such
connections are polled here, every LOOK_SECONDS, where the system has poll(2) with POLLRDHUP.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.deadlines import NEVER
from twisted_lb.network.data_path_reactor import IDataPathReactor, Unsent, connection_name
from twisted_lb.network.posted import PostedWork
from twisted_lb.network.transport import Connector, connect_tcp
from twisted_lb.network.unsent import flush_all

LOOK_SECONDS = 0.25

_log = BoundedLog(Logger())


@implementer(IDataPathReactor)
class StockReactor:
    """Passes all calls to Twisted's reactor."""

    deadline = NEVER  # it cannot fail without the reactor

    def __init__(self, reactor: Any) -> None:
        """`reactor` provides IReactorFDSet and IReactorTime."""
        self._reactor = reactor
        self._unsent: list[Unsent] = []
        self._iteration = 0
        self._counting = False
        self.seconds: Callable[[], float] = reactor.seconds
        self.callLater: Callable[..., IDelayedCall] = reactor.callLater
        self.getDelayedCalls: Callable[[], Sequence[IDelayedCall]] = reactor.getDelayedCalls
        self.addWriter: Callable[[Any], None] = reactor.addWriter
        self.removeWriter: Callable[[Any], None] = reactor.removeWriter
        self.posted = PostedWork(self.seconds, partial(self.callLater, 0))
        self._paused = _Paused(self)

    def start(self, on_lost: Callable[[Failure], None]) -> None:
        """See IDataPathReactor: there is nothing that could fail."""

    def stop(self) -> None:
        """See IDataPathReactor."""
        self._paused.stop()

    @property
    def iteration(self) -> int:
        """See IDataPathReactor.  Iterations are counted only while this is read."""
        if not self._counting:
            self._counting = True
            self.callLater(0, self._count)
        return self._iteration

    def _count(self) -> None:
        self._counting = False
        self._iteration += 1

    def addReader(self, descriptor: Any) -> None:
        self._paused.discard(descriptor)
        self._reactor.addReader(descriptor)

    def removeReader(self, descriptor: Any) -> None:
        self._paused.discard(descriptor)
        self._reactor.removeReader(descriptor)

    def pause_reader(self, descriptor: Any) -> None:
        """See IDataPathReactor."""
        self._reactor.removeReader(descriptor)
        self._paused.add(descriptor)

    def flush_later(self, transport: Unsent) -> None:
        """See IDataPathReactor: timers come after the events of an iteration."""
        if not self._unsent:
            self.callLater(0, self._flush)
        self._unsent.append(transport)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        flush_all(unsent)

    def connectTCP(self, host: str, port: int, factory: ClientFactory, timeout: float = 30) -> Connector:
        """See IDataPathReactor."""
        return connect_tcp(self, host, port, factory, timeout)

    def deadline_passed(self) -> None:
        """See Watched."""

    def give_up(self) -> None:
        """See Watched."""


class _Paused:
    """The connections that are not being read, and whose end is to be detected."""

    def __init__(self, reactor: StockReactor) -> None:
        self._reactor = reactor
        self._descriptors: dict[Any, int] = {}  # each with its number
        self._by_number: dict[int, Any] = {}
        self._poll = select.poll() if hasattr(select, "poll") and hasattr(select, "POLLRDHUP") else None
        self._next: IDelayedCall | None = None

    def add(self, descriptor: Any) -> None:
        """Poll it from now on."""
        number = descriptor.fileno()
        if self._poll is None or descriptor in self._descriptors or number < 0:
            return
        self._poll.register(number, select.POLLRDHUP)
        self._descriptors[descriptor] = number
        self._by_number[number] = descriptor
        if self._next is None:
            self._next = self._reactor.callLater(LOOK_SECONDS, self._look)

    def discard(self, descriptor: Any) -> None:
        """Stop polling it, if it is one of them."""
        number = self._descriptors.pop(descriptor, None) if self._descriptors else None
        if number is not None and self._poll is not None:
            del self._by_number[number]
            self._poll.unregister(number)

    def stop(self) -> None:
        """Stop polling."""
        for descriptor in list(self._descriptors):
            self.discard(descriptor)
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        self._next = None
        for number, event in self._poll.poll(0) if self._poll is not None else ():
            descriptor = self._by_number.get(number)
            # The event of an earlier one may have closed this one.
            if descriptor is not None:
                self.discard(descriptor)
                self._tell(descriptor, event)
        if self._descriptors and self._next is None:
            self._next = self._reactor.callLater(LOOK_SECONDS, self._look)

    def _tell(self, descriptor: Any, event: int) -> None:
        error: BaseException | None = None
        # With POLLHUP as well, both directions have ended normally; what has been received can still be read.
        if event & ~(select.POLLRDHUP | select.POLLHUP) or not event & select.POLLRDHUP:
            error = ConnectionLost()
        else:
            try:
                descriptor.readConnectionEnding()
            except BaseException as raised:
                text = "An event of a {connection} failed; it is closed"
                _log.failure("event", text, connection=connection_name(descriptor))
                error = raised
        if error is not None:
            try:
                self._reactor.removeReader(descriptor)
                self._reactor.removeWriter(descriptor)
                descriptor.connectionLost(Failure(error))
            except BaseException:
                text = "A {connection} could not be closed in good order"
                _log.failure("end", text, connection=connection_name(descriptor))
