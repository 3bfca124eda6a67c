"""What the data path needs of a reactor.

There are two of them: `epoll.EpollReactor` is an epoll set of its own within Twisted's reactor, and
`stock.StockReactor` is over any reactor of Twisted, for systems without epoll.  `app.data_path` chooses one, once.
Both run on Twisted's reactor, which runs all else in the process.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute


class Unsent(Protocol):
    """A transport that has written something."""

    def flush(self) -> None:
        """Send it."""


def connection_name(descriptor: object) -> str:
    """What the log calls the connection of a descriptor: the class of its protocol."""
    return type(getattr(descriptor, "protocol", descriptor)).__name__


class IDataPathReactor(IReactorTime):
    """Reports events to the transports of the data path, and is their reactor.

    The contract:

    1. An iteration delivers events that the kernel has reported, when it was asked once or twice; after them, and
       before the kernel is asked again, `flush` is called once for each `flush_later`.  So what many events lead to is
       written once for each transport.
    2. An event whose descriptor raises is logged, and closes that descriptor with the error; the others go on.  What
       `doRead` and `doWrite` return closes it as in IReadDescriptor; a ConnectionDone of reading goes to
       `readConnectionLost`.
    3. A descriptor that was removed by an earlier event of an iteration gets no event in it; nor does a descriptor
       that has got the number of a closed one.
    4. No call of a descriptor's methods comes from within a call to this object.

    It is watched by the sweeper of deadlines as well (`deadlines.Watched`), by which it notices its own loss.
    """

    posted = Attribute("The PostedWork that is done in its iterations.")
    iteration = Attribute(
        "int: the same for all events of an iteration; greater when the kernel has been asked again, or one iteration "
        "later.  What had arrived when it was read has been delivered when it is greater, or is before any flush."
    )
    deadline = Attribute("float: see Watched.")

    def start(on_lost):  # type: ignore[no-untyped-def]
        """Deliver events from now on; `on_lost(failure)` is called once if none can be delivered any more."""

    def stop():  # type: ignore[no-untyped-def]
        """Deliver no more events."""

    def addReader(descriptor):  # type: ignore[no-untyped-def]
        """Call `descriptor.doRead()` when there is something to read.  This and the next three: see IReactorFDSet."""

    def addWriter(descriptor):  # type: ignore[no-untyped-def]
        """Call `descriptor.doWrite()` when it can be written to."""

    def removeReader(descriptor):  # type: ignore[no-untyped-def]
        """Do not read it any more."""

    def removeWriter(descriptor):  # type: ignore[no-untyped-def]
        """Do not call `doWrite` any more."""

    def pause_reader(descriptor):  # type: ignore[no-untyped-def]
        """Do not read, but call `descriptor.readConnectionEnding()` once when the other side sends no more.

        A connection that is reset meanwhile is closed with ConnectionLost.  Both may come late; and not at all where
        the system has no poll(2) with POLLRDHUP, before the descriptor is read again.
        """

    def flush_later(transport):  # type: ignore[no-untyped-def]
        """Call `transport.flush()` at the end of the iteration, or in the next one when none is under way."""

    def connectTCP(host, port, factory, timeout=30):  # type: ignore[no-untyped-def]
        """Connect to an IP address with a transport of the data path.  See IReactorTCP."""

    def deadline_passed():  # type: ignore[no-untyped-def]
        """See Watched."""

    def give_up():  # type: ignore[no-untyped-def]
        """See Watched."""
