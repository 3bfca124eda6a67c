"""What all client connections of a process share, and the answer to those for which there is no room."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger

from twisted_lb.interfaces import IDoor
from twisted_lb.limits.addresses import network_of
from twisted_lb.proxy.admission import RETRY_SOON
from twisted_lb.proxy.local_response import problem_response
from twisted_lb.proxy.open_connections import OpenConnections
from twisted_lb.proxy.surroundings import Shared
from twisted_lb.proxy.transport import close_now
from twisted_lb.settings import Settings
from twisted_lb.wire.head import HeadLimits

# A line in the log is enough for as long.
LOG_SECONDS = 60.0

_log = Logger()


class Doorstep:
    """What all client connections of a process share."""

    def __init__(self, shared: Shared, settings: Settings, door: IDoor) -> None:
        self.shared = shared
        self.settings = settings
        self.door = door
        self.head_limits = HeadLimits(
            settings.max_head_bytes,
            settings.max_target_bytes,
            settings.max_header_fields,
            settings.unusual_field_names == "pass",
        )
        self.connections = OpenConnections(settings.max_connections, settings.connections_of_an_address)
        self.draining = False
        self._closed = self._refused = 0  # for want of room, since the last line in the log
        self._quiet_until = 0.0

    def make_room(self, address: str, short_of_files: bool) -> str:
        """See to it that there is room for one more connection from `address`; why there is none, or an empty text."""
        connections = self.connections
        network = network_of(address)
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
            longest_idle.make_room()
            self._closed += 1
        else:
            self._refused += 1
        self._say(limit)
        return "" if longest_idle is not None else detail

    def _say(self, limit: str) -> None:
        now = self.shared.sweeper.now
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


class TurnedAway(TwistedProtocol):
    """A connection for which there is no room."""

    transport: Any

    def __init__(self, detail: str, date: bytes) -> None:
        self._response = problem_response(None, 503, detail, RETRY_SOON, {}, True, date)

    def connectionMade(self) -> None:
        self.transport.write(self._response)
        close_now(self.transport)
