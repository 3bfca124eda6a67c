"""The services of the program: order, binding, draining."""

from __future__ import annotations

import errno
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet import tcp
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from twisted_lb.app.services import (
    CannotStart,
    DemoServers,
    ListeningService,
    ProxyService,
    StoreService,
    ordered,
)
from twisted_lb.backend import Backend
from twisted_lb.config.pool import ServerTls
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.network.listener import listen


class Part(Service):
    """Notes what is asked of it, and stops when it is told to."""

    def __init__(self, name: str, said: list[str], stopping: Any = None) -> None:
        self.part = name
        self.said = said
        self.stopping = stopping

    def startService(self) -> None:
        self.said.append(f"start {self.part}")

    def stopService(self) -> Any:
        self.said.append(f"stop {self.part}")
        return self.stopping


class InOrderTests(SynchronousTestCase):
    def test_stops_backwards_and_waits(self) -> None:
        """The parts start in order; each stops only when the one after it has."""
        said: list[str] = []
        stopping: Deferred[None] = Deferred()
        service = ordered(Part("store", said), Part("admin", said), Part("proxy", said, stopping))
        service.startService()
        stopped = service.stopService()
        self.assertEqual(said, ["start store", "start admin", "start proxy", "stop proxy"])
        self.assertNoResult(stopped)
        stopping.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(said[3:], ["stop proxy", "stop admin", "stop store"])

    def test_failure_does_not_hold_up_the_others(self) -> None:
        """A part that does not stop in good order is logged, and the others are stopped."""
        said: list[str] = []
        service = ordered(Part("store", said), Part("proxy", said, fail(ValueError("no"))))
        service.startService()
        self.successResultOf(service.stopService())
        self.assertEqual(said[-1], "stop store")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class FakeStore:
    def __init__(self, started: Any = None) -> None:
        self.started = started
        self.stopped = 0

    def start(self) -> Any:
        if isinstance(self.started, Exception):
            raise self.started
        return self.started

    def stop(self) -> Deferred[None]:
        self.stopped += 1
        return succeed(None)


class StoreServiceTests(SynchronousTestCase):
    def test_unavailable(self) -> None:
        """A store that cannot be opened ends the program with the store's own words."""
        service = StoreService(FakeStore(StoreUnavailable("DATA_DIR is full")))
        error = self.assertRaises(CannotStart, service.startService)
        self.assertIn("DATA_DIR is full", str(error.code))

    def test_slow_start(self) -> None:
        """A store that starts later does not hold up the start, nor does its failure end it."""
        starting: Deferred[None] = Deferred()
        service = StoreService(FakeStore(starting))
        service.startService()
        self.assertNoResult(service.started)
        starting.errback(ValueError("later"))
        self.successResultOf(service.started)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_stop(self) -> None:
        """Stopping the service stops the store and waits for it."""
        store = FakeStore()
        service = StoreService(store)
        service.startService()
        self.successResultOf(service.stopService())
        self.assertEqual(store.stopped, 1)


@implementer(IListeningPort)
class FakePort:
    def __init__(self, said: list[str]) -> None:
        self.said = said

    def startListening(self) -> None:
        raise NotImplementedError

    def getHost(self) -> Any:
        raise NotImplementedError

    def stopListening(self) -> Deferred[None]:
        self.said.append("port closed")
        return succeed(None)


class ListeningServiceTests(SynchronousTestCase):
    def test_binds_once(self) -> None:
        """The ports are bound in the privileged start, and where a runner leaves that out in the start."""
        for starts in (["privilegedStartService", "startService"], ["startService"]):
            reactor = MemoryReactorClock()
            service = ListeningService(Factory(), {"A": partial(listen, reactor, "tcp:8080", ())})
            for start in starts:
                getattr(service, start)()
            self.assertEqual([server[0] for server in reactor.tcpServers], [8080])
            self.assertEqual(len(service.ports), 1)

    def refusal(self, error: Exception | None) -> str:
        async def opening(factory: Factory) -> IListeningPort:
            if error is None:
                await Deferred()
            raise error or AssertionError

        service = ListeningService(Factory(), {"LISTEN tcp:80": opening})
        return str(self.assertRaises(CannotStart, service.privilegedStartService).code)

    def test_cannot_listen(self) -> None:
        """A port that cannot be bound is told in one line with the endpoint, the reason and what to do."""
        cases: list[tuple[Exception | None, str]] = [
            (
                CannotListenError("", 80, OSError(errno.EADDRINUSE, "x")),
                "cannot listen: Address already in use (the address is in use by another program; stop it,",
            ),
            (CannotListenError("", 80, OSError(errno.EACCES, "x")), "cannot listen: Permission denied (a port below"),
            (CannotListenError("", 80, OSError(errno.ENOBUFS, "x")), "cannot listen: No buffer space available"),
            (ValueError("no such thing"), "cannot listen: no such thing"),
            (None, "this kind of endpoint takes too long to open"),
        ]
        for error, expected in cases:
            text = self.refusal(error)
            self.assertTrue(text.startswith(f"twisted_lb cannot start: LISTEN tcp:80: {expected}"), text)
            self.assertEqual(len(text.splitlines()), 1)


class DemoServersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.near = Backend("near", "127.0.0.1", 9001)
        self.demo = DemoServers(self.reactor, [self.near, Backend("far", "10.0.0.1", 80)])
        self.demo.privilegedStartService()
        self.demo.startService()

    def listening(self) -> list[int]:
        return [int(server[0]) for server in self.reactor.tcpServers]

    def test_follows_the_pool(self) -> None:
        """Each loopback server has one, also one that comes later; one that goes is closed."""
        self.assertEqual(self.listening(), [9001])
        self.demo.backend_added(Backend("new", "localhost", 9002))
        self.assertEqual(self.listening(), [9001, 9002])
        closed: list[int] = []
        (port,) = next(iter(self.demo)).ports
        self.patch(port, "stopListening", lambda: closed.append(port.getHost().port))
        self.demo.backend_removed(self.near)
        self.assertEqual(closed, [9001])
        self.demo.backend_removed(Backend("far", "10.0.0.1", 80))

    def test_not_with_tls(self) -> None:
        """A server behind an https:// URL has none: it needs a certificate."""
        self.demo.backend_added(Backend("new", "localhost", 9002, tls=ServerTls("localhost")))
        self.assertEqual(self.listening(), [9001])
        other = Backend("other", "localhost", 9003)
        self.demo.backend_added(other)
        self.assertEqual(len(list(self.demo)), 2)
        other.tls = ServerTls("localhost")
        self.demo.tls_changed(other)
        self.assertEqual(len(list(self.demo)), 1)
        other.tls = None
        self.demo.tls_changed(other)
        self.assertEqual(len(list(self.demo)), 2)

    def test_port_that_is_taken(self) -> None:
        """While the program runs, a port that is taken is logged with its number, and ends nothing."""

        def refuse(*arguments: object, **more: object) -> None:
            raise CannotListenError("", 9002, OSError(errno.EADDRINUSE, "x"))

        self.patch(self.reactor, "listenTCP", refuse)
        lines: list[str] = []

        def note(event: Any) -> None:
            lines.append(str(event.get("error", "")))

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        self.demo.backend_added(Backend("new", "127.0.0.1", 9002))
        self.assertEqual(self.listening(), [9001])
        self.assertIn("--demo new on 127.0.0.1 port 9002: cannot listen: Address already in use", "".join(lines))


class FakeProxyFactory(Factory):
    def __init__(self, said: list[str]) -> None:
        self.said = said
        self.drained: Deferred[None] = Deferred()

    def drain(self, seconds: float) -> Deferred[None]:
        self.said.append(f"drain {seconds}")
        return self.drained


class ProxyServiceTests(SynchronousTestCase):
    def test_stops_accepting_then_drains(self) -> None:
        """The ports are closed first; then the exchanges have their time; then the service has stopped."""
        said: list[str] = []

        async def opening(factory: Factory) -> IListeningPort:
            return FakePort(said)

        factory: Any = FakeProxyFactory(said)
        service = ProxyService(factory, {"A": opening, "B": opening}, 30.0, succeed(None))
        service.privilegedStartService()
        service.startService()
        stopped = service.stopService()
        self.assertFalse(service.running)
        self.assertEqual(said, ["port closed", "port closed", "drain 30.0"])
        self.assertNoResult(stopped)
        factory.drained.callback(None)
        self.successResultOf(stopped)


    def test_clients_wait_for_the_store(self) -> None:
        """Nothing is read from the ports before the store has started, nor after the service has stopped."""
        for stopped_before in (False, True):
            port = PausablePort()

            async def opening(factory: Factory, port: PausablePort = port) -> IListeningPort:
                return port

            factory: Any = FakeProxyFactory([])
            store_started: Deferred[None] = Deferred()
            service = ProxyService(factory, {"A": opening}, 30.0, store_started)
            service.privilegedStartService()
            service.startService()
            self.assertFalse(port.reads)
            if stopped_before:
                service.stopService()
            store_started.callback(None)
            self.assertEqual(port.reads, not stopped_before)


class PausablePort(tcp.Port):
    """A port without a socket."""

    def __init__(self) -> None:
        self.reads = True

    def startReading(self) -> None:
        self.reads = True

    def stopReading(self) -> None:
        self.reads = False

    def stopListening(self) -> None:
        """Nothing to close."""


class CannotStartTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """It ends the program as SystemExit does, and is caught as an Exception is."""
        error = CannotStart("why")
        self.assertIsInstance(error, SystemExit)
        self.assertIsInstance(error, Exception)
        self.assertEqual(error.code, "twisted_lb cannot start: why")
        self.assertEqual(CannotStart("a\nb", lines=True).code, "twisted_lb cannot start:\na\nb")
