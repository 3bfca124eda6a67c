"""The connections to one server: idle ones are kept and reused, last in first out, and new ones opened.

The connection used last is the most likely to be alive; the oldest ones, left over from a busier time, are closed when
their idle time is up.  A connection is kept for at most UPSTREAM_MAX_AGE, and only as long as its address is one of the
server's, so that requests follow a server whose name moves to other addresses.

Each connection to a server with `send_proxy` begins with a header that describes the client.  It is used only for
requests of this client: those for which the same header would be sent.

With TLS, a new connection resumes the session of an earlier one.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from twisted_lb.backend import Backend
from twisted_lb.config.settings import ProxySettings
from twisted_lb.deadlines import NEVER, Sweeper
from twisted_lb.network.data_path_reactor import IDataPathReactor
from twisted_lb.network.dialer import Dialer, Unreachable
from twisted_lb.network.names import is_address
from twisted_lb.network.tls_client import TlsClient
from twisted_lb.proxy.server_connection import ServerConnection

# A fraction of the longest life of a connection: those that were opened together are closed one by one.
AGE_SPREAD: Final = 0.2
_GOLDEN_RATIO: Final = 0.618033988749895


class Waiting(Protocol):
    """What has asked for a new connection."""

    def proxy_header(self, version: int) -> bytes:
        """The header of the PROXY protocol that the connection is to begin with."""

    def connected(self, connection: ServerConnection) -> None:
        """The connection is open, and idle."""

    def connect_failed(self, reason: Unreachable) -> None:
        """No address of the server has accepted a connection in time."""


class ConnectionCount:
    """How many connections there are to all servers of a process."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


