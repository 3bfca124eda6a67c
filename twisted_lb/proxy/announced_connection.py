"""A connection that begins with a header of the PROXY protocol (PROXY_PROTOCOL_FROM), until the header is read.

Then the connection is handed over to the protocol of a client's connection, with the rest of what was read.
Connections from other addresses do not use this code.  The header also precedes a TLS handshake: the protocol that
follows may be the one for TLS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.deadlines import NEVER
from twisted_lb.limits.client_networks import LOCAL_NETWORK
from twisted_lb.network.peer import PeerInfo, peer_info
from twisted_lb.network.transport import close_now
from twisted_lb.proxy.connection_limits import ConnectionLimits
from twisted_lb.proxy.open_connections import Use
from twisted_lb.wire.proxy_protocol import ProxyHeader, ProxyProtocolError, read_proxy_header

_log = BoundedLog(Logger(__name__))


@implementer(IProtocol)
class AnnouncedConnection:
    """Reads the header.  A connection without a valid one is closed without a response, as by nginx and HAProxy: the
    other side does not expect a response before its header is read."""

    __slots__ = ("transport", "network", "deadline", "_limits", "_follow", "_buffer", "_open")

    transport: Any

    def __init__(self, limits: ConnectionLimits, follow: Callable[[ProxyHeader, PeerInfo], IProtocol | None]) -> None:
        """`follow` makes the protocol that the connection is handed over to; it gets the header and the client.

        None: the connection is closed.
        """
        self.network = LOCAL_NETWORK  # it is not counted for any address yet
        self.deadline = NEVER
        self._limits = limits
        self._follow = follow
        self._buffer = b""
        self._open = False

    def makeConnection(self, transport: Any) -> None:
        """See IProtocol."""
        self.transport = transport
        self._open = True
        limits = self._limits
        limits.connections.add(self)
        sweeper = limits.context.sweeper
        sweeper.watched.add(self)
        self.deadline = sweeper.now + limits.settings.head_timeout

    def connectionMade(self) -> None:
        """See IProtocol.  `makeConnection` has done everything."""

    def dataReceived(self, data: bytes) -> None:
        """See IProtocol."""
        if not self._open:
            return
        self._buffer = received = self._buffer + data
        try:
            header = read_proxy_header(received)
        except ProxyProtocolError as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self._leave()
        transport = self.transport
        protocol = self._follow(header, peer_info(transport, header))
        if protocol is None:
            transport.loseConnection()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        # If there is no room, the protocol has passed the connection on, or closed it.
        rest = received[header.size :]
        if rest and transport.connected and transport.protocol is protocol:
            protocol.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        address = peer_info(self.transport).address
        _log.warn(
            "header", "A connection from {address} (PROXY_PROTOCOL_FROM) was closed: {why}", address=address, why=why
        )
        self.give_up()

    def deadline_passed(self) -> None:
        """See Watched."""
        self._refuse("its header of the PROXY protocol was not received in time")

    def give_up(self) -> None:
        """See Watched."""
        self._leave()
        self.transport.abortConnection()

    def _leave(self) -> None:
        """It is not one of the open connections any more."""
        self._open = False
        self._buffer = b""
        self._limits.connections.remove(self)
        self._limits.context.sweeper.watched.discard(self)

    # See OpenConnection

    def use(self) -> Use:
        """See OpenConnection."""
        return Use.IDLE

    def make_room(self, lingers: bool) -> None:
        """See OpenConnection."""
        self._leave()
        close_now(self.transport)

    def drain(self) -> None:
        """See OpenConnection."""
        self._leave()
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See IProtocol."""
        self._leave()

    def __repr__(self) -> str:
        return f"<AnnouncedConnection {len(self._buffer)} bytes>"
