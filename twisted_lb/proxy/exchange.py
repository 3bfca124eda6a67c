"""One request's life: key, bucket, balancer, server, response.

    start -> bucket_answered -> _next_server -> connected -> response_begun -> response_went_on -> _finish
                    |                |  ^            |              |
                   401, 429         503 +-- refused -+    502, 504 (token back) or cut

Each arrow is a method that the bucket, the pool or the server's connection calls, most of them within
the one before, so that a request on warm connections runs in two turns of the loop.  An exchange ends
in exactly one of `_finish`, `_answer`, `_cut` and `abandon`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from twisted.logger import Logger
from zope.interface import implementer

from twisted_lb.api_key import AmbiguousKey, digest, key_from_fields
from twisted_lb.backend import Backend
from twisted_lb.interfaces import MICROTOKENS, IAsker, IBucketStore, IRequest, Taken
from twisted_lb.limits.headers import retry_after
from twisted_lb.proxy.connections import ConnectionPool
from twisted_lb.proxy.deadlines import Sweeper
from twisted_lb.proxy.fleet import Fleet
from twisted_lb.proxy.relay import NOT_NOW, Tap, Throttle
from twisted_lb.proxy.upstream import UpstreamConnection, UpstreamFailure
from twisted_lb.wire.body import chunk, last_chunk
from twisted_lb.wire.forwarding import Hop, interim_head, response_head
from twisted_lb.wire.framing import CHUNKED
from twisted_lb.wire.head import RequestHead, ResponseHead

# Request content kept while there is no server to send it to, and for sending it once more.
MAX_KEPT_BYTES = 64 * 1024

# RFC 9110 section 9.2.2: doing these twice is as good as once.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

_log = Logger()


class Client(Protocol):
    """The client's connection, as an exchange uses it."""

    address: str
    hop: Hop
    tap: Tap
    throttle: Throttle
    transport: Any

    def closing(self) -> bool:
        """Whether this connection ends after the response that is about to begin."""

    def answer(self, status: int, detail: str, fields: bytes) -> None:
        """Answer the request with a problem made here; the exchange is over."""

    def exchange_done(self, close: bool) -> None:
        """The response is written; the exchange is over."""

    def cut(self, reset: bool) -> None:
        """The response cannot be completed: end the connection so that the client can tell.

        `reset`: the client takes an orderly end for the end of the body.
        """


class Shared:
    """What all exchanges of a process share."""

    def __init__(
        self,
        buckets: IBucketStore,
        fleet: Fleet,
        pools: dict[Backend, ConnectionPool],
        sweeper: Sweeper,
        limit_fields: Callable[[Taken], bytes],
    ) -> None:
        """`limit_fields` makes the rate-limit header lines."""
        self.buckets = buckets
        self.fleet = fleet
        self.pools = pools
        self.sweeper = sweeper
        self.limit_fields = limit_fields


