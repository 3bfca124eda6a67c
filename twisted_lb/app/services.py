"""The parts of the running program as Twisted services, with an orderly start and stop.

Ports are bound in `privilegedStartService`, while the process may still be root and before any
client can be served; everything else starts in `startService`.  A failure in either ends the program.
"""

from __future__ import annotations

import errno
import gc
import os
import ssl
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from twisted.application.service import IService, MultiService, Service
from twisted.internet import tcp
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.app.demo import DemoSite, demo_address, demo_endpoint
from twisted_lb.backend import Backend
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.network.listener import listen, stop_listening
from twisted_lb.network.unix_socket import PathNotUsable
from twisted_lb.proxy.factory import ProxyFactory

# Listens with a factory: `listener.listen` with reactor and endpoint applied.
Opening = Callable[[Any], Coroutine[Any, Any, IListeningPort]]

_HINTS = {
    errno.EADDRINUSE: "the address is in use by another program; stop it, or choose another address",
    errno.EACCES: "a port below 1024 needs root (twistd --uid gives root up afterwards), or choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}

_log = Logger()


class CannotStart(SystemExit, Exception):
    """Ends the program with this message and exit status 1, without a traceback, like SystemExit.

    It is an Exception too, so that twistd removes its pid file, and a daemon reports the failure to its parent.
    """

    def __init__(self, why: str, lines: bool = False) -> None:
        """`lines`: there may be several reasons, with a line each."""
        separator = "\n" if lines else " "
        super().__init__(f"twisted_lb cannot start:{separator}{why}")


class OrderedServices(MultiService):
    """Starts its parts in order, and stops each only when all later ones have stopped."""

    def stopService(self) -> Deferred[None]:
        """Stop the parts, last to first.  One that fails to stop is logged, and the others are still stopped."""
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop_parts())

    async def _stop_parts(self) -> None:
        for part in reversed(list(self)):
            try:
                await maybeDeferred(part.stopService)
            except Exception:
                _log.failure("{part} did not stop cleanly", part=part)


class StoreService(Service):
    """A store: opened before the first request, and written to disk after the last."""

    def __init__(self, store: Any) -> None:
        """`store` has start() and stop(), each of which may return a Deferred.

        `started` fires with None when the store is ready, or was found to be unavailable.
        """
        self.started: Deferred[None] = Deferred()
        self._store = store

    def startService(self) -> None:
        """Open the store.  Raises CannotStart, but not for an unavailable Redis: the store keeps trying to connect."""
        super().startService()
        try:
            started = self._store.start()
        except StoreUnavailable as error:
            raise CannotStart(str(error)) from None
        maybeDeferred(lambda: started).addErrback(self._failed).addCallback(self._started)

    def _failed(self, failure: Failure) -> None:
        _log.failure("The store did not start", failure=failure, store=type(self._store).__name__)

    def _started(self, _: object) -> None:
        self.started.callback(None)

    def stopService(self) -> Any:
        """Close the store."""
        super().stopService()
        return self._store.stop()


