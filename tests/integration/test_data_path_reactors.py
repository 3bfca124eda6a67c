"""The contract of IDataPathReactor, on real sockets: the epoll set, and the reactor over each of Twisted's.

Nothing waits here: a reactor is iterated until what the test wants has happened, or SECONDS have passed.
"""

from __future__ import annotations

import gc
import select
import socket
import time
from asyncio import new_event_loop
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.pollreactor import PollReactor
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from twisted_lb.network.data_path_reactor import IDataPathReactor
from twisted_lb.network.epoll import AVAILABLE, EpollReactor
from twisted_lb.network.stock import StockReactor
from twisted_lb.network.transport import ClientTransport, ServerTransport

SECONDS = 60.0
MUCH = 4 * 1024 * 1024


def asyncio_reactor() -> Any:
    return AsyncioSelectorReactor(new_event_loop())


MADE: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "select": (StockReactor, SelectReactor),
    "asyncio": (StockReactor, asyncio_reactor),
}
if hasattr(select, "poll"):
    MADE["poll"] = StockReactor, PollReactor
if AVAILABLE:
    from twisted.internet.epollreactor import EPollReactor

    MADE["epoll"] = StockReactor, EPollReactor
    MADE["epoll set around epoll"] = partial(EpollReactor, around=True), EPollReactor
    MADE["epoll set in epoll"] = EpollReactor, EPollReactor
    MADE["epoll set in select"] = EpollReactor, SelectReactor
    MADE["epoll set in asyncio"] = EpollReactor, asyncio_reactor


class Running:
    """A reactor of the data path, and Twisted's reactor in which it runs."""

    def __init__(self, name: str) -> None:
        make, make_stock = MADE[name]
        self.stock = make_stock()
        self.data_path: Any = make(self.stock)
        self.lost: list[Failure] = []
        self.data_path.start(self.lost.append)
        self.sockets: list[socket.socket] = []

    def until(self, done: Callable[[], object]) -> None:
        """Iterate until it is done.  Raises AssertionError."""
        give_up_at = time.monotonic() + SECONDS
        while time.monotonic() < give_up_at:
            if done():
                return
            self.stock.iterate(0.01)
        raise AssertionError("it does not happen")

    def iterate(self, times: int = 5) -> None:
        for _ in range(times):
            self.stock.iterate(0)

    def close(self) -> None:
        self.data_path.stop()
        self.stock.removeAll()
        self.stock.disconnectAll()
        for one in self.sockets:
            one.close()


@pytest.fixture(params=MADE)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    made = Running(request.param)
    yield made
    made.close()


class Descriptor:
    """One end of a pair of sockets, as a transport has it; notes what is done to it.  The other end is the test's."""

    def __init__(self, running: Running, log: list[Any], name: str) -> None:
        self.socket, self.peer = socket.socketpair()
        running.sockets += [self.socket, self.peer]
        self.socket.setblocking(False)
        self.log = log
        self.name = name
        self.read: Callable[[], Any] = lambda: None
        self.data_path = running.data_path

    def logPrefix(self) -> str:
        return self.name

    def fileno(self) -> int:
        return self.socket.fileno()

    def doRead(self) -> Any:
        try:
            data = self.socket.recv(1000)
        except BlockingIOError:
            # Twisted's own reactors tell a new descriptor what they have heard of a closed one with its number; their
            # transports read nothing then.
            if isinstance(self.data_path, EpollReactor):
                raise
            return None
        self.log.append((self.name, "read", data))
        return self.read() if data else ConnectionDone()

    def doWrite(self) -> Any:
        self.log.append((self.name, "write"))
        self.data_path.removeWriter(self)

    def flush(self) -> None:
        self.log.append((self.name, "flush"))

    def readConnectionEnding(self) -> None:
        self.log.append((self.name, "ending"))

    def readConnectionLost(self, reason: Failure) -> None:
        self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        self.log.append((self.name, "lost", reason.type))
        self.data_path.removeReader(self)
        self.data_path.removeWriter(self)
        self.socket.close()


def test_interface(running: Running) -> None:
    """It provides the interface."""
    verifyObject(IDataPathReactor, running.data_path)


def test_reading_and_writing(running: Running) -> None:
    """Descriptors are read and written as they were added, and no more when they were removed."""
    log: list[Any] = []
    one = Descriptor(running, log, "one")
    running.data_path.addWriter(one)
    running.until(lambda: log == [("one", "write")])
    running.data_path.addReader(one)
    one.peer.send(b"a")
    running.until(lambda: log[1:] == [("one", "read", b"a")])
    running.data_path.removeReader(one)
    one.peer.send(b"b")
    running.iterate()
    assert len(log) == 2
    running.data_path.addReader(one)
    running.until(lambda: log[2:] == [("one", "read", b"b")])


