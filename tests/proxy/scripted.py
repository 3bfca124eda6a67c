"""What the proxy meets besides clients, scripted by the test: buckets, a door, balancers, servers, names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.proxy.transports import FakeTransport
from twisted_lb.backend import Backend
from twisted_lb.credentials import digest
from twisted_lb.interfaces import (
    ADDRESS,
    MICROTOKENS,
    IBalancer,
    IBucketStore,
    IDoor,
    IReply,
    IRequest,
    IServing,
    ITokenReceiver,
    SharedBucket,
    Taken,
)
from twisted_lb.limits.bucket import Bucket
from twisted_lb.network.names import Follower, Unresolved, Waiter
from twisted_lb.quotas import QuotaCharge

KEY = b"01234567-89ab-cdef-0123-456789abcdef"
# The answer about a bucket of 5 tokens at 1 token per second, of which one was just taken.
ADMITTED = Taken(True, b"user1", 5, 1.0, 4 * MICROTOKENS)
REFUSED = Taken(False, b"user1", 5, 1.0, 0)
OF_ADDRESS = Taken(True, b"", 20, 2.0, 19 * MICROTOKENS, ADDRESS)


@implementer(IBucketStore)
class ScriptedBuckets:
    """Knows one key and gives the answer that the test has set: a bucket's, or a text why there is none.

    `others` are digests of more keys.
    Every request of that key that it admits must come back once at most, and exactly once where it counts those
    in flight.
    """

    def __init__(self) -> None:
        self.answer: Taken | str = ADMITTED
        self.of_address = OF_ADDRESS
        self.later = False  # whether an answer waits for `answer_now`
        self.forgets = False  # whether the key is unknown
        self.others: set[str] = set()
        self.counts_in_flight = False
        self.asked: list[str] = []
        self.costs: list[int] = []
        self.networks: list[str] = []  # as given with keys
        self.addresses: list[str] = []  # asked for without a key
        self.of_addresses: list[tuple[int, bool]] = []  # cost, and whether the request was to be served
        self.returned: list[str] = []  # of these
        self.returned_tokens: list[int] = []
        self.limits: list[tuple[SharedBucket, ...]] = []  # as asked for, with and without keys
        self.released_limits: list[tuple[tuple[SharedBucket, ...], int]] = []
        self.without_key: Taken | str = OF_ADDRESS  # the answer to requests without a key
        self.refunded: list[str] = []
        self.released: list[tuple[str, int]] = []
        self.quota_charges: list[QuotaCharge] = []
        self.unreleased = 0
        self._waiting: list[tuple[str, ITokenReceiver]] = []

    def take(
        self,
        digest: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        network: str = "",
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        self.asked.append(digest)
        self.limits.append(limits)
        self.costs.append(cost)
        self.networks.append(network)
        if self.later:
            self._waiting.append((digest, receiver))
        else:
            self._tell(digest, receiver)

    def take_without_key(self, limits: tuple[SharedBucket, ...], receiver: ITokenReceiver, cost: int = 1) -> None:
        self.limits.append(limits)
        self.costs.append(cost)
        answer = self.without_key
        if isinstance(answer, str):
            receiver.bucket_unavailable(answer)
        else:
            receiver.bucket_answered(answer)

    def release(
        self,
        digest: str,
        tokens: int,
        limits: tuple[SharedBucket, ...] = (),
        quota: QuotaCharge | None = None,
    ) -> None:
        if quota is not None:
            self.quota_charges.append(quota)
        if limits:
            assert limits in self.limits
            self.released_limits.append((limits, tokens))
        if not digest:
            return
        assert digest in self.asked and self.unreleased > 0
        self.unreleased -= 1
        self.released.append((digest, tokens))
        if tokens < 0:
            self.refunded.append(digest)

    def take_address(
        self,
        network: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        served: bool = False,
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        if limits:
            self.limits.append(limits)
        self.addresses.append(network)
        self.of_addresses.append((cost, served))
        receiver.bucket_answered(self.of_address)

    def release_address(self, network: str, tokens: int) -> None:
        assert self.addresses.count(network) > self.returned.count(network)
        self.returned.append(network)
        self.returned_tokens.append(tokens)

    def answer_now(self) -> None:
        """Answer all who wait."""
        waiting, self._waiting = self._waiting, []
        for key, receiver in waiting:
            self._tell(key, receiver)

    def _tell(self, key: str, receiver: ITokenReceiver) -> None:
        if isinstance(self.answer, str):
            receiver.bucket_unavailable(self.answer)
        elif key not in self.others and (key != digest(KEY) or self.forgets):
            receiver.bucket_answered(None)
        else:
            self.unreleased += self.answer.admitted
            receiver.bucket_answered(self.answer)


@implementer(IBucketStore)
class ClockedBuckets(ScriptedBuckets):
    """One real bucket for each key, on the clock, empty at first."""

    def __init__(self, clock: Clock, capacity: int = 5, rate_per_sec: float = 1.0) -> None:
        super().__init__()
        self._clock = clock
        self._policy = capacity, rate_per_sec
        self.buckets: dict[str, Bucket] = {}

    def bucket(self, digest: str) -> Bucket:
        return self.buckets.setdefault(digest, Bucket(*self._policy, 0, self._now_us()))

    def _now_us(self) -> int:
        return round(self._clock.seconds() * 1_000_000)

    def take(
        self,
        digest: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        network: str = "",
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        self.asked.append(digest)
        bucket = self.bucket(digest)
        admitted, level = bucket.take(cost, self._now_us())
        self.unreleased += admitted
        receiver.bucket_answered(Taken(admitted, b"user1", bucket.capacity, bucket.rate_per_sec, level))


@implementer(IServing)
class DoorCall:
    """One request as the door got it."""

    def __init__(self, head: bytes, body: bytes, peer: IAddress, reply: IReply) -> None:
        self.head = head
        self.body = body
        self.peer = peer
        self.reply = reply
        self.abandoned = 0

    def answer(self, content: bytes = b"door", close: bool = False, status: bytes = b"200 OK") -> None:
        """Answer."""
        self.reply.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(content), content))
        self.reply.finished(close)

    def abandon(self) -> None:
        self.abandoned += 1


@implementer(IDoor)
class ScriptedDoor:
    """Owns /door and /door/..., and answers within the call unless told to answer later."""

    max_body_bytes = 1000

    def __init__(self) -> None:
        self.calls: list[DoorCall] = []
        self.during: Callable[[DoorCall], None] | None = DoorCall.answer

    def owns(self, path: bytes) -> bool:
        return path == b"/door" or path.startswith(b"/door/")

    def serve(self, head: bytes, body: bytes, peer: IAddress, reply: IReply) -> IServing:
        call = DoorCall(head, body, peer, reply)
        self.calls.append(call)
        if self.during is not None:
            self.during(call)
        return call


@implementer(IBalancer)
class OrderedServices:
    """Always the same order: that of the pool.  Keeps the requests it was asked about."""

    def __init__(self) -> None:
        self.requests: list[IRequest] = []
        self._backends: list[Backend] = []

    def backends_changed(self, backends: list[Backend]) -> None:
        self._backends = backends

    def choices(self, request: IRequest) -> Iterator[Backend]:
        self.requests.append(request)
        return iter(list(self._backends))


class ServerSide:
    """A server's view of one connection."""

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

    def send(self, *pieces: bytes) -> None:
        """Each piece arrives by itself."""
        for piece in pieces:
            self.transport.deliver(piece)
            self._clock.advance(0)

    def finish(self) -> None:
        """End the connection in order."""
        self.transport.finish()
        self._clock.advance(0)

    def reset(self, reason: Exception = ConnectionLost()) -> None:
        self.transport.reset(reason)
        self._clock.advance(0)

    @property
    def ended(self) -> bool:
        """Whether the proxy's end of the connection is over."""
        return self.transport.ended


