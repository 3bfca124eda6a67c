"""Active health checks: sends a request to each server once per interval, and reports the results to Health.

Each check has a connection of its own, outside the connection pools and the limits of the traffic, so that a
server does not fail its check because it is busy, or because the balancer is.  A check passes when a
response head with an expected status arrives within the timeout, and its content ends or exceeds
MAX_CONTENT_BYTES.  A redirect is a response like any other and is not followed.

The response is read as the data path reads one (`wire.response`): a response that is refused there fails the check, and
one without an end fails it when it exceeds a limit.  A connection is read at most once in READ_SECONDS, so that a
server that sends its response in tiny pieces costs no more than others; at most MAX_CHECKS are under way at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.backend import Backend
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.config.pool import HealthCheck
from twisted_lb.health.tracker import Health
from twisted_lb.network.dialer import Dialer, Dialling, Unreachable
from twisted_lb.network.tls_client import SPEAKS_TLS, TlsClient, is_tls_alert, tls_text
from twisted_lb.steps import STEP, Steps, finish
from twisted_lb.wire.errors import ResponseError
from twisted_lb.wire.proxy_protocol import local_header
from twisted_lb.wire.response import ResponseReader

USER_AGENT = b"twisted_lb health check"
MAX_CONTENT_BYTES = 4096  # read of a response; the rest is ignored
JITTER = 0.1  # of the interval, to either side, so that several balancers do not check at the same moments
READ_SECONDS = 0.01  # between two reads of one response
MAX_CHECKS = 256  # at a time; each has an open file

_log = BoundedLog(Logger())


class ActiveChecks:
    """The checks of all servers."""

    def __init__(self, reactor: Any, health: Health, chance: Callable[[], float], dialer: Dialer) -> None:
        """`chance` gives numbers from 0 to below 1; `dialer` opens connections to servers."""
        self._reactor = reactor
        self._dialer = dialer
        self._health = health
        self._chance = chance
        self._checks: dict[Backend, _ActiveCheck] = {}
        self._places = _Places(MAX_CHECKS)
        self._running = False

    def start(self) -> None:
        """Start checking, each server for the first time at a random moment within its interval."""
        self._running = True
        for probe in self._checks.values():
            probe.start()

    def stop(self) -> Deferred[None]:
        """Stop checking.  Fires when no check is under way; the results of those that were are dropped."""
        self._running = False
        stopped = DeferredList([probe.stop() for probe in self._checks.values()])
        return stopped.addCallback(lambda _: None)

    def follow(self, backends: Iterable[Backend]) -> None:
        """From now on check these servers, as configured in Health.  Checks that have not changed go on."""
        finish(self.follow_in_steps(backends))

    def follow_in_steps(self, backends: Iterable[Backend]) -> Steps[None]:
        """The same in steps; the checks of servers that are no longer listed are stopped in the last ones."""
        before = dict(self._checks)
        for count, backend in enumerate(backends):
            if count % STEP == STEP - 1:
                yield
            check = self._health.check_of(backend)
            if check is None:
                continue
            probe = self._checks.get(backend)
            if probe is not None and probe.check == check:
                del before[backend]
                continue
            self._checks[backend] = probe = _ActiveCheck(
                self._reactor, self._health, self._chance, self._dialer, self._places, backend, check
            )
            if self._running:
                probe.start()
        for count, (backend, probe) in enumerate(before.items()):
            if count % STEP == STEP - 1:
                yield
            if self._checks.get(backend) is probe:
                del self._checks[backend]
            probe.stop()


class _Places:
    """A limit on concurrent checks; those above it begin in the order of their arrival."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, begin: Callable[[], None]) -> None:
        """Call `begin` now, or when there is room.  `leave` cancels the wait."""
        if self._free:
            self._free -= 1
            begin()
        else:
            self._waiting.append(begin)

    def leave(self, begin: Callable[[], None]) -> None:
        """Cancel the wait."""
        if begin in self._waiting:
            self._waiting.remove(begin)

    def refund(self) -> None:
        """A check is over."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class _ActiveCheck:
    """The checks of one server, one at a time; with TLS they resume sessions of their own."""

    def __init__(
        self,
        reactor: Any,
        health: Health,
        chance: Callable[[], float],
        dialer: Dialer,
        places: _Places,
        backend: Backend,
        check: HealthCheck,
    ) -> None:
        self.check = check
        self._reactor = reactor
        self._health = health
        self._chance = chance
        self._dialer = dialer
        self._places = places
        self._backend = backend
        self._stopped = True
        self._began = 0.0
        self._late = False
        self._unasked = False  # this machine could not send the check
        self._next: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None
        self._asking: Deferred[str | None] | None = None
        self._tls: TlsClient | None = None

    def start(self) -> None:
        self._stopped = False
        self._next = self._reactor.callLater(self.check.interval * self._chance(), self._due)

    def stop(self) -> Deferred[None]:
        """Fires when no check is under way."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._places.leave(self._ask)
        done: Deferred[None] = Deferred()
        if self._asking is None:
            done.callback(None)
        else:
            self._asking.addCallback(lambda _: done.callback(None))
            self._asking.cancel()
        return done

    def _due(self) -> None:
        self._next = None
        self._places.take(self._ask)

    def _ask(self) -> None:
        self._late = self._unasked = False
        self._began = self._reactor.seconds()
        self._timer = self._reactor.callLater(self.check.timeout, self._time_is_up)
        self._asking = asking = Deferred.fromCoroutine(self._fault())
        asking.addErrback(self._fault_of).addCallback(self._asked)
        asking.addErrback(self._broke)

    def _broke(self, failure: Failure) -> None:
        _log.failure("check", "The check of {server} broke", failure, server=self._backend.name)

    def _time_is_up(self) -> None:
        # If the event loop itself was late, the response may be waiting in the kernel: allow one iteration to read it.
        self._timer = self._reactor.callLater(0, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        self._late = True
        if self._asking is not None:
            self._asking.cancel()

    async def _fault(self) -> str | None:
        """Send the check; what is wrong with the response, or None."""
        # Each check opens a connection: a kept one would hide that a server has stopped accepting them.
        tls = self._tls_client()
        question = _Question(self._reactor, self._backend, self.check, tls)
        await _Connecting(self._dialer, self._backend, self.check.timeout, question, tls).connected
        return await question.fault

    def _tls_client(self) -> TlsClient | None:
        settings = self._backend.tls
        if settings is None:
            self._tls = None
        elif self._tls is None or self._tls.settings != settings:
            self._tls = self._dialer.contexts.client(settings)
        return self._tls

    def _fault_of(self, failure: Failure) -> str | None:
        if self._late:
            return f"no whole answer in {self.check.timeout:g} s"
        error = failure.value
        if not isinstance(error, Unreachable):
            return f"it could not be asked: {type(error).__name__}"
        self._unasked = bool(error.shortage)
        return error.detail

    def _asked(self, fault: str | None) -> None:
        self._asking = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._places.refund()
        if self._stopped:
            return
        now = self._reactor.seconds()
        pause = self.check.interval * (1 - JITTER + 2 * JITTER * self._chance())
        self._next = self._reactor.callLater(max(self._began + pause - now, 0), self._due)
        if self._unasked:
            # That is not evidence about the server.
            return
        if fault is None:
            self._health.probe_passed(self._backend, now)
        else:
            self._health.probe_failed(self._backend, now, fault)


class _Connecting:
    """Waits for the connection of a check.  See Taker."""

    def __init__(
        self, dialer: Dialer, backend: Backend, timeout: float, question: _Question, tls: TlsClient | None
    ) -> None:
        """`connected` fires when `question` has its connection, or with Unreachable; it can be cancelled."""
        self.connected: Deferred[None] = Deferred(lambda _: self._cancel())
        self._question = question
        self._dialling: Dialling | None = None
        self._dialling = dialer.open(backend.host, backend.port, timeout, self, tls, _preface(backend))

    def _cancel(self) -> None:
        if self._dialling is not None:
            self._dialling.cancel()

    def build_protocol(self, address: str) -> Protocol:
        self._question.opened = self.connected
        return self._question

    def connect_failed(self, reason: Unreachable) -> None:
        self.connected.errback(Failure(reason))


def _preface(backend: Backend) -> bytes:
    """The header of the PROXY protocol for a check, which is not on behalf of a client."""
    return local_header(backend.send_proxy) if backend.send_proxy else b""


class _Question(Protocol):
    """The connection of one check: sends the request, and reads as much of the response as decides the check."""

    transport: Any
    opened: Deferred[None] | None = None  # fires when it is connected

    def __init__(self, reactor: Any, backend: Backend, check: HealthCheck, tls: TlsClient | None) -> None:
        """`fault` fires once, with what is wrong with the response, or None."""
        self.fault: Deferred[str | None] = Deferred(lambda _: self._end())
        self._reactor = reactor
        self._backend = backend
        self._check = check
        self._tls = tls
        self._answer = ResponseReader(b"GET", MAX_CONTENT_BYTES)
        self._pause: IDelayedCall | None = None

    def connectionMade(self) -> None:
        lines = [
            b"GET %b HTTP/1.1" % self._check.path.encode(),
            b"Host: %b" % self._backend.authority,
            b"User-Agent: %b" % USER_AGENT,
            b"Accept: */*",
            b"Connection: close",
        ]
        if self._backend.send_proxy and self._tls is None:
            self.transport.write(_preface(self._backend))
        self.transport.write(b"\r\n".join([*lines, b"", b""]))
        if self.opened is not None:
            self.opened.callback(None)

    def dataReceived(self, data: bytes) -> None:
        if self.fault.called:
            return
        answer, check = self._answer, self._check
        try:
            answer.feed(data)
        except ResponseError as error:
            why = SPEAKS_TLS if is_tls_alert(data) else error.detail.removesuffix(".")
            self._say(f"its answer cannot be used: {why}")
            return
        if answer.status and not check.expects(answer.status):
            self._say(f"status {answer.status}, expected {check.statuses}")
        elif answer.done:
            self._say(None)
        else:
            self.transport.pauseProducing()
            self._pause = self._reactor.callLater(READ_SECONDS, self._read_on)

    def _read_on(self) -> None:
        self._pause = None
        self.transport.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.fault.called:
            return
        whole = reason.check(ConnectionDone) is not None and self._answer.connection_ended()
        why = tls_text(reason.value)
        text = "it closed the connection without a whole answer"
        self._say(None if whole else f"{text}: {why}" if why else text)

    def _say(self, fault: str | None) -> None:
        if self._tls is not None:
            self._tls.keep_session(self.transport.tls)
        self._end(ordered=fault is None)
        self.fault.callback(fault)

    def _end(self, ordered: bool = False) -> None:
        """Stop reading.  After a passed check the connection is not reset: many servers log resets."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if ordered:
            self.transport.loseConnection()
        else:
            self.transport.abortConnection()