def test_flushes_follow_events(running: Running) -> None:
    """What was written within the events of an iteration goes out after all of them."""
    log: list[Any] = []
    both = [Descriptor(running, log, name) for name in ("one", "two")]
    for one in both:
        one.read = lambda one=one: running.data_path.flush_later(one)  # type: ignore[misc]
        running.data_path.addReader(one)
        one.peer.send(b"a")
    running.until(lambda: len(log) == 4)
    assert {entry[1] for entry in log[:2]} == {"read"}
    assert {entry[1] for entry in log[2:]} == {"flush"}
    assert [entry[0] for entry in log[:2]] == [entry[0] for entry in log[2:]]


def test_flush_without_an_event(running: Running) -> None:
    """What was written outside of any event goes out in the next iteration, and not from within the call."""
    log: list[Any] = []
    one = Descriptor(running, log, "one")
    running.data_path.flush_later(one)
    assert log == []
    running.until(lambda: log == [("one", "flush")])


def test_end_of_file(running: Running) -> None:
    """The end of the other side is told as ConnectionDone, after all that was sent before."""
    log: list[Any] = []
    one = Descriptor(running, log, "one")
    running.data_path.addReader(one)
    one.peer.send(b"a")
    one.peer.close()
    running.until(lambda: len(log) == 3)
    assert log == [("one", "read", b"a"), ("one", "read", b""), ("one", "lost", ConnectionDone)]


def test_ended_by_an_earlier_event(running: Running) -> None:
    """A descriptor that an earlier event of the same iteration has removed gets no event."""
    log: list[Any] = []
    both = [Descriptor(running, log, name) for name in ("one", "two")]
    for one, other in zip(both, reversed(both)):
        one.read = lambda other=other: running.data_path.removeReader(other)  # type: ignore[misc]
        running.data_path.addReader(one)
        one.peer.send(b"a")
    running.iterate()
    assert [entry[1] for entry in log] == ["read"]


def test_number_of_a_closed_one(running: Running) -> None:
    """A descriptor that has got the number of one that was closed gets its own events only."""
    log: list[Any] = []
    first, second = Descriptor(running, log, "first"), Descriptor(running, log, "second")
    made: list[Descriptor] = []

    def replace() -> None:
        for one in (first, second):
            running.data_path.removeReader(one)
            one.socket.close()
        made.extend(Descriptor(running, log, f"new{number}") for number in range(2))
        for one in made:
            running.data_path.addReader(one)

    for one in (first, second):
        one.read = replace
        running.data_path.addReader(one)
        one.peer.send(b"a")
    # No socket of another test is collected meanwhile, whose number the new ones would get.
    gc.collect()
    gc.disable()
    try:
        running.iterate()
    finally:
        gc.enable()
    assert [entry[1] for entry in log] == ["read"]
    made[0].peer.send(b"b")
    running.until(lambda: log[1:] == [("new0", "read", b"b")])


def test_broken_descriptor(running: Running) -> None:
    """An exception closes its own descriptor, is logged, and the others go on."""
    log: list[Any] = []
    events: list[dict[str, Any]] = []
    broken, good = Descriptor(running, log, "broken"), Descriptor(running, log, "good")

    def fail() -> None:
        raise ZeroDivisionError

    broken.read = fail
    for one in (broken, good):
        running.data_path.addReader(one)
        one.peer.send(b"a")
    globalLogPublisher.addObserver(events.append)
    try:
        running.until(lambda: len(log) == 3)
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert ("broken", "lost", ZeroDivisionError) in log and ("good", "read", b"a") in log
    assert any(event.get("log_failure") or event.get("isError") for event in events)


def test_end_while_paused(running: Running) -> None:
    """One that is paused is not read, hears once that the other side has ended, and can be read afterwards."""
    log: list[Any] = []
    one = Descriptor(running, log, "one")
    running.data_path.addReader(one)
    running.data_path.pause_reader(one)
    one.peer.send(b"a")
    running.iterate()
    assert log == []
    one.peer.shutdown(socket.SHUT_WR)
    running.until(lambda: log)
    running.iterate(50)
    assert log == [("one", "ending")]
    running.data_path.addReader(one)
    running.until(lambda: len(log) == 4)
    assert log[1:] == [("one", "read", b"a"), ("one", "read", b""), ("one", "lost", ConnectionDone)]


