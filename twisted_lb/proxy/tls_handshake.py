"""TLS handshakes with clients: each is a connection without requests until it is complete.

1. The signature of a handshake is expensive for this process and cheap for its client.  So each step is posted (see
   `posted`): all handshakes together get a limited time in each iteration, and clients that are connected do not wait
   for them.
2. A handshake must be complete within TLS_HANDSHAKE_TIMEOUT, whatever arrives meanwhile.
3. At most TLS_MAX_HANDSHAKES are under way.  For one more, the oldest of those that wait for their client is closed.
   If all wait for this process, no more connections are accepted for now: they wait in the kernel.
4. A handshake counts as a connection of its client, and may be closed to make room like an idle connection.
5. A request in plain HTTP is answered with 400, in clear text.  Anything else that is not TLS gets OpenSSL's alert.
6. Why handshakes fail is counted and logged by `handshake_failures`.
"""

from __future__ import annotations

import ssl
from collections import Counter, OrderedDict
from itertools import islice
from typing import Any, Final

from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.deadlines import NEVER
from twisted_lb.network.peer import UNIX_ADDRESS, peer_info
from twisted_lb.network.tls_errors import HandshakeFailed
from twisted_lb.network.tls_layer import TlsLayer
from twisted_lb.proxy.client_connection import ClientConnection
from twisted_lb.proxy.connection_limits import ConnectionLimits
from twisted_lb.proxy.handshake_failures import (
    CERTIFICATE_REFUSED,
    CLIENT_ALERT,
    CLIENT_CERTIFICATE_REFUSED,
    CLIENT_LEFT,
    OTHER,
    SHUTDOWN,
    HandshakeFailures,
    reason_of,
)
from twisted_lb.proxy.local_response import problem_response
from twisted_lb.proxy.open_connections import Use
from twisted_lb.request_record import BAD_REQUEST, record_of_malformed
from twisted_lb.wire.proxy_protocol import ProxyHeader

# Handshakes that are checked to find one that can be closed.
MAX_LOOKS: Final = 32
# Between two messages that there are too many.
LOG_SECONDS: Final = 60.0

PLAIN_HTTP: Final = "This port is for HTTPS, and the request is plain HTTP. Use a URL that begins with https."

# How a handshake ends, as the metrics name it.
COMPLETE: Final = "complete"
RESUMED: Final = "resumed"  # complete, and an earlier session was resumed
FAILED: Final = "failed"  # there was no agreement, or the client has left
PLAIN: Final = "plain_http"
TIMEOUT: Final = "timeout"
NO_ROOM: Final = "no_room"  # for TLS_MAX_HANDSHAKES

_log = BoundedLog(Logger(__name__), seconds=LOG_SECONDS)


class TlsHandshakes:
    """The handshakes of one process that are under way."""

    __slots__ = ("limits", "ended", "failures", "posted", "_most", "_order", "_paused")

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.ended: Counter[str] = Counter()  # by how
        self.failures = HandshakeFailures(limits.context.sweeper)
        self.posted = 0  # how many wait for this process
        self._most = limits.settings.tls_max_handshakes
        self._order: OrderedDict[TlsHandshake, None] = OrderedDict()  # the oldest first
        self._paused: set[Any] = set()  # the ports that accept nothing at present

    def __len__(self) -> int:
        return len(self._order)

    def make_room(self, port: Any) -> None:
        """One more has begun, on this port."""
        if len(self._order) <= self._most:
            return
        _log.warn(
            "room",
            "There are as many TLS handshakes as there may be (TLS_MAX_HANDSHAKES={most}); the oldest are closed",
            most=self._most,
        )
        # Not the last one, which is the new one.
        for handshake in islice(self._order, min(MAX_LOOKS, len(self._order) - 1)):
            if not handshake.posted:
                handshake.end_now(NO_ROOM, NO_ROOM)
                return
        # Some more may come, as connections are accepted several at a time.
        if port not in self._paused:
            self._paused.add(port)
            port.stopReading()

    def add(self, handshake: TlsHandshake) -> None:
        """It begins."""
        self._order[handshake] = None

    def remove(self, handshake: TlsHandshake) -> None:
        """It has ended.  May be called more than once."""
        self._order.pop(handshake, None)

    def rejected(self) -> None:
        """There is no room for another connection."""
        self.ended[NO_ROOM] += 1
        self.failures.count(NO_ROOM)

    def step_done(self) -> None:
        """One that waited for this process is processed."""
        self.posted -= 1
        if self._paused and self.posted <= self._most // 2:
            for port in self._paused:
                # It may be closed by now.
                if port.connected and not port.disconnecting:
                    port.startReading()
            self._paused.clear()


