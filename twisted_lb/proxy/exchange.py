"""One request's life: limits, balancer, server, response.

    start -> _ask -> _admitted -> _next_server -> connected -> response_begun -> response_went_on -> _finish
               |                    | ^ |  ^          |              |
         (`admission`)           queue 503 +- retried +    502, 504 (tokens back) or cut

Each arrow is a method that the bucket, the pool or the server's connection calls, most of them within
the one before, so that a request on warm connections runs in two turns of the loop.  An exchange ends
once, by `_end`.
"""

from __future__ import annotations

from collections.abc import Iterator

from twisted.logger import Logger

from twisted_lb.api_key import REDACTED
from twisted_lb.backend import Backend
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.proxy.admission import RETRY_SOON, Admission
from twisted_lb.proxy.content import RequestContent
from twisted_lb.proxy.guard import guarded, take_steps
from twisted_lb.proxy.relay import NOT_NOW
from twisted_lb.proxy.retry import IDEMPOTENT
from twisted_lb.proxy.surroundings import Client, Shared
from twisted_lb.proxy.upstream import UpstreamConnection, UpstreamFailure
from twisted_lb.wire.body import chunk, last_chunk
from twisted_lb.wire.forwarding import interim_head, response_head
from twisted_lb.wire.head import RequestHead, ResponseHead

_log = BoundedLog(Logger())


