"""A tunnel: the two connections of an exchange whose server has switched to another protocol (RFC 9110 section 7.8).

From then on each side's bytes are sent to the other side as they are:

    OPEN -> CLOSING -> both connections are lost

1. The end of one side's direction (FIN) is passed on to the other side after all bytes before it, and the other
   direction continues.  When both directions have ended, or one connection is lost, or no byte has come from either
   side for TUNNEL_TIMEOUT, the tunnel is over.
2. Then the exchange ends (its tokens are settled, and neither its server nor its key counts it any more), and each
   stream closes its connection normally: what was received for it is sent first.
3. Each side is read only while the other side takes what is written to it, so a tunnel has at most one read and one
   write buffer in each direction in memory.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.deadlines import NEVER, Sweeper
from twisted_lb.network.flow_control import BACKLOG, NOT_NOW, Tap, Throttle


class Ending(Enum):
    """Why a tunnel is over."""

    COMPLETE = "both peers have ended their directions"
    CLIENT_LOST = "the client's connection is lost"
    SERVER_LOST = "the server's connection is lost"
    IDLE = "no byte came for TUNNEL_TIMEOUT"
    CUT = "it was ended here"


class TunnelStream(Protocol):
    """A stream that has handed its connection to a tunnel."""

    def tunnel_ended(self, end: TunnelEnd) -> None:
        """The tunnel is over, and the connection is returned to the stream: close it normally, unless it is lost."""

    def give_up(self) -> None:
        """Cut the connection."""

    def pressure_changed(self, full: bool) -> None:
        """See Throttle; for a connection that was returned to the stream."""


class TunnelOwner(Protocol):
    """The exchange."""

    def tunnel_ended(self, content_bytes: int, ending: Ending) -> None:
        """The tunnel is over; the server has sent `content_bytes`.  Called once, before the streams; does not raise."""


@implementer(IProtocol, IHalfCloseableProtocol)
class TunnelEnd:
    """One side's connection, whose protocol it is while the tunnel is open."""

    __slots__ = (
        "received",
        "all_read",
        "lost",
        "_loss",
        "_early",
        "_transport",
        "_tap",
        "_throttle",
        "_stream",
        "_tunnel",
        "_to",
    )

    def __init__(
        self,
        stream: TunnelStream,
        transport: Any,
        tap: Tap,
        throttle: Throttle,
        loss: Ending,
        early: bytes,
        all_read: bool = False,
    ) -> None:
        """`stream` had the connection until now; `tap` and `throttle` are those of `transport`.

        `loss` is why the tunnel is over if this connection is lost.  `early` are bytes that have arrived already, after
        the request or the response with which the tunnel begins; `all_read`: the peer has ended its direction already.
        """
        self.received = 0  # bytes from the peer
        self.all_read = all_read  # the peer has ended its direction, and all that it had sent was read
        self.lost = False  # the connection is
        self._loss = loss
        self._early = early
        self._transport = transport
        self._tap = tap
        self._throttle = throttle
        self._stream = stream
        self._tunnel: Tunnel | None = None
        self._to: TunnelEnd | None = None  # the other one

    def join(self, tunnel: Tunnel, other: TunnelEnd) -> None:
        """Become the protocol of the connection; what it receives goes to `other`."""
        self._tunnel = tunnel
        self._to = other
        self._throttle.owner = self
        self._throttle.connect(other._tap)
        self._transport.protocol = self

    def start(self) -> None:
        """Begin to read."""
        early, self._early = self._early, b""
        if early:
            self.dataReceived(early)
        if self.all_read and self._to is not None:
            self._to.finish()
        # Whatever has kept the stream from reading does not apply any more.
        self._tap.release(BACKLOG | NOT_NOW)

    # IProtocol, IHalfCloseableProtocol

    def makeConnection(self, transport: Any) -> None:
        """See IProtocol.  The connection was made for the stream."""

    def connectionMade(self) -> None:
        """See IProtocol."""

    def dataReceived(self, data: bytes) -> None:
        tunnel, other = self._tunnel, self._to
        if tunnel is not None and other is not None:
            self.received += len(data)
            tunnel.moved()
            other._transport.write(data)

    def readConnectionLost(self) -> None:
        """The peer sends no more, and all that it has sent was read."""
        self.all_read = True
        tunnel, other = self._tunnel, self._to
        if tunnel is not None and other is not None:
            other.finish()
            if other.all_read:
                tunnel.end(Ending.COMPLETE)

    def writeConnectionLost(self) -> None:
        """See IHalfCloseableProtocol.  Our direction has ended, since the other peer's has."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        if self._tunnel is not None:
            self._tunnel.end(Ending.CUT if reason.check(ConnectionAborted) else self._loss)

    def pressure_changed(self, full: bool) -> None:
        """See Throttle.  A peer that takes nothing has no deadline of its own."""

    # The end

    def finish(self) -> None:
        """End our direction when all has been sent."""
        if not self.lost:
            self._throttle.disconnect()
            # A transport with a paused producer would wait for it.
            self._transport.unregisterProducer()
            self._transport.loseWriteConnection()

    def close(self) -> None:
        """The tunnel is over: the stream ends the connection."""
        self._tunnel = self._to = None
        self._throttle.disconnect()
        self._throttle.owner = self._stream
        if not self.lost:
            self._transport.protocol = self._stream
        self._stream.tunnel_ended(self)

    def abort(self) -> None:
        """Cut the connection."""
        if not self.lost:
            self._stream.give_up()


class Tunnel:
    """Both ends, and the idle limit.  Watched by the sweeper."""

    __slots__ = ("deadline", "client", "server", "_owner", "_tunnels", "_digest", "_backend", "_timeout", "_over")

    def __init__(
        self,
        owner: TunnelOwner,
        tunnels: OpenTunnels,
        digest: str,
        backend: Backend,
        client: TunnelEnd,
        server: TunnelEnd,
    ) -> None:
        """`digest` is that of the key; `backend` is the server."""
        self.client = client
        self.server = server
        self.deadline = NEVER
        self._owner = owner
        self._tunnels = tunnels
        self._digest = digest
        self._backend = backend
        self._timeout = tunnels.timeout
        self._over = False

    def start(self) -> None:
        """Begin with what has arrived already."""
        tunnels = self._tunnels
        tunnels.add(self._digest, self)
        tunnels.sweeper.watched.add(self)
        self._backend.tunnels += 1
        self.moved()
        self.client.join(self, self.server)
        self.server.join(self, self.client)
        self.server.start()
        self.client.start()

    def moved(self) -> None:
        """Bytes came from one of the peers."""
        self.deadline = self._tunnels.sweeper.now + self._timeout

    def end(self, ending: Ending) -> None:
        """The tunnel is over.  May be called more than once."""
        if self._over:
            return
        self._over = True
        tunnels = self._tunnels
        tunnels.sweeper.watched.discard(self)
        tunnels.remove(self._digest, self)
        self._backend.tunnels -= 1
        self._owner.tunnel_ended(self.server.received, ending)
        self.client.close()
        self.server.close()

    def cut(self) -> None:
        """End the tunnel at once; what is on its way to a peer is lost."""
        if not self._over:
            self.end(Ending.CUT)
            self.client.abort()
            self.server.abort()

    # Watched

    def deadline_passed(self) -> None:
        """No byte came for too long."""
        self.end(Ending.IDLE)

    def give_up(self) -> None:
        """See Watched."""
        self.cut()


class OpenTunnels:
    """The open tunnels of one process, by the key with which they were opened, and their counters."""

    __slots__ = ("sweeper", "timeout", "_of_keys", "_begun", "_from_clients", "_from_servers")

    def __init__(self, sweeper: Sweeper, timeout: float) -> None:
        """`timeout`: seconds without a byte from either side, after which a tunnel ends; 0: it does not."""
        self.sweeper = sweeper
        self.timeout = timeout or NEVER
        self._of_keys: dict[str, set[Tunnel]] = {}
        # Of all tunnels since the start of the process; the bytes are those of tunnels that are over.
        self._begun = self._from_clients = self._from_servers = 0

    def __len__(self) -> int:
        return sum([len(tunnels) for tunnels in self._of_keys.values()])

    def begin(
        self, owner: TunnelOwner, digest: str, backend: Backend, client: TunnelEnd, server: TunnelEnd
    ) -> None:
        """Join two connections.  `digest` is that of the key."""
        Tunnel(owner, self, digest, backend, client, server).start()

    def keys(self) -> list[str]:
        """The digests of their keys; those of requests without a key have none."""
        return [digest for digest in self._of_keys if digest]

    def close_tunnels(self, digest: str) -> int:
        """End all tunnels of a key at once, such as when it is revoked; return how many there were."""
        tunnels = list(self._of_keys.get(digest, ()))
        for tunnel in tunnels:
            tunnel.cut()
        return len(tunnels)

    def numbers(self) -> dict[str, float]:
        """The counters, by the names of a report."""
        tunnels = [tunnel for of_key in self._of_keys.values() for tunnel in of_key]
        return {
            "tunnels": self._begun,
            "tunnel_bytes client": self._from_clients + sum([tunnel.client.received for tunnel in tunnels]),
            "tunnel_bytes server": self._from_servers + sum([tunnel.server.received for tunnel in tunnels]),
        }

    # For tunnels

    def add(self, digest: str, tunnel: Tunnel) -> None:
        """It begins."""
        self._begun += 1
        self._of_keys.setdefault(digest, set()).add(tunnel)

    def remove(self, digest: str, tunnel: Tunnel) -> None:
        """It is over."""
        of_key = self._of_keys[digest]
        of_key.remove(tunnel)
        if not of_key:
            del self._of_keys[digest]
        self._from_clients += tunnel.client.received
        self._from_servers += tunnel.server.received
