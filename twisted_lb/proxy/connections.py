"""The connections to one server: idle ones are kept and reused, last in first out, and new ones opened.

The last one used is the likeliest to be alive; the first ones, left over from a busier time, go
when their idle time is up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IConnector, IResolutionReceiver
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.proxy.deadlines import Sweeper
from twisted_lb.proxy.posted import PostedWork
from twisted_lb.proxy.upstream import UpstreamConnection
from twisted_lb.settings import Settings

Dial = Callable[[str, int, ClientFactory, float], object]


class Waiting(Protocol):
    """Who asked for a new connection."""

    def connected(self, connection: UpstreamConnection) -> None:
        """Here it is, idle."""

    def connect_failed(self, detail: str) -> None:
        """No address of the server took a connection within the time."""


class Turns(Protocol):
    """Whoever delivers the events of the connections."""

    turn: int  # grows whenever all events that were there have been delivered; 0 for ever where none are counted


class NoTurns:
    """For connections whose events come one by one."""

    turn = 0


class ConnectionPool:
    """All connections to one server."""

    def __init__(
        self,
        backend: Backend,
        reactor: Any,
        sweeper: Sweeper,
        turns: Turns,
        posted: PostedWork,
        settings: Settings,
        dial: Dial,
    ) -> None:
        """`reactor` resolves names; `dial(host, port, factory, timeout)` opens a connection to an address."""
        self.backend = backend
        self.opened = 0
        self.retired = False
        self._reactor = reactor
        self._sweeper = sweeper
        self._settings = settings
        self._dial = dial
        self._turns = turns
        self._posted = posted
        self._idle: list[UpstreamConnection] = []
        # Idle since this turn.  A server that says more than it announced mostly says it at once: a
        # turn later the poller has heard it, and nobody else's request has met it.
        self._fresh: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()

    def acquire(self) -> UpstreamConnection | None:
        """An idle connection that the server has not closed or spoken on, or None."""
        self._ripen()
        while self._idle:
            connection = self._idle.pop()
            # One that became idle in this tick is looked at by the reactor anyway; asking the
            # kernel about an older one costs a system call, and saves a request that cannot be
            # sent twice.
            if connection.idle_since == self._sweeper.now or connection.transport.silent():
                return connection
            connection.drop()
        return None

    def connect(self, waiting: Waiting) -> None:
        """Open a connection and tell `waiting`."""
        opening = _Opening(self, waiting)
        host = self.backend.host
        if isIPAddress(host) or isIPv6Address(host):
            opening.try_addresses([host])
        else:
            self._reactor.nameResolver.resolveHostName(opening, host, self.backend.port)

    def dial(self, address: str, factory: ClientFactory) -> None:
        """Try one address of the server."""
        self._dial(address, self.backend.port, factory, self._settings.connect_timeout)

    def build(self, waiting: Waiting) -> UpstreamConnection:
        """A protocol for a connection that is about to be made; `waiting` hears of it when it is."""
        connection = UpstreamConnection(
            self.backend, self, self._sweeper, self._posted, self._settings.upstream_timeout, waiting.connected
        )
        self._open.add(connection)
        self.opened += 1
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """The connection has no exchange now."""
        if self.retired or len(self._idle) + len(self._fresh) >= self._settings.upstream_idle_connections:
            connection.close()
            return
        connection.idle_since = self._sweeper.now
        connection.idle_turn = self._turns.turn
        connection.deadline = self._sweeper.now + self._settings.upstream_idle_timeout
        self._ripen()
        self._fresh.append(connection)

    def _ripen(self) -> None:
        """In a new turn, what was fresh is idle."""
        turn = self._turns.turn
        if self._fresh and (self._fresh[0].idle_turn != turn or not turn):
            self._idle += self._fresh
            self._fresh.clear()

    def forget(self, connection: UpstreamConnection) -> None:
        """The connection ended or will end."""
        self._open.discard(connection)
        for idle in (self._idle, self._fresh):
            if connection in idle:
                idle.remove(connection)

    def retire(self) -> None:
        """The server is wanted no more: end what is idle now, and the others with their exchanges."""
        self.retired = True
        for connection in self._idle + self._fresh:
            connection.close()

    @property
    def size(self) -> int:
        """How many connections there are."""
        return len(self._open)

    @property
    def empty(self) -> bool:
        """Whether nobody needs the pool."""
        return not self._open and not self.backend.in_flight

    def close(self) -> None:
        """End all connections; for shutdown, when no exchange is left."""
        for connection in list(self._open):
            connection.drop()

    def __repr__(self) -> str:
        return f"<ConnectionPool to {self.backend.name} open={len(self._open)} idle={len(self._idle)}>"


class _Nobody:
    """Asks for no connection."""

    def connected(self, connection: UpstreamConnection) -> None:
        connection.rest()

    def connect_failed(self, detail: str) -> None:
        """Nobody hears it."""


NOBODY = _Nobody()


@implementer(IResolutionReceiver)
class _Opening(ClientFactory):
    """One wish for a connection: resolves the name where there is one, and tries each address in turn."""

    noisy = False

    def __init__(self, pool: ConnectionPool, waiting: Waiting) -> None:
        self._pool = pool
        self._waiting: Waiting = waiting
        self._addresses: list[str] = []

    # IResolutionReceiver

    def resolutionBegan(self, resolution: object) -> None:
        """Nothing to do yet."""

    def addressResolved(self, address: object) -> None:
        if isinstance(address, IPv4Address | IPv6Address) and address.host not in self._addresses:
            self._addresses.append(address.host)

    def resolutionComplete(self) -> None:
        self.try_addresses(self._addresses)

    # The attempts

    def try_addresses(self, addresses: list[str]) -> None:
        """Dial the first; the others wait for its failure."""
        if not addresses:
            self._waiting.connect_failed(f"The name {self._pool.backend.host} has no address.")
            return
        self._addresses = addresses[1:]
        self._pool.dial(addresses[0], self)

    def buildProtocol(self, address: object) -> UpstreamConnection:
        # Twisted keeps the factory as long as the connection, which outlives who asked for it.
        waiting, self._waiting = self._waiting, NOBODY
        return self._pool.build(waiting)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if self._addresses:
            self.try_addresses(self._addresses)
        else:
            self._waiting.connect_failed(reason.getErrorMessage())