class ListeningService(Service):
    """Listens with a factory on some endpoints."""

    def __init__(self, factory: Any, openings: dict[str, Opening]) -> None:
        """`factory` is a protocol factory; the keys of `openings` name the endpoints in error messages."""
        self.factory = factory
        self.ports: list[IListeningPort] = []
        self._openings = openings

    def privilegedStartService(self) -> None:
        """Bind the ports.  Raises CannotStart."""
        super().privilegedStartService()
        for where, opening in self._openings.items():
            self.ports.append(bound(where, opening(self.factory)))

    def startService(self) -> None:
        """Listen.  Runners without privileges do not call `privilegedStartService`."""
        super().startService()
        if not self.ports:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        """Stop accepting connections."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        ports, self.ports = self.ports, []
        for port in ports:
            try:
                await stop_listening(port)
            except Exception:
                # The other ports are still closed, and exchanges complete.
                _log.failure("{port} was not closed cleanly", port=port)


class DemoServers(OrderedServices):
    """A demo server for each http:// server on a loopback address; an observer of the pools."""

    def __init__(self, reactor: Any, backends: Iterable[Backend]) -> None:
        super().__init__()
        self._reactor = reactor
        self._sites: dict[str, ListeningService] = {}  # by their endpoints
        self._served: dict[str, set[Backend]] = {}  # by endpoint: servers of several pools may have the same address
        for backend in backends:
            self.backend_added(backend)

    def backend_added(self, backend: Backend) -> None:
        """Start one for it.  While the program runs, a port in use is logged and does not end the program."""
        address = demo_address(backend.host)
        if address is None or backend.tls is not None:
            # Demo servers have no certificate.
            return
        endpoint = demo_endpoint(address, backend.port)
        served = self._served.setdefault(endpoint, set())
        served.add(backend)
        if endpoint in self._sites:
            return
        opening = partial(listen, self._reactor, endpoint, ())
        where = f"--demo {backend.name} on {address} port {backend.port}"
        site = ListeningService(DemoSite(backend.name, self._reactor), {where: opening})
        self._sites[endpoint] = site
        try:
            self.addService(site)
        except CannotStart as error:
            _log.error("Cannot start a demo server: {error}", error=error.code, server=backend.name)

    def backend_removed(self, backend: Backend) -> None:
        """Accept no more connections for it; existing ones stay open."""
        for endpoint, served in self._served.items():
            if backend in served:
                served.remove(backend)
                if not served:
                    del self._served[endpoint]
                    self.removeService(self._sites.pop(endpoint))
                return

    def tls_changed(self, backend: Backend) -> None:
        """The server has changed from http:// to https://, or back."""
        if backend.tls is not None:
            self.backend_removed(backend)
        else:
            self.backend_added(backend)


class ProxyService(ListeningService):
    """Listens for clients; when it stops, exchanges have some time to complete.

    Clients that connect before the store has started wait in the kernel's queue.
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
        """Bind the ports without accepting connections yet.  Raises CannotStart."""
        super().privilegedStartService()
        for port in self._pausable_ports():
            port.stopReading()

    def startService(self) -> None:
        """Serve clients when the store has started."""
        super().startService()
        self._store_started.addCallback(self._serve)

    def _serve(self, _: None) -> None:
        # The objects created by start-up, possibly 100,000 buckets, live as long as the process: the garbage
        # collector need not traverse them again and again while clients wait.
        gc.collect()
        gc.freeze()
        for port in self._pausable_ports():
            port.startReading()

    def _pausable_ports(self) -> list[tcp.Port]:
        return [port for port in self.ports if isinstance(port, tcp.Port)]

    async def _close(self) -> None:
        await super()._close()
        _log.info(
            "No more connections are accepted; requests in flight have {seconds:g} s to finish",
            seconds=self._drain_seconds,
        )
        cut = await self.factory.drain(self._drain_seconds)
        if cut:
            _log.info("{cut} connections were cut, as their requests had not finished in time", cut=cut)
        else:
            _log.info("All requests have finished")


def secured(opening: Opening, context: Callable[[], ssl.SSLContext]) -> Opening:
    """Listens for connections with TLS, which belong to the same ProxyFactory after their handshake.

    `context` returns the context for a new handshake.
    """

    def listen_secured(factory: ProxyFactory) -> Coroutine[Any, Any, IListeningPort]:
        return opening(factory.secured(context))

    return listen_secured


def bound(where: str, listening: Coroutine[Any, Any, IListeningPort]) -> IListeningPort:
    """The port, which must be available immediately: the reactor does not run yet.  Raises CannotStart."""
    ports: list[IListeningPort] = []
    failures: list[Failure] = []
    Deferred.fromCoroutine(listening).addCallbacks(ports.append, failures.append)
    if failures:
        raise CannotStart(f"{where}: {_why_not_listening(failures[0].value)}")
    if not ports:
        raise CannotStart(f"{where}: this kind of endpoint takes too long to open")
    return ports[0]


def _why_not_listening(error: BaseException | None) -> str:
    if isinstance(error, PathNotUsable):
        return str(error)
    if not isinstance(error, CannotListenError):
        return f"cannot listen: {error}"
    number = getattr(error.socketError, "errno", None)
    reason = os.strerror(number) if number is not None else str(error.socketError)
    hint = _HINTS.get(number or 0)
    return f"cannot listen: {reason}" + (f" ({hint})" if hint else "")


def ordered(*parts: IService) -> OrderedServices:
    """The parts as one service."""
    together = OrderedServices()
    for part in parts:
        together.addService(part)
    return together
