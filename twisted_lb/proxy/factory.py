"""The data path as a whole: builds the connections of clients, and at the end lets their exchanges finish."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from math import inf
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from twisted_lb.config.pool import ONLY_POOL, Queue, Retries
from twisted_lb.config.settings import ProxySettings
from twisted_lb.cors import CorsPolicy
from twisted_lb.credentials import key_places
from twisted_lb.deadlines import Sweeper
from twisted_lb.interfaces import IBucketStore, IDoor
from twisted_lb.limits.authentication import Authentication
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.limits.collected_counts import CollectedCounts
from twisted_lb.limits.response_headers import rate_limit_fields
from twisted_lb.limits.wait_queue import WaitQueue
from twisted_lb.network.data_path_reactor import IDataPathReactor
from twisted_lb.network.dialer import DeadAddresses, Dialer, Resolving
from twisted_lb.network.peer import UNIX_ADDRESS, PeerInfo
from twisted_lb.network.tls import TlsServerTransport, TlsUnixServerTransport, accepted_tls_transport
from twisted_lb.network.tls_client import TlsContexts, open_tls
from twisted_lb.network.transport import ServerTransport, UnixServerTransport, accepted_transport
from twisted_lb.pool.pool import Pool
from twisted_lb.proxy.announced_connection import AnnouncedConnection
from twisted_lb.proxy.client_connection import ClientConnection
from twisted_lb.proxy.connection_limits import ConnectionLimits, RejectedConnection
from twisted_lb.proxy.connection_pool import ConnectionCount
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.server_pool import Seen, ServerPool, unseen
from twisted_lb.proxy.tls_handshake import TlsHandshake, TlsHandshakes
from twisted_lb.request_record import RequestRecords, Subscriber
from twisted_lb.routing.table import RouteTable
from twisted_lb.wire.proxy_protocol import ProxyHeader

DRAIN_POLL_SECONDS = 0.05
# Open files, or a tenth of the limit if that is more, that are kept free for new connections to servers, the store and
# the log: without them servers would seem to be down.
SPARE_FILES = 64


class ProxyFactory(Factory):
    """Builds the protocol of each client's connection, and holds what they share."""

    noisy = False

    def __init__(
        self,
        data_path: IDataPathReactor,
        settings: ProxySettings,
        buckets: IBucketStore,
        door: IDoor,
        names: Resolving,
        known_keys: KnownKeys | None = None,
        data_path_lost: Callable[[Failure], None] = lambda reason: None,
        dead: DeadAddresses | None = None,
        authentication: Authentication | None = None,
        contexts: TlsContexts | None = None,
        collected: CollectedCounts | None = None,
    ) -> None:
        """`data_path` is the IDataPathReactor; `names` resolves the names of servers.

        `dead` are the addresses that are known not to answer, `contexts` those of TLS to servers.

        There are no pools and routes yet, see `add_pool` and `use`.

        `authentication` finds the keys of requests, by default in the places that the settings name.

        `known_keys` is given where client addresses have a bucket; `data_path_lost` is called when nothing can be read
        or written any more; `collected` counts the outcomes of the requests of each key.
        """
        self.data_path = data_path
        self._data_path_lost = data_path_lost
        self.sweeper = Sweeper(data_path)
        self._settings = settings
        dead = dead or DeadAddresses(data_path.seconds)
        self._files = inf  # how many of them connections may use
        self._to_servers = ConnectionCount()
        connect_tls = partial(open_tls, data_path)
        self._dialer = Dialer(data_path, names, dead, data_path.connectTCP, connect_tls, contexts or TlsContexts())
        self._pools: list[ServerPool] = []
        self._records = RequestRecords()
        self._has_hooks = False
        self.limits = ConnectionLimits(
            ProxyContext(
                buckets=buckets,
                sweeper=self.sweeper,
                limit_fields=rate_limit_fields(settings.rate_limit_headers),
                seconds=data_path.seconds,
                settings=settings,
                waiting=WaitQueue(data_path, settings.max_waiting),
                posted=data_path.posted,
                known_keys=known_keys,
                keys=key_places(settings),
                authentication=authentication,
                collected=collected,
            ),
            settings,
            door,
            data_path,
        )

        self.handshakes = TlsHandshakes(self.limits)

    def secured(self, context: Callable[[], ssl.SSLContext]) -> TlsFactory:
        """A factory for a port with TLS, whose connections belong to this one after their handshake.

        `context` returns the SSL context for a new handshake.
        """
        return TlsFactory(self, context)

    def add_pool(
        self,
        servers: Pool,
        seen: Seen = unseen,
        retries: Retries = Retries(),
        queue: Queue = Queue(),
        name: str = ONLY_POOL,
    ) -> ServerPool:
        """A pool that routes may lead to; `seen` is passive health."""
        settings = self._settings
        pool = ServerPool(
            servers, self._dialer, self.sweeper, self.data_path, settings, seen, retries, queue, name, self._to_servers
        )
        self._pools.append(pool)
        return pool

    def remove_pool(self, pool: ServerPool) -> None:
        """No route leads to it, and no exchange is left."""
        self._pools.remove(pool)
        pool.close()

    def use(self, routes: RouteTable, cors: CorsPolicy | None = None, has_hooks: bool = False) -> None:
        """Requests that come from now on have these routes; `cors` None leaves CORS to the servers.

        `has_hooks`: some of the routes have hooks, so requests need records.
        """
        self._has_hooks = has_hooks
        self._use_records()
        for context in (self.limits.context, self.limits.preflights.context):
            context.routes = routes
            context.cors = cors

    @property
    def collected(self) -> CollectedCounts:
        """What was counted since it was last taken from there."""
        return self.limits.context.collected

    @property
    def server_connections(self) -> int:
        """How many connections there are to servers."""
        return self._to_servers.number

    def subscribe(self, subscriber: Subscriber, wants_fields: bool = False) -> None:
        """Call `subscriber` with the record of each request that is over.  See RequestRecords."""
        self._records.subscribe(subscriber, wants_fields)
        self._use_records()

    def _use_records(self) -> None:
        needed = self._has_hooks or self._records.subscribed
        self.limits.context.records = self._records if needed else None

    def accepted(self, *args: Any) -> ServerTransport | UnixServerTransport:
        """The transport of a connection that a port has accepted."""
        return accepted_transport(self.data_path, *args)

    def startFactory(self) -> None:
        limit = getrlimit(RLIMIT_NOFILE)[0]
        self._files = limit - max(SPARE_FILES, limit // 10) if limit != RLIM_INFINITY else inf
        self.sweeper.start()
        self.data_path.start(self._lost)
        self.sweeper.watched.add(self.data_path)

    def stopFactory(self) -> None:
        """The last port is closed; the connections and their deadlines continue until `close`."""

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override]
        return self.build(addr, self._client, self._rejected)

    def build(
        self,
        addr: IAddress | None,
        make: Callable[[ProxyHeader | None], IProtocol | None],
        rejected: Callable[[str, bool], IProtocol | None],
    ) -> IProtocol | None:
        """The protocol of a connection from this address.

        If there is room for the connection, it is the result of `make` for the header of the PROXY protocol, or None.
        Otherwise it is that of `rejected` for the reason, and whether the client can be given time to read a response.
        """
        address = getattr(addr, "host", UNIX_ADDRESS)
        announcing = self.limits.proxy_protocol_from
        if announcing is None or not announcing.contain(address):
            return self._with_room(address, partial(make, None), rejected)

        def after_header(header: ProxyHeader, peer: PeerInfo) -> IProtocol | None:
            return self._with_room(peer.address, partial(make, header), rejected)

        # The proxy's connection is not counted for any address until the header is read.
        return self._with_room(UNIX_ADDRESS, partial(AnnouncedConnection, self.limits, after_header), rejected)

    def _with_room(
        self, address: str, make: Callable[[], IProtocol | None], rejected: Callable[[str, bool], IProtocol | None]
    ) -> IProtocol | None:
        limits = self.limits
        count = len(limits.connections) + len(limits.lingering) + self.server_connections
        short_of_files = count >= self._files
        full = limits.make_room(address, short_of_files)
        return rejected(full, not short_of_files) if full else make()

    def _client(self, header: ProxyHeader | None) -> IProtocol:
        return ClientConnection(self.limits, header)

    def _rejected(self, why: str, lingers: bool) -> IProtocol:
        return RejectedConnection(self.limits, why, lingers)

    def drain(self, seconds: float) -> Deferred[int]:
        """End each connection after its current exchange, and abort those that are left after `seconds`.

        Fires when no connection is left, with the number of those that were aborted.  The ports must be closed already.
        """
        finished: Deferred[int] = Deferred()
        cut = 0
        end = self.data_path.seconds() + seconds
        limits = self.limits
        limits.draining = True
        limits.lingering.hurry()
        limits.context.waiting.close_in(max(seconds - 2 * DRAIN_POLL_SECONDS, 0.0))

        def look() -> None:
            nonlocal cut
            late = self.data_path.seconds() >= end
            if late:
                # They may still be counted at the next look.
                cut = max(cut, len(limits.connections))
            for connection in limits.connections:
                if late:
                    connection.transport.abortConnection()
                else:
                    connection.drain()
            if late:
                limits.lingering.abort()
            if not limits.connections and not limits.lingering:
                self.close()
                finished.callback(cut)
            else:
                self.data_path.callLater(DRAIN_POLL_SECONDS, look)

        # Requests that have reached this machine but not this process are read first.
        self.data_path.callLater(DRAIN_POLL_SECONDS, look)
        return finished

    def _lost(self, reason: Failure) -> None:
        """No exchange can finish any more: abort all, so that the end of the process need not wait for them."""
        try:
            self._data_path_lost(reason)
        finally:
            for connection in self.limits.connections:
                connection.transport.abortConnection()
            self.limits.lingering.abort()

    def counts(self) -> dict[str, float]:
        """The counters of requests, tunnels and handshakes by name, see Counts and OpenTunnels."""
        context = self.limits.context
        ended = self.handshakes.ended
        handshakes = {f"handshakes {how}": ended[how] for how in ended}
        failures = self.handshakes.failures.numbers()
        limits = {**context.counts.numbers(), **context.shadow_counts.numbers()}
        return {**limits, **context.tunnels.numbers(), **handshakes, **failures}

    def tunnel_keys(self) -> list[str]:
        """The digests of the keys that have open tunnels."""
        return self.limits.context.tunnels.keys()

    def close_tunnels(self, digest: str) -> int:
        """End all open tunnels of the key with this digest, such as when it is revoked; return how many there were."""
        return self.limits.context.tunnels.close_tunnels(digest)

    def close(self) -> None:
        """End the connections to servers, the sweeper, and the polling."""
        self.sweeper.stop()
        self.data_path.stop()
        for pool in self._pools:
            pool.close()


class TlsFactory(Factory):
    """Builds the protocols of connections that begin with a TLS handshake."""

    noisy = False

    def __init__(self, clear: ProxyFactory, context: Callable[[], ssl.SSLContext]) -> None:
        """`clear` is the factory of connections without TLS, and of these after the handshake."""
        self._clear = clear
        self._context = context

    def accepted(self, *args: Any) -> TlsServerTransport | TlsUnixServerTransport:
        """The transport of a connection that a port has accepted."""
        return accepted_tls_transport(self._clear.data_path, *args)

    def doStart(self) -> None:
        """See Factory."""
        self._clear.doStart()

    def doStop(self) -> None:
        """See Factory."""
        self._clear.doStop()

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override]
        """None closes the connection, as there is no room: the client could read a reason only after a handshake."""
        return self._clear.build(addr, self._handshake, self._rejected)

    def _handshake(self, header: ProxyHeader | None) -> IProtocol:
        return TlsHandshake(self._clear.handshakes, self._context(), header)

    def _rejected(self, why: str, lingers: bool) -> None:
        self._clear.handshakes.rejected()
