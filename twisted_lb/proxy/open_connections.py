"""The open connections of clients, and which of them is closed for a new one: the one that has been idle longest.

1. A connection moves to the end of the order when it is accepted, when it begins a request, and after a response.
   Further input of a request does not move it, so that a client gains nothing by sending slowly.
2. A request does not remove its connection from the order, which would be work for each request.  The search for an
   idle connection removes busy ones; the end of a response adds them again.
3. The connections of a network have an order of their own, so that a network at its limit loses one of its own
   connections.  It is created for the second connection, since most networks have one.

Each step is O(1); a connection is removed at most once for each time that it was added.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, Protocol

from twisted_lb.limits.client_networks import LOCAL_NETWORK

# Connections with unread or unsent bytes are not closed; there may be many of them, but they are processed soon.
MAX_LOOKS: Final = 32


class Use(Enum):
    """Whether a connection may be closed for another one."""

    IDLE = "idle"  # it has no complete request
    UNSETTLED = "unsettled"  # the same, but there are bytes in its socket that have yet to be read or sent
    BUSY = "busy"


class OpenConnection(Protocol):
    """A client's connection."""

    transport: Any
    network: str  # the client's; LOCAL_NETWORK when it has no address

    def use(self) -> Use:
        """Whether it may be closed."""

    def make_room(self, lingers: bool) -> None:
        """End at once; it is IDLE.  `lingers`: the client may get time to read a last response."""

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
    """The open connections of one process."""

    def __init__(self, most: int, most_of_network: int) -> None:
        """The most connections, in total and of each network; 0: any number."""
        self.most = most
        self.most_of_network = most_of_network
        # Each connection is in one of them.
        self._order: _Order = OrderedDict()
        self._busy: set[OpenConnection] = set()
        self._networks: dict[str, _Network] = {}

    def __len__(self) -> int:
        return len(self._order) + len(self._busy)

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter([*self._order, *self._busy])

    def count_of(self, network: str) -> int:
        """The number of connections of this network; 0 for local ones, which are not limited."""
        found = self._networks.get(network)
        return found.count if found is not None else 0

    def add(self, connection: OpenConnection) -> None:
        """A connection was accepted."""
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
        """A connection has ended.  May be called more than once."""
        if connection in self._order:
            del self._order[connection]
        elif connection in self._busy:
            self._busy.discard(connection)
        else:
            return
        network = self._networks.get(connection.network)
        if network is None:
            return
        network.count -= 1
        if not network.count:
            del self._networks[connection.network]
        elif network.order is not None:
            network.order.pop(connection, None)

    def moved_on(self, connection: OpenConnection) -> None:
        """The connection has begun a request, or completed a response."""
        order = self._order
        if connection in order:
            order.move_to_end(connection)
        elif connection in self._busy:
            self._busy.discard(connection)
            order[connection] = None
        else:
            return
        network = self._networks.get(connection.network)
        if network is not None and network.order is not None:
            network.order[connection] = None
            network.order.move_to_end(connection)

    def network_full(self, network: str) -> bool:
        """Whether the network is at its limit."""
        return 0 < self.most_of_network <= self.count_of(network)

    def full(self) -> bool:
        """Whether the total is at its limit."""
        return 0 < self.most <= len(self)

    def longest_idle(self, network: str = "") -> OpenConnection | None:
        """The connection, of all or of this network, to close for another one; None if no one is idle."""
        if not network:
            return self._longest_idle(self._order)
        found = self._networks[network]
        if found.order is not None:
            return self._longest_idle(found.order)
        return found.only if found.only is not None and found.only.use() is Use.IDLE else None

    def _longest_idle(self, order: _Order) -> OpenConnection | None:
        looks = 0
        while order and looks < MAX_LOOKS:
            connection = next(iter(order))
            use = connection.use()
            if use is Use.IDLE:
                return connection
            if use is Use.BUSY:
                del order[connection]
                if order is self._order:
                    self._busy.add(connection)
            else:
                order.move_to_end(connection)
                looks += 1
        return None