def test_end_of_both_directions_while_paused(running: Running) -> None:
    """What has been received before the end can still be read, also when our own direction has ended before."""
    log: list[Any] = []
    one = Descriptor(running, log, "one")
    one.socket.shutdown(socket.SHUT_WR)
    running.data_path.pause_reader(one)
    one.peer.send(b"a")
    one.peer.shutdown(socket.SHUT_WR)
    running.until(lambda: log)
    running.iterate(50)
    assert log == [("one", "ending")]
    running.data_path.addReader(one)
    running.until(lambda: len(log) == 4)
    assert log[1:] == [("one", "read", b"a"), ("one", "read", b""), ("one", "lost", ConnectionDone)]


def test_reset_while_paused(running: Running) -> None:
    """One that is paused hears that its connection was reset."""
    log: list[Any] = []
    one = Descriptor(running, log, "one")
    running.data_path.pause_reader(one)
    # With bytes unread, the end of a Unix socket is a reset.
    one.socket.send(b"x")
    one.peer.close()
    running.until(lambda: log)
    assert log == [("one", "lost", ConnectionLost)]


def test_resumed_in_time(running: Running) -> None:
    """One that was paused and is read again gets no word of the end but its own."""
    log: list[Any] = []
    one = Descriptor(running, log, "one")
    running.data_path.pause_reader(one)
    running.data_path.addReader(one)
    running.data_path.pause_reader(one)
    running.data_path.removeReader(one)
    one.peer.shutdown(socket.SHUT_WR)
    running.until(lambda: running.stock.getDelayedCalls() == [] or len(log) > 0)
    assert log == []


def test_iterations_are_counted(running: Running) -> None:
    """The number is the same for all events of an iteration, and grows when the kernel is asked again."""
    log: list[Any] = []
    numbers: list[int] = []
    both = [Descriptor(running, log, name) for name in ("one", "two")]
    for one in both:
        one.read = lambda: numbers.append(running.data_path.iteration)
        running.data_path.addReader(one)
    for expected in (2, 4):
        for one in both:
            one.peer.send(b"a")
        running.until(lambda expected=expected: len(numbers) == expected)  # type: ignore[misc]
        running.iterate()
    assert numbers[0] == numbers[1] < numbers[2] == numbers[3]


def test_posted_work(running: Running) -> None:
    """Posted work is done in an iteration, and what it writes goes out after it."""
    log: list[Any] = []
    one = Descriptor(running, log, "one")

    class Work:
        def resume(self) -> None:
            log.append("work")
            running.data_path.flush_later(one)

        def give_up(self) -> None:
            raise AssertionError

    running.data_path.posted.post(Work())
    assert log == []
    running.until(lambda: log == ["work", ("one", "flush")])


class Peer(Protocol):
    """Takes all, and notes how its connection ends."""

    def __init__(self) -> None:
        self.received = 0
        self.ended: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.ended = reason


class PeerFactory(ClientFactory):
    """One connection to a server."""

    noisy = False

    def __init__(self) -> None:
        self.peer = Peer()

    def buildProtocol(self, addr: object) -> Peer:
        return self.peer


def test_connections(running: Running) -> None:
    """A connection of its own transports carries megabytes with back-pressure, and ends in order."""
    listening = socket.create_server(("127.0.0.1", 0))
    running.sockets.append(listening)
    factory = PeerFactory()
    running.data_path.connectTCP("127.0.0.1", listening.getsockname()[1], factory, SECONDS)
    running.until(lambda: factory.peer.transport is not None)
    transport = factory.peer.transport
    assert isinstance(transport, ClientTransport)
    accepted, address = listening.accept()
    accepted.setblocking(False)
    server = Peer()
    other = ServerTransport(accepted, server, address, None, 0, running.data_path)  # type: ignore[arg-type]
    server.makeConnection(other)
    other.startReading()
    other.pauseProducing()
    transport.write(b"x" * MUCH)
    running.iterate()
    assert server.received == 0 and not transport.delivered()
    other.resumeProducing()
    running.until(lambda: server.received == MUCH)
    assert transport.delivered() and transport.sent == MUCH
    transport.loseConnection()
    running.until(lambda: server.ended is not None and factory.peer.ended is not None)
    assert server.ended is not None and server.ended.check(ConnectionDone)


def test_refused(running: Running) -> None:
    """A connection that nobody takes is told to its factory."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    failures: list[Failure] = []

    class Refused(ClientFactory):
        noisy = False

        def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
            failures.append(reason)

    running.data_path.connectTCP("127.0.0.1", port, Refused(), SECONDS)
    running.until(lambda: failures)
