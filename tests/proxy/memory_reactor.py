"""The reactor of a data path whose sockets are fakes: the test calls the methods that read and write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from zope.interface import implementer

from twisted_lb.deadlines import NEVER
from twisted_lb.network.data_path_reactor import IDataPathReactor, Unsent
from twisted_lb.network.posted import PostedWork


@implementer(IDataPathReactor)
class MemoryReactor:
    """Over a clock; connections are opened by the test."""

    deadline = NEVER

    def __init__(self, clock: Clock, connect: Callable[[str, int, ClientFactory, float], Any]) -> None:
        self._connect = connect
        self._iterations = count(1)
        self.seconds = clock.seconds
        self.callLater = clock.callLater
        self.getDelayedCalls = clock.getDelayedCalls
        self.posted = PostedWork(clock.seconds, partial(clock.callLater, 0))
        self.on_lost: Callable[[Any], None] | None = None

    @property
    def iteration(self) -> int:
        """Each event that a test makes is an iteration."""
        return next(self._iterations)

    def start(self, on_lost: Callable[[Any], None]) -> None:
        self.on_lost = on_lost

    def stop(self) -> None:
        self.on_lost = None

    def connectTCP(self, host: str, port: int, factory: ClientFactory, timeout: float = 30) -> Any:
        return self._connect(host, port, factory, timeout)

    def addReader(self, descriptor: object) -> None:
        raise AssertionError("the transports of these tests have no sockets")

    addWriter = removeReader = removeWriter = pause_reader = addReader

    def flush_later(self, transport: Unsent) -> None:
        raise AssertionError("the transports of these tests have no sockets")

    def deadline_passed(self) -> None:
        raise AssertionError("there is no deadline")

    def give_up(self) -> None:
        raise AssertionError("there is no deadline")
