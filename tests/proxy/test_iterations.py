"""Unexpected data of a server reaches no client: connections wait for an iteration before they are used again."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.network.fakes import unused
from tests.proxy.memory_reactor import MemoryReactor
from tests.proxy.scripted import Names
from tests.proxy.transports import HERE, FakeTransport
from twisted_lb.backend import Backend
from twisted_lb.config.settings import ProxySettings
from twisted_lb.deadlines import Sweeper
from twisted_lb.network.dialer import DeadAddresses, Dialer, Unreachable
from twisted_lb.network.tls_client import TlsContexts
from twisted_lb.proxy.connection_pool import ConnectionPool
from twisted_lb.proxy.server_connection import ServerConnection
from twisted_lb.proxy.streams import ServerFailure

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class CountingReactor(MemoryReactor):
    """Its iterations are those that the test counts."""

    count = 1

    @property
    def iteration(self) -> int:
        return self.count


class Asker:
    """Has the connection, and notes what it hears."""

    def __init__(self) -> None:
        self.connection: ServerConnection | None = None
        self.failure: ServerFailure | None = None
        self.done = False

    def connected(self, connection: ServerConnection) -> None:
        self.connection = connection

    def connect_failed(self, reason: Unreachable) -> None:
        raise AssertionError(reason.detail)

    def interim_received(self, head: object) -> None:
        raise AssertionError("no interim response was sent")

    def response_started(self, head: object, framing: int, content: bytes, done: bool, trailers: list[bytes]) -> None:
        self.done = done

    def response_content_received(self, content: bytes, done: bool, trailers: list[bytes]) -> None:
        self.done = done

    def response_failed(self, failure: ServerFailure) -> None:
        self.failure = failure


class TurnTests(SynchronousTestCase):
    def setUp(self) -> None:
        clock = Clock()
        self.transport: Any = None

        def dial(host: str, port: int, factory: Any, timeout: float) -> None:
            self.transport = FakeTransport(clock, HERE)
            self.transport.connect(factory.buildProtocol(None))

        self.reactor = CountingReactor(clock, dial)
        dead = DeadAddresses(clock.seconds)
        dialer = Dialer(clock, Names(clock), dead, self.reactor.connectTCP, unused, TlsContexts())
        self.pool = ConnectionPool(
            Backend("server1", "127.0.0.1", 1), dialer, Sweeper(clock), self.reactor, ProxySettings()
        )
        self.receiver = Asker()
        self.pool.connect(self.receiver)
        assert self.receiver.connection is not None
        self.connection = self.receiver.connection

    def ask(self) -> None:
        self.connection.begin(self.receiver, b"GET", b"GET / HTTP/1.1\r\n\r\n", 0, b"", True, [], False)

    def test_rest(self) -> None:
        """A connection is not used again in the iteration in which its response ended, but in the next."""
        self.ask()
        self.connection.dataReceived(ANSWER)
        self.assertTrue(self.receiver.done)
        self.assertIsNone(self.pool.acquire(self.receiver))
        self.reactor.count += 1
        self.assertIs(self.pool.acquire(self.receiver), self.connection)

    def test_surplus_in_the_next_turn(self) -> None:
        """A server that goes on talking an iteration later is never asked again."""
        self.ask()
        self.connection.dataReceived(ANSWER)
        self.reactor.count += 1
        self.connection.dataReceived(ANSWER)
        self.assertIsNone(self.pool.acquire(self.receiver))

    def test_early_answer(self) -> None:
        """What comes when a byte of the request has left is its response, however much of it is still to be sent."""
        for answer in (ANSWER, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"):
            self.setUp()
            head = b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
            self.connection.begin(self.receiver, b"POST", head, 1000, b"", False, [], False)
            self.connection.send(b"x" * 100, False, [])
            self.connection.dataReceived(answer)
            self.assertEqual((self.receiver.done, self.receiver.failure), (True, None))

    def test_answer_before_the_question(self) -> None:
        """What comes before the request has left is no response to it, and the request can be sent elsewhere."""
        self.ask()
        self.connection.dataReceived(ANSWER)
        self.reactor.count += 1
        again = self.pool.acquire(self.receiver)
        assert again is not None
        self.receiver.done = False
        self.ask()
        # The kernel has not taken a byte of it.
        self.transport.sent = again._sent_before
        again.dataReceived(ANSWER)
        failure = self.receiver.failure
        assert failure is not None
        self.assertEqual((self.receiver.done, failure.unsent, failure.silent), (False, True, True))
        self.assertIsNone(self.pool.acquire(self.receiver))
