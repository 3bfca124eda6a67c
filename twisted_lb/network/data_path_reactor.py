"""The interface of the reactor that the data path needs.

There are two implementations: `epoll.EpollReactor` has an epoll set of its own, combined with Twisted's reactor, and
`stock.StockReactor` works on any reactor of Twisted, for systems without epoll.  `app.data_path` chooses one at start.
Twisted's reactor runs everything else in the process.
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

    1. An iteration asks the kernel for events, once or twice, and delivers them.  Then, before the kernel is asked
       again, `flush` is called once for each `flush_later`, so each transport writes the output of many events once.
    2. If a descriptor raises, the error is logged and that descriptor is closed with it; the others are not affected.
       An error that `doRead` or `doWrite` returns closes the descriptor, as in IReadDescriptor; a ConnectionDone from
       `doRead` is passed to `readConnectionLost`.
    3. A descriptor that was removed by an earlier event of an iteration gets no event in it; nor does a new descriptor
       that has the number of a closed one.
    4. No method of a descriptor is called from within a call to this object.

    The sweeper of deadlines calls it as well (`deadlines.Watched`): this is how it detects that it has failed.
    """

    posted = Attribute("The PostedWork that is done in its iterations.")
    iteration = Attribute(
        "int: the same for all events of an iteration; it grows when the kernel has been asked again, or one iteration "
        "later.  Once it has grown, all that had arrived before has been delivered, or will be before the next flush."
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
        """Stop reading it."""

    def removeWriter(descriptor):  # type: ignore[no-untyped-def]
        """Stop calling `doWrite`."""

    def pause_reader(descriptor):  # type: ignore[no-untyped-def]
        """Stop reading, but call `descriptor.readConnectionEnding()` once when the other side has ended its direction.

        A connection that is reset meanwhile is closed with ConnectionLost.  Both may come late, and where the system
        has no poll(2) with POLLRDHUP, only when the descriptor is read again.
        """

    def flush_later(transport):  # type: ignore[no-untyped-def]
        """Call `transport.flush()` at the end of the iteration, or in the next one when none is under way."""

    def connectTCP(host, port, factory, timeout=30):  # type: ignore[no-untyped-def]
        """Connect to an IP address with a transport of the data path.  See IReactorTCP."""

    def deadline_passed():  # type: ignore[no-untyped-def]
        """See Watched."""

    def give_up():  # type: ignore[no-untyped-def]
        """See Watched."""