class ScriptedConnector:
    """An attempt to connect, which may be given up."""

    stopped = False

    def stopConnecting(self) -> None:
        self.stopped = True


class ScriptedServer:
    """Listens on one address; takes connections, refuses them, or lets them wait for the test."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self.backend = backend
        self.refuses = False
        self.waits = False
        self.connections: list[ServerSide] = []
        self.timeouts: list[float] = []
        self._clock = clock
        self._pending: list[ClientFactory] = []

    @property
    def last(self) -> ServerSide:
        """The newest connection."""
        return self.connections[-1]

    @property
    def pending(self) -> int:
        return len(self._pending)

    def dialled(self, factory: ClientFactory, timeout: float) -> ScriptedConnector:
        """The proxy opens a connection."""
        self.timeouts.append(timeout)
        connector = ScriptedConnector()
        if self.waits:
            self._pending.append(factory)
        else:
            self._clock.callLater(0, self._decide, factory)
        return connector

    def decide(self) -> None:
        """Take, or refuse, those who wait."""
        pending, self._pending = self._pending, []
        for factory in pending:
            self._decide(factory)
        self._clock.advance(0)

    def _decide(self, factory: ClientFactory) -> None:
        if self.refuses:
            factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))  # type: ignore[arg-type]
            return
        address = IPv4Address("TCP", self.backend.host, self.backend.port)
        transport = FakeTransport(self._clock, address)
        self.connections.append(ServerSide(transport, self._clock))
        protocol = factory.buildProtocol(address)
        assert protocol is not None
        transport.connect(protocol)


class Names:
    """A resolver that knows the names that the test has told it."""

    def __init__(self, clock: Clock) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.followers: dict[str, list[Follower]] = {}
        self.doubted: list[str] = []
        self.late: set[str] = set()  # names with addresses that come late, by `rest`
        self.rest: Waiter = lambda found: None
        self._clock = clock

    def ask(self, name: str, waiter: Waiter, timeout: float) -> IDelayedCall:
        found = tuple(self.addresses.get(name, ())) or Unresolved("its name has no address")
        return self._clock.callLater(0, waiter, found)

    def ask_rest(self, name: str, waiter: Waiter, timeout: float) -> IDelayedCall | None:
        self.rest = waiter
        return self._clock.callLater(timeout, waiter, Unresolved("late")) if name in self.late else None

    def doubt(self, name: str) -> None:
        self.doubted.append(name)

    def follow(self, name: str, follower: Follower) -> None:
        self.followers.setdefault(name, []).append(follower)

    def unfollow(self, name: str, follower: Follower) -> None:
        self.followers[name].remove(follower)

    def move(self, name: str, *addresses: str) -> None:
        """From now on the name has other addresses."""
        self.addresses[name] = list(addresses)
        for follower in list(self.followers.get(name, ())):
            follower(addresses)
