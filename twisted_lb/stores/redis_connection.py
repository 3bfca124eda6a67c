"""One connection to Redis that is kept up, on txredisapi's protocol.

Strategy: commands come in as finished bytes and go out only on a connection that has answered its
greeting (password, database, scripts); at any other time they fail at once.  txredisapi frames the
replies; its pool and factories are not used, because of what they do when something goes wrong:

1. They keep commands while disconnected, and send them all on return.  Here: `call` fails at once.
2. They wait for a reply for ever.  Here: every call has a deadline; when it passes, the connection
   is dropped, because replies come in order and everything behind the late one is late too.
3. One failure of AUTH or SELECT ends their reconnecting for good.  Here: the greeting is ours, and
   its failure is one more reason to try again.
4. They wait a second before the first attempt to reconnect.  Here: a tenth, doubling to two seconds.
5. They turn replies that look like numbers into numbers.  Here: replies stay as hiredis reads them.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable, Sequence

import hiredis  # noqa: F401  without it, txredisapi would silently parse replies a character at a time
from twisted.internet import tcp
from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import HiredisProtocol, ResponseError  # type: ignore[import-untyped]

from twisted_lb.interfaces import StoreUnavailable

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0

_log = Logger()


class ErrorReply(StoreUnavailable):
    """Redis answered, and the answer is an error; the text is its own, such as "NOSCRIPT ..."."""


class _Wire(HiredisProtocol):  # type: ignore[misc]
    """txredisapi's protocol, speaking in finished commands and raw replies."""

    def __init__(self, lost: Callable[[_Wire], None]) -> None:
        # No password and no database: they are the owner's greeting.
        super().__init__(charset=None, convertNumbers=False)
        self._lost = lost

    def connectionMade(self) -> None:
        super().connectionMade()
        # Only of a plain transport: below TLS the same handle is the unencrypted socket.
        plain = isinstance(self.transport, tcp.Connection) and not self.transport.TLS
        self._socket = self.transport.getHandle() if plain else None
        if isinstance(self.transport, tcp.Client):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)

    def connectionLost(self, why: Failure) -> None:
        # The owner first: what fails below must not try to send its next command here.
        self._lost(self)
        super().connectionLost(why)

    def tryConvertData(self, data: object) -> object:
        return data

    def send(self, command: bytes, buffer_empty: bool) -> Deferred[Any]:
        """Write one command.  `buffer_empty`: all that was written before has been answered, so nothing waits.

        Then the socket is tried first, which saves the transport a turn of the loop and two epoll_ctl.
        """
        if buffer_empty and self._socket is not None:
            try:
                command = command[self._socket.send(command) :]
            except OSError:
                pass  # full, or broken: the transport will find out which
        if command:
            self.transport.write(command)
        reply: Deferred[Any] = self.replyQueue.get()
        return reply