@implementer(IAsker, IRequest)
class Exchange:
    """A request to a server and its response."""

    __slots__ = (
        "method",
        "target",
        "_head",
        "_framing",
        "_client",
        "_shared",
        "_digest",
        "_taken",
        "_choices",
        "_backend",
        "_upstream",
        "_kept",
        "_kept_bytes",
        "_whole",
        "replied",
        "_over",
        "_chunking",
        "_until_close",
        "_close",
    )

    def __init__(self, shared: Shared, client: Client, head: RequestHead, framing: int) -> None:
        self.method = head.method
        self.target = head.target
        self._head = head
        self._framing = framing
        self._client = client
        self._shared = shared
        self._taken: Taken | None = None
        self._choices: Iterator[Backend] | None = None
        self._backend: Backend | None = None
        self._upstream: UpstreamConnection | None = None
        self._kept: list[bytes] | None = None  # what was or is to be sent after the head, framed
        self._kept_bytes = 0
        self._whole = False  # the request has been received whole
        self.replied = False  # a byte of the response has gone to the client
        self._over = False

    # What a balancer may ask (IRequest)

    @property
    def consumer(self) -> bytes:
        return self._taken.name if self._taken else b""

    @property
    def client_address(self) -> str:
        return self._client.address

    def header(self, name: bytes) -> bytes | None:
        name = name.lower()
        values = self._head.notable.get(name)
        if values:
            return values[0]
        for line in self._head.fields.split(b"\r\n"):
            field, _, value = line.partition(b":")
            if field.lower() == name:
                return value.strip(b" \t")
        return None

    # From the client

    def start(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Begin, with the content that came with the head."""
        self._whole = whole
        if self._framing:
            self._kept = []
            self._keep(content, whole, trailers)
        try:
            key = key_from_fields(self._head.notable)
        except AmbiguousKey as error:
            self._answer(400, str(error))
            return
        if key is None:
            self._answer_unauthorized("Send your API key as: Authorization: <key>.")
            return
        self._digest = digest(key)
        self._shared.buckets.take(self._digest, self)

    def request_went_on(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """More content of the request, or its end."""
        self._whole = whole
        data = self._keep(content, whole, trailers)
        if self._upstream is not None:
            self._upstream.send(data, whole)
        elif self._kept_bytes > MAX_KEPT_BYTES:
            self._client.tap.hold(NOT_NOW)

    def _keep(self, content: bytes, whole: bool, trailers: list[bytes]) -> bytes:
        """Frame content for a server, and keep it as long as it may have to be sent (again)."""
        if self._framing == CHUNKED:
            data = chunk(content) if content else b""
            if whole:
                data += last_chunk(trailers)
        else:
            data = content
        if self._kept is not None:
            self._kept_bytes += len(data)
            if self._upstream is None or self._kept_bytes <= MAX_KEPT_BYTES:
                self._kept.append(data)
            else:
                self._kept = None
        return data

    # From the bucket (IAsker)

    def bucket_answered(self, taken: Taken | None) -> None:
        if self._over:
            # The client left meanwhile; what a client aborts is not given back.
            return
        if taken is None:
            self._answer_unauthorized("No user has this API key.")
            return
        self._taken = taken
        if not taken.admitted:
            seconds = retry_after(taken)
            fields = b"" if seconds is None else b"\r\nRetry-After: %d" % seconds
            when = "It is not refilled." if seconds is None else f"The next token is there in {seconds} s."
            self._answer(429, f"The bucket of {taken.capacity} tokens is empty. {when}", fields)
            return
        self._next_server()

    def bucket_unavailable(self, reason: str) -> None:
        if not self._over:
            self._answer(503, f"The rate limit cannot be checked: {reason}", b"\r\nRetry-After: 1")

    # The servers

    def _next_server(self) -> None:
        try:
            if self._choices is None:
                self._choices = self._shared.fleet.choices(self)
            backend = next(self._choices, None)
            pool = self._shared.pools[backend] if backend is not None else None
        except Exception:
            # A balancer may be anybody's class.
            _log.failure("The balancer failed to choose a server")
            self._give_back()
            self._answer(500, "The balancer failed to choose a server.")
            return
        if backend is None or pool is None:
            self._give_back()
            self._answer(503, "No available servers", b"\r\nRetry-After: 1")
            return
        self._backend = backend
        backend.in_flight += 1
        connection = pool.acquire()
        if connection is None:
            pool.connect(self)
        else:
            self.connected(connection)

    def connected(self, connection: UpstreamConnection) -> None:
        """There is a connection: send what there is."""
        backend = self._backend
        if self._over or backend is None:
            self._shared.pools[connection.backend].release(connection)
            return
        self._upstream = connection
        client = self._client
        assert self._taken is not None
        data = client.hop.request_head(self._head, self._framing, self._taken.name, backend.authority)
        if self._kept:
            data += b"".join(self._kept)
            if self._kept_bytes > MAX_KEPT_BYTES:
                self._kept = None
        whole = self._whole
        if not whole:
            connection.throttle.connect(client.tap)
        client.throttle.connect(connection.tap)
        connection.begin(self, self.method, data, whole)
        client.tap.release(NOT_NOW)

    def connect_failed(self, detail: str) -> None:
        """The server could not be reached: nothing was sent, so the next one may be asked."""
        if self._over or self._backend is None:
            return
        _log.info("server {name} could not be reached: {detail}", name=self._backend.name, detail=detail)
        self._part()
        self._next_server()

    def upstream_failed(self, failure: UpstreamFailure) -> None:
        """No (more) response from this server."""
        connection = self._upstream
        backend = self._backend
        assert connection is not None and backend is not None
        self._upstream = None
        self._client.throttle.disconnect()
        if self.replied:
            self._part()
            self._cut()
            return
        # A kept connection that the server closed while the request was on its way says nothing
        # of the server: try again on a new connection.  Unless the method is idempotent, the server
        # may have acted on what was sent.
        kept = self._kept is not None or (self._whole and not self._kept_bytes)
        if connection.used and kept and (failure.unsent or (failure.silent and self.method in IDEMPOTENT)):
            self._shared.pools[backend].connect(self)
            return
        _log.info("server {name} failed: {detail}", name=backend.name, detail=failure.detail)
        self._part()
        self._give_back()
        self._answer(failure.status, failure.detail)

    def _part(self) -> None:
        """The server has this exchange no longer."""
        if self._backend is not None:
            self._backend.in_flight -= 1
            self._backend = None

    # The response

    def interim_received(self, head: ResponseHead) -> None:
        # RFC 9110 section 15.2: not to HTTP/1.0.
        if self._head.minor:
            self._client.transport.write(interim_head(head))

    def response_begun(
        self, head: ResponseHead, framing: int, content: bytes, done: bool, trailers: list[bytes]
    ) -> None:
        client = self._client
        taken = self._taken
        assert taken is not None
        minor = self._head.minor
        self.replied = True
        self._chunking = framing < 0 and minor == 1
        # To HTTP/1.0, only the end of the connection ends a body of unknown length.
        self._until_close = framing < 0 and not minor
        self._close = close = client.closing() or not self._whole or self._until_close
        shared = self._shared
        data = response_head(head, framing, minor, shared.limit_fields(taken), close, shared.sweeper.date)
        if self._chunking:
            if content:
                data += chunk(content)
            if done:
                data += last_chunk(trailers)
        elif content:
            data += content
        client.transport.write(data)
        if done:
            self._finish()

    def response_went_on(self, content: bytes, done: bool, trailers: list[bytes]) -> None:
        if self._chunking:
            data = chunk(content) if content else b""
            if done:
                data += last_chunk(trailers)
        else:
            data = content
        if data:
            self._client.transport.write(data)
        if done:
            self._finish()

    # The end

    def _finish(self) -> None:
        self._over = True
        self._upstream = None
        self._part()
        client = self._client
        client.throttle.disconnect()
        client.exchange_done(self._close)

    def _answer(self, status: int, detail: str, fields: bytes = b"") -> None:
        self._over = True
        if self._taken is not None:
            fields = self._shared.limit_fields(self._taken) + fields
        self._client.answer(status, detail, fields)

    def _answer_unauthorized(self, detail: str) -> None:
        self._answer(401, detail, b'\r\nWWW-Authenticate: Bearer realm="twisted_lb"')

    def _cut(self) -> None:
        self._over = True
        self._client.throttle.disconnect()
        self._client.cut(self._until_close)

    def _give_back(self) -> None:
        """No server answered, so the request costs nothing."""
        taken = self._taken
        assert taken is not None
        self._shared.buckets.give_back(self._digest)
        self._taken = taken._replace(level=min(taken.level + MICROTOKENS, taken.capacity * MICROTOKENS))

    def abandon(self) -> None:
        """The client has left."""
        self._over = True
        self._client.throttle.disconnect()
        if self._upstream is not None:
            # The response is on its way and nobody wants it.
            self._upstream.drop()
            self._upstream = None
        self._part()

    def __repr__(self) -> str:
        where = self._backend.name if self._backend else "no server yet"
        return f"<Exchange {self.method.decode()} {self.target.decode('latin-1')} {where}>"
