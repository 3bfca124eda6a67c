"""One connection to Redis, which is re-established whenever it is lost.

Commands are encoded by the callers, and are sent only on a connection whose greeting (password, database, scripts, and
the first calls of the owner) was answered; at any other time they fail at once.  txredisapi parses the replies; its
pool and factories are not used, because of their behaviour on failures:

1. They queue commands while disconnected, and send all of them after reconnecting.  Here `call` fails at once.
2. They wait for a reply without a limit.  Here each call has a deadline; when it expires, the connection is closed,
   because replies arrive in order, and all that follow the late one are late too.
3. One failure of AUTH or SELECT ends their reconnecting.  Here the greeting is a part of each attempt, and after a
   failure the next attempt follows.
4. They wait for a second before the first attempt to reconnect.  Here it is 0.1 s, doubled up to 0.5 s.
5. They convert replies that look like numbers.  Here replies remain as hiredis returns them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import ResponseError  # type: ignore[import-untyped]

from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.redis.protocol import Wire
from twisted_lb.stores.redis.tls import tls_trouble
from twisted_lb.stores.redis.watched import IWatched

DEADLINE_SECONDS = 0.1
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 0.5
# A call usually takes less than this part of its deadline.  If it is not answered in time, other instances may have had
# answers until that long after it was sent.
USUAL = 0.2
# After a connection that was ready for at least this long, the next attempt is made soon.  After a shorter one the
# waits keep growing, since the connection may go up and down again and again.
STEADY_SECONDS = 1.0

# The greeting may take this many deadlines, or this many seconds if that is more: it may include a TLS handshake.  The
# first calls after it have one deadline, like all later ones: a Redis that is slower is not ready.
GREETING_DEADLINES = 5
GREETING_SECONDS = 0.5

# An attempt that does not end by itself (a name server does not answer) is ended after the first time, and each later
# one after twice the time of the previous one, so that a name server that is only slow can answer.
FIRST_ATTEMPT_SECONDS = 2.0
LAST_ATTEMPT_SECONDS = 32.0

WATCH_SECONDS = 1.0  # between two checks that the connection goes to the right address

_log = Logger()


class ErrorReply(StoreUnavailable):
    """Redis answered, and the answer is an error; the text is its own, such as "NOSCRIPT ..."."""


class RedisConnection:
    """A connection to `endpoint`, made again whenever it is lost, until `stop`.

    `ready` says whether calls can be made; if not, `reason` says why.  The owner may set, before `start`:

    on_ready(replies): a connection has answered its greeting and the first calls, with these replies.  It is `ready`
        already, and this is called before any other caller can use it.  May call `give_up`.
    on_down(): a connection that was ready is not any more; `reason` says why.  Called once for each `on_ready`,
        before the calls under way fail; not called by `stop`.

    Neither may raise.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        place: str,
        reactor: IReactorTime,
        deadline: float = DEADLINE_SECONDS,
        secret: str = "",
    ) -> None:
        """`place` names the server in messages, and `secret` never appears in one.  `deadline` is in seconds."""
        self.ready = False
        self.reason = f"Redis at {place} has not answered yet"
        self.silent_since = reactor.seconds()  # when it is not `ready`: since when Redis may have served nobody
        self.on_ready: Callable[[list[Any]], None] = lambda replies: None
        self.on_down: Callable[[], None] = lambda: None
        self._endpoint = endpoint
        self._watched = IWatched(endpoint, None)
        self._place = place
        self._greeting: Callable[[], Sequence[bytes]] = list
        self._first_calls: Callable[[], Sequence[bytes]] = list
        self._allowed = deadline  # seconds, for the calls under way
        self._reactor = reactor
        self._deadline = deadline
        self._greeting_deadline = max(GREETING_DEADLINES * deadline, GREETING_SECONDS)
        self._secret = secret
        self._factory = Factory.forProtocol(lambda: Wire(self._lost))
        self._factory.noisy = False
        self._running = False
        self._wire: Wire | None = None
        self._expiries: deque[float] = deque()  # the deadlines of the calls under way, in the order of the replies
        self._expiry_timer: IDelayedCall | None = None
        self._spared = 0.0  # the deadline that was extended once
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._retry_timer: IDelayedCall | None = None
        self._attempt: Deferred[Any] | None = None
        self._attempt_seconds = FIRST_ATTEMPT_SECONDS
        self._attempt_timer: IDelayedCall | None = None
        self._watch_timer: IDelayedCall | None = None
        self._watch: Deferred[str] | None = None
        self._first_attempt: Deferred[None] = Deferred()
        self._stopped: Deferred[None] | None = None
        self._closing_timer: IDelayedCall | None = None
        self._ready_since = 0.0
        self._told_up: bool | None = None  # the state that was logged last

    def start(
        self, greeting: Callable[[], Sequence[bytes]], first_calls: Callable[[], Sequence[bytes]] = list
    ) -> Deferred[None]:
        """Begin to connect.  Fires when the first attempt has ended, with or without success; never fails.

        Both are called for each connection, and return encoded commands that must all succeed before the connection is
        ready.  Those of `greeting`, at least one, have more time; `first_calls` have the usual deadline, and are sent
        when the greeting is done.
        """
        self._greeting = greeting
        self._first_calls = first_calls
        self._running = True
        self._connect()
        return self._first_attempt

    def stop(self) -> Deferred[None]:
        """Close the connection, and do not reconnect.  Fires when it is closed; calls under way fail."""
        self._running = False
        self.on_down = lambda: None
        self._set_down("the Redis store is stopped")
        _cancel(self._retry_timer)
        self._end_attempt()
        self._attempted()
        if self._wire is None:
            return succeed(None)
        if self._stopped is None:
            self._stopped = Deferred()
            self._wire.transport.loseConnection()
            # A server that hangs would never read what is left, nor answer the end of TLS.
            self._closing_timer = self._reactor.callLater(
                self._greeting_deadline, self._wire.transport.abortConnection
            )
        return self._stopped

    def call(self, command: bytes) -> Deferred[Any]:
        """Send one encoded command; fires with the reply as hiredis reads it.

        Fails with ErrorReply when the reply is an error, and with StoreUnavailable when there is no
        connection (nothing was sent), when it was lost or when the deadline has passed: then it is not
        known whether the command was executed.
        """
        if not self.ready:
            return fail(StoreUnavailable(self.reason))
        return self._send(command, self._deadline)

    def give_up(self, reason: str) -> None:
        """Close a connection on which Redis answers with errors: another one is opened.

        `reason` is what Redis answered, such as "READONLY ...".  Nothing happens while there is no connection.
        """
        if self.ready:
            self._drop(f"Redis at {self._place} is of no use: {reason}")

    # Calls and their deadlines

    def _send(self, command: bytes, deadline: float) -> Deferred[Any]:
        assert self._wire is not None
        reply = self._wire.send(command, buffer_empty=not self._expiries)
        self._allowed = deadline
        self._expiries.append(self._reactor.seconds() + deadline)
        if self._expiry_timer is None:
            self._expiry_timer = self._reactor.callLater(deadline, self._expire)
        return reply.addCallback(self._replied)

    def _replied(self, reply: Any) -> Any:
        self._expiries.popleft()
        if isinstance(reply, Exception):
            if isinstance(reply, ResponseError):
                raise ErrorReply(str(reply))
            raise StoreUnavailable(self.reason)
        return reply

    def _expire(self) -> None:
        # One timer for all calls: it is set for the oldest; when it fires, it is set again for the oldest one then.
        self._expiry_timer = None
        if not self._expiries:
            return
        oldest = self._expiries[0]
        late = self._reactor.seconds() - oldest
        if late < 0:
            self._expiry_timer = self._reactor.callLater(-late, self._expire)
        elif oldest != self._spared:
            # Timers run before sockets are read.  If this process was blocked, the reply is waiting in the socket, or
            # the command was not even sent: so wait for one more iteration of the reactor, and the time it is late.
            self._spared = oldest
            self._expiry_timer = self._reactor.callLater(min(late, self._deadline), self._expire)
        else:
            assert self._wire is not None
            seconds = self._allowed
            # A Redis without TLS takes the first bytes of a handshake for the beginning of a command, and waits.
            hint = "; does it speak TLS?" if self._wire.secure and not self.ready else ""
            reason = f"Redis at {self._place} did not answer within {seconds:g} s{hint}"
            self._drop(reason, silent_since=oldest - seconds * (1 - USUAL))

    # Up

    def _connect(self) -> None:
        self._retry_timer = None
        self._attempt_timer = self._reactor.callLater(self._attempt_seconds, self._attempt_is_too_long)
        self._attempt = attempt = self._endpoint.connect(self._factory)
        attempt.addCallbacks(
            self._connected, self._not_connected, callbackArgs=(attempt,), errbackArgs=(attempt,)
        ).addErrback(self._unusable)

    def _connected(self, wire: Wire, attempt: Deferred[Any]) -> None:
        if self._attempt is not attempt:
            # The attempt was cancelled, but the connection was opened.
            wire.transport.abortConnection()
            return
        self._end_attempt()
        self._attempt_seconds = FIRST_ATTEMPT_SECONDS
        self._wire = wire
        self._expiries.clear()
        commands = self._greeting()
        greeted = gatherResults(
            [self._send(command, self._greeting_deadline) for command in commands], consumeErrors=True
        )
        greeted.addCallbacks(self._call_first, self._not_greeted, callbackArgs=(wire,), errbackArgs=(wire,))
        greeted.addErrback(self._unusable)

    def _call_first(self, greeted: list[Any], wire: Wire) -> None:
        if self._wire is not wire or not self._running:
            return
        # It is set for the greeting, which has more time than a call.
        _cancel(self._expiry_timer)
        self._expiry_timer = None
        called = gatherResults(
            [self._send(command, self._deadline) for command in self._first_calls()], consumeErrors=True
        )
        called.addCallback(lambda replies: [*greeted, *replies])
        called.addCallbacks(self._greeted, self._not_greeted, callbackArgs=(wire,), errbackArgs=(wire,))
        called.addErrback(self._unusable)

    def _greeted(self, replies: list[Any], wire: Wire) -> None:
        if self._wire is not wire or not self._running:
            return
        self.ready = True
        self.reason = ""
        self._ready_since = self._reactor.seconds()
        self.on_ready(replies)
        if self.ready:
            self._report("")
            self._watch_on()
            self._attempted()

    def _watch_on(self) -> None:
        if self._watched is not None:
            self._watch_timer = self._reactor.callLater(WATCH_SECONDS, self._look)

    def _look(self) -> None:
        self._watch_timer = None
        assert self._watched is not None
        self._watch = watch = self._watched.moved()
        watch.addCallback(self._looked, watch)
        # It fails only when it is cancelled.
        watch.addErrback(lambda _: None)

    def _looked(self, moved: str, watch: Deferred[str]) -> None:
        if self._watch is watch:
            self._watch = None
            if moved:
                self._drop(f"Redis at {self._place} has moved: {moved}")
            else:
                self._watch_on()

    # Down

    def _not_connected(self, failure: Failure, attempt: Deferred[Any]) -> None:
        if self._attempt is attempt:
            self._end_attempt()
            self._attempt_seconds = FIRST_ATTEMPT_SECONDS
            self._attempt_failed(failure.getErrorMessage().rstrip("."))

    def _attempt_is_too_long(self) -> None:
        seconds = self._attempt_seconds
        self._attempt_seconds = min(2 * seconds, LAST_ATTEMPT_SECONDS)
        self._attempt_timer = None
        self._end_attempt()
        self._attempt_failed(f"nothing came of it within {seconds:g} s")

    def _attempt_failed(self, why: str) -> None:
        self._set_down(f"cannot connect to Redis at {self._place}: {why}")
        self._retry_later()

    def _end_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        _cancel(self._attempt_timer)
        self._attempt_timer = None
        # Has no effect on one that has ended by itself.
        if attempt is not None:
            attempt.cancel()

    def _not_greeted(self, failure: Failure, wire: Wire) -> None:
        # A lost or late connection was dropped already; what is left is an error reply of Redis.
        if self._wire is wire:
            error = failure.value.subFailure.value if isinstance(failure.value, FirstError) else failure.value
            self._drop(f"Redis at {self._place} refused the connection: {error}")

    def _unusable(self, failure: Failure) -> None:
        _log.failure("cannot use a new connection to Redis", failure)
        if self._wire is not None:
            self._drop(f"a new connection to Redis at {self._place} could not be used: {failure.getErrorMessage()}")

    def _lost(self, wire: Wire, why: Failure) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        if self._running:
            when = "" if self.ready else " before it answered"
            trouble = tls_trouble(why)
            self._set_down(f"the connection to Redis at {self._place} was lost{when}{trouble and f': {trouble}'}")
            self._retry_later()
        if self._stopped is not None:
            _cancel(self._closing_timer)
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)

    def _drop(self, reason: str, silent_since: float | None = None) -> None:
        if not self._running:
            return  # it is being closed anyway
        wire, self._wire = self._wire, None
        assert wire is not None
        self._set_down(reason, silent_since)
        # Before the calls under way fail: one of them may be what a `stop` waits for.
        self._retry_later()
        wire.drop(reason)

    def _set_down(self, reason: str, silent_since: float | None = None) -> None:
        was_ready, self.ready = self.ready, False
        if was_ready:
            self.silent_since = self._reactor.seconds() if silent_since is None else silent_since
        self.reason = reason.replace(self._secret, "***") if self._secret else reason
        _cancel(self._expiry_timer)
        _cancel(self._watch_timer)
        self._expiry_timer = self._watch_timer = None
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        if was_ready:
            if self._reactor.seconds() - self._ready_since >= STEADY_SECONDS:
                self._retry_seconds = FIRST_RETRY_SECONDS
            self.on_down()

    def _retry_later(self) -> None:
        if not self._running:
            return  # `on_down` has stopped it
        self._report(self.reason)
        self._retry_timer = self._reactor.callLater(self._retry_seconds, self._connect)
        self._retry_seconds = min(2 * self._retry_seconds, LAST_RETRY_SECONDS)
        self._attempted()

    def _attempted(self) -> None:
        if not self._first_attempt.called:
            self._first_attempt.callback(None)

    def _report(self, reason: str) -> None:
        """Log each change of state once, with its first reason, but not each attempt."""
        if reason and self._told_up is not False:
            _log.error("{reason}; trying again until it is back", reason=reason)
        elif not reason:
            _log.info("connected to Redis at {place}", place=self._place)
        self._told_up = not reason


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