class RedisConnection:
    """A connection to `endpoint`, made again whenever it is lost, until `stop`."""

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        place: str,
        reactor: IReactorTime,
        deadline: float,
        secret: str = "",
    ) -> None:
        """`place` names the server in messages, and `secret` never appears in one.  `deadline` is in seconds."""
        self.ready = False
        self.reason = f"Redis at {place} has not answered yet"
        self._endpoint = endpoint
        self._place = place
        self._greeting: list[bytes] = []
        self._reactor = reactor
        self._deadline = deadline
        self._secret = secret
        self._factory = Factory.forProtocol(lambda: _Wire(self._lost))
        self._factory.noisy = False
        self._running = False
        self._wire: _Wire | None = None
        self._expiries: deque[float] = deque()  # when each call under way runs out, in the order of the replies
        self._expiry_timer: IDelayedCall | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._retry_timer: IDelayedCall | None = None
        self._attempt: Deferred[Any] | None = None
        self._first_attempt: Deferred[None] = Deferred()
        self._stopped: Deferred[None] | None = None
        self._reported = ""

    def start(self, greeting: Sequence[bytes]) -> Deferred[None]:
        """Begin to connect.  Fires when the first attempt has ended, well or badly; never fails.

        `greeting`: finished commands that must all succeed before the connection counts; at least one.
        """
        self._greeting = list(greeting)
        self._running = True
        self._connect()
        return self._first_attempt

    def stop(self) -> Deferred[None]:
        """Close the connection and try no more.  Fires when it is closed; calls under way fail."""
        self._running = False
        self._set_down("the Redis store is stopped")
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        if self._attempt is not None:
            self._attempt.cancel()
        self._attempted()
        if self._wire is None:
            return succeed(None)
        if self._stopped is None:
            self._stopped = Deferred()
            self._wire.transport.loseConnection()
        return self._stopped

    def call(self, command: bytes) -> Deferred[Any]:
        """Send one finished command; fires with the reply as hiredis reads it.

        Fails with ErrorReply when the reply is an error, and with StoreUnavailable when there is no
        connection (nothing was sent), when it was lost or when the deadline has passed: then nobody
        knows whether the command was executed.
        """
        if not self.ready:
            return fail(StoreUnavailable(self.reason))
        return self._send(command)

    def _send(self, command: bytes) -> Deferred[Any]:
        assert self._wire is not None
        reply = self._wire.send(command, buffer_empty=not self._expiries)
        self._expiries.append(self._reactor.seconds() + self._deadline)
        if self._expiry_timer is None:
            self._expiry_timer = self._reactor.callLater(self._deadline, self._expire)
        return reply.addCallback(self._replied)

    def _replied(self, reply: Any) -> Any:
        self._expiries.popleft()
        if isinstance(reply, Exception):
            if isinstance(reply, ResponseError):
                raise ErrorReply(str(reply))
            raise StoreUnavailable(self.reason)
        return reply

    def _expire(self) -> None:
        # One timer for all calls: it is set for the oldest, and on firing again for who is oldest then.
        self._expiry_timer = None
        if not self._expiries:
            return
        left = self._expiries[0] - self._reactor.seconds()
        if left > 0:
            self._expiry_timer = self._reactor.callLater(left, self._expire)
        else:
            self._drop(f"Redis at {self._place} did not answer within {self._deadline:g} s")

    # Up and down

    def _connect(self) -> None:
        self._retry_timer = None
        self._attempt = self._endpoint.connect(self._factory)
        self._attempt.addCallbacks(self._connected, self._not_connected)
        self._attempt.addErrback(lambda failure: _log.failure("cannot use a new connection to Redis", failure))

    def _connected(self, wire: _Wire) -> None:
        self._attempt = None
        if not self._running:
            wire.transport.abortConnection()
            return
        self._wire = wire
        self._expiries.clear()
        greeted = gatherResults([self._send(command) for command in self._greeting], consumeErrors=True)
        greeted.addCallbacks(self._greeted, self._not_greeted, callbackArgs=(wire,), errbackArgs=(wire,))

    def _greeted(self, _: object, wire: _Wire) -> None:
        if self._wire is not wire or not self._running:
            return
        self.ready = True
        self.reason = ""
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._report("")
        self._attempted()

    def _not_greeted(self, failure: Failure, wire: _Wire) -> None:
        # What was lost or late has been dropped already; what is left is an error that Redis answered with.
        if self._wire is wire:
            error = failure.value.subFailure.value if isinstance(failure.value, FirstError) else failure.value
            self._drop(f"Redis at {self._place} refused the connection: {error}")

    def _not_connected(self, failure: Failure) -> None:
        self._attempt = None
        if not self._running:
            return
        self._set_down(f"cannot connect to Redis at {self._place}: {failure.getErrorMessage()}")
        self._retry_later()

    def _lost(self, wire: _Wire) -> None:
        if wire is not self._wire:
            return
        self._wire = None
        if self._running:
            self._set_down(f"the connection to Redis at {self._place} was lost")
        self._retry_later()
        if self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)

    def _drop(self, reason: str) -> None:
        """Give the connection up, and fail what is under way now, not when the socket is closed at last."""
        wire, self._wire = self._wire, None
        assert wire is not None
        self._set_down(reason)
        wire.transport.abortConnection()
        while wire.replyQueue.waiting:
            wire.replyReceived(ConnectionAbortedError(reason))
        self._retry_later()

    def _set_down(self, reason: str) -> None:
        self.ready = False
        self.reason = reason.replace(self._secret, "***") if self._secret else reason
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
            self._expiry_timer = None

    def _retry_later(self) -> None:
        if self._running:
            self._report(self.reason)
            self._retry_timer = self._reactor.callLater(self._retry_seconds, self._connect)
            self._retry_seconds = min(2 * self._retry_seconds, LAST_RETRY_SECONDS)
        self._attempted()

    def _attempted(self) -> None:
        if not self._first_attempt.called:
            self._first_attempt.callback(None)

    def _report(self, reason: str) -> None:
        """One line in the log for each change of state, not for each attempt."""
        if reason and reason != self._reported:
            _log.error("{reason}; trying again until it is back", reason=reason)
        elif not reason:
            _log.info("connected to Redis at {place}", place=self._place)
        self._reported = reason
