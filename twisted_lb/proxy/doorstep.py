"""What all client connections of a process share, and the answer to those for which there is no room."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from twisted.internet.protocol import Protocol as TwistedProtocol

from twisted_lb.interfaces import IDoor
from twisted_lb.proxy.local_response import problem_response
from twisted_lb.proxy.surroundings import Shared
from twisted_lb.settings import Settings
from twisted_lb.wire.head import HeadLimits


class Connected(Protocol):
    """A client's connection."""

    transport: Any

    def drain(self) -> None:
        """End as soon as there is no exchange."""


class Doorstep:
    """What all client connections of a process share."""

    def __init__(self, shared: Shared, settings: Settings, door: IDoor) -> None:
        self.shared = shared
        self.settings = settings
        self.door = door
        self.head_limits = HeadLimits(settings.max_head_bytes, settings.max_target_bytes, settings.max_header_fields)
        self.connections: set[Connected] = set()
        self.by_address: Counter[str] = Counter()
        self.draining = False

    def full(self, address: str) -> str:
        """Why there is no room for one more connection from `address`, or an empty text."""
        settings = self.settings
        if settings.max_connections and len(self.connections) >= settings.max_connections:
            return "There are too many connections. Try again later."
        limit = settings.max_connections_per_address
        if limit and self.by_address[address] >= limit:
            return f"An address can have {limit} connections."
        return ""


class TurnedAway(TwistedProtocol):
    """A connection for which there is no room."""

    transport: Any

    def __init__(self, detail: str) -> None:
        self._detail = detail

    def connectionMade(self) -> None:
        self.transport.write(problem_response(None, 503, self._detail, b"\r\nRetry-After: 1", {}, True))
        self.transport.loseConnection()
