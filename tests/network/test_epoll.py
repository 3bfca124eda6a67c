"""The epoll set of the data path, over an epoll set that the tests play."""

from __future__ import annotations

import select
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from twisted_lb.network import epoll
from twisted_lb.network.data_path_reactor import IDataPathReactor
from twisted_lb.network.epoll import (
    AVAILABLE,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    FEW_EVENTS,
    ITERATION_SECONDS,
    MAX_EVENTS,
    PAUSE,
    TRIES,
    EpollReactor,
)
from twisted_lb.network.twisted_private import EPollReactor


class FakeEpoll:
    """Keeps what is registered, and returns the events that a test put there."""

    def __init__(self) -> None:
        self.registered: dict[int, int] = {}
        self.events: list[tuple[int, int]] = []
        self.more: list[list[tuple[int, int]]] = []  # those of the next polls
        self.polls = 0
        self.waits: tuple[float, ...] = (0,)  # the timeouts that may be

    closed = False

    def fileno(self) -> int:
        return 99

    def register(self, fd: int, events: int) -> None:
        assert fd not in self.registered
        self.registered[fd] = events

    def modify(self, fd: int, events: int) -> None:
        assert fd in self.registered
        self.registered[fd] = events

    def unregister(self, fd: int) -> None:
        del self.registered[fd]

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        assert timeout in self.waits
        self.polls += 1
        events, self.events = self.events, self.more.pop(0) if self.more else []
        return events


class Descriptor:
    """A transport that notes what is done to it."""

    def __init__(self, fd: int, log: list[Any]) -> None:
        self.fd = fd
        self.log = log
        self.read: Any = lambda: None
        self.written: Any = lambda: None

    def fileno(self) -> int:
        return self.fd

    def doRead(self) -> Any:
        self.log.append(("read", self.fd))
        return self.read()

    def doWrite(self) -> Any:
        self.log.append(("write", self.fd))
        return self.written()

    def flush(self) -> None:
        self.log.append(("flush", self.fd))

    def readConnectionLost(self, reason: Failure) -> None:
        self.log.append(("read lost", self.fd, reason.type))

    def readConnectionEnding(self) -> None:
        self.log.append(("read ending", self.fd))

    def connectionLost(self, reason: Failure) -> None:
        self.log.append(("lost", self.fd, reason.type))


class EpollReactorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.epoll = FakeEpoll()
        make: Any = lambda: self.epoll  # noqa: E731
        self.clock = Clock()
        self.reactor = EpollReactor(self.clock, make)
        self.log: list[Any] = []

    def descriptor(self, fd: int) -> Descriptor:
        descriptor = Descriptor(fd, self.log)
        self.reactor.addReader(descriptor)
        return descriptor

    def iterate(self, *events: tuple[int, int]) -> None:
        self.epoll.events = list(events)
        self.reactor.doRead()

    def test_interface(self) -> None:
        """It is a reactor of the data path, and its events have the kernel's numbers."""
        verifyObject(IDataPathReactor, self.reactor)
        if AVAILABLE:
            for name in ("EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLRDHUP"):
                self.assertEqual(getattr(epoll, name), getattr(select, name), name)

    def test_registration(self) -> None:
        """The kernel watches exactly what was asked for, and nothing when nothing is."""
        one = self.descriptor(3)
        self.assertEqual(self.epoll.registered, {3: EPOLLIN})
        self.reactor.addWriter(one)
        self.reactor.addWriter(one)
        self.assertEqual(self.epoll.registered, {3: EPOLLIN | EPOLLOUT})
        self.reactor.removeReader(one)
        self.assertEqual(self.epoll.registered, {3: EPOLLOUT})
        self.reactor.removeWriter(one)
        self.reactor.removeWriter(one)
        self.assertEqual(self.epoll.registered, {})

    def test_end_while_paused(self) -> None:
        """One that is paused hears once that the other side sends no more, and is still read when it is resumed."""
        one = self.descriptor(3)
        self.reactor.pause_reader(one)
        self.assertEqual(self.epoll.registered, {3: EPOLLRDHUP})
        self.iterate((3, EPOLLRDHUP))
        self.assertEqual((self.log, self.epoll.registered), ([("read ending", 3)], {}))
        self.reactor.addReader(one)
        self.assertEqual(self.epoll.registered, {3: EPOLLIN})
        self.iterate((3, EPOLLIN))
        self.assertEqual(self.log, [("read ending", 3), ("read", 3)])
        self.reactor.pause_reader(one)
        self.reactor.addWriter(one)
        self.assertEqual(self.epoll.registered, {3: EPOLLRDHUP | EPOLLOUT})
        self.iterate((3, EPOLLRDHUP | EPOLLOUT))
        self.assertEqual(self.log[2:], [("read ending", 3), ("write", 3)])
        self.reactor.removeWriter(one)
        self.reactor.pause_reader(one)
        self.reactor.removeReader(one)
        self.assertEqual(self.epoll.registered, {})

    def test_both_ended_while_paused(self) -> None:
        """So does one whose own direction has ended before."""
        one = self.descriptor(3)
        self.reactor.pause_reader(one)
        self.iterate((3, EPOLLRDHUP | EPOLLHUP))
        self.assertEqual((self.log, self.epoll.registered), ([("read ending", 3)], {}))

    def test_lost_while_paused(self) -> None:
        """One that is paused hears that its connection was reset."""
        one = self.descriptor(3)
        self.reactor.pause_reader(one)
        self.iterate((3, EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        self.assertEqual((self.log, self.epoll.registered), ([("lost", 3, ConnectionLost)], {}))

    def test_closed_without_a_word(self) -> None:
        """A descriptor whose socket is closed already is forgotten, and its number can be used again."""
        one = self.descriptor(3)
        one.fd = -1
        self.epoll.registered.clear()
        self.reactor.removeReader(one)
        self.descriptor(3)
        self.assertEqual(self.epoll.registered, {3: EPOLLIN})

    def test_time_of_an_iteration(self) -> None:
        """After its time an iteration ends: what was written goes out, and the other events come first in the next."""
        for fd in (3, 4, 5):
            descriptor = self.descriptor(fd)

            def read(descriptor: Descriptor = descriptor) -> None:
                self.clock.rightNow += ITERATION_SECONDS * 0.6
                self.reactor.flush_later(descriptor)

            descriptor.read = read
        self.iterate((3, EPOLLIN), (4, EPOLLIN), (5, EPOLLIN))
        self.assertEqual(self.log, [("read", 3), ("read", 4), ("flush", 3), ("flush", 4)])
        self.log.clear()
        self.iterate((3, EPOLLIN))
        self.assertEqual(self.log, [("read", 5), ("read", 3), ("flush", 5), ("flush", 3)])
        self.log.clear()
        self.iterate()
        self.assertEqual(self.log, [])

    def test_undelivered_is_out_of_date(self) -> None:
        """What a descriptor has not been told is not told to one that has its number now, nor while it is paused."""
        first, second, third = self.descriptor(3), self.descriptor(4), self.descriptor(5)

        def long() -> None:
            self.clock.rightNow += ITERATION_SECONDS

        first.read = long
        self.iterate((3, EPOLLIN), (4, EPOLLHUP), (5, EPOLLIN))
        self.reactor.removeReader(second)
        self.descriptor(4)
        self.reactor.removeReader(third)
        self.log.clear()
        self.iterate()
        self.assertEqual(self.log, [])

    def test_number_used_again(self) -> None:
        """An event is not delivered to a descriptor that was registered after it was reported."""
        first, second = self.descriptor(3), self.descriptor(4)

        def replace() -> None:
            self.reactor.removeReader(second)
            self.descriptor(4)

        first.read = replace
        self.iterate((3, EPOLLIN), (4, EPOLLHUP))
        self.assertEqual(self.log, [("read", 3)])
        self.iterate((4, EPOLLIN))
        self.assertEqual(self.log, [("read", 3), ("read", 4)])

    def test_counted_iterations(self) -> None:
        """An iteration counts once all events that were there have been delivered, however many polls that takes."""
        descriptors = [self.descriptor(fd) for fd in range(3, 3 + MAX_EVENTS + 10)]
        events = [(descriptor.fd, EPOLLIN) for descriptor in descriptors]
        self.iterate(*events[:MAX_EVENTS])
        self.assertEqual(self.reactor.iteration, 0)
        self.iterate(*events[10:])
        self.assertEqual(self.reactor.iteration, 1)
        descriptors[0].read = lambda: setattr(self.clock, "rightNow", self.clock.seconds() + ITERATION_SECONDS)
        self.iterate(*events[:2])
        self.assertEqual(self.reactor.iteration, 2)
        descriptors[1].read = descriptors[0].read
        self.iterate()
        self.assertEqual(self.reactor.iteration, 2)

    def test_base_exceptions(self) -> None:
        """Whatever an event raises, its connection is closed, and the other events and the writes go on."""
        for kind in (SystemExit, KeyboardInterrupt, GeneratorExit):
            bad, good = self.descriptor(3), self.descriptor(4)

            def read(kind: type[BaseException] = kind) -> None:
                self.reactor.flush_later(good)
                raise kind

            bad.read = read
            self.iterate((3, EPOLLIN), (4, EPOLLIN))
            self.assertEqual(self.log, [("read", 3), ("lost", 3, kind), ("read", 4), ("flush", 4)])
            self.log.clear()
            self.reactor.removeReader(good)
            self.assertEqual(len(self.flushLoggedErrors(kind)), 1)

    def test_lost(self) -> None:
        """It is told once when the reactor has dropped it, or its descriptor is closed, and not when it was stopped."""
        readers: list[Any] = []
        stock: Any = Clock()
        stock.addReader, stock.removeReader = readers.append, readers.remove
        stock.getReaders = lambda: readers
        for lose, told in (
            (lambda reactor: reactor.connectionLost(Failure(ConnectionLost())), 1),
            (lambda reactor: readers.clear(), 1),
            (lambda reactor: setattr(self.epoll, "closed", True), 1),
            (lambda reactor: reactor.stop(), 0),
        ):
            lost: list[Failure] = []
            make: Any = lambda: self.epoll  # noqa: E731
            readers.clear()
            self.epoll.closed = False
            reactor = EpollReactor(stock, make)
            reactor.deadline_passed()
            reactor.start(lost.append)
            reactor.deadline_passed()
            self.assertEqual(lost, [])
            lose(reactor)
            reactor.deadline_passed()
            reactor.deadline_passed()
            self.assertEqual(len(lost), told)

    def test_posted_work(self) -> None:
        """What posted work writes goes out in one go, when the work is done."""
        descriptor = self.descriptor(3)

        class Work:
            def resume(self) -> None:
                test.reactor.flush_later(descriptor)
                test.reactor.flush_later(descriptor)
                test.log.append("resumed")

        test = self
        self.reactor.posted.post(Work())
        self.assertEqual(self.log, [])
        self.clock.advance(0)
        self.assertEqual(self.log, ["resumed", ("flush", 3), ("flush", 3)])

    def test_reads_before_writes(self) -> None:
        """All events of an iteration are delivered before anything that they wrote is sent."""
        for fd in (3, 4):
            descriptor = self.descriptor(fd)
            descriptor.read = lambda descriptor=descriptor: self.reactor.flush_later(descriptor)
        self.iterate((3, EPOLLIN), (4, EPOLLIN))
        self.assertEqual(self.log, [("read", 3), ("read", 4), ("flush", 3), ("flush", 4)])
        self.iterate()
        self.assertEqual(len(self.log), 4)

    def test_asked_again(self) -> None:
        """After few events the kernel is asked once more before anything is sent; it is the same iteration."""
        numbers: list[int] = []
        for fd in (3, 4, 5):
            descriptor = self.descriptor(fd)

            def read(descriptor: Descriptor = descriptor) -> None:
                numbers.append(self.reactor.iteration)
                self.reactor.flush_later(descriptor)

            descriptor.read = read
        self.epoll.more = [[(4, EPOLLIN)], [(5, EPOLLIN)]]
        self.iterate((3, EPOLLIN))
        self.assertEqual(self.log, [("read", 3), ("read", 4), ("flush", 3), ("flush", 4)])
        self.reactor.doRead()
        self.assertEqual(numbers, [1, 1, 2])

    def test_not_asked_again(self) -> None:
        """It is not after many events, when the time is up, or when some have waited already."""
        descriptors = [self.descriptor(fd) for fd in range(3, 4 + FEW_EVENTS)]
        many = [(descriptor.fd, EPOLLIN) for descriptor in descriptors]
        self.iterate(*many)
        self.assertEqual(self.epoll.polls, 1)
        self.iterate(*many[1:])
        self.assertEqual(self.epoll.polls, 3)
        descriptors[0].read = lambda: self.clock.advance(ITERATION_SECONDS)
        self.iterate(*many[:2])
        self.assertEqual(self.epoll.polls, 4)
        self.iterate(many[1])
        self.assertEqual(self.epoll.polls, 5)

    def test_asked_again_in_vain(self) -> None:
        """When there is nothing time and again, it is not asked each time, until there is something."""
        self.descriptor(3)
        polls: list[int] = []

        def iterate(*more: tuple[int, int]) -> None:
            before = self.epoll.polls
            self.epoll.more = [list(more)]
            self.iterate((3, EPOLLIN))
            self.epoll.events, self.epoll.more = [], []
            polls.append(self.epoll.polls - before)

        for _ in range(TRIES + 2 * PAUSE - 1):
            iterate()
        pause = [1] * (PAUSE - 1)
        self.assertEqual(polls, [2] * TRIES + pause + [2] + pause)
        polls.clear()
        iterate((3, EPOLLIN))
        iterate()
        self.assertEqual(polls, [2, 2])

    def test_number_used_again_when_asked_again(self) -> None:
        """Asked once more, the kernel tells of what was registered meanwhile."""
        first, second = self.descriptor(3), self.descriptor(4)

        def replace() -> None:
            self.reactor.removeReader(second)
            self.descriptor(4)

        first.read = replace
        self.epoll.more = [[(4, EPOLLIN)]]
        self.iterate((3, EPOLLIN), (4, EPOLLHUP))
        self.assertEqual(self.log, [("read", 3), ("read", 4)])

    def test_written_between_iterations(self) -> None:
        """What is written outside of any iteration, such as by a store's answer, is sent in the reactor's next."""
        one, two = self.descriptor(3), self.descriptor(4)
        self.reactor.flush_later(one)
        self.reactor.flush_later(two)
        self.assertEqual(self.log, [])
        self.clock.advance(0)
        self.assertEqual(self.log, [("flush", 3), ("flush", 4)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_iterations(self) -> None:
        """Iterations are counted."""
        before = self.reactor.iteration
        self.iterate()
        self.assertEqual(self.reactor.iteration, before + 1)

    def test_ended_by_an_earlier_event(self) -> None:
        """An event for a descriptor that an earlier one of the same iteration has ended is dropped."""
        one, two = self.descriptor(3), self.descriptor(4)
        one.read = lambda: self.reactor.removeReader(two)
        self.iterate((3, EPOLLIN), (4, EPOLLIN))
        self.assertEqual(self.log, [("read", 3)])

    def test_end_of_file(self) -> None:
        """The end of what the peer sends is told as such, and reading is over; writing goes on."""
        one = self.descriptor(3)
        self.reactor.addWriter(one)
        one.read = ConnectionDone
        self.iterate((3, EPOLLIN))
        self.assertEqual(self.log, [("read", 3), ("read lost", 3, ConnectionDone)])
        self.assertEqual(self.epoll.registered, {3: EPOLLOUT})

    def test_lost_while_reading(self) -> None:
        """An error of a read ends the connection."""
        self.descriptor(3).read = ConnectionLost
        self.iterate((3, EPOLLIN))
        self.assertEqual(self.log[1:], [("lost", 3, ConnectionLost)])
        self.assertEqual(self.epoll.registered, {})

    def test_closed_by_reading(self) -> None:
        """What a read has closed is not written to, and neither is another descriptor with its number."""
        for reused in (False, True):
            one = self.descriptor(3)
            self.reactor.addWriter(one)
            self.log.clear()

            def close(one: Descriptor = one, reused: bool = reused) -> None:
                self.reactor.removeReader(one)
                self.reactor.removeWriter(one)
                if reused:
                    self.reactor.addWriter(Descriptor(3, self.log))

            one.read = close
            self.iterate((3, EPOLLIN | EPOLLOUT))
            self.assertEqual(self.log, [("read", 3)])

    def test_lost_while_writing(self) -> None:
        """An error of a write ends the connection, whatever it says of itself."""
        one = self.descriptor(3)
        self.reactor.addWriter(one)
        one.written = ConnectionDone
        self.iterate((3, EPOLLOUT))
        self.assertEqual(self.log[1:], [("lost", 3, ConnectionDone)])

    def test_hung_up(self) -> None:
        """A hang-up without anything to read is the end for a reader, and a loss for a mere writer."""
        self.descriptor(3)
        writer = self.descriptor(4)
        self.reactor.addWriter(writer)
        self.reactor.removeReader(writer)
        self.iterate((3, EPOLLHUP), (4, EPOLLERR))
        self.assertEqual(self.log, [("read lost", 3, ConnectionDone), ("lost", 4, ConnectionLost)])

    def test_hung_up_with_data(self) -> None:
        """What came before a hang-up is read first."""
        self.descriptor(3)
        self.iterate((3, EPOLLIN | EPOLLHUP))
        self.assertEqual(self.log, [("read", 3)])

    def test_broken_protocol(self) -> None:
        """An exception costs its own connection, is logged once, and the iteration goes on."""

        def fail() -> None:
            raise ZeroDivisionError

        self.descriptor(3).read = fail
        two = self.descriptor(4)
        two.read = lambda: self.reactor.flush_later(two)
        self.iterate((3, EPOLLIN), (4, EPOLLIN))
        self.assertEqual(self.log, [("read", 3), ("lost", 3, ZeroDivisionError), ("read", 4), ("flush", 4)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


if EPollReactor is not None:

    class Stock(EPollReactor):
        """Twisted's reactor with epoll, without a socket; notes its own iterations."""

        def __init__(self, log: list[Any]) -> None:
            self.log = log
            self.clock = Clock()
            self.seconds = self.clock.seconds
            self.callLater = self.clock.callLater
            self.getDelayedCalls = self.clock.getDelayedCalls
            self._poller: Any = Descriptor(STOCK, log)
            self.readers: list[Any] = []
            self.addReader = self.readers.append
            self.removeReader = self.readers.remove
            self.event: Any = lambda: None

        def getReaders(self) -> list[Any]:
            return self.readers

        def doIteration(self, timeout: float) -> None:
            self.log.append(("stock", timeout))
            self.event()


STOCK = 77


class AroundTests(SynchronousTestCase):
    """Around Twisted's reactor with epoll."""

    if EPollReactor is None:
        skip = "This system has no epoll"

    def setUp(self) -> None:
        self.log: list[Any] = []
        self.epoll = FakeEpoll()
        self.epoll.waits = (0, 0.5, -1)
        self.stock = Stock(self.log)
        self.lost: list[Failure] = []
        self.reactor = self.made()

    def made(self) -> EpollReactor:
        make: Any = lambda: self.epoll  # noqa: E731
        reactor = EpollReactor(self.stock, make, around=True)
        reactor.start(self.lost.append)
        return reactor

    def descriptor(self, fd: int) -> Descriptor:
        descriptor = Descriptor(fd, self.log)
        self.reactor.addReader(descriptor)
        return descriptor

    def iterate(self, *events: tuple[int, int], timeout: Any = 0.5) -> list[Any]:
        self.epoll.events = list(events)
        self.log.clear()
        self.stock.doIteration(timeout)
        return self.log

    def test_iteration(self) -> None:
        """An iteration of Twisted's reactor has the events of both sets, and then all that they led to is written."""
        one = self.descriptor(3)
        one.read = self.stock.event = lambda: self.reactor.flush_later(one)
        self.assertEqual(self.stock.readers, [])
        self.assertEqual(self.iterate((3, EPOLLIN)), [("read", 3), ("flush", 3)])
        both = self.iterate((STOCK, EPOLLIN), (3, EPOLLIN))
        self.assertEqual(both, [("stock", 0), ("read", 3), ("flush", 3), ("flush", 3)])
        self.assertEqual(self.iterate(), [])
        self.assertEqual(self.stock.clock.getDelayedCalls(), [])

    def test_timeouts(self) -> None:
        """It waits as long as Twisted's reactor would have."""
        for timeout, waits in ((0.5, 0.5), (None, -1), (False, 0)):
            self.epoll.waits = (waits,)
            self.assertEqual(self.iterate(timeout=timeout), [])

    def test_written_by_timers(self) -> None:
        """What was written outside of any iteration is sent before the kernel is asked again."""
        one = self.descriptor(3)
        self.reactor.flush_later(one)
        self.assertEqual(self.log, [])
        self.assertEqual(self.iterate((3, EPOLLIN)), [("flush", 3), ("read", 3)])
        self.assertEqual(self.stock.clock.getDelayedCalls(), [])

    def test_long_iteration(self) -> None:
        """After its time an iteration still has the events of Twisted's set; the next one does not wait."""

        def long() -> None:
            self.stock.clock.rightNow += ITERATION_SECONDS

        self.descriptor(3).read = long
        self.descriptor(4).read = long
        self.descriptor(5)
        events = (3, EPOLLIN), (4, EPOLLIN), (5, EPOLLIN), (STOCK, EPOLLIN)
        self.assertEqual(self.iterate(*events), [("read", 3), ("stock", 0)])
        self.assertEqual(self.iterate(), [("read", 4), ("stock", 0)])
        self.epoll.waits = (0,)
        self.assertEqual(self.iterate(), [("read", 5), ("stock", 0)])

    def test_waiting_takes_no_time_of_an_iteration(self) -> None:
        """The time of an iteration begins when there are events."""
        for fd in (3, 4):
            self.descriptor(fd)
        poll = self.epoll.poll

        def wait(timeout: float, most: int) -> list[tuple[int, int]]:
            self.stock.clock.rightNow += 1
            return poll(timeout, most)

        self.epoll.poll = wait  # type: ignore[method-assign]
        self.assertEqual(self.iterate((3, EPOLLIN), (4, EPOLLIN)), [("read", 3), ("read", 4)])

    def test_many_events(self) -> None:
        """The events of Twisted's set do not wait for those of more sockets than the kernel reports at once."""
        events = [(self.descriptor(100 + number).fd, EPOLLIN) for number in range(MAX_EVENTS)]
        self.assertIn(("stock", 0), self.iterate(*events))

    def test_event_of_twisted_fails(self) -> None:
        """Whatever an event of Twisted's set raises is logged, and everything goes on."""
        self.descriptor(3)
        for kind in (KeyboardInterrupt, OSError):

            def fail(kind: type[BaseException] = kind) -> None:
                raise kind

            self.stock.event = fail
            for _ in range(2):
                failed = self.iterate((STOCK, EPOLLIN), (3, EPOLLIN))
                self.assertEqual(failed, [("stock", 0), ("read", 3)])
            self.assertTrue(self.flushLoggedErrors(kind))
        self.assertEqual(self.lost, [])

    def test_stopped(self) -> None:
        """After `stop` the reactor's iterations are its own again, and what was written is sent."""
        one = self.descriptor(3)
        self.reactor.flush_later(one)
        self.reactor.stop()
        self.assertEqual((self.log, self.epoll.registered), ([("flush", 3)], {3: EPOLLIN}))
        self.assertEqual(self.iterate(), [("stock", 0.5)])
        self.reactor.flush_later(one)
        self.stock.clock.advance(0)
        self.assertEqual(self.log, [("stock", 0.5), ("flush", 3)])

    def test_stopped_by_an_event(self) -> None:
        """The iteration that has stopped it ends as any other."""
        one = self.descriptor(3)
        self.stock.event = self.reactor.stop
        one.read = lambda: self.reactor.flush_later(one)
        self.assertEqual(self.iterate((STOCK, EPOLLIN), (3, EPOLLIN)), [("stock", 0), ("read", 3), ("flush", 3)])
        self.assertEqual(self.lost, [])

    def test_two(self) -> None:
        """A second one in the same reactor is within it."""
        second = self.made()
        self.assertEqual(self.stock.readers, [second])
        second.stop()
        self.assertEqual(self.stock.readers, [])
        self.assertEqual(self.iterate(), [])

    def test_broken(self) -> None:
        """When its set does not work any more, that is told once, and Twisted's reactor goes on by itself."""

        def fail(timeout: float, most: int) -> list[tuple[int, int]]:
            raise ValueError

        self.epoll.poll = fail  # type: ignore[method-assign]
        self.iterate()
        self.assertEqual([failure.type for failure in self.lost], [ValueError])
        self.assertEqual(self.iterate(), [("stock", 0.5)])
        self.assertEqual(len(self.lost), 1)

    def test_watched(self) -> None:
        """It is lost when it has been replaced and is not called; and not when what has replaced it calls it."""
        ours = self.stock.doIteration
        self.stock.doIteration = lambda timeout: ours(timeout)  # type: ignore[method-assign]
        for _ in range(2):
            self.iterate()
            self.reactor.deadline_passed()
        self.assertEqual(self.lost, [])
        self.stock.doIteration = lambda timeout: None  # type: ignore[method-assign]
        self.iterate()
        self.reactor.deadline_passed()
        self.assertEqual(len(self.lost), 1)

    def test_watched_before_it_runs(self) -> None:
        """It is not lost before the first iteration."""
        self.reactor.deadline_passed()
        self.reactor.deadline_passed()
        self.assertEqual(self.lost, [])
