"""The data path as a whole: listens for clients, and at the end lets their exchanges finish."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from math import inf
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from socket import AddressFamily
from typing import Any, NamedTuple

from twisted.internet import tcp
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.python.failure import Failure

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBucketStore, IDoor
from twisted_lb.limits.addresses import FamiliarKeys
from twisted_lb.limits.headers import rate_limit_fields
from twisted_lb.limits.pricing import NO_PRICING, Pricing
from twisted_lb.proxy.connections import ConnectionPool, Dial, NoTurns
from twisted_lb.proxy.deadlines import Sweeper
from twisted_lb.proxy.doorstep import Doorstep, TurnedAway
from twisted_lb.proxy.downstream import DownstreamConnection
from twisted_lb.proxy.fleet import Fleet
from twisted_lb.proxy.polling import Poller
from twisted_lb.proxy.posted import PostedWork
from twisted_lb.proxy.queue import FairQueue
from twisted_lb.proxy.retry import RetryBudget
from twisted_lb.proxy.surroundings import Seen, Shared
from twisted_lb.proxy.transport import Connector, ServerTransport, UnixServerTransport
from twisted_lb.proxy.waiting import WaitingRoom
from twisted_lb.settings import Settings

DRAIN_POLL_SECONDS = 0.05
# Connections that the kernel takes ahead of us; it has a limit of its own, net.core.somaxconn.
BACKLOG = 4096
# Connections that are taken at a time: what comes after them waits until others have had their turn.
MAX_ACCEPTS = 16
# Open files, or a tenth of all, that are left for new connections to servers, the store and the log: without them
# servers look as if they were down.
SPARE_FILES = 64


class Retries(NamedTuple):
    """How often a request may be sent, and which share of the traffic retries may be (see `retry`)."""

    attempts: int = 3
    budget: float = 0.2
    reserve: int = 10


class Queue(NamedTuple):
    """How many requests may wait for a server with room, and for how many seconds."""

    size: int = 1000
    timeout: float = 5.0


def unseen(backend: Backend, status: int, now: float, why: str) -> None:
    """Nobody looks."""


class ProxyFactory(Factory):
    """Builds the protocol of each client's connection, and holds what they share."""

    noisy = False

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        buckets: IBucketStore,
        fleet: Fleet,
        door: IDoor,
        dial: Dial | None = None,
        seen: Seen = unseen,
        retries: Retries = Retries(),
        queue: Queue = Queue(),
        pricing: Pricing = NO_PRICING,
        familiar: FamiliarKeys | None = None,
        poller_lost: Callable[[Failure], None] = lambda reason: None,
    ) -> None:
        """`dial` opens connections to servers, by default over TCP; `seen` is passive health.

        `familiar` is given where client addresses have a bucket; `poller_lost` is called when nothing can be read or
        written any more.
        """
        self._reactor = reactor
        self._poller_lost = poller_lost
        self.poller = Poller(reactor, on_lost=self._lost) if dial is None else None
        self.posted = self.poller.posted if self.poller else PostedWork(reactor.seconds, partial(reactor.callLater, 0))
        self.sweeper = Sweeper(reactor)
        self._settings = settings
        self._dial = dial or self._dial_tcp
        self._files = inf  # that connections may use
        self.pools: dict[Backend, ConnectionPool] = {}
        for backend in fleet.backends:
            self.backend_added(backend)
        self.queue = FairQueue(self.sweeper, queue.size, queue.timeout)
        self._retries = RetryBudget(retries.attempts, retries.budget, retries.reserve, reactor.seconds)
        self.sweeper.watched.add(self._retries)
        fleet.subscribe(self)
        fleet.refreshed.append(self.queue.serve)
        self.doorstep = Doorstep(
            Shared(
                buckets=buckets,
                fleet=fleet,
                pools=self.pools,
                sweeper=self.sweeper,
                limit_fields=rate_limit_fields(settings.rate_limit_headers),
                queue=self.queue,
                retries=self._retries,
                seen=seen,
                seconds=reactor.seconds,
                settings=settings,
                waiting=WaitingRoom(reactor, settings.max_waiting),
                posted=self.posted,
                pricing=pricing,
                familiar=familiar,
            ),
            settings,
            door,
        )

    def configure(self, retries: Retries, queue: Queue, pricing: Pricing = NO_PRICING) -> None:
        """Other bounds for retries and for the queue, and other costs, from now on."""
        self.doorstep.shared.pricing = pricing
        self._retries.change(retries.attempts, retries.budget, retries.reserve)
        self.queue.change(queue.size, queue.timeout)

    # The fleet's observer

    def backend_added(self, backend: Backend) -> None:
        """Requests may be sent to it."""
        turns = self.poller or NoTurns()
        self.pools[backend] = ConnectionPool(
            backend, self._reactor, self.sweeper, turns, self.posted, self._settings, self._dial
        )

    def backend_removed(self, backend: Backend) -> None:
        """No new requests are sent to it; its pool goes, at the next change, when its exchanges have gone."""
        for old in [old for old, pool in self.pools.items() if pool.retired and pool.empty]:
            del self.pools[old]
        self.pools[backend].retire()

    def _dial_tcp(self, host: str, port: int, factory: ClientFactory, timeout: float) -> None:
        poller: Any = self.poller
        Connector(host, port, factory, timeout, None, poller).connect()

    def accepted(self, *args: Any) -> ServerTransport | UnixServerTransport:
        """A transport for a connection that a port has taken; the port's reactor is the last argument."""
        sock, protocol, client, server, session, _ = args
        poller: Any = self.poller
        transport = UnixServerTransport if sock.family == AddressFamily.AF_UNIX else ServerTransport
        return transport(sock, protocol, client, server, session, poller)

    def startFactory(self) -> None:
        limit = getrlimit(RLIMIT_NOFILE)[0]
        self._files = limit - max(SPARE_FILES, limit // 10) if limit != RLIM_INFINITY else inf
        self.sweeper.start()
        if self.poller is not None:
            self.poller.start()
            self.sweeper.watched.add(self.poller)

    def stopFactory(self) -> None:
        """The last port is closed; the connections go on, and so do their deadlines, until `close`."""

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        files = len(self.doorstep.connections) + sum([pool.size for pool in self.pools.values()])
        full = self.doorstep.make_room(getattr(addr, "host", ""), files >= self._files)
        return TurnedAway(full, self.sweeper.date) if full else DownstreamConnection(self.doorstep)

    def drain(self, seconds: float) -> Deferred[None]:
        """End each connection after the exchange it has, and all that are left after `seconds`.

        Fires when no connection is left.  The ports must be closed already.
        """
        finished: Deferred[None] = Deferred()
        end = self._reactor.seconds() + seconds
        doorstep = self.doorstep
        doorstep.draining = True
        doorstep.shared.waiting.close_in(max(seconds - 2 * DRAIN_POLL_SECONDS, 0.0))

        def look() -> None:
            late = self._reactor.seconds() >= end
            for connection in doorstep.connections:
                if late:
                    connection.transport.abortConnection()
                else:
                    connection.drain()
            if not doorstep.connections:
                self.close()
                finished.callback(None)
            else:
                self._reactor.callLater(DRAIN_POLL_SECONDS, look)

        # Requests that have reached this machine but not this process are read first.
        self._reactor.callLater(DRAIN_POLL_SECONDS, look)
        return finished

    def _lost(self, reason: Failure) -> None:
        """Without the poller no exchange can finish: what follows need not wait for any."""
        self._poller_lost(reason)
        for connection in self.doorstep.connections:
            connection.transport.abortConnection()

    def close(self) -> None:
        """End the idle connections to servers and the clock."""
        self.sweeper.stop()
        if self.poller is not None:
            self.poller.stop()
        for pool in self.pools.values():
            pool.close()


def _accept_some(port: tcp.Port) -> None:
    # Twisted takes more and more at a time while clients come fast, and others would wait for all of them.
    port.numberAccepts = min(port.numberAccepts, MAX_ACCEPTS)
    tcp.Port.doRead(port)


def _with_our_transports(port: IListeningPort, factory: Any) -> IListeningPort:
    if isinstance(port, tcp.Port):
        port.transport = factory.accepted
        port.doRead = partial(_accept_some, port)  # type: ignore[method-assign]
        # Twisted's 50 are too few for a burst of clients, who would then wait a second or more for
        # the kernel to take their connection.
        port.socket.listen(max(port.backlog or 0, BACKLOG))
    return port


async def listen(reactor: Any, endpoint: str, factory: Factory) -> IListeningPort:
    """Listen on a Twisted server endpoint string with a ProxyFactory.

    Raises ValueError for a string that is none, and CannotListenError.
    """
    port: IListeningPort = await serverFromString(reactor, endpoint).listen(factory)
    return _with_our_transports(port, factory)


async def adopt(reactor: Any, descriptor: int, family: AddressFamily, factory: Factory) -> IListeningPort:
    """Listen on a TCP socket that this process has inherited; takes the descriptor over."""
    port: IListeningPort = reactor.adoptStreamPort(descriptor, family, factory)
    # The port has a duplicate: the original would keep the socket open when the port is closed.
    os.close(descriptor)
    return _with_our_transports(port, factory)


async def stop_listening(port: IListeningPort) -> None:
    """Close a port, but first take the connections that the kernel has accepted for it."""
    if isinstance(port, tcp.Port) and port.connected:
        port.numberAccepts = BACKLOG
        tcp.Port.doRead(port)
    await maybeDeferred(port.stopListening)
