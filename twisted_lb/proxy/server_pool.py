"""A pool of servers in use: the servers and their balancer (`Pool`), and what is kept for them.

That is the connections to each server, the queue of requests that wait for one, the retry budget, and the callback for
passive health.  An exchange gets its pool from its route.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from twisted_lb.backend import Backend
from twisted_lb.config.pool import ONLY_POOL, Queue, Retries
from twisted_lb.config.settings import ProxySettings
from twisted_lb.deadlines import Sweeper
from twisted_lb.network.data_path_reactor import IDataPathReactor
from twisted_lb.network.dialer import Dialer
from twisted_lb.pool.fair_queue import FairQueue
from twisted_lb.pool.pool import Pool
from twisted_lb.pool.retry_budget import RetryBudget
from twisted_lb.pool.retry_policy import Blame
from twisted_lb.proxy.connection_pool import ConnectionCount, ConnectionPool

# Passive health.  Called with the server, the status of its response or 0, the time on the reactor's clock, why there
# was no response, and what kind of failure it was.
Seen = Callable[[Backend, int, float, str, Blame], object]

class Copy(Protocol):
    """A copy of a request of another pool, see `mirrored_request`."""

    def end(self) -> None:
        """End it, whatever its state."""


# Servers that were removed before, whose connections are checked each time another one is removed.
LOOKS: Final = 16
# For requests that are sent only once.
NO_RETRIES: Final = Retries(1, 0.0, 0.0)


def unseen(backend: Backend, status: int, now: float, why: str, fault: Blame) -> None:
    """Ignore how a request has ended: it does not count for the server's health."""


class Connections(dict[Backend, ConnectionPool]):
    """The connections to each server; made on first use, since a request may come before the server is announced."""

    def __init__(self, servers: Pool, make: Callable[[Backend], ConnectionPool]) -> None:
        super().__init__()
        self._servers = servers
        self._make = make

    def __missing__(self, backend: Backend) -> ConnectionPool:
        # The balancer may be a user's class, and choose anything.
        if not any(backend is one for one in self._servers.backends):
            raise KeyError(backend)
        connections = self[backend] = self._make(backend)
        return connections


class ServerPool:
    """One pool; follows `servers` as its observer."""

    def __init__(
        self,
        servers: Pool,
        dialer: Dialer,
        sweeper: Sweeper,
        data_path: IDataPathReactor,
        settings: ProxySettings,
        seen: Seen = unseen,
        retries: Retries = Retries(),
        queue: Queue = Queue(),
        name: str = ONLY_POOL,
        count: ConnectionCount | None = None,
    ) -> None:
        """`data_path` is the IDataPathReactor; `count` is that of the connections to all servers."""
        self.name = name
        self.maintenance = 0.0  # seconds of Retry-After, with which all requests are answered 503; 0: they are not
        self.servers = servers
        self.seen = seen
        self._dialer = dialer
        self._sweeper = sweeper
        self._data_path = data_path
        self._settings = settings
        self._count = count
        self.connections: dict[Backend, ConnectionPool] = Connections(servers, self._new_connections)
        self.queue = FairQueue(sweeper, queue.size, queue.timeout)
        self.retries = RetryBudget(retries, data_path.seconds)
        self.copies: set[Copy] = set()  # of requests of other pools, in flight
        self._removed: deque[Backend] = deque()  # that still have connections
        for backend in servers.backends:
            self.backend_added(backend)
        sweeper.watched.add(self.retries)
        servers.subscribe(self)
        servers.refreshed.append(self.queue.serve)

    def configure(self, retries: Retries, queue: Queue, maintenance: float = 0.0) -> None:
        """Change the limits of retries and queue; `maintenance`: seconds of Retry-After if all requests get 503."""
        self.maintenance = maintenance
        self.retries.change(retries)
        self.queue.change(queue.size, queue.timeout)

    @property
    def idle(self) -> bool:
        """Whether no request is at one of its servers or waits for one."""
        return not self.queue and not any(backend.in_flight for backend in self.connections)

    def close(self) -> None:
        """End all connections and copies; for shutdown, or when the pool is removed, and no exchange is left."""
        for copy in list(self.copies):
            copy.end()
        self._sweeper.watched.discard(self.retries)
        for connections in self.connections.values():
            connections.retire()
            connections.close()

    # Observer of `servers`

    def backend_added(self, backend: Backend) -> None:
        """Requests may be sent to it."""
        if backend not in self.connections:
            self.connections[backend] = self._new_connections(backend)

    def _new_connections(self, backend: Backend) -> ConnectionPool:
        return ConnectionPool(backend, self._dialer, self._sweeper, self._data_path, self._settings, self._count)

    def backend_removed(self, backend: Backend) -> None:
        """No new requests are sent to it; its connections are dropped at a later change, after its exchanges."""
        self._drop_removed()
        self.connections[backend].retire()
        self._removed.append(backend)

    def tls_changed(self, backend: Backend) -> None:
        """Connections with the earlier settings are not used any more, except by the exchanges that have them."""
        self.connections[backend].tls_changed()

    def _drop_removed(self) -> None:
        """Check some of the removed servers, in the order of their removal, and drop what is not needed any more."""
        for _ in range(min(LOOKS, len(self._removed))):
            old = self._removed.popleft()
            if self.connections[old].empty:
                del self.connections[old]
            else:
                self._removed.append(old)
