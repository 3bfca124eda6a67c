"""Where the microseconds of the data path go, step by step, in memory.

    python bench/breakdown.py

Runs one exchange over transports that are no sockets, whole and in its steps, and prints the least time
of many rounds: what remains between that and `bench/run.py` is the event loop and the kernel.
"""

# mypy: allow-untyped-calls
# (MemoryReactorClock has no annotations.)

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from twisted.internet.address import IPv4Address  # noqa: E402
from twisted.internet.testing import MemoryReactorClock  # noqa: E402

from twisted_lb.backend import Backend  # noqa: E402
from twisted_lb.balancers.round_robin import RoundRobin  # noqa: E402
from twisted_lb.config.settings import ProxySettings  # noqa: E402
from twisted_lb.credentials import KeyPlaces, digest  # noqa: E402
from twisted_lb.interfaces import Taken  # noqa: E402
from twisted_lb.limits.bucket import Bucket  # noqa: E402
from twisted_lb.limits.pricing import NO_PRICING  # noqa: E402
from twisted_lb.limits.response_headers import rate_limit_fields  # noqa: E402
from twisted_lb.network.stock import StockReactor  # noqa: E402
from twisted_lb.own_fields import RESPONSE_FIELDS, consumer_line, request_fields  # noqa: E402
from twisted_lb.pool.pool import Pool  # noqa: E402
from twisted_lb.proxy.exchange import Exchange  # noqa: E402
from twisted_lb.proxy.factory import ProxyFactory  # noqa: E402
from twisted_lb.proxy.route import Route  # noqa: E402
from twisted_lb.routing.match import Match  # noqa: E402
from twisted_lb.routing.table import RouteTable  # noqa: E402
from twisted_lb.wire.forwarding import ForwardedFields, response_head  # noqa: E402
from twisted_lb.wire.framing import response_framing  # noqa: E402
from twisted_lb.wire.head import HeadLimits, read_request_head, read_response_head  # noqa: E402

REQUEST = (
    b"GET /foo/bar?x=1 HTTP/1.1\r\nHost: www.example.com\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nAuthorization: 01234567-0123-0123-0123-0123456789ab\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 20:53:38 GMT\r\nContent-Type: text/plain\r\n"
    b'Content-Length: 13\r\nConnection: keep-alive\r\nETag: "123"\r\n\r\nHello, world\n'
)
TAKEN = Taken(True, b"user1", 1000, 10.0, 998_765_432)
CALLS, ROUNDS = 2000, 40


class Transport:
    """Takes all, and says nothing."""

    disconnecting = False
    sent = 0

    def write(self, data: bytes) -> None:
        """Sent at once."""
        self.sent += len(data)

    def nothing(self, *args: object) -> None:
        """Done."""

    registerProducer = setTcpNoDelay = pauseProducing = resumeProducing = nothing

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 1)

    def unsent(self) -> bool:
        return False


class Buckets:
    """Always full."""

    counts_in_flight = False

    def take(self, digest: str, receiver: Any, cost: int = 1, network: str = "", limits: Any = ()) -> None:
        receiver.bucket_answered(TAKEN)

    def release(self, digest: str, tokens: int, limits: Any = ()) -> None:
        """Never needed."""


class Door:
    """Owns nothing."""

    max_body_bytes = 0

    def owns(self, path: bytes) -> bool:
        return path == b"/user/create"


class Addresses:
    """Resolves what is an address already."""

    def ask(self, name: str, waiter: Callable[[tuple[str, ...]], None], timeout: float) -> None:
        waiter((name,))

    def follow(self, name: str, follower: object) -> None:
        """No address changes."""


class Iterations(StockReactor):
    """Each exchange has an iteration of its own, so that its connection is used again by the next one."""

    iteration = 0


def main() -> None:
    """Print the table."""
    servers: list[Any] = []

    def dial(host: str, port: int, factory: Any, timeout: float) -> None:
        servers.append(factory.buildProtocol(None))
        servers[0].makeConnection(Transport())

    backends = [Backend("server1", "127.0.0.1", 1)]
    pool = Pool(RoundRobin(), backends)
    buckets: Any = Buckets()
    door: Any = Door()
    clock: Any = MemoryReactorClock()
    reactor: Any = Iterations(clock)
    reactor.connectTCP = dial
    names: Any = Addresses()
    factory = ProxyFactory(reactor, ProxySettings(keepalive_requests=10**9), buckets, door, names)
    route = Route(factory.add_pool(pool), NO_PRICING)
    factory.use(RouteTable([(Match(), route)]))
    client: Any = factory.buildProtocol(None)
    client.makeConnection(Transport())
    client.dataReceived(REQUEST)
    # The first request of a connection waits for its turn.
    clock.advance(0)
    server = servers[0]
    server.dataReceived(RESPONSE)

    limits = HeadLimits(table=request_fields())
    keys = KeyPlaces()
    request = read_request_head(REQUEST, 0, limits)
    response = read_response_head(RESPONSE, 0, 65536, RESPONSE_FIELDS)
    assert request is not None and response is not None
    hop = ForwardedFields("127.0.0.1", b"http")
    fields = rate_limit_fields(("x-ratelimit", "ratelimit"))
    bucket = Bucket(1_000_000, 1e6, 10**12, 0)
    context = factory.limits.context
    exchange = Exchange(context, route, client, request, 0)

    def whole() -> None:
        reactor.iteration += 1
        client.dataReceived(REQUEST)
        server.dataReceived(RESPONSE)

    steps: list[tuple[str, Callable[[], object]]] = [
        ("read and check the request head", lambda: read_request_head(REQUEST, 0, limits)),
        ("find the key", lambda: keys.take(dict(request.notable))),
        ("digest the key", lambda: digest(b"01234567-0123-0123-0123-0123456789ab")),
        ("take a token (arithmetic)", lambda: bucket.take(1, 0)),
        ("make the exchange", lambda: Exchange(context, route, client, request, 0)),
        ("choose a server", lambda: next(pool.choices(exchange))),
        ("write the server's head", lambda: hop.request_head(request, 0, consumer_line(b"user1"), b"server1:1")),
        ("read and check the response head", lambda: read_response_head(RESPONSE, 0, 65536, RESPONSE_FIELDS)),
        ("find where the body ends", lambda: response_framing(response, b"GET")),
        ("rate-limit fields", lambda: fields(TAKEN)),
        ("write the client's head", lambda: response_head(response, 13, 1, b"\r\nX: y", False, b"")),
    ]
    measured = [(name, _least(step)) for name, step in steps]
    total = _least(whole)
    for name, microseconds in measured:
        print(f"{microseconds:6.2f} us  {name}")
    print(f"{total - sum(microseconds for _, microseconds in measured):6.2f} us  all that connects them")
    print(f"{total:6.2f} us  one exchange in memory")


def _least(step: Callable[[], object]) -> float:
    empty = min(timeit.repeat(lambda: None, number=CALLS, repeat=ROUNDS))
    return (min(timeit.repeat(step, number=CALLS, repeat=ROUNDS)) - empty) / CALLS * 1e6


if __name__ == "__main__":
    main()
