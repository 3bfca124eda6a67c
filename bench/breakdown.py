"""Where the microseconds of the data path go, step by step, in memory.

    python bench/breakdown.py

Runs one exchange over transports that are no sockets, whole and in its steps, and prints the least time
of many rounds: what remains between that and `bench/run.py` is the event loop and the kernel.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from twisted.internet.address import IPv4Address  # noqa: E402
from twisted.internet.task import Clock  # noqa: E402

from twisted_lb.api_key import digest, key_from_fields  # noqa: E402
from twisted_lb.backend import Backend  # noqa: E402
from twisted_lb.balancers.round_robin import RoundRobin  # noqa: E402
from twisted_lb.interfaces import Taken  # noqa: E402
from twisted_lb.limits.bucket import Bucket  # noqa: E402
from twisted_lb.limits.headers import rate_limit_fields  # noqa: E402
from twisted_lb.proxy.exchange import Exchange  # noqa: E402
from twisted_lb.proxy.fleet import Fleet  # noqa: E402
from twisted_lb.proxy.listening import ProxyFactory  # noqa: E402
from twisted_lb.settings import Settings  # noqa: E402
from twisted_lb.wire.forwarding import Hop, response_head  # noqa: E402
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

    def nothing(self, *args: object) -> None:
        """Done."""

    write = registerProducer = setTcpNoDelay = pauseProducing = resumeProducing = nothing

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 1)

    def unsent(self) -> bool:
        return False


class Buckets:
    """Always full."""

    counts_in_flight = False

    def take(self, digest: str, asker: Any, cost: int = 1, network: str = "") -> None:
        asker.bucket_answered(TAKEN)

    def release(self, digest: str, tokens: int) -> None:
        """Never needed."""


class Door:
    """Owns nothing."""

    max_body_bytes = 0

    def owns(self, path: bytes) -> bool:
        return path == b"/user/create"


def main() -> None:
    """Print the table."""
    servers: list[Any] = []

    def dial(host: str, port: int, factory: Any, timeout: float) -> None:
        servers.append(factory.buildProtocol(None))
        servers[0].makeConnection(Transport())

    backends = [Backend("server1", "127.0.0.1", 1)]
    fleet = Fleet(RoundRobin(), backends)
    buckets: Any = Buckets()
    door: Any = Door()
    factory = ProxyFactory(Clock(), Settings(keepalive_requests=10**9), buckets, fleet, door, dial)
    client: Any = factory.buildProtocol(None)
    client.makeConnection(Transport())
    client.dataReceived(REQUEST)
    server = servers[0]
    server.dataReceived(RESPONSE)

    limits = HeadLimits()
    request = read_request_head(REQUEST, 0, limits)
    response = read_response_head(RESPONSE, 0, 65536)
    assert request is not None and response is not None
    hop = Hop("127.0.0.1", b"http")
    fields = rate_limit_fields(("x-ratelimit", "ratelimit"))
    bucket = Bucket(1_000_000, 1e6, 10**12, 0)
    exchange = Exchange(factory.doorstep.shared, client, request, 0)

    def whole() -> None:
        client.dataReceived(REQUEST)
        server.dataReceived(RESPONSE)

    steps: list[tuple[str, Callable[[], object]]] = [
        ("read and check the request head", lambda: read_request_head(REQUEST, 0, limits)),
        ("find the key", lambda: key_from_fields(request.notable)),
        ("digest the key", lambda: digest(b"01234567-0123-0123-0123-0123456789ab")),
        ("take a token (arithmetic)", lambda: bucket.take(1, 0)),
        ("make the exchange", lambda: Exchange(factory.doorstep.shared, client, request, 0)),
        ("choose a server", lambda: next(fleet.choices(exchange))),
        ("write the server's head", lambda: hop.request_head(request, 0, b"user1", b"server1:1")),
        ("read and check the response head", lambda: read_response_head(RESPONSE, 0, 65536)),
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
