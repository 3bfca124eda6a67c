"""The parts of the running program as Twisted services: each knows how it starts, and how it stops in good order.

Ports are bound in `privilegedStartService`, while the process may still be root and before any
client can be served; the rest begins in `startService`.  What fails there ends the program.
"""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet import tcp
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.backend import Backend
from twisted_lb.demo import DemoSite, demo_address, demo_endpoint
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.proxy.listening import ProxyFactory, stop_listening

# Begins to listen with a factory, as `listening.listen` makes once reactor and endpoint are known.
Opening = Callable[[Any], Coroutine[Any, Any, IListeningPort]]

_HINTS = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another port",
    errno.EACCES: "a port below 1024 needs root (twistd --uid gives root up afterwards), or choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}

_log = Logger()


class CannotStart(SystemExit, Exception):
    """Ends the program with this text and exit status 1, and without a traceback, as SystemExit does.

    It is an Exception too, so that twistd removes its pid file and a daemon tells its parent.
    """


class InOrder(MultiService):
    """Starts its parts in order, and stops each only when all after it have stopped."""

    def stopService(self) -> Deferred[None]:
        """Stop the parts, last to first.  One that fails to stop is logged and does not hold up the others."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop_parts())

    async def _stop_parts(self) -> None:
        for part in reversed(list(self)):
            try:
                await maybeDeferred(part.stopService)
            except Exception:
                _log.failure("{part} did not stop in good order", part=part)


class StoreService(Service):
    """A store: opened before the first request, and written to disk after the last."""

    def __init__(self, store: Any) -> None:
        """`store` has start() and stop(), each of which may return a Deferred.

        `started` fires with None once the store can be asked, or has found that it is away.
        """
        self.started: Deferred[None] = Deferred()
        self._store = store

    def startService(self) -> None:
        """Open the store.  Raises CannotStart; a Redis that is away is no reason, the store goes on looking for it."""
        super().startService()
        try:
            started = self._store.start()
        except StoreUnavailable as error:
            raise CannotStart(f"twisted_lb cannot start: {error}") from None
        maybeDeferred(lambda: started).addErrback(self._failed).addCallback(self._started)

    def _failed(self, failure: Failure) -> None:
        _log.failure("The store did not start", failure=failure)

    def _started(self, _: object) -> None:
        self.started.callback(None)

    def stopService(self) -> Any:
        """Close the store."""
        super().stopService()
        return self._store.stop()


class ListeningService(Service):
    """Listens with a factory on some endpoints."""

    def __init__(self, factory: Any, openings: dict[str, Opening]) -> None:
        """`factory` is a protocol factory; `openings` go by the words for the endpoint, which errors name."""
        self.factory = factory
        self.ports: list[IListeningPort] = []
        self._openings = openings

    def privilegedStartService(self) -> None:
        """Bind the ports.  Raises CannotStart."""
        super().privilegedStartService()
        for where, opening in self._openings.items():
            self.ports.append(bound(where, opening(self.factory)))

    def startService(self) -> None:
        """Listen.  Runners that know no privileges leave the binding out."""
        super().startService()
        if not self.ports:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        """Accept no more."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        ports, self.ports = self.ports, []
        for port in ports:
            await stop_listening(port)


class DemoServers(InOrder):
    """A demo server for each server of the fleet on a loopback address; follows the fleet as its observer."""

    def __init__(self, reactor: Any, backends: Iterable[Backend]) -> None:
        super().__init__()
        self._reactor = reactor
        self._sites: dict[Backend, ListeningService] = {}
        for backend in backends:
            self.backend_added(backend)

    def backend_added(self, backend: Backend) -> None:
        """Start one for it, if the program runs; a port that is taken is no reason to end then."""
        address = demo_address(backend.host)
        if address is None:
            return
        opening = partial(listen_plainly, self._reactor, demo_endpoint(address, backend.port))
        site = ListeningService(DemoSite(backend.name, self._reactor), {f"--demo {backend.name}": opening})
        self._sites[backend] = site
        try:
            self.addService(site)
        except CannotStart as error:
            _log.error("There is no demo server: {error}", error=error.code)

    def backend_removed(self, backend: Backend) -> None:
        """Take no more connections for it; those that are there go on."""
        site = self._sites.pop(backend, None)
        if site is not None:
            self.removeService(site)


class ProxyService(ListeningService):
    """Listens for clients; when it stops, exchanges have some time to finish.

    Clients that come before the store has started wait in the kernel's queue.
    """

    def __init__(
        self,
        factory: ProxyFactory,
        openings: dict[str, Opening],
        drain_seconds: float,
        store_started: Deferred[None],
    ) -> None:
        super().__init__(factory, openings)
        self._drain_seconds = drain_seconds
        self._store_started = store_started

    def privilegedStartService(self) -> None:
        """Bind the ports, and leave clients waiting.  Raises CannotStart."""
        super().privilegedStartService()
        for port in self._pausable_ports():
            port.stopReading()

    def startService(self) -> None:
        """Serve clients as soon as the store has started."""
        super().startService()
        self._store_started.addCallback(self._serve)

    def _serve(self, _: None) -> None:
        # What start-up made, 100,000 buckets perhaps, lives as long as the process: the garbage
        # collector need not walk it again and again while clients wait.
        gc.collect()
        gc.freeze()
        for port in self._pausable_ports():
            port.startReading()

    def _pausable_ports(self) -> list[tcp.Port]:
        return [port for port in self.ports if isinstance(port, tcp.Port)]

    async def _close(self) -> None:
        await super()._close()
        _log.info(
            "No more connections are accepted; exchanges have {seconds:g} s to finish", seconds=self._drain_seconds
        )
        await self.factory.drain(self._drain_seconds)
        _log.info("All exchanges are done")


async def listen_plainly(reactor: Any, endpoint: str, factory: Factory) -> IListeningPort:
    """Listen with Twisted's own transport, for what is not the data path.  Raises ValueError and CannotListenError."""
    port: IListeningPort = await serverFromString(reactor, endpoint).listen(factory)
    return port


def bound(where: str, listening: Coroutine[Any, Any, IListeningPort]) -> IListeningPort:
    """The port, which must be there at once: the reactor does not run yet.  Raises CannotStart."""
    ports: list[IListeningPort] = []
    failures: list[Failure] = []
    Deferred.fromCoroutine(listening).addCallbacks(ports.append, failures.append)
    if failures:
        raise CannotStart(f"twisted_lb cannot start: {where}: {_why_not_listening(failures[0].value)}")
    if not ports:
        raise CannotStart(f"twisted_lb cannot start: {where}: this kind of endpoint takes too long to open")
    return ports[0]


def _why_not_listening(error: BaseException | None) -> str:
    if not isinstance(error, CannotListenError):
        return f"cannot listen: {error}"
    number = getattr(error.socketError, "errno", None)
    reason = os.strerror(number) if number is not None else str(error.socketError)
    hint = _HINTS.get(number or 0)
    return f"cannot listen: {reason}" + (f" ({hint})" if hint else "")


def in_order(*parts: IService) -> InOrder:
    """The parts as one service."""
    together = InOrder()
    for part in parts:
        together.addService(part)
    return together
