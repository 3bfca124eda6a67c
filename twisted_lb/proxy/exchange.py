"""One request's life: key, bucket, balancer, server, response.

    start -> bucket_answered -> _next_server -> connected -> response_begun -> response_went_on -> _finish
                    |              | ^ |  ^          |              |
                   401, 429     queue 503 +- retried +    502, 504 (token back) or cut

Each arrow is a method that the bucket, the pool or the server's connection calls, most of them within
the one before, so that a request on warm connections runs in two turns of the loop.  An exchange ends
once, by `_end`.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.logger import Logger
from zope.interface import implementer

from twisted_lb.api_key import AmbiguousKey, digest, key_from_fields
from twisted_lb.backend import Backend
from twisted_lb.interfaces import MICROTOKENS, IAsker, Taken
from twisted_lb.limits.headers import retry_after
from twisted_lb.proxy.content import RequestContent
from twisted_lb.proxy.relay import NOT_NOW
from twisted_lb.proxy.retry import IDEMPOTENT
from twisted_lb.proxy.surroundings import Client, Shared
from twisted_lb.proxy.upstream import UpstreamConnection, UpstreamFailure
from twisted_lb.proxy.view import RequestView
from twisted_lb.wire.body import chunk, last_chunk
from twisted_lb.wire.forwarding import interim_head, response_head
from twisted_lb.wire.head import RequestHead, ResponseHead

CHALLENGE = b'\r\nWWW-Authenticate: Bearer realm="twisted_lb"'
RETRY_SOON = b"\r\nRetry-After: 1"

_log = Logger()


@implementer(IAsker)
class Exchange(RequestView):
    """A request to a server and its response."""

    __slots__ = (
        "_framing",
        "_client",
        "_shared",
        "_digest",
        "_choices",
        "_tried",
        "_backend",
        "_upstream",
        "_content",
        "_attempts",
        "_failure",
        "_begun_at",
        "queued",
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
        self._taken: Taken | None = None
        self._framing = framing
        self._client = client
        self._shared = shared
        self._choices: Iterator[Backend] | None = None
        self._tried: set[Backend] | None = None  # the servers that have failed
        self._backend: Backend | None = None
        self._upstream: UpstreamConnection | None = None
        self._content = RequestContent(framing) if framing else None
        self._attempts = 0  # how often it was sent
        self._failure: UpstreamFailure | None = None  # the last one
        self.queued = False  # all servers have as many as they may
        self.replied = False  # a byte of the response has gone to the client
        self._over = False

    def _sender(self) -> Client:
        return self._client

    # From the client

    def start(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Begin, with the content that came with the head."""
        if self._content is not None:
            self._content.receive(content, whole, trailers, False)
        try:
            key = key_from_fields(self._head.notable)
        except AmbiguousKey as error:
            self._answer(400, str(error))
            return
        if key is None:
            self._answer(401, "Send your API key as: Authorization: <key>.", CHALLENGE)
            return
        self._digest = digest(key)
        self._shared.buckets.take(self._digest, self)

    def request_went_on(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """More content of the request, or its end."""
        kept = self._content
        assert kept is not None
        data = kept.receive(content, whole, trailers, self._upstream is not None)
        if self._upstream is not None:
            self._upstream.send(data, whole)
        elif kept.too_much:
            self._client.tap.hold(NOT_NOW)

    # From the bucket (IAsker)

    def bucket_answered(self, taken: Taken | None) -> None:
        if self._over:
            # The client left meanwhile; what a client aborts is not given back.
            return
        if taken is None:
            self._answer(401, "No user has this API key.", CHALLENGE)
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
            self._answer(503, f"The rate limit cannot be checked: {reason}", RETRY_SOON)

    # The servers

    def _next_server(self) -> bool:
        """Ask the balancer's next choice; False when all are full and this request keeps its place in the queue."""
        try:
            backend, full = self._choose()
            pool = self._shared.pools[backend] if backend is not None else None
        except Exception:
            # A balancer may be anybody's class.
            _log.failure("The balancer failed to choose a server")
            self._give_back()
            self._answer(500, "The balancer failed to choose a server.")
            return True
        if backend is None or pool is None:
            return self._without_server(full)
        self.queued = False
        self._backend = backend
        backend.in_flight += 1
        connection = pool.acquire()
        if connection is None:
            pool.connect(self)
        else:
            self.connected(connection)
        return True

    def _choose(self) -> tuple[Backend | None, bool]:
        """The next server to ask, or None, and then whether there are some that are merely full."""
        full = False
        tried = self._tried
        while True:
            choices = self._choices
            fresh = choices is None
            if choices is None:
                self._choices = choices = self._shared.fleet.choices(self)
            for backend in choices:
                # One that went down or was removed since the first choice is no choice any more.
                if tried is not None and (backend in tried or not backend.available):
                    continue
                if backend.maxconn and backend.in_flight >= backend.maxconn:
                    full = True
                    continue
                return backend, False
            if fresh:
                return None, full
            # These were the choices of an earlier moment: servers may have come, or have room, since.
            self._choices = None
            full = False

    def _without_server(self, full: bool) -> bool:
        """The choices are at an end: wait for room if there may be some, or answer."""
        taken = self._taken
        assert taken is not None
        self._choices = None
        if full:
            if self.queued:
                return False
            if self._shared.queue.join(self, taken.name, round(taken.rate_per_sec)):
                self.queued = True
                return True
        failure = self._failure
        self._give_back()
        if full:
            self._answer(503, "All servers have as many requests as they may, and as many wait.", RETRY_SOON)
        elif failure is not None:
            self._answer(failure.status, failure.detail)
        else:
            self._answer(503, "No available servers", RETRY_SOON)
        return True

    # From the queue

    @property
    def choosy(self) -> bool:
        """Whether there are servers that it does not go to."""
        return self._tried is not None

    def turn_came(self) -> bool:
        return self._next_server()

    def waited_too_long(self) -> None:
        self._give_back()
        self._answer(503, "All servers have as many requests as they may.", RETRY_SOON)

    # From the pool and the server's connection

    def connected(self, connection: UpstreamConnection) -> None:
        """There is a connection: send what there is."""
        backend = self._backend
        if self._over or backend is None:
            connection.rest()
            return
        self._upstream = connection
        client = self._client
        shared = self._shared
        assert self._taken is not None
        data = client.hop.request_head(self._head, self._framing, self._taken.name, backend.authority)
        content = self._content
        whole = True
        if content is not None:
            data += content.begin()
            whole = content.whole
        if not whole:
            connection.throttle.connect(client.tap)
        client.throttle.connect(connection.tap)
        backend.requests += 1
        if self._attempts or self._tried:
            backend.retries += 1
        if not self._attempts:
            shared.retries.requests += 1
        self._attempts += 1
        self._begun_at = shared.seconds()
        connection.begin(self, self.method, data, whole)
        client.tap.release(NOT_NOW)

    def connect_failed(self, detail: str) -> None:
        """The server could not be reached: nothing was sent, so the next one may be asked."""
        backend = self._backend
        if self._over or backend is None:
            return
        self._failed(backend, f"it could not be reached: {detail}")
        self._next_server()

    def upstream_failed(self, failure: UpstreamFailure) -> None:
        """No (more) response from this server."""
        connection = self._upstream
        backend = self._backend
        assert connection is not None and backend is not None
        self._upstream = None
        self._client.throttle.disconnect()
        if self.replied:
            self._failed(backend, failure.detail)
            self._end()
            self._client.cut(self._until_close)
            return
        sendable = self._content is None or self._content.sendable
        idempotent = self.method in IDEMPOTENT
        # A kept connection that the server closed while the request was on its way says nothing
        # of the server: try again on a new connection.  Unless the method is idempotent, the server
        # may have acted on what was sent.
        if connection.used and sendable and (failure.unsent or (failure.silent and idempotent)):
            self._shared.pools[backend].connect(self)
            return
        self._failed(backend, failure.detail)
        self._failure = failure
        retries = self._shared.retries
        if sendable and idempotent and self._attempts < retries.attempts and retries.spend():
            self._next_server()
            return
        self._give_back()
        self._answer(failure.status, failure.detail)

    def _failed(self, backend: Backend, why: str) -> None:
        """This attempt is over, through the server's fault."""
        backend.failures += 1
        if self._tried is None:
            self._tried = set()
        self._tried.add(backend)
        shared = self._shared
        shared.seen(backend, 0, shared.seconds(), why)
        self._part()

    def _part(self) -> None:
        """The server has this exchange no longer."""
        backend = self._backend
        if backend is not None:
            self._backend = None
            backend.in_flight -= 1
            if backend.maxconn:
                self._shared.queue.serve()

    # The response

    def interim_received(self, head: ResponseHead) -> None:
        # RFC 9110 section 15.2: not to HTTP/1.0.
        if self._head.minor:
            self._client.transport.write(interim_head(head))

    def response_begun(
        self, head: ResponseHead, framing: int, content: bytes, done: bool, trailers: list[bytes]
    ) -> None:
        client = self._client
        shared = self._shared
        taken = self._taken
        assert taken is not None
        minor = self._head.minor
        self.replied = True
        backend = self._backend
        assert backend is not None
        now = shared.seconds()
        backend.answered(now - self._begun_at, now)
        shared.seen(backend, head.status, now, "")
        self._chunking = framing < 0 and minor == 1
        # To HTTP/1.0, only the end of the connection ends a body of unknown length.
        self._until_close = framing < 0 and not minor
        content_whole = self._content is None or self._content.whole
        self._close = close = client.closing() or not content_whole or self._until_close
        fields = shared.limit_fields(taken)
        if shared.fleet.speaks:
            fields += shared.fleet.response_fields(self, backend)
        data = response_head(head, framing, minor, fields, close, shared.sweeper.date)
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

    def _end(self) -> None:
        self._over = True
        # A generator knows the request that it chooses for.  Parting them here frees both now, and
        # tells the balancer that the exchange is over; the garbage collector would do so much later.
        self._choices = None
        self._client.throttle.disconnect()

    def _finish(self) -> None:
        self._end()
        self._upstream = None
        self._part()
        client = self._client
        client.exchange_done(self._close)

    def _answer(self, status: int, detail: str, fields: bytes = b"") -> None:
        self._end()
        if self._taken is not None:
            fields = self._shared.limit_fields(self._taken) + fields
        self._client.answer(status, detail, fields)

    def _give_back(self) -> None:
        """No server answered, so the request costs nothing."""
        taken = self._taken
        assert taken is not None
        self._shared.buckets.give_back(self._digest)
        self._taken = taken._replace(level=min(taken.level + MICROTOKENS, taken.capacity * MICROTOKENS))

    def abandon(self) -> None:
        """The client has left."""
        self._end()
        if self.queued:
            self._shared.queue.leave(self)
        if self._upstream is not None:
            # The response is on its way and nobody wants it.
            self._upstream.drop()
            self._upstream = None
        self._part()

    def __repr__(self) -> str:
        where = self._backend.name if self._backend else "no server yet"
        return f"<Exchange {self.method.decode()} {self.target.decode('latin-1')} {where}>"