@implementer(IProtocol)
class TlsHandshake:
    """The protocol of a client's connection during its handshake; its transport is one of `network.tls`."""

    __slots__ = (
        "transport",
        "network",
        "deadline",
        "posted",
        "_handshakes",
        "_context",
        "_announced",
        "_layer",
        "_data",
        "_paused",
        "_open",
    )

    transport: Any

    def __init__(
        self, handshakes: TlsHandshakes, context: ssl.SSLContext, announced: ProxyHeader | None = None
    ) -> None:
        """`announced` is the header of the PROXY protocol that has preceded the handshake."""
        self.network = ""  # the client's
        self.deadline = NEVER
        self.posted = False  # what was read waits for its turn
        self._handshakes = handshakes
        self._context = context
        self._announced = announced
        self._layer: TlsLayer | None = None  # made for the first bytes: it takes memory
        self._data = b""
        self._paused = False
        self._open = False

    def makeConnection(self, transport: Any) -> None:
        """See IProtocol."""
        self.transport = transport
        self._open = True
        peer = peer_info(transport, self._announced)
        self.network = self._handshakes.limits.network_counted(peer.address)
        if peer.address != UNIX_ADDRESS:
            transport.setTcpNoDelay(True)
        limits = self._handshakes.limits
        self._handshakes.add(self)
        self._handshakes.make_room(transport.server)
        limits.connections.add(self)
        sweeper = limits.context.sweeper
        sweeper.watched.add(self)
        self.deadline = sweeper.now + limits.settings.tls_handshake_timeout

    def connectionMade(self) -> None:
        """See IProtocol.  `makeConnection` has done everything."""

    def dataReceived(self, data: bytes) -> None:
        """See IProtocol."""
        if not self._open:
            return
        if self._layer is None and not self._data and data[:1].isupper():
            self._answer_plain_http(data)
            return
        self._data += data
        if not self.posted:
            self.posted = True
            self._handshakes.posted += 1
            self._handshakes.limits.context.posted.post(self)
        elif not self._paused:
            # What was read before is not processed yet.
            self._paused = True
            self.transport.pauseProducing()

    # Work

    def resume(self) -> None:
        """Take the next step."""
        self.posted = False
        self._handshakes.step_done()
        if not self._open:
            return
        layer = self._layer
        if layer is None:
            layer = self._layer = TlsLayer(self._context, True)
        data, self._data = self._data, b""
        transport = self.transport
        try:
            complete = layer.handshake(data)
        except HandshakeFailed as error:
            self._failed(error, layer)
            return
        output = layer.output()
        if output:
            transport.write(output)
        if self._paused:
            self._paused = False
            transport.resumeProducing()
        if complete:
            self._end(RESUMED if layer.resumed else COMPLETE)
            transport.secure(layer, ClientConnection(self._handshakes.limits, self._announced))

    def _failed(self, error: HandshakeFailed, layer: TlsLayer) -> None:
        reason = reason_of(error)
        text = str(error)
        if reason == CLIENT_CERTIFICATE_REFUSED:
            text = f"the client's certificate is not accepted: {text}"
        elif reason in (CERTIFICATE_REFUSED, CLIENT_ALERT) and layer.unserved_name:
            text += f"; there is no certificate for {layer.unserved_name!r}, so the client got the default one"
        self._note(reason, text)
        alert = layer.output()
        self._end(FAILED)
        if alert:
            self.transport.write(alert)
        self.transport.loseConnection()

    def _note(self, reason: str, text: str) -> None:
        peer = peer_info(self.transport, self._announced)
        self._handshakes.failures.note(peer.network, peer.address, reason, text)

    def _answer_plain_http(self, data: bytes) -> None:
        self._note(PLAIN, "the client speaks plain HTTP")
        self._end(PLAIN)
        limits = self._handshakes.limits
        context = limits.context
        context.counts.answered[400] += 1
        request_id = context.ids.new() if context.ids is not None else b""
        answer = problem_response(None, 400, PLAIN_HTTP, b"", {}, True, context.sweeper.date, request_id)
        self.transport.write(answer)
        if context.records is not None:
            record = record_of_malformed(peer_info(self.transport, self._announced), context.seconds(), data)
            record.request_id = request_id
            record.status = 400
            record.reason = BAD_REQUEST
            record.detail = PLAIN_HTTP
            record.responded(answer)
            context.request_finished(record)
        limits.lingering.begin(self.transport)

    # The end

    def _end(self, how: str) -> None:
        """It is not one of the open connections any more."""
        if not self._open:
            return
        self._open = False
        self._data = b""
        self._layer = None
        handshakes = self._handshakes
        handshakes.ended[how] += 1
        handshakes.remove(self)
        handshakes.limits.connections.remove(self)
        handshakes.limits.context.sweeper.watched.discard(self)

    def deadline_passed(self) -> None:
        """See Watched."""
        seconds = self._handshakes.limits.settings.tls_handshake_timeout
        self._note(TIMEOUT, f"it was not complete in {seconds:g} s (TLS_HANDSHAKE_TIMEOUT)")
        self._abort(TIMEOUT)

    def give_up(self) -> None:
        """See Watched and Work: end the connection at once."""
        self.end_now(FAILED, OTHER)

    def end_now(self, how: str, reason: str) -> None:
        """End the connection for a reason that is counted but not logged."""
        if self._open:
            self._handshakes.failures.count(reason)
        self._abort(how)

    def _abort(self, how: str) -> None:
        self._end(how)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See IProtocol.  The client has left."""
        if self._open:
            self._handshakes.failures.count(CLIENT_LEFT)
        self._end(FAILED)

    # See OpenConnection

    def use(self) -> Use:
        """See OpenConnection."""
        return Use.UNSETTLED if self.posted else Use.IDLE

    def make_room(self, lingers: bool) -> None:
        """See OpenConnection.  The client could not read a response before the handshake is complete."""
        self.end_now(NO_ROOM, NO_ROOM)

    def drain(self) -> None:
        """See OpenConnection."""
        if not self.posted:
            self.end_now(FAILED, SHUTDOWN)

    def __repr__(self) -> str:
        return f"<TlsHandshake {self.network} {'posted' if self.posted else 'waiting for its client'}>"
