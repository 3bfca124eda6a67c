"""What all client connections of a process share, and the response to those for which there is no room."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.config.settings import ProxySettings
from twisted_lb.interfaces import IDoor
from twisted_lb.limits.client_networks import LOCAL_NETWORK, network_of
from twisted_lb.network.address_ranges import ranges_or_none
from twisted_lb.network.peer import PeerInfo, peer_info
from twisted_lb.network.transport import close_now
from twisted_lb.own_fields import request_fields
from twisted_lb.proxy.admission import RETRY_SOON
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.https_redirect import HttpsRedirect
from twisted_lb.proxy.lingering import LingeringConnections
from twisted_lb.proxy.local_response import problem_response
from twisted_lb.proxy.open_connections import OpenConnections
from twisted_lb.proxy.preflight import Preflights
from twisted_lb.request_record import NO_ROOM, RequestRecord
from twisted_lb.wire.head import HeadLimits
from twisted_lb.wire.hsts import policy_line

# Between two lines in the log.
LOG_SECONDS = 60.0

_log = Logger(__name__)


class ConnectionLimits:
    """What all client connections of a process share."""

    def __init__(self, context: ProxyContext, settings: ProxySettings, door: IDoor, clock: IReactorTime) -> None:
        self.context = context
        self.settings = settings
        self.door = door
        self.head_limits = HeadLimits(
            settings.max_head_bytes,
            settings.max_target_bytes,
            settings.max_header_fields,
            settings.unusual_field_names == "pass",
            request_fields(context.keys.fields, context.ids is not None),
        )
        self.key_parameter = context.keys.parameter
        self.https_redirect = HttpsRedirect(settings.https_port) if settings.http_redirect == "https" else None
        self.hsts = policy_line(settings.hsts)  # for responses over https; b"": none
        self.preflights = Preflights(context)
        self.connections = OpenConnections(settings.max_connections, settings.connections_of_an_address)
        self.lingering = LingeringConnections(clock, context.sweeper, settings)
        # None: no proxy is trusted, and no connection begins with a header of the PROXY protocol.
        self.trusted_proxies = ranges_or_none(settings.trusted_proxies)
        self.proxy_protocol_from = ranges_or_none(settings.proxy_protocol_from)
        self.draining = False
        self._closed = self._refused = 0  # for lack of room, since the last line in the log
        self._quiet_until = 0.0

    def network_counted(self, address: str) -> str:
        """The network for which connections from this address are counted.

        It is LOCAL_NETWORK, which has no limit, for a trusted proxy, since that has many clients.
        """
        trusted = self.trusted_proxies
        return LOCAL_NETWORK if trusted is not None and trusted.contain(address) else network_of(address)

    def fields_for(self, peer: PeerInfo) -> bytes:
        """The lines of every response to this client, each with a CRLF before it."""
        return self.hsts if self.hsts and peer.scheme == b"https" else b""

    def make_room(self, address: str, short_of_files: bool) -> str:
        """Make room for one more connection from `address`; return why there is none, or an empty text."""
        connections = self.connections
        network = self.network_counted(address)
        if connections.network_full(network):
            limit = f"MAX_CONNECTIONS_PER_ADDRESS={connections.most_of_network}, for {network}"
            detail = f"An address can have {connections.most_of_network} connections."
            longest_idle = connections.longest_idle(network)
        elif connections.full() or short_of_files:
            limit = f"MAX_CONNECTIONS={connections.most}" if connections.full() else "the open files of the process"
            detail = "There are too many connections. Try again later."
            longest_idle = connections.longest_idle()
        else:
            return ""
        if longest_idle is not None:
            longest_idle.make_room(lingers=not short_of_files)
            self._closed += 1
        else:
            self._refused += 1
        self._say(limit)
        return "" if longest_idle is not None else detail

    def _say(self, limit: str) -> None:
        now = self.context.sweeper.now
        if now < self._quiet_until:
            return
        self._quiet_until = now + LOG_SECONDS
        _log.warn(
            "There are as many connections of clients as there may be ({limit}); since the last such line: "
            "closed to make room {closed}, refused {refused}",
            limit=limit,
            closed=self._closed,
            refused=self._refused,
        )
        self._closed = self._refused = 0


@implementer(IProtocol)
class RejectedConnection:
    """A connection for which there is no room."""

    __slots__ = ("_limits", "_detail", "_lingers")

    def __init__(self, limits: ConnectionLimits, detail: str, lingers: bool) -> None:
        """`lingers`: there are open files left, so that the client can be given time to read the response."""
        self._limits = limits
        self._detail = detail
        self._lingers = lingers

    def makeConnection(self, transport: Any) -> None:
        """Send the response, and end the connection."""
        context = self._limits.context
        request_id = context.ids.new() if context.ids is not None else b""
        date = context.sweeper.date
        data = problem_response(None, 503, self._detail, RETRY_SOON, {}, True, date, request_id)
        transport.write(data)
        if context.records is not None:
            record = RequestRecord(peer_info(transport), context.seconds())
            record.request_id = request_id
            record.status = 503
            record.reason = NO_ROOM
            record.detail = self._detail
            record.responded(data)
            context.request_finished(record)
        if self._lingers:
            self._limits.lingering.begin(transport)
        else:
            close_now(transport)

    def connectionMade(self) -> None:
        """See IProtocol.  `makeConnection` has done everything."""

    def dataReceived(self, data: bytes) -> None:
        """See IProtocol.  What the client sends is dropped."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See IProtocol."""
