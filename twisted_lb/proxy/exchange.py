"""One request's life: limits, balancer, server, response.

    start -> _ask -> _admitted -> _next_server -> connected -> response_started -> response_content_received -> _finish
               |                    | ^ |  ^          |              |
         (`admission`)           queue 503 +- retried +    502, 504 (tokens back) or reset

If the server switches to another protocol, it ends like this:

    connected -> protocols_switched -> tunnel_ended

On a route with hooks or a mirror it is an `ExtendedExchange`.

Each arrow is a method that the bucket, the pool or the server's connection calls, most of them within
the one before, so that a request on open connections takes two iterations of the event loop.  An exchange
ends once, by `_end`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from twisted.logger import Logger
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.credentials import REDACTED
from twisted_lb.hooks.hooks import HooksFailed
from twisted_lb.interfaces import ADDRESS, Taken
from twisted_lb.network.dialer import Unreachable
from twisted_lb.network.flow_control import NOT_NOW
from twisted_lb.own_fields import consumer_line
from twisted_lb.pool.retry_budget import IDEMPOTENT
from twisted_lb.pool.retry_policy import Attempt, Blame, Step, blame, next_step
from twisted_lb.proxy.admission import IN_MAINTENANCE, RETRY_SOON, Admission, retry_after
from twisted_lb.proxy.connection_pool import ConnectionPool
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.guard import guarded, guarded_done, take_steps
from twisted_lb.proxy.header_rules import HeaderRules, RequestValues
from twisted_lb.proxy.request_body import RequestContent
from twisted_lb.proxy.route import AS_SET, Route
from twisted_lb.proxy.streams import NO_TRAILERS, IClientStream, IResponseReceiver, IServerStream, ServerFailure
from twisted_lb.proxy.tunnel import Ending
from twisted_lb.request_record import (
    CLIENT_LEFT,
    COMPLETE,
    INTERNAL_ERROR,
    MAINTENANCE,
    SERVER_CLOSED,
    SERVER_MALFORMED,
    SERVER_TIMEOUT,
    SERVER_UNREACHABLE,
    SERVERS_FULL,
    TUNNEL_CUT,
    TUNNEL_IDLE,
)
from twisted_lb.request_record import NO_SERVER as NONE_AVAILABLE
from twisted_lb.routing.path import without_prefix
from twisted_lb.wire.head import RequestHead, ResponseHead, nominated
from twisted_lb.wire.upgrade import switched_to

NO_SERVER: Final = "No available servers"
ALL_FULL: Final = "all servers have as many requests as they may"
# A request that reaches no server within CONNECT_TIMEOUT times this is answered, even if other servers are left.
REACH_TIMEOUTS: Final = 3
HOOKS_FAILED: Final = "The hooks of this route have failed."

_REASONS_OF_TUNNELS: Final = {
    Ending.COMPLETE: COMPLETE,
    Ending.CLIENT_LOST: CLIENT_LEFT,
    Ending.SERVER_LOST: SERVER_CLOSED,
    Ending.IDLE: TUNNEL_IDLE,
    Ending.CUT: TUNNEL_CUT,
}

# For each request: compiled, it is found at once, and an attribute of an enumeration is not.
_NOBODY: Final = Blame.NOBODY

_log = BoundedLog(Logger(__name__))


@implementer(IResponseReceiver)
class Exchange(Admission):
    """A request to a server and its response."""

    __slots__ = (
        "_route",
        "_choices",
        "_tried",
        "_backend",
        "_server",
        "_content",
        "_attempts",
        "_failure",
        "_begun_at",
        "_reach_until",
        "_connecting",
        "queued",
        "_responded",
    )

    def __init__(
        self, context: ProxyContext, route: Route, client: IClientStream, head: RequestHead, framing: int
    ) -> None:
        # Not super(), which is slower: this runs for each request.
        Admission.__init__(self, context, route, client, head, framing)
        if route.strip_prefix:
            # Balancers and logs get the target as the client sent it.
            head.target = without_prefix(head.target, route.strip_prefix)
        self._route = route
        self._choices: Iterator[Backend] | None = None
        self._tried: set[Backend] | None = None  # the servers that have failed
        self._backend: Backend | None = None
        self._server: IServerStream | None = None
        self._content = RequestContent() if framing else None
        self._reach_until = 0.0  # on the reactor's clock; 0: no connection was asked for yet
        self._connecting = False  # a connection is being asked for
        self._attempts = 0  # how often it was sent
        self._failure: ServerFailure | None = None  # the last one
        self.queued = False  # all servers are full, and it waits for one
        self._responded = False  # the response has begun

    # From the client

    def start(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Begin, with the content that came with the head."""
        if self._content is not None:
            self._content.receive(content, whole, self._without_key(trailers) if trailers else trailers, False)
        self._ask()

    def content_received(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """More content of the request, or its end."""
        kept = self._content
        assert kept is not None
        trailers = self._without_key(trailers) if trailers else trailers
        server = self._server
        kept.receive(content, whole, trailers, server is not None)
        if server is not None:
            server.send(content, whole, self._trailers_to_send(trailers) if trailers else trailers)
        elif kept.too_much:
            self._client.tap.hold(NOT_NOW)

    # The servers

    def _client_known(self) -> None:
        split = self._route.split
        if split is not None:
            digest = self._tokens.digest
            self._route = split.route_of(self.peer.network if split.by_network or not digest else digest)
        self._tokens.use(self._route, self.peer.network)

    def _admitted(self) -> None:
        pool = self._route.pool
        if self._record is not None:
            self._record.pool = pool.name
        if self._terms.depends_on_client and pool.maintenance:
            self._tokens.refund()
            self._answer(MAINTENANCE, 503, IN_MAINTENANCE, retry_after(pool.maintenance))
            return
        self._next_server()

    def _next_server(self) -> bool:
        """Try the balancer's next choice; False if all are full and the request keeps its place in the queue."""
        while True:
            try:
                backend, full = self._choose()
                connections = self._route.pool.connections[backend] if backend is not None else None
            except BaseException:
                # The balancer may be a user's class.
                _log.failure("choices", "The balancer failed to choose a server")
                self._tokens.refund()
                self._answer(INTERNAL_ERROR, 500, "The balancer failed to choose a server.")
                return True
            if backend is None or connections is None:
                return self._without_server(full)
            if self.queued:
                self.queued = False
                self._wait_ended()
                self._client.request_resumed()
            self._backend = backend
            backend.in_flight += 1
            servers = self._route.pool.servers
            if servers.hears_of_choices:
                servers.server_chosen(self, backend)
            connection = connections.acquire(self)
            if connection is not None:
                self.connected(connection)
                return True
            # A loop, not a recursion: hundreds may fail at once, such as those whose names are not resolved.
            self._connecting = True
            self._connect(connections)
            if self._connecting:
                self._connecting = False
                return True
            if self._context.seconds() >= self._reach_until:
                return self._without_server(False)

    def _connect(self, connections: ConnectionPool) -> None:
        if not self._reach_until:
            context = self._context
            self._reach_until = context.seconds() + REACH_TIMEOUTS * context.settings.connect_timeout
        if self._record is not None:
            self._record.connect_since = self._context.seconds()
        connections.connect(self)

    def _choose(self) -> tuple[Backend | None, bool]:
        """The next server to try; or None, and whether some are only full."""
        full = False
        tried = self._tried
        looks = 0
        while True:
            choices = self._choices
            fresh = choices is None
            if choices is None:
                self._choices = choices = self._route.pool.servers.choices(self)
            for backend in choices:
                # Servers that went down or were removed since the first choice are skipped.
                if tried is None or (backend not in tried and backend.available):
                    if not backend.maxconn or backend.in_flight < backend.maxconn:
                        return backend, False
                    full = True
                looks += 1
                if looks > 2 * len(self._route.pool.servers.backends):
                    raise RuntimeError("the balancer's choices have no end: it yields servers more than once")
            if fresh:
                return None, full
            # These choices are from an earlier moment: since then servers may have been added, or have room.
            self._choices = None
            full = False

    def _without_server(self, full: bool) -> bool:
        """There are no more choices: wait in the queue if servers are only full, or answer."""
        taken = self._tokens.taken
        assert taken is not None
        self._choices = None
        if full:
            if self.queued:
                return False
            # A limit of the route says nothing about one network.
            rate = taken.rate_per_sec if taken.name or taken.limit == ADDRESS else 1.0
            if self._route.pool.queue.join(self, self._queue_user(taken), round(rate)):
                self.queued = True
                self._wait_begins()
                self._reach_until = 0.0
                return True
        failure = self._failure
        if not self._tried:
            self._context.failures.note("", ALL_FULL if full else NO_SERVER)
        self._tokens.refund()
        if full:
            self._answer(
                SERVERS_FULL, 503, "All servers have as many requests as they may, and as many wait.", RETRY_SOON
            )
        elif failure is not None:
            retry = RETRY_SOON if failure.status == 503 else b""
            self._answer(_reason(failure), failure.status, failure.detail, retry)
        else:
            self._answer(SERVER_UNREACHABLE if self._tried else NONE_AVAILABLE, 503, NO_SERVER, RETRY_SOON)
        return True

    def _queue_user(self, taken: Taken) -> bytes:
        """The user in whose turn it waits: networks are queued like users, and no user has such a name."""
        return taken.name or b"\0" + self.peer.network.encode()

    @property
    def max_body_bytes(self) -> int:
        """The most bytes that the content of the request may have; 0: any number."""
        limit = self._route.max_body_bytes
        return self._context.settings.max_body_bytes if limit == AS_SET else limit

    @property
    def waits(self) -> bool:
        """Whether it waits for tokens, or for a server."""
        return self.waiting or self.queued

    @property
    def expecting(self) -> bool:
        """Whether the client waits for 100 (Continue) from the server before it sends the content."""
        return self._server is not None and self._server.expecting

    # From the queue

    @property
    def excludes_servers(self) -> bool:
        """Whether there are servers that it is not sent to."""
        return self._tried is not None

    @guarded_done
    def slot_available(self) -> bool:
        return self._next_server()

    @guarded
    def queue_timed_out(self) -> None:
        self._context.failures.note("", ALL_FULL)
        self._tokens.refund()
        self._answer(SERVERS_FULL, 503, "All servers have as many requests as they may.", RETRY_SOON)

    # From the pool and the server's connection

    def proxy_header(self, version: int) -> bytes:
        """See Waiting."""
        header: bytes = self._client.proxy_header(version)
        return header

    def connected(self, server: IServerStream) -> None:
        """There is a connection: send what was received so far."""
        try:
            backend = self._backend
            if self._over or backend is None:
                server.rest()
                return
            self._server = server
            self._reach_until = 0.0
            client = self._client
            context = self._context
            framing = self._framing
            head = client.forwarded.request_head(self._head, framing, consumer_line(self.consumer), backend.authority)
            if self._key:
                # For example in a cookie, or in the target: a key must not get into the logs of servers.
                head = head.replace(self._key, REDACTED)
            rules = self._route.request_rules
            if rules or self._changes is not None:
                head = self._with_rules(head, rules, self)
            kept = self._content
            content = b""
            whole = True
            trailers = NO_TRAILERS
            if kept is not None:
                content = kept.begin()
                whole = kept.whole
                trailers = self._trailers_to_send(kept.trailers)
                if not whole:
                    server.throttle.connect(client.tap)
            client.throttle.connect(server.tap)
            backend.requests += 1
            if self._attempts or self._tried:
                backend.retries += 1
            if not self._attempts:
                self._route.retries.requests += 1
            self._attempts += 1
            self._begun_at = context.seconds()
            if self._record is not None:
                self._record.sent(backend.name, self._begun_at)
            expects = not whole and self._client_expects()
            timeout = self._route.timeout
            server.timeout = context.settings.upstream_timeout if timeout == AS_SET else timeout
            server.begin(self, self.method, head, framing, content, whole, trailers, expects)
            client.tap.release(NOT_NOW)
        except BaseException:
            self.broke()

    def _trailers_to_send(self, trailers: list[bytes]) -> list[bytes]:
        """The trailers that the rules of pool and route do not remove."""
        for rules in self._route.request_rules:
            trailers = rules.kept_trailers(trailers)
        return trailers

    def _with_rules(self, head: bytes, rules: tuple[HeaderRules, ...], values: RequestValues) -> bytes:
        """Apply the rules of pool and route, and then the changes of hooks, to the head for a server."""
        end = head.index(b"\r\n")
        lines = head[end:-4]
        for one in rules:
            lines = one.apply(lines, values)
        if self._changes is not None:
            lines = self._changes.apply(lines)
        return head[:end] + lines + b"\r\n\r\n"

    def value_of(self, name: bytes) -> bytes:
        """See RequestValues."""
        if name == b"pool":
            return self._route.pool.name.encode()
        if name == b"server":
            backend = self._backend
            return b"" if backend is None else backend.name.encode()
        return Admission.value_of(self, name)

    def _client_expects(self) -> bool:
        """Whether the client waits for 100 (Continue); in HTTP/1.0 an expectation is ignored."""
        content = self._content
        begun = content is None or content.kept_bytes > 0
        return not begun and self._head.minor == 1 and b"expect" in self._head.notable

    @guarded
    def connect_failed(self, reason: Unreachable) -> None:
        """The server could not be reached: nothing was sent, so the next one may be asked."""
        backend = self._backend
        if self._over or backend is None:
            return
        if self._record is not None:
            self._record.not_sent(backend.name)
        if reason.shortage:
            # Not a failure of this server, and already logged; there may be an idle connection to the next one.
            self._failure = ServerFailure(503, "This gateway is short of resources. Try again later.")
            self._skip(backend)
        else:
            # It counts as a request, so that there are never more failures than requests.
            backend.requests += 1
            fault = Blame.REFUSED if reason.refused else Blame.DIED
            self._failed(backend, f"it could not be reached: {reason.detail}", fault)
        if self._connecting:
            # Within the call that asked for the connection.
            self._connecting = False
        elif self._context.seconds() < self._reach_until:
            self._next_server()
        else:
            self._without_server(False)

    @guarded
    def response_failed(self, failure: ServerFailure) -> None:
        """No (more) response from this server."""
        server, backend = self._server, self._backend
        assert server is not None and backend is not None
        self._server = None
        self._client.throttle.disconnect()
        content = self._content
        if failure.unreached:
            self._failed(backend, f"it could not be reached: {failure.detail}", Blame.DIED)
            if content is None or content.sendable:
                self._next_server()
            else:
                self._tokens.refund()
                self._answer(SERVER_UNREACHABLE, 503, NO_SERVER, RETRY_SOON)
            return
        attempt = Attempt(
            server.used,
            failure.closed,
            failure.silent,
            failure.unsent,
            content is None or content.whole,
            content is None or content.sendable,
            self.method in IDEMPOTENT,
            failure.client_slow,
        )
        step = next_step(attempt)
        if not self._responded and step is Step.SAME_SERVER:
            self._connect(self._route.pool.connections[backend])
            return
        self._failed(backend, failure.detail, blame(attempt))
        if self._responded:
            self._end()
            self._tokens.settle(self)
            if self._record is not None:
                self._enter(self._record, _reason(failure))
                self._record.detail = failure.detail
            self._client.reset()
            return
        self._failure = failure
        route = self._route
        if step is Step.NEXT_SERVER and self._attempts < route.most_attempts() and route.retries.spend():
            self._next_server()
            return
        self._tokens.refund()
        self._answer(_reason(failure), failure.status, failure.detail)

    def _failed(self, backend: Backend, why: str, fault: Blame) -> None:
        """This attempt is over."""
        self._context.failures.note(backend.name, why)
        if fault is not Blame.NOBODY:
            backend.failures += 1
            context = self._context
            self._route.seen(backend, 0, context.seconds(), why, fault)
        self._skip(backend)

    def _skip(self, backend: Backend) -> None:
        """Do not try this server again for this request."""
        if self._tried is None:
            self._tried = set()
        self._tried.add(backend)
        self._part()

    def _part(self) -> None:
        """The server does not have this exchange any more."""
        backend = self._backend
        if backend is not None:
            self._backend = None
            backend.in_flight -= 1
            pool = self._route.pool
            if pool.servers.hears_of_ends:
                pool.servers.request_finished(self, backend)
            if backend.maxconn:
                pool.queue.serve()

    # The response

    @guarded
    def interim_received(self, head: ResponseHead) -> None:
        for rules in self._route.response_rules:
            head.fields = rules.without_removed(head.fields)
        self._client.interim(head)

    def response_started(
        self, head: ResponseHead, framing: int, content: bytes, done: bool, trailers: list[bytes]
    ) -> None:
        try:
            fields = self._response_fields(head)
            self._tokens.content_received(len(content))
            self._responded = True
            self._client.respond(head, framing, fields, content)
            if done:
                self._finish(trailers)
        except HooksFailed:
            self._response_refused(None if done else self._server)
        except BaseException:
            self.broke()

    def _response_refused(self, server: IServerStream | None) -> None:
        """Hooks have failed on a response, of which nothing was sent; the server has had the request."""
        self._server = None
        if server is not None:
            server.drop()
        self._part()
        self._tokens.settle(self)
        self._answer(INTERNAL_ERROR, 500, HOOKS_FAILED)

    def _response_fields(self, head: ResponseHead) -> bytes:
        """The server has answered: report it to health, pricing and balancer, and return the field lines to add.

        Raises HooksFailed.
        """
        context = self._context
        backend = self._backend
        assert backend is not None
        now = context.seconds()
        backend.answered(now - self._begun_at, now)
        if self._record is not None:
            self._record.first_byte_at = now
        kept = self._content
        if kept is None or kept.whole:
            self._route.seen(backend, head.status, now, "", _NOBODY)
        if kept is not None:
            # The client gets this response, so the request is not sent again; the response may take hours.
            kept.forget()
        tokens = self._tokens
        taken = tokens.response_started(head, backend.name)
        fields = self._limit_fields(taken) if self._waited or not taken.name else context.limit_fields(taken)
        route = self._route
        servers = route.pool.servers
        if servers.hears_of_responses:
            servers.response_started(self, backend, tokens.view_of(head))
        if servers.adds_response_fields:
            fields += servers.response_fields(self, backend)
        for rules in route.response_rules:
            fields = rules.without_removed(fields)
            head.fields = rules.apply(head.fields, self)
        if context.cors is not None:
            fields += context.cors.on_answer(self._head, head)
        return fields

    @guarded_done
    def protocols_switched(self, head: ResponseHead, content: bytes) -> bool:
        server, backend = self._server, self._backend
        assert server is not None and backend is not None
        protocols = switched_to(head.notable.get(b"upgrade", []), nominated(head.notable), self._head.upgrade)
        if not protocols:
            return False
        try:
            fields = self._response_fields(head)
        except HooksFailed:
            self._response_refused(server)
            return True
        self._responded = True
        client_end = self._client.switch_protocols(head, protocols, fields)
        server_end = server.switch_protocols(content)
        self._server = None
        self._context.tunnels.begin(self, self._tokens.digest, backend, client_end, server_end)
        return True

    @property
    def response_sink(self) -> Any:
        return self._client.content_sink

    @guarded
    def response_content_spliced(self, count: int) -> None:
        self._tokens.content_received(count)
        record = self._record
        if record is not None:
            record.bytes_out += count
            record.content_out += count

    def response_content_received(self, content: bytes, done: bool, trailers: list[bytes]) -> None:
        try:
            self._tokens.content_received(len(content))
            if content:
                self._client.write(content)
            if done:
                self._finish(trailers)
        except BaseException:
            self.broke()

    # The end

    def _end(self) -> None:
        self._over = True
        # A generator has a reference to the request that it chooses for.  Dropping it here frees both now, and
        # tells the balancer that the exchange is over; the garbage collector would do so much later.
        self._choices = None
        self._client.throttle.disconnect()

    def _finish(self, trailers: list[bytes]) -> None:
        tokens = self._tokens
        if trailers:
            trailers = tokens.trailers_received(trailers)
            for rules in self._route.response_rules:
                trailers = rules.kept_trailers(trailers)
        self._end()
        self._server = None
        self._part()
        if tokens.by_response:
            tokens.settle(self)
        else:
            tokens.ended_as_taken()
        if self._record is not None:
            self._enter(self._record, COMPLETE)
        self._client.finish(trailers)

    @guarded
    def tunnel_ended(self, content_bytes: int, ending: Ending) -> None:
        """See TunnelOwner."""
        if self._over:
            return
        self._end()
        self._part()
        self._tokens.content_received(content_bytes)
        self._tokens.settle(self)
        record = self._record
        if record is not None:
            record.bytes_out += content_bytes
            record.content_out = content_bytes
            self._enter(record, _REASONS_OF_TUNNELS[ending])

    @guarded
    def abandon(self) -> None:
        """The client has left."""
        self._end()
        self._leave_wait_queue()
        if self.queued:
            # No server was asked.
            self._route.pool.queue.leave(self)
            self._tokens.refund()
        if self._server is not None:
            # Its response is not needed any more.
            self._server.drop()
            self._server = None
        self._part()
        # What a client aborts is not refunded.
        self._tokens.settle(self)
        if self._record is not None:
            self._enter(self._record, CLIENT_LEFT)

    def broke(self) -> None:
        """See Breakable."""
        server, self._server = self._server, None
        responded = self._responded
        take_steps(
            self._end,
            self._leave_wait_queue,
            lambda: self._route.pool.queue.leave(self),
            lambda: server.drop() if server is not None else None,
            self._part,
            self._tokens.settle_as_taken if responded else self._tokens.refund,
            lambda: self._enter(self._record, INTERNAL_ERROR) if self._record is not None else None,
        )
        self._client.failed(self)

    def __repr__(self) -> str:
        where = self._backend.name if self._backend else "no server yet"
        return f"<Exchange {self.method.decode()} {self.target.decode('latin-1')} {where}>"


def _reason(failure: ServerFailure) -> str:
    """Why the request has ended, as its record has it."""
    if failure.status == 504:
        return SERVER_TIMEOUT
    if failure.status == 503:
        return SERVER_UNREACHABLE
    return SERVER_CLOSED if failure.closed else SERVER_MALFORMED
