"""Active health checks: asks each server in its interval, and tells Health what came of it.

Each check has a connection of its own, outside the pools and the limits of the traffic, so that a
server is not called ill because it is busy, or because the balancer is.  A check passes when a
response head of an expected status comes, and its content ends, or is longer than anybody needs,
within the timeout.  A redirect is a response like any other and is not followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from treq.client import HTTPClient
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectionClosed,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    UnknownHostError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from twisted_lb.backend import Backend
from twisted_lb.fleet_spec import HealthCheck
from twisted_lb.health.fleet import Health

USER_AGENT = b"twisted_lb health check"
MAX_CONTENT_BYTES = 4096  # read of a response; what comes after it does not matter
JITTER = 0.1  # of the interval, to either side, so that several balancers do not ask in step

_log = Logger()

# The first that fits.
_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (NoRouteError, "no route to it"),
    (DNSLookupError, "its name has no address"),
    (UnknownHostError, "its name has no address"),
    (ConnectTimeout, "no connection in time"),
    (ConnectError, "no connection"),
    (ConnectionClosed, "it closed the connection without a whole answer"),
)


class Probes:
    """The checks of all servers."""

    def __init__(self, reactor: Any, health: Health, chance: Callable[[], float]) -> None:
        """`chance` gives numbers from 0 to below 1."""
        self._reactor = reactor
        self._health = health
        self._chance = chance
        self._probes: dict[Backend, _Probe] = {}
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
                probe = _Probe(self._reactor, self._health, self._chance, backend, check)
                if self._running:
                    probe.start()
            self._probes[backend] = probe
        for probe in before.values():
            probe.stop()


class _Probe:
    """Asks one server, one check at a time."""

    def __init__(
        self, reactor: Any, health: Health, chance: Callable[[], float], backend: Backend, check: HealthCheck
    ) -> None:
        self.check = check
        self._reactor = reactor
        self._health = health
        self._chance = chance
        self._backend = backend
        # Kept-alive connections would hide that a server accepts no more.
        pool = HTTPConnectionPool(reactor, persistent=False)
        self._agent = Agent.usingEndpointFactory(reactor, _Way(reactor, backend), pool)
        self._stopped = True
        self._began = 0.0
        self._late = False
        self._next: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None
        self._asking: Deferred[str | None] | None = None

    def start(self) -> None:
        self._stopped = False
        self._next = self._reactor.callLater(self.check.interval * self._chance(), self._ask)

    def stop(self) -> Deferred[None]:
        """Fires when no check is under way."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        done: Deferred[None] = Deferred()
        if self._asking is None:
            done.callback(None)
        else:
            self._asking.addCallback(lambda _: done.callback(None))
            self._asking.cancel()
        return done

    def _ask(self) -> None:
        self._next = None
        self._late = False
        self._began = self._reactor.seconds()
        self._timer = self._reactor.callLater(self.check.timeout, self._time_is_up)
        self._asking = asking = Deferred.fromCoroutine(self._fault())
        asking.addErrback(self._fault_of).addCallback(self._asked)
        asking.addErrback(lambda failure: _log.failure("The check of {name} broke", failure, name=self._backend.name))

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
        fields = Headers({b"Host": [self._backend.authority], b"User-Agent": [USER_AGENT]})
        # A new client each time: it would keep cookies.  It knows no IPv6 address in a URL, so the way
        # to the server does not come from there.
        ask = partial(HTTPClient(self._agent).get, allow_redirects=False, unbuffered=True, reactor=self._reactor)
        response = await ask(f"http://server{self.check.path}", headers=fields)
        expected = self.check.expects(response.code)
        # Content that nobody takes would hold the connection for ever.
        content = _Content(MAX_CONTENT_BYTES)
        response.deliverBody(content)
        if not expected:
            content.enough()
            return f"status {response.code}, expected {self.check.statuses}"
        await content.taken
        return None

    def _fault_of(self, failure: Failure) -> str:
        if self._late:
            return f"no whole answer in {self.check.timeout:g} s"
        error = failure.value
        if isinstance(error, ResponseFailed) and error.reasons:
            error = error.reasons[0].value
        for kind, words in _WORDS:
            if isinstance(error, kind):
                return words
        return f"its answer cannot be used: {type(error).__name__}"

    def _asked(self, fault: str | None) -> None:
        self._asking = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stopped:
            return
        now = self._reactor.seconds()
        pause = self.check.interval * (1 - JITTER + 2 * JITTER * self._chance())
        self._next = self._reactor.callLater(max(self._began + pause - now, 0), self._ask)
        if fault is None:
            self._health.probe_passed(self._backend, now)
        else:
            self._health.probe_failed(self._backend, now, fault)


class _Content(Protocol):
    """Takes the content of a response, up to a limit."""

    transport: Any

    def __init__(self, limit: int) -> None:
        """`taken` fires when there is no more, or more than `limit` bytes; fails when it ends early."""
        self.taken: Deferred[None] = Deferred(lambda _: self.transport.loseConnection())
        self._left = limit

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left <= 0:
            self.enough()

    def enough(self) -> None:
        """Take no more."""
        self.transport.loseConnection()
        if not self.taken.called:
            self.taken.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.taken.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.taken.callback(None)
        else:
            self.taken.errback(reason)


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Way:
    """The way to one server, whatever the URL says.

    Twisted's HostnameEndpoint refuses names with '_', which are usual among containers.
    """

    def __init__(self, reactor: Any, backend: Backend) -> None:
        self._reactor = reactor
        self._backend = backend

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        """This one."""
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the first of the addresses that can be reached."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
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
