"""Active health checks: asks each server in its interval, and tells Health what came of it.

Each check has a connection of its own, outside the pools and the limits of the traffic, so that a
server is not called ill because it is busy, or because the balancer is.  A check passes when a
response head of an expected status comes, and its content ends, or is longer than anybody needs,
within the timeout.  A redirect is a response like any other and is not followed.

The answer is read as the data path reads one (`wire.response`): what that would refuse fails the check, and what
has no end fails it when a bound is passed.  A connection is read at most once in READ_SECONDS, so that a server that
sends its answer in tiny pieces costs no more than another; and at most MAX_CHECKS are under way at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    UnknownHostError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IAddress, IDelayedCall, IHostResolution, IProtocol, IResolutionReceiver
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.fleet_spec import HealthCheck
from twisted_lb.health.fleet import Health
from twisted_lb.wire.errors import ResponseError
from twisted_lb.wire.response import ResponseReader

USER_AGENT = b"twisted_lb health check"
MAX_CONTENT_BYTES = 4096  # read of a response; what comes after it does not matter
JITTER = 0.1  # of the interval, to either side, so that several balancers do not ask in step
READ_SECONDS = 0.01  # between two reads of one answer
MAX_CHECKS = 256  # at a time; each has an open file

_log = BoundedLog(Logger())

# The first that fits.
_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (NoRouteError, "no route to it"),
    (DNSLookupError, "its name has no address"),
    (UnknownHostError, "its name has no address"),
    (ConnectTimeout, "no connection in time"),
    (ConnectError, "no connection"),
)


class Probes:
    """The checks of all servers."""

    def __init__(self, reactor: Any, health: Health, chance: Callable[[], float]) -> None:
        """`chance` gives numbers from 0 to below 1."""
        self._reactor = reactor
        self._health = health
        self._chance = chance
        self._probes: dict[Backend, _Probe] = {}
        self._places = _Places(MAX_CHECKS)
        self._running = False

    def start(self) -> None:
        """Begin to ask, each server for the first time at a random moment of its interval."""
        self._running = True
        for probe in self._probes.values():
            probe.start()

    def stop(self) -> Deferred[None]:
        """Ask no more.  Fires when no check is under way; their results are not told."""
        self._running = False
        stopped = DeferredList([probe.stop() for probe in self._probes.values()])
        return stopped.addCallback(lambda _: None)

    def follow(self, backends: Iterable[Backend]) -> None:
        """From now on ask these, as Health has their checks.  What has not changed goes on undisturbed."""
        before, self._probes = self._probes, {}
        for backend in backends:
            check = self._health.check_of(backend)
            if check is None:
                continue
            probe = before.get(backend)
            if probe is not None and probe.check == check:
                del before[backend]
            else:
                probe = _Probe(self._reactor, self._health, self._chance, self._places, backend, check)
                if self._running:
                    probe.start()
            self._probes[backend] = probe
        for probe in before.values():
            probe.stop()


class _Places:
    """Room for so many checks at a time; those for whom there is none begin in the order in which they came."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, begin: Callable[[], None]) -> None:
        """Call `begin` now, or when there is room; it is given up with `leave` when it never will be."""
        if self._free:
            self._free -= 1
            begin()
        else:
            self._waiting.append(begin)

    def leave(self, begin: Callable[[], None]) -> None:
        """Give up waiting."""
        if begin in self._waiting:
            self._waiting.remove(begin)

    def give_back(self) -> None:
        """A check is over."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._free += 1


class _Probe:
    """Asks one server, one check at a time."""

    def __init__(
        self,
        reactor: Any,
        health: Health,
        chance: Callable[[], float],
        places: _Places,
        backend: Backend,
        check: HealthCheck,
    ) -> None:
        self.check = check
        self._reactor = reactor
        self._health = health
        self._chance = chance
        self._places = places
        self._backend = backend
        self._stopped = True
        self._began = 0.0
        self._late = False
        self._next: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None
        self._asking: Deferred[str | None] | None = None

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
        self._late = False
        self._began = self._reactor.seconds()
        self._timer = self._reactor.callLater(self.check.timeout, self._time_is_up)
        self._asking = asking = Deferred.fromCoroutine(self._fault())
        asking.addErrback(self._fault_of).addCallback(self._asked)
        asking.addErrback(self._broke)

    def _broke(self, failure: Failure) -> None:
        _log.failure("check", "The check of {name} broke", failure, name=self._backend.name)

    def _time_is_up(self) -> None:
        # When the loop itself was late, the answer may be waiting in the kernel: one turn to read it.
        self._timer = self._reactor.callLater(0, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        self._late = True
        if self._asking is not None:
            self._asking.cancel()

    async def _fault(self) -> str | None:
        """Ask; what is wrong with the answer, or None."""
        # One at a time, each with a connection: a kept one would hide that a server accepts no more.
        question = _Question(self._reactor, self._backend, self.check)
        factory: Factory = Factory.forProtocol(lambda: question)
        factory.noisy = False
        await self._connect(factory)
        return await question.fault

    def _fault_of(self, failure: Failure) -> str:
        if self._late:
            return f"no whole answer in {self.check.timeout:g} s"
        for kind, words in _WORDS:
            if isinstance(failure.value, kind):
                return words
        return f"it could not be asked: {type(failure.value).__name__}"

    def _asked(self, fault: str | None) -> None:
        self._asking = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._places.give_back()
        if self._stopped:
            return
        now = self._reactor.seconds()
        pause = self.check.interval * (1 - JITTER + 2 * JITTER * self._chance())
        self._next = self._reactor.callLater(max(self._began + pause - now, 0), self._due)
        if fault is None:
            self._health.probe_passed(self._backend, now)
        else:
            self._health.probe_failed(self._backend, now, fault)

    async def _connect(self, factory: Factory) -> IProtocol:
        """Connect to the first of the addresses that can be reached.

        Twisted's HostnameEndpoint refuses names with '_', which are usual among containers.
        """
        host = self._backend.host
        addresses = [host] if isIPAddress(host) or isIPv6Address(host) else await self._resolved(host)
        error: ConnectError | DNSLookupError = DNSLookupError(host)
        for address in addresses:
            kind = TCP6ClientEndpoint if isIPv6Address(address) else TCP4ClientEndpoint
            try:
                return await kind(self._reactor, address, self._backend.port).connect(factory)
            except ConnectError as refusal:
                error = refusal
        raise error

    def _resolved(self, host: str) -> Deferred[list[str]]:
        receiver = _Addresses()
        self._reactor.nameResolver.resolveHostName(receiver, host, self._backend.port)
        return receiver.complete


class _Question(Protocol):
    """The connection of one check: asks, and reads as much of the answer as says whether the server is well."""

    transport: Any

    def __init__(self, reactor: Any, backend: Backend, check: HealthCheck) -> None:
        """`fault` fires once, with what is wrong with the answer, or None."""
        self.fault: Deferred[str | None] = Deferred(lambda _: self._end())
        self._reactor = reactor
        self._backend = backend
        self._check = check
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
        self.transport.write(b"\r\n".join([*lines, b"", b""]))

    def dataReceived(self, data: bytes) -> None:
        if self.fault.called:
            return
        answer, check = self._answer, self._check
        try:
            answer.feed(data)
        except ResponseError as error:
            self._say(f"its answer cannot be used: {error.detail.removesuffix('.')}")
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
        self._say(None if whole else "it closed the connection without a whole answer")

    def _say(self, fault: str | None) -> None:
        self._end(in_order=fault is None)
        self.fault.callback(fault)

    def _end(self, in_order: bool = False) -> None:
        """Read no more; a reset would be a line in the log of many a server that is well."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if in_order:
            self.transport.loseConnection()
        else:
            self.transport.abortConnection()


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects the addresses of a name."""

    def __init__(self) -> None:
        self.complete: Deferred[list[str]] = Deferred()
        self._found: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """What comes is enough."""

    def addressResolved(self, address: IAddress) -> None:
        """One of them; the same one may come for several kinds of socket."""
        if isinstance(address, IPv4Address | IPv6Address) and address.host not in self._found:
            self._found.append(address.host)

    def resolutionComplete(self) -> None:
        """There are no more."""
        self.complete.callback(self._found)
