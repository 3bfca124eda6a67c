"""The proxy with everything around it in memory: clients, servers, buckets, the user API, and a clock.

What happens "later" in a reactor happens in the next turn of the clock; each act of a client or a server
runs all turns that are due, so a test sees the world at rest.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock

from tests.proxy.memory_reactor import MemoryReactor
from tests.proxy.reading import Response, read_response, read_responses
from tests.proxy.scripted import (
    KEY,
    ClockedBuckets,
    Names,
    OrderedServices,
    ScriptedBuckets,
    ScriptedConnector,
    ScriptedDoor,
    ScriptedServer,
    ServerSide,
)
from tests.proxy.transports import Address, FakeTransport
from twisted_lb.app.limit_rules import LimitRules
from twisted_lb.app.pools_in_process import new_pool_route, new_route
from twisted_lb.backend import Backend
from twisted_lb.config.pool import Queue, Retries
from twisted_lb.config.servers_file import read_gateway
from twisted_lb.config.settings import ProxySettings
from twisted_lb.cors import CorsPolicy
from twisted_lb.deadlines import TICK_SECONDS
from twisted_lb.interfaces import IBalancer
from twisted_lb.limits.authentication import Authentication
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.limits.pricing import NO_PRICING, Pricing
from twisted_lb.pool.pool import Pool
from twisted_lb.proxy.factory import ProxyFactory
from twisted_lb.proxy.route import AnsweringRoute, Route
from twisted_lb.routing.match import Match
from twisted_lb.routing.specs import match_of
from twisted_lb.routing.table import RouteTable

CLIENT = IPv4Address("TCP", "192.0.2.7", 50_000)


def request(
    method: str = "GET", target: str = "/", *fields: bytes, body: bytes | None = None, version: str = "1.1"
) -> bytes:
    """A request with a key; a body brings its Content-Length."""
    lines = [f"{method} {target} HTTP/{version}".encode(), b"Host: api.example", b"Authorization: " + KEY, *fields]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body or b""])


def response(body: bytes = b"", *fields: bytes, status: bytes = b"200 OK") -> bytes:
    """A server's response with a Content-Length."""
    return b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"Content-Length: %d" % len(body), b"", body])


class Client:
    """A client's view of one connection."""

    def __init__(self, transport: FakeTransport, clock: Clock) -> None:
        self.transport = transport
        self._clock = clock
        self._read = 0

    @property
    def received(self) -> bytes:
        """All that has come, also what was read."""
        return b"".join(self.transport.writes)

    def read(self) -> bytes:
        """What has come since the last call."""
        data = self.received[self._read :]
        self._read += len(data)
        return data

    def response(self, method: str = "GET") -> Response:
        """The one response that has come since the last reading."""
        return read_response(self.read(), method, self.ended)

    def responses(self, *methods: str) -> list[Response]:
        """The responses that have come since the last reading."""
        return read_responses(self.read(), methods, self.ended)

    def send(self, *pieces: bytes) -> None:
        """Each piece arrives by itself."""
        for piece in pieces:
            self.transport.deliver(piece)
            self._clock.advance(0)

    def finish(self) -> None:
        """End this direction: nothing more is sent."""
        self.transport.finish()
        self._clock.advance(0)

    def leave(self) -> None:
        """Be gone."""
        self.transport.reset()
        self._clock.advance(0)

    def stop_taking(self) -> None:
        self.transport.stop_taking()

    def take(self) -> None:
        self.transport.take()
        self._clock.advance(0)

    @property
    def ended(self) -> bool:
        """Whether the proxy's end of the connection is over."""
        return self.transport.ended


