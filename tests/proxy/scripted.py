"""What the proxy meets besides clients, scripted by the test: buckets, a door, balancers, servers, names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IAddress, IResolutionReceiver
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.proxy.transports import FakeTransport
from twisted_lb.api_key import digest
from twisted_lb.backend import Backend
from twisted_lb.interfaces import (
    MICROTOKENS,
    IAsker,
    IBalancer,
    IBucketStore,
    IDoor,
    IReply,
    IRequest,
    IServing,
    Taken,
)

KEY = b"01234567-89ab-cdef-0123-456789abcdef"
# The answer about a bucket of 5 tokens at 1 token per second, of which one was just taken.
ADMITTED = Taken(True, b"user1", 5, 1.0, 4 * MICROTOKENS)
REFUSED = Taken(False, b"user1", 5, 1.0, 0)


@implementer(IBucketStore)
class ScriptedBuckets:
    """Knows one key and gives the answer that the test has set: a bucket's, or a text why there is none."""

    def __init__(self) -> None:
        self.answer: Taken | str = ADMITTED
        self.later = False  # whether an answer waits for `answer_now`
        self.asked: list[str] = []
        self.given_back: list[str] = []
        self._waiting: list[tuple[str, IAsker]] = []

    def take(self, digest: str, asker: IAsker) -> None:
        self.asked.append(digest)
        if self.later:
            self._waiting.append((digest, asker))
        else:
            self._tell(digest, asker)

    def give_back(self, digest: str) -> None:
        assert digest in self.asked
        self.given_back.append(digest)

    def answer_now(self) -> None:
        """Answer all who wait."""
        waiting, self._waiting = self._waiting, []
        for key, asker in waiting:
            self._tell(key, asker)

    def _tell(self, key: str, asker: IAsker) -> None:
        if isinstance(self.answer, str):
            asker.bucket_unavailable(self.answer)
        else:
            asker.bucket_answered(self.answer if key == digest(KEY) else None)


@implementer(IServing)
class DoorCall:
    """One request as the door got it."""

    def __init__(self, head: bytes, body: bytes, peer: IAddress, reply: IReply) -> None:
        self.head = head
        self.body = body
        self.peer = peer
        self.reply = reply
        self.abandoned = 0

    def answer(self, content: bytes = b"door", close: bool = False) -> None:
        """Answer 200."""
        self.reply.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
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
class InOrder:
    """Always the same order: that of the fleet.  Keeps the requests it was asked about."""

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

    def reset(self) -> None:
        self.transport.reset()
        self._clock.advance(0)

    @property
    def ended(self) -> bool:
        """Whether the proxy's end of the connection is over."""
        return self.transport.ended


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

    def dialled(self, factory: ClientFactory, timeout: float) -> None:
        """The proxy opens a connection."""
        self.timeouts.append(timeout)
        if self.waits:
            self._pending.append(factory)
        else:
            self._clock.callLater(0, self._decide, factory)

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
        assert isinstance(protocol, Protocol)
        transport.connect(protocol)


class Names:
    """A resolver that knows the names that the test has told it."""

    def __init__(self, clock: Clock) -> None:
        self.addresses: dict[str, list[IAddress]] = {}
        self._clock = clock

    def resolveHostName(
        self,
        receiver: IResolutionReceiver,
        name: str,
        port: int = 0,
        types: Iterable[type[IAddress]] | None = None,
        transport: str = "TCP",
    ) -> None:
        def answer() -> None:
            for address in self.addresses.get(name, ()):
                receiver.addressResolved(address)
            receiver.resolutionComplete()

        receiver.resolutionBegan(None)  # type: ignore[arg-type]
        self._clock.callLater(0, answer)
