"""What a server says out of turn reaches nobody: connections rest for a turn before they are used again."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.transports import HERE, FakeTransport
from twisted_lb.backend import Backend
from twisted_lb.proxy.connections import ConnectionPool
from twisted_lb.proxy.deadlines import Sweeper
from twisted_lb.proxy.posted import PostedWork
from twisted_lb.proxy.upstream import UpstreamConnection, UpstreamFailure
from twisted_lb.settings import Settings

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Turns:
    """A poller's count."""

    turn = 1


class Asker:
    """Has the connection, and notes what it hears."""

    def __init__(self) -> None:
        self.connection: UpstreamConnection | None = None
        self.failure: UpstreamFailure | None = None
        self.done = False

    def connected(self, connection: UpstreamConnection) -> None:
        self.connection = connection

    def connect_failed(self, detail: str) -> None:
        raise AssertionError(detail)

    def interim_received(self, head: object) -> None:
        raise AssertionError("no interim response was sent")

    def response_begun(self, head: object, framing: int, content: bytes, done: bool, trailers: list[bytes]) -> None:
        self.done = done

    def response_went_on(self, content: bytes, done: bool, trailers: list[bytes]) -> None:
        self.done = done

    def upstream_failed(self, failure: UpstreamFailure) -> None:
        self.failure = failure


class TurnTests(SynchronousTestCase):
    def setUp(self) -> None:
        clock = Clock()
        self.turns = Turns()
        self.transport: Any = None

        def dial(host: str, port: int, factory: Any, timeout: float) -> None:
            self.transport = FakeTransport(clock, HERE)
            self.transport.connect(factory.buildProtocol(None))

        posted = PostedWork(clock.seconds, partial(clock.callLater, 0))
        self.pool = ConnectionPool(
            Backend("server1", "127.0.0.1", 1), clock, Sweeper(clock), self.turns, posted, Settings(), dial
        )
        self.asker = Asker()
        self.pool.connect(self.asker)
        assert self.asker.connection is not None
        self.connection = self.asker.connection

    def ask(self) -> None:
        self.connection.begin(self.asker, b"GET", b"GET / HTTP/1.1\r\n\r\n", True)

    def test_rest(self) -> None:
        """A connection is not used again in the turn in which its response ended, but in the next."""
        self.ask()
        self.connection.dataReceived(ANSWER)
        self.assertTrue(self.asker.done)
        self.assertIsNone(self.pool.acquire())
        self.turns.turn += 1
        self.assertIs(self.pool.acquire(), self.connection)

    def test_surplus_in_the_next_turn(self) -> None:
        """A server that goes on talking a turn later is never asked again."""
        self.ask()
        self.connection.dataReceived(ANSWER)
        self.turns.turn += 1
        self.connection.dataReceived(ANSWER)
        self.assertIsNone(self.pool.acquire())

    def test_early_answer(self) -> None:
        """What comes when a byte of the request has left is its response, however much of it is still to be sent."""
        for answer in (ANSWER, b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"):
            self.setUp()
            self.connection.begin(self.asker, b"POST", b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", False)
            self.connection.send(b"x" * 100, False)
            self.connection.dataReceived(answer)
            self.assertEqual((self.asker.done, self.asker.failure), (True, None))

    def test_answer_before_the_question(self) -> None:
        """What comes before the request has left is no response to it, and the request can be sent elsewhere."""
        self.ask()
        self.connection.dataReceived(ANSWER)
        self.turns.turn += 1
        again = self.pool.acquire()
        assert again is not None
        self.asker.done = False
        self.ask()
        # The kernel has not taken a byte of it.
        self.transport.sent = again._sent_before
        again.dataReceived(ANSWER)
        failure = self.asker.failure
        assert failure is not None
        self.assertEqual((self.asker.done, failure.unsent, failure.silent), (False, True, True))
        self.assertIsNone(self.pool.acquire())
