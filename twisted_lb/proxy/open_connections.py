"""The open connections of clients, and which of them makes room for a new one: the one that has been idle longest.

1. A connection moves to the end of the order when it is accepted, when it begins a request, and when it has had a
   response.  What comes of a request after its beginning does not move it, so a client that drips gains nothing.
2. A request does not take its connection out of the order, which would be work for each.  Whoever looks for room
   takes out what is busy; the end of the response puts it back.
3. The connections of a network have an order of their own, so that a network that has as many as it may makes room
   for itself.  It is made for the second one: most networks have one connection.

Each step is O(1); a connection is taken out at most once for each time that it was put in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from typing import Any, Protocol

from twisted_lb.limits.addresses import LOCAL_NETWORK

# Bytes that are on their way keep a connection from making room; there may be others like it, but they are read soon.
MAX_LOOKS = 32


class Use(Enum):
    """What a connection is good for at present."""

    IDLE = "idle"  # no request of it is whole: nobody misses it
    UNSETTLED = "unsettled"  # the same, but there are bytes in its socket that have yet to be read or sent
    BUSY = "busy"


class OpenConnection(Protocol):
    """A client's connection."""

    transport: Any
    network: str  # the client's; LOCAL_NETWORK when it has no address

    def use(self) -> Use:
        """What it is good for."""

    def make_room(self) -> None:
        """End at once; it is IDLE."""

    def drain(self) -> None:
        """End as soon as there is no exchange."""


_Order = OrderedDict[OpenConnection, None]


class _Network:
    """The connections of one network: one, or several in their order."""

    __slots__ = ("count", "only", "order")

    def __init__(self) -> None:
        self.count = 0
        self.only: OpenConnection | None = None
        self.order: _Order | None = None


class OpenConnections:
    """Those of one process."""

    def __init__(self, most: int, most_of_network: int) -> None:
        """At most this many, in total and of each network; 0: any number."""
        self.most = most
        self.most_of_network = most_of_network
        self._all: set[OpenConnection] = set()
        self._order: _Order = OrderedDict()
        self._networks: dict[str, _Network] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter(list(self._all))

    def count_of(self, network: str) -> int:
        """How many this network has, if that is bounded."""
        found = self._networks.get(network)
        return found.count if found is not None else 0

    def add(self, connection: OpenConnection) -> None:
        """It was accepted."""
        self._all.add(connection)
        self._order[connection] = None
        name = connection.network
        if name == LOCAL_NETWORK:
            return
        network = self._networks.get(name)
        if network is None:
            network = self._networks[name] = _Network()
        network.count += 1
        if network.count == 1:
            network.only = connection
        elif network.order is None:
            assert network.only is not None
            network.order = OrderedDict.fromkeys((network.only, connection))
            network.only = None
        else:
            network.order[connection] = None

    def remove(self, connection: OpenConnection) -> None:
        """It ends; also when that was said before."""
        if connection not in self._all:
            return
        self._all.discard(connection)
        self._order.pop(connection, None)
        network = self._networks.get(connection.network)
        if network is None:
            return
        network.count -= 1
        if not network.count:
            del self._networks[connection.network]
        elif network.order is not None:
            network.order.pop(connection, None)

    def moved_on(self, connection: OpenConnection) -> None:
        """It has begun a request, or had a response."""
        if connection not in self._all:
            return
        order = self._order
        order[connection] = None
        order.move_to_end(connection)
        network = self._networks.get(connection.network)
        if network is not None and network.order is not None:
            network.order[connection] = None
            network.order.move_to_end(connection)

    def network_full(self, network: str) -> bool:
        """Whether the network has as many as it may."""
        return 0 < self.most_of_network <= self.count_of(network)

    def full(self) -> bool:
        """Whether there are as many as may be."""
        return 0 < self.most <= len(self._all)

    def longest_idle(self, network: str = "") -> OpenConnection | None:
        """The first that can make room, of all or of this network, or None."""
        if not network:
            return _longest_idle(self._order)
        found = self._networks[network]
        if found.order is not None:
            return _longest_idle(found.order)
        return found.only if found.only is not None and found.only.use() is Use.IDLE else None


def _longest_idle(order: _Order) -> OpenConnection | None:
    looks = 0
    while order and looks < MAX_LOOKS:
        connection = next(iter(order))
        use = connection.use()
        if use is Use.IDLE:
            return connection
        if use is Use.BUSY:
            del order[connection]
        else:
            order.move_to_end(connection)
            looks += 1
    return None