class ConnectionPool:
    """All connections to one server."""

    def __init__(
        self,
        backend: Backend,
        dialer: Dialer,
        sweeper: Sweeper,
        data_path: IDataPathReactor,
        settings: ProxySettings,
        count: ConnectionCount | None = None,
    ) -> None:
        """`data_path` is the IDataPathReactor; `count` is that of all servers."""
        self.backend = backend
        self._count = ConnectionCount() if count is None else count
        self.opened = 0
        self.retired = False
        self._dialer = dialer
        self._sweeper = sweeper
        self._settings = settings
        self._data_path = data_path
        self._idle: list[ServerConnection] = []
        # Idle since this iteration.  A server that sends more than it announced usually does so at once: an iteration
        # later that has been read, before another request can use the connection.
        self._fresh: list[ServerConnection] = []
        # With `send_proxy`: idle ones by header; first the client that has not released one for the longest time.
        self._of_clients: OrderedDict[bytes, list[ServerConnection]] = OrderedDict()
        self._idle_of_clients = 0
        self._open: set[ServerConnection] = set()
        self._tls: TlsClient | None = None  # made for the first connection
        self._new: set[ServerConnection] = set()  # connections with TLS whose sessions were not looked at yet
        if not is_address(backend.host):
            dialer.names.follow(backend.host, self._moved)

    def acquire(self, waiting: Waiting) -> ServerConnection | None:
        """An idle connection that the server has not closed or sent anything on, or None.  `waiting` is not called."""
        if self.backend.send_proxy:
            return self._acquire_of_client(waiting.proxy_header(self.backend.send_proxy))
        self._promote_fresh()
        while self._idle:
            connection = self._idle.pop()
            # One that became idle in this tick is polled by the reactor anyway; asking the kernel about an older one
            # costs a system call, and saves a request that cannot be sent twice.
            if connection.idle_since == self._sweeper.now or connection.transport.silent():
                return connection
            connection.drop()
        return None

    def _acquire_of_client(self, header: bytes) -> ServerConnection | None:
        while header in self._of_clients:
            connection = self._of_clients[header][-1]
            self._forget_of_client(connection)
            if connection.transport.silent():
                return connection
            connection.drop()
        return None

    def connect(self, waiting: Waiting) -> None:
        """Open a connection; `waiting` is called when it is open, or has failed."""
        backend = self.backend
        tls = self._tls_client()
        version = backend.send_proxy
        preface = waiting.proxy_header(version) if version else b""
        request = _ConnectionRequest(self, waiting, tls, preface)
        self._dialer.open(backend.host, backend.port, self._settings.connect_timeout, request, tls, preface)

    def _tls_client(self) -> TlsClient | None:
        """What new connections have in common.  Connections that were made with other settings are retired."""
        settings = self.backend.tls
        before = self._tls
        if settings is None:
            if before is None:
                return None
            self._tls = None
        elif before is None or before.settings != settings:
            self._tls = self._dialer.contexts.client(settings)
        else:
            return before
        self._new.clear()
        self._retire(list(self._open))
        return self._tls

    def tls_changed(self) -> None:
        """The server has other settings for TLS, or none."""
        self._tls_client()

    def build(
        self, waiting: Waiting, address: str, tls: TlsClient | None = None, preface: bytes = b""
    ) -> ServerConnection:
        """A protocol for a connection that is about to be made; `waiting` is called when it is."""
        connection = ServerConnection(
            self.backend,
            self,
            self._sweeper,
            self._data_path.posted,
            self._settings.upstream_timeout,
            waiting.connected,
        )
        self._open.add(connection)
        self._count.number += 1
        self.opened += 1
        connection.address = address
        connection.preface = preface
        connection.preface_sent = tls is not None
        age = self._settings.upstream_max_age
        if age:
            share = 1 - AGE_SPREAD * (self.opened * _GOLDEN_RATIO % 1)
            connection.retire_at = self._sweeper.now + age * share
        if tls is not self._tls:
            # The settings have changed meanwhile.
            connection.retire_at = -NEVER
        elif tls is not None:
            self._new.add(connection)
        return connection

    def release(self, connection: ServerConnection) -> None:
        """The connection has no exchange now."""
        now = self._sweeper.now
        if self._new:
            self._keep_session(connection)
        if connection.preface:
            self._release_of_client(connection, now)
            return
        if (
            self.retired
            or connection.retire_at <= now
            or len(self._idle) + len(self._fresh) >= self._settings.upstream_idle_connections
        ):
            connection.close()
            return
        connection.idle_since = now
        connection.idle_iteration = self._data_path.iteration
        connection.deadline = min(now + self._settings.upstream_idle_timeout, connection.retire_at)
        self._promote_fresh()
        self._fresh.append(connection)

    def _release_of_client(self, connection: ServerConnection, now: float) -> None:
        most = self._settings.upstream_idle_connections
        if self.retired or connection.retire_at <= now or not most:
            connection.close()
            return
        if self._idle_of_clients >= most:
            # Its client may have gone long ago.
            next(iter(self._of_clients.values()))[0].close()
        connection.idle_since = now
        connection.deadline = min(now + self._settings.upstream_idle_timeout, connection.retire_at)
        self._of_clients.setdefault(connection.preface, []).append(connection)
        self._of_clients.move_to_end(connection.preface)
        self._idle_of_clients += 1

    def _forget_of_client(self, connection: ServerConnection) -> None:
        connections = self._of_clients.get(connection.preface)
        if connections is not None and connection in connections:
            connections.remove(connection)
            self._idle_of_clients -= 1
            if not connections:
                del self._of_clients[connection.preface]

    def _all_idle(self) -> list[ServerConnection]:
        idle = self._idle + self._fresh
        for connections in self._of_clients.values():
            idle += connections
        return idle

    def _promote_fresh(self) -> None:
        """In a new iteration, what was fresh is idle."""
        if self._fresh and self._fresh[0].idle_iteration != self._data_path.iteration:
            self._idle += self._fresh
            self._fresh.clear()

    def _keep_session(self, connection: ServerConnection) -> None:
        """The connection has carried its first exchange, or has ended: now it has a session."""
        tls = self._tls
        if tls is not None and connection in self._new:
            self._new.discard(connection)
            tls.keep_session(connection.transport.tls)

    def forget(self, connection: ServerConnection) -> None:
        """The connection ended or will end."""
        if self._new:
            self._keep_session(connection)
        if connection in self._open:
            self._open.remove(connection)
            self._count.number -= 1
        if connection.preface:
            self._forget_of_client(connection)
            return
        for idle in (self._idle, self._fresh):
            if connection in idle:
                idle.remove(connection)

    def retire(self) -> None:
        """The server was removed: end what is idle now, and the others with their exchanges."""
        if self.retired:
            return
        self.retired = True
        if not is_address(self.backend.host):
            self._dialer.names.unfollow(self.backend.host, self._moved)
        for connection in self._all_idle():
            connection.close()

    def _moved(self, addresses: tuple[str, ...]) -> None:
        """The server has other addresses: keep no connection to one that it has no more."""
        self._retire([one for one in self._open if one.address not in addresses])

    def _retire(self, connections: list[ServerConnection]) -> None:
        """Close these: what is idle now, and the others after their exchanges."""
        for connection in connections:
            connection.retire_at = -NEVER
        for connection in [one for one in self._all_idle() if one.retire_at == -NEVER]:
            connection.close()

    @property
    def empty(self) -> bool:
        """Whether the pool is not needed any more."""
        return not self._open and not self.backend.in_flight

    def close(self) -> None:
        """End all connections; for shutdown, when no exchange is left."""
        for connection in list(self._open):
            connection.drop()

    def __repr__(self) -> str:
        return f"<ConnectionPool to {self.backend.name} open={len(self._open)} idle={len(self._idle)}>"


class _ConnectionRequest:
    """A connection that was asked for.  See Taker."""

    def __init__(self, connections: ConnectionPool, waiting: Waiting, tls: TlsClient | None, preface: bytes) -> None:
        self._pool = connections
        self._waiting = waiting
        self._tls = tls
        self._preface = preface

    def build_protocol(self, address: str) -> ServerConnection:
        return self._pool.build(self._waiting, address, self._tls, self._preface)

    def connect_failed(self, reason: Unreachable) -> None:
        self._waiting.connect_failed(reason)