class World:
    """A started proxy in front of `servers` scripted servers, named s1, s2, ..."""

    def __init__(
        self,
        servers: int = 1,
        balancer: IBalancer | None = None,
        hosts: tuple[str, ...] = (),
        retries: Retries = Retries(),
        queue: Queue = Queue(),
        maxconn: int = 0,
        pricing: Pricing = NO_PRICING,
        known_keys: KnownKeys | None = None,
        counts_in_flight: bool = False,
        rate_per_sec: float | None = None,
        authentication: Authentication | None = None,
        buckets: Any = None,
        **settings: Any,
    ) -> None:
        """Servers are at 127.0.0.1 and ports from 9001 on; `hosts` gives others; `settings` are those of ProxySettings.

        With a `rate_per_sec` each key has a real bucket of 5 tokens, empty at first; `buckets` is another IBucketStore.
        """
        self.seen: list[tuple[str, int, str]] = []
        self.clock = Clock()
        self.names = Names(self.clock)
        self.settings = ProxySettings(**settings)
        self.buckets = (
            ScriptedBuckets() if rate_per_sec is None else ClockedBuckets(self.clock, 5, rate_per_sec)
        )
        self.buckets.counts_in_flight = counts_in_flight
        self.limit_rules = LimitRules()
        self.door = ScriptedDoor()
        self.balancer = balancer or OrderedServices()
        self.dialled: list[tuple[str, int]] = []
        names = hosts or ("127.0.0.1",) * servers
        self.backends = [Backend(f"s{n}", host, 9000 + n, maxconn=maxconn) for n, host in enumerate(names, 1)]
        self.servers = [ScriptedServer(backend, self.clock) for backend in self.backends]
        self.pool = Pool(self.balancer, self.backends)
        self.factory = ProxyFactory(
            MemoryReactor(self.clock, self._dial),
            self.settings,
            self.buckets if buckets is None else buckets,
            self.door,
            self.names,
            known_keys,
            authentication=authentication,
        )
        self.server_pool = self.factory.add_pool(
            self.pool,
            lambda backend, status, now, why, fault: self.seen.append((backend.name, status, why)),
            retries,
            queue,
        )
        self.use(Route(self.server_pool, pricing))
        self.factory.doStart()

    def use(self, route: Route, cors: CorsPolicy | None = None) -> None:
        """All requests take this route."""
        self.route = route
        self.factory.use(RouteTable([(Match(), route)]), cors, route.hooks is not None)

    def use_routes(self, *texts: str, pool: str = "", top: str = "") -> None:
        """The routes of a servers.yaml, each without braces; the pool p has all servers, and these keys.

        `top` is what else is at the top of the file.
        """
        routes = "".join(f"- {{{text}}}\n" for text in texts)
        pools = f"pools: {{p: {{servers: [{{url: 'http://a'}}], {pool}}}}}"
        spec = read_gateway(f"{top}\n{pools}\nroutes:\n{routes}", "servers.yaml")
        made: list[tuple[Match, Route | AnsweringRoute]] = []
        for one in spec.routes:
            limits = self.limit_rules.limits_of(one, spec.pools[0] if one.pool else None, spec.limits)
            if one.pool:
                made.append((match_of(one), new_pool_route(one, self.server_pool, limits=limits)))
            else:
                made.append((match_of(one), new_route(one, limits)))
        self.limit_rules.forget_unused()
        self.factory.use(RouteTable(made))

    @property
    def server(self) -> ScriptedServer:
        """The first server, mostly the only one."""
        return self.servers[0]

    @property
    def in_flight(self) -> list[int]:
        return [backend.in_flight for backend in self.backends]

    def client(self, address: Address = CLIENT, tls: bool = False) -> Client:
        """A client connects."""
        transport = FakeTransport(self.clock, address)
        transport.TLS = tls
        protocol = self.factory.buildProtocol(address)
        assert protocol is not None
        transport.connect(protocol)
        self.settle()
        return Client(transport, self.clock)

    def asked(self, data: bytes | None = None) -> tuple[Client, ServerSide]:
        """A client whose request, by default a GET, has just reached the first server."""
        client = self.client()
        client.send(request() if data is None else data)
        upstream = self.server.last
        assert upstream.received
        return client, upstream

    def settle(self) -> None:
        """Run what is due."""
        self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        """Time passes, in the steps of the sweeper."""
        steps, rest = divmod(seconds, TICK_SECONDS)
        self.clock.pump([TICK_SECONDS] * int(steps) + [rest])

    def _dial(self, host: str, port: int, factory: ClientFactory, timeout: float) -> ScriptedConnector:
        self.dialled.append((host, port))
        for server in self.servers:
            if server.backend.port == port:
                return server.dialled(factory, timeout)
        raise AssertionError(f"nobody lives at {host}:{port}")
