"""A copy of a request, which is sent to a server of another pool (`mirror` of a route); its response is dropped.

The copy must have no effect on the request and its client:

1. It is sent after the request was sent to its own server.  Its failures are counted and logged, and have no other
   effect; it is never sent again, and costs no tokens.
2. Content that its server takes more slowly than the client sends it is kept up to a limit; beyond that the copy is
   abandoned.
3. The number of copies in flight at the servers of a pool is limited; beyond that requests are not copied.
4. The time for a response, and the bytes of its content that are read, are limited; then the connection is closed.

For its server it is an ordinary request, and the response counts for the server's health.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

from twisted.logger import Logger
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.deadlines import NEVER
from twisted_lb.network.dialer import Unreachable
from twisted_lb.own_fields import consumer_line, mirrored_line
from twisted_lb.pool.retry_policy import Attempt, Blame, blame
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.guard import guarded, guarded_done
from twisted_lb.proxy.header_rules import HeaderRules, RequestValues
from twisted_lb.proxy.request_view import ResponseView
from twisted_lb.proxy.route import AS_SET, Route
from twisted_lb.proxy.streams import NO_TRAILERS, IResponseReceiver, IServerStream, ServerFailure
from twisted_lb.wire.head import ResponseHead

# In flight at the servers of one pool, in this process.
MAX_COPIES: Final = 256
# Of the content of one request, that the server has not taken yet.
MAX_WAITING_BYTES: Final = 256 * 1024
# Of the content of one response, that are read.
MAX_DROPPED_BYTES: Final = 1024 * 1024
# The time from the end of the request to that of the response, as a multiple of the timeout of the route.
RESPONSE_TIMEOUTS: Final = 10.0

# How a copy has ended.
MIRRORED: Final = "mirrored"  # the server has received all of it, and has responded
ABANDONED: Final = "abandoned"  # by us: too many copies, a slow server, or a request that ended before it was whole
FAILED: Final = "failed"  # the server was not available, could not be reached, or did not respond as it should

_EXPECT: Final = b"\r\nExpect: 100-continue"

_log = BoundedLog(Logger(__name__))


class CopiedRequest(Protocol):
    """The exchange of the request, which is also an IRequest."""

    method: bytes

    @property
    def consumer(self) -> bytes:
        """See IRequest."""

    def value_of(self, name: bytes) -> bytes:
        """See RequestValues."""

    def proxy_header(self, version: int) -> bytes:
        """See Waiting."""

    def head_of_copy(
        self, authority: bytes, rules: tuple[HeaderRules, ...], own_fields: bytes, values: RequestValues
    ) -> bytes:
        """The head for a server of the mirror with this authority, after these rules were applied.

        `own_fields` are lines to add, each with a CRLF before it; `values` are those for the rules.
        """


class _ValuesOfCopy:
    """The values that rules for the head of a copy may contain.  See RequestValues."""

    __slots__ = ("_request", "_pool", "_server")

    def __init__(self, request: CopiedRequest, pool: str, server: str) -> None:
        self._request = request
        self._pool = pool
        self._server = server

    def value_of(self, name: bytes) -> bytes:
        if name == b"pool":
            return self._pool.encode()
        return self._server.encode() if name == b"server" else self._request.value_of(name)


@implementer(IResponseReceiver)
class MirroredRequest:
    """One copy.  The methods that the exchange calls do not raise."""

    __slots__ = (
        "deadline",
        "_context",
        "_route",
        "_request",
        "_framing",
        "_backend",
        "_choices",
        "_server",
        "_head",
        "_content",
        "_trailers",
        "_whole",
        "_waiting_bytes",
        "_begun_at",
        "_responded",
        "_dropped_bytes",
        "_over",
    )

    response_sink = None

    def __init__(self, context: ProxyContext, route: Route, request: CopiedRequest, framing: int) -> None:
        """`route` leads to the pool of the mirror; `framing` is that of the request."""
        self.deadline = NEVER
        self._context = context
        self._route = route
        self._request: Any = request  # which is also an IRequest; None when this is over
        self._framing = framing
        self._backend: Backend | None = None
        self._choices: Iterator[Backend] | None = None
        self._server: IServerStream | None = None
        self._head = b""
        self._content: list[bytes] = []  # until there is a connection
        self._trailers = NO_TRAILERS
        self._whole = False
        self._waiting_bytes = 0  # that the server has not taken, as far as is known
        self._begun_at = 0.0
        self._responded = False
        self._dropped_bytes = 0
        self._over = False

    # From the exchange

    @guarded
    def start(self, content: bytes, whole: bool, trailers: list[bytes], pool: str) -> None:
        """Begin with the content received so far; `pool` is the name of the request's own pool."""
        request = self._request
        copies = self._route.pool.copies
        if self._route.pool.maintenance:
            self._over = True
            return
        if request is None or len(copies) >= MAX_COPIES:
            self._finish(ABANDONED)
            return
        backend = self._choose()
        if backend is None:
            self._failed("no server of the mirror is available", Blame.NOBODY)
            return
        connections = self._route.pool.connections[backend]
        copies.add(self)
        self._backend = backend
        backend.in_flight += 1
        servers = self._route.pool.servers
        if servers.hears_of_choices:
            servers.server_chosen(request, backend)
        own_fields = consumer_line(request.consumer) + mirrored_line(pool)
        values = _ValuesOfCopy(request, self._route.pool.name, backend.name)
        head = request.head_of_copy(backend.authority, self._route.request_rules, own_fields, values)
        # The client sends the content when the request's own server has asked for it.
        self._head = head.replace(_EXPECT, b"", 1)
        self._keep(content, whole, trailers)
        if self._over:
            return
        connection = connections.acquire(self)
        if connection is not None:
            self.connected(connection)
        else:
            connections.connect(self)

    def _choose(self) -> Backend | None:
        """The first choice of the balancer that is not full."""
        servers = self._route.pool.servers
        self._choices = servers.choices(self._request)
        looks = 0
        for backend in self._choices:
            if not backend.maxconn or backend.in_flight < backend.maxconn:
                return backend
            looks += 1
            if looks > len(servers.backends):
                raise RuntimeError("the balancer's choices have no end: it yields servers more than once")
        return None

    @guarded
    def send(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """More content of the request, or its end."""
        if self._over:
            return
        server = self._server
        if server is None:
            self._keep(content, whole, trailers)
            return
        self._waiting_bytes = self._waiting_bytes + len(content) if server.throttle.full else 0
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._finish(ABANDONED)
            return
        self._whole = whole
        server.send(content, whole, trailers)
        if whole:
            self._await_response()

    def _keep(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Keep content until there is a connection."""
        self._whole = whole
        self._trailers = trailers
        self._waiting_bytes += len(content)
        if self._waiting_bytes > MAX_WAITING_BYTES and not whole:
            self._finish(ABANDONED)
        elif content:
            self._content.append(content)

    @guarded
    def source_ended(self) -> None:
        """The exchange of the request is over: there will be no more of its content."""
        if not self._whole and not self._over:
            self._finish(ABANDONED)

    # From the pool and the server's connection

    def proxy_header(self, version: int) -> bytes:
        """See Waiting."""
        request = self._request
        assert request is not None
        header: bytes = request.proxy_header(version)
        return header

    @guarded
    def connected(self, server: IServerStream) -> None:
        """See Waiting."""
        backend, request = self._backend, self._request
        if self._over or backend is None or request is None:
            server.rest()
            return
        self._server = server
        context = self._context
        self._begun_at = context.seconds()
        backend.requests += 1
        timeout = self._route.timeout
        server.timeout = context.settings.upstream_timeout if timeout == AS_SET else timeout
        content, self._content = b"".join(self._content), []
        self._waiting_bytes = 0
        server.begin(self, request.method, self._head, self._framing, content, self._whole, self._trailers, False)
        if self._whole:
            self._await_response()

    def _await_response(self) -> None:
        server = self._server
        if server is not None:
            self.deadline = self._context.sweeper.now + RESPONSE_TIMEOUTS * server.timeout
            self._context.sweeper.watched.add(self)

    @guarded
    def connect_failed(self, reason: Unreachable) -> None:
        """See Waiting."""
        backend = self._backend
        if self._over or backend is None:
            return
        if not reason.shortage:
            backend.requests += 1
        fault = Blame.NOBODY if reason.shortage else Blame.REFUSED if reason.refused else Blame.DIED
        self._failed(f"it could not be reached: {reason.detail}", fault)

    @guarded
    def interim_received(self, head: ResponseHead) -> None:
        """See IResponseReceiver."""

    @guarded_done
    def protocols_switched(self, head: ResponseHead, content: bytes) -> bool:
        """See IResponseReceiver.  No copy asks for another protocol."""
        return False

    @guarded
    def response_started(
        self, head: ResponseHead, framing: int, content: bytes, done: bool, trailers: list[bytes]
    ) -> None:
        """See IResponseReceiver."""
        backend = self._backend
        assert backend is not None
        self._responded = True
        now = self._context.seconds()
        backend.answered(now - self._begun_at, now)
        if self._whole:
            self._route.seen(backend, head.status, now, "", Blame.NOBODY)
        servers = self._route.pool.servers
        if servers.hears_of_responses:
            servers.response_started(self._request, backend, ResponseView(head, None))
        self.response_content_received(content, done, trailers)

    @guarded
    def response_content_received(self, content: bytes, done: bool, trailers: list[bytes]) -> None:
        """See IResponseReceiver."""
        self._dropped_bytes += len(content)
        if done:
            self._server = None
            self._finish(MIRRORED if self._whole else ABANDONED)
        elif self._dropped_bytes > MAX_DROPPED_BYTES:
            self._finish(MIRRORED if self._whole else ABANDONED)

    def response_content_spliced(self, count: int) -> None:
        """See IResponseReceiver.  There is nothing to splice to."""

    @guarded
    def response_failed(self, failure: ServerFailure) -> None:
        """See IResponseReceiver."""
        server = self._server
        assert server is not None
        self._server = None
        fault = blame(
            Attempt(
                server.used,
                failure.closed,
                failure.silent,
                failure.unsent,
                self._whole,
                False,
                False,
            )
        )
        self._failed(failure.detail, Blame.DIED if failure.unreached else fault)

    # The end

    def _failed(self, why: str, fault: Blame) -> None:
        backend = self._backend
        name = "" if backend is None else backend.name
        self._context.failures.note(name, f"{why} (a copy for the mirror {self._route.pool.name})")
        if backend is not None and fault is not Blame.NOBODY:
            backend.failures += 1
            self._route.seen(backend, 0, self._context.seconds(), why, fault)
        self._finish(FAILED)

    def _finish(self, outcome: str) -> None:
        """The copy is over."""
        self._over = True
        self._context.counts.copies[outcome] += 1
        self._context.sweeper.watched.discard(self)
        pool = self._route.pool
        pool.copies.discard(self)
        server, self._server = self._server, None
        if server is not None:
            server.drop()
        backend, self._backend = self._backend, None
        request, self._request = self._request, None
        self._choices = None
        self._content = []
        if backend is not None:
            backend.in_flight -= 1
            if pool.servers.hears_of_ends:
                pool.servers.request_finished(request, backend)
            if backend.maxconn:
                pool.queue.serve()

    @guarded
    def end(self) -> None:
        """See Copy."""
        if not self._over:
            self._finish(MIRRORED if self._responded else ABANDONED)

    @guarded
    def deadline_passed(self) -> None:
        """See Watched."""
        self._finish(MIRRORED if self._responded else FAILED)

    @guarded
    def give_up(self) -> None:
        """See Watched."""
        self.end()

    def broke(self) -> None:
        """See Breakable."""
        _log.failure("copy", "A copy for a mirror failed here; the request and its client are not affected")
        if self._over:
            return
        try:
            self._finish(FAILED)
        except BaseException:
            _log.failure("end", "A copy for a mirror could not be ended in good order")

    def __repr__(self) -> str:
        where = self._backend.name if self._backend else "no server"
        return f"<MirroredRequest to {where}>"