class Exchange(Admission):
    """A request to a server and its response."""

    __slots__ = (
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
        "_chunking",
        "_until_close",
        "_close",
    )

    def __init__(self, shared: Shared, client: Client, head: RequestHead, framing: int) -> None:
        # Not super(): it runs for each request.
        Admission.__init__(self, shared, client, head, framing)
        self._choices: Iterator[Backend] | None = None
        self._tried: set[Backend] | None = None  # the servers that have failed
        self._backend: Backend | None = None
        self._upstream: UpstreamConnection | None = None
        self._content = RequestContent(framing) if framing else None
        self._attempts = 0  # how often it was sent
        self._failure: UpstreamFailure | None = None  # the last one
        self.queued = False  # all servers have as many as they may
        self.replied = False  # a byte of the response has gone to the client

    # From the client

    def start(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Begin, with the content that came with the head."""
        if self._content is not None:
            self._content.receive(content, whole, self._without_key(trailers) if trailers else trailers, False)
        self._ask()

    def request_went_on(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """More content of the request, or its end."""
        kept = self._content
        assert kept is not None
        if trailers:
            trailers = self._without_key(trailers)
        data = kept.receive(content, whole, trailers, self._upstream is not None)
        if self._upstream is not None:
            self._upstream.send(data, whole)
        elif kept.too_much:
            self._client.tap.hold(NOT_NOW)

    # The servers

    def _admitted(self) -> None:
        self._next_server()

    def _next_server(self) -> bool:
        """Ask the balancer's next choice; False when all are full and this request keeps its place in the queue."""
        try:
            backend, full = self._choose()
            pool = self._shared.pools[backend] if backend is not None else None
        except BaseException:
            # A balancer may be anybody's class.
            _log.failure("choices", "The balancer failed to choose a server")
            self._give_back()
            self._answer(500, "The balancer failed to choose a server.")
            return True
        if backend is None or pool is None:
            return self._without_server(full)
        if self.queued:
            self.queued = False
            self._client.wait_over()
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
        looks = 0
        while True:
            choices = self._choices
            fresh = choices is None
            if choices is None:
                self._choices = choices = self._shared.fleet.choices(self)
            for backend in choices:
                # One that went down or was removed since the first choice is no choice any more.
                if tried is None or (backend not in tried and backend.available):
                    if not backend.maxconn or backend.in_flight < backend.maxconn:
                        return backend, False
                    full = True
                looks += 1
                if looks > 2 * len(self._shared.fleet.backends):
                    raise RuntimeError("the balancer's choices have no end: it yields servers more than once")
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

    @guarded
    def turn_came(self) -> bool:
        return self._next_server()

    @guarded
    def waited_too_long(self) -> None:
        self._give_back()
        self._answer(503, "All servers have as many requests as they may.", RETRY_SOON)

    # From the pool and the server's connection

    def connected(self, connection: UpstreamConnection) -> None:
        """There is a connection: send what there is."""
        try:
            backend = self._backend
            if self._over or backend is None:
                connection.rest()
                return
            self._upstream = connection
            client = self._client
            shared = self._shared
            assert self._taken is not None
            data = client.hop.request_head(self._head, self._framing, self._taken.name, backend.authority)
            if self._key in data:
                # Such as a cookie or a part of the target; what the server has in its logs should open nothing.
                data = data.replace(self._key, REDACTED)
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
        except BaseException:
            self.broke()

    @guarded
    def connect_failed(self, detail: str) -> None:
        """The server could not be reached: nothing was sent, so the next one may be asked."""
        backend = self._backend
        if self._over or backend is None:
            return
        self._failed(backend, f"it could not be reached: {detail}")
        self._next_server()

    @guarded
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
            self._settle_response()
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

    @guarded
    def interim_received(self, head: ResponseHead) -> None:
        # RFC 9110 section 15.2: not to HTTP/1.0.
        if self._head.minor:
            self._client.transport.write(interim_head(head))

    def response_begun(
        self, head: ResponseHead, framing: int, content: bytes, done: bool, trailers: list[bytes]
    ) -> None:
        try:
            client = self._client
            shared = self._shared
            taken = self._taken
            assert taken is not None
            minor = self._head.minor
            backend = self._backend
            assert backend is not None
            now = shared.seconds()
            backend.answered(now - self._begun_at, now)
            shared.seen(backend, head.status, now, "")
            self._chunking = framing < 0 and minor == 1
            # To HTTP/1.0, only the end of the connection ends a body of unknown length.
            self._until_close = framing < 0 and not minor
            close = client.closing() or self._until_close
            if self._content is not None:
                close = close or not self._content.whole
                # What the client gets is this response; it may take hours.
                self._content.forget()
            self._close = close
            if self._pricing.settles or b"x-token-cost" in head.notable:
                taken = self._priced(head, backend.name)
            fields = self._limit_fields(taken) if self._waited else shared.limit_fields(taken)
            if shared.fleet.speaks:
                fields += shared.fleet.response_fields(self, backend)
            if done and trailers:
                trailers = self._trailers_priced(trailers)
            if self._response is not None:
                self._response.body_bytes = len(content)
            data = response_head(head, framing, minor, fields, close, shared.sweeper.date)
            if self._chunking:
                if content:
                    data += chunk(content)
                if done:
                    data += last_chunk(trailers)
            elif content:
                data += content
            self.replied = True
            client.transport.write(data)
            if done:
                self._finish()
        except BaseException:
            self.broke()

    def response_went_on(self, content: bytes, done: bool, trailers: list[bytes]) -> None:
        try:
            if done and trailers:
                trailers = self._trailers_priced(trailers)
            if self._response is not None:
                self._response.body_bytes += len(content)
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
        except BaseException:
            self.broke()

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
        if self._told_cost is not None or self._response is not None or self._shared.counts_in_flight:
            self._settle_response()
        client = self._client
        client.exchange_done(self._close)

    @guarded
    def abandon(self) -> None:
        """The client has left."""
        self._end()
        self._leave_line()
        if self.queued:
            # No server was asked.
            self._shared.queue.leave(self)
            self._settle(0)
        if self._upstream is not None:
            # The response is on its way and nobody wants it.
            self._upstream.drop()
            self._upstream = None
        self._part()
        # What a client aborts is not given back.
        self._settle_response()

    def broke(self) -> None:
        """See Breakable."""
        upstream, self._upstream = self._upstream, None
        replied = self.replied
        take_steps(
            self._end,
            self._leave_line,
            lambda: self._shared.queue.leave(self),
            lambda: upstream.drop() if upstream is not None else None,
            self._part,
            lambda: self._settle(self._cost if replied else 0),
        )
        self._client.exchange_broke(self, replied)

    def __repr__(self) -> str:
        where = self._backend.name if self._backend else "no server yet"
        return f"<Exchange {self.method.decode()} {self.target.decode('latin-1')} {where}>"
