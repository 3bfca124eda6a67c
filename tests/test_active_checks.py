"""The active checks, over a reactor in memory: what is sent, what passes, and when."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError, TimeoutError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.network.fakes import dialer
from tests.proxy.scripted import Names
from twisted_lb.backend import Backend
from twisted_lb.config.pool import Ejection, HealthCheck
from twisted_lb.health import active_checks
from twisted_lb.health.active_checks import MAX_CONTENT_BYTES, READ_SECONDS, ActiveChecks
from twisted_lb.health.tracker import Health

CHECK = HealthCheck("/healthz?deep=1", interval=10.0, timeout=2.0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


class RecordingHealth(Health):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(Ejection(), 0.3, lambda news: None)
        self.told: list[tuple[str, str]] = []

    def probe_passed(self, backend: Backend, now: float) -> None:
        self.told.append((backend.name, "passed"))

    def probe_failed(self, backend: Backend, now: float, why: str) -> None:
        self.told.append((backend.name, why))


class Connection:
    """One connection of a check, as its server has it."""

    def __init__(self, reactor: MemoryReactorClock, number: int) -> None:
        self.host, self.port, self._factory = reactor.tcpClients[number][:3]
        self.transport = StringTransport()
        self._protocol = self._factory.buildProtocol(None)
        self.transport.protocol = self._protocol
        self._protocol.makeConnection(self.transport)

    @property
    def request(self) -> list[bytes]:
        """The lines of the request, the fields in an order of their own."""
        first, *fields = self.transport.value().removesuffix(b"\r\n\r\n").split(b"\r\n")
        return [first, *sorted(fields)]

    @property
    def closed(self) -> bool:
        return bool(self.transport.disconnecting)

    def answer(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def close(self, error: Exception = ConnectionDone()) -> None:
        self._protocol.connectionLost(Failure(error))

    @property
    def read(self) -> bool:
        """Whether the check would read what the server sends."""
        return self.transport.producerState == "producing"


class ProbeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.health = RecordingHealth()
        self.names = Names(self.reactor)
        self.draws: list[float] = []
        self.backends = [Backend("s1", "127.0.0.1", 9001), Backend("s2", "127.0.0.1", 9002)]
        self.checks = self.probing(CHECK)

    def probing(self, check: HealthCheck | None, backends: list[Backend] | None = None) -> ActiveChecks:
        dialling = dialer(self.reactor, self.names)
        checks = ActiveChecks(self.reactor, self.health, lambda: self.draws.pop(0) if self.draws else 0.5, dialling)
        self.health.follow([(backend, check) for backend in backends or self.backends[:1]], 0.0)
        checks.follow(backends or self.backends[:1])
        return checks

    def asked(self) -> int:
        """How many connections were opened so far."""
        return len(self.reactor.tcpClients)

    def first(self) -> Connection:
        """The connection of the first check."""
        self.checks.start()
        self.reactor.advance(5.0)
        self.assertEqual(self.asked(), 1)
        return Connection(self.reactor, 0)


class RequestTests(ProbeCase):
    def test_request(self) -> None:
        """The server is asked for the path, under its own authority, on a connection that ends with the answer."""
        connection = self.first()
        self.assertEqual((connection.host, connection.port), ("127.0.0.1", 9001))
        self.assertEqual(
            connection.request,
            [
                b"GET /healthz?deep=1 HTTP/1.1",
                b"Accept: */*",
                b"Connection: close",
                b"Host: 127.0.0.1:9001",
                b"User-Agent: twisted_lb health check",
            ],
        )
        connection.answer(OK)
        self.assertTrue(connection.closed)

    def test_ipv6(self) -> None:
        """A server with an IPv6 address is asked too."""
        self.checks = self.probing(CHECK, [Backend("s6", "::1", 9001)])
        connection = self.first()
        self.assertEqual((connection.host, connection.port), ("::1", 9001))
        self.assertIn(b"Host: [::1]:9001", connection.request)


    def test_name(self) -> None:
        """A name is resolved for each check, and its addresses are tried in turn; it may have a '_' in it."""
        self.checks = self.probing(CHECK, [Backend("s_n", "my_server", 9001)])
        self.names.addresses["my_server"] = ["127.0.0.1", "::1"]
        self.checks.start()
        self.reactor.advance(5.0)
        self.assertEqual(self.reactor.tcpClients[0][:2], ("::1", 9001))
        self.reactor.tcpClients[0][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        connection = Connection(self.reactor, 1)
        self.assertEqual((connection.host, connection.port), ("127.0.0.1", 9001))
        connection.answer(OK)
        self.assertEqual(self.health.told, [("s_n", "passed")])

    def test_unknown_name(self) -> None:
        """A name without an address fails."""
        self.checks = self.probing(CHECK, [Backend("s1", "nowhere", 9001)])
        self.checks.start()
        self.reactor.advance(5.0)
        self.assertEqual(self.health.told, [("s1", "its name has no address")])

    def test_no_cookies(self) -> None:
        """A server's cookie is not sent back."""
        self.first().answer(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
        self.reactor.advance(10.0)
        self.assertNotIn(b"Cookie", Connection(self.reactor, 1).transport.value())


class VerdictTests(ProbeCase):
    def test_answers(self) -> None:
        """An expected status with a whole answer passes; all else fails, in words."""
        moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
        cut = "it closed the connection without a whole answer"
        unusable = "its answer cannot be used:"
        doubtful = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        cases: list[tuple[bytes, bool, str]] = [
            (OK, False, "passed"),
            (b"HTTP/1.1 204 No Content\r\n\r\n", False, "passed"),
            (b"HTTP/1.0 200 OK\r\n\r\nas long as it lasts", True, "passed"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", True, cut),
            (b"", True, cut),
            (moved, False, "passed"),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", False, "status 404, expected 200-399"),
            (b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\n", False, "status 503, expected 200-399"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", False, f"{unusable} The server's response is not HTTP/1.1"),
            (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", False, f"{unusable} The server's response is not HTTP/1.1"),
            (doubtful, False, f"{unusable} The server's response has both Content-Length and Transfer-Encoding"),
            (OK + b"and more", False, "passed"),
            (EARLY + OK, False, "passed"),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", False, "passed"),
        ]
        for answer, closes, expected in cases:
            self.setUp()
            connection = self.first()
            if answer:
                connection.answer(answer)
            if closes:
                connection.close()
            self.assertEqual(self.health.told, [("s1", expected)], answer)
            self.assertEqual(self.asked(), 1, "a redirect was followed")
            self.assertTrue(closes or connection.closed, answer)

    def test_expected_status(self) -> None:
        """What passes is what the check expects, a 503 too."""
        self.checks = self.probing(HealthCheck("/", 10.0, status=((503, 503),)))
        self.first().answer(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(self.health.told, [("s1", "passed")])

    def test_no_connection(self) -> None:
        """A server that cannot be reached fails at once, with the reason."""
        cases = [(ConnectionRefusedError(), "connection refused"), (TimeoutError(), "no connection in time")]
        for error, words in cases:
            self.setUp()
            self.checks.start()
            self.reactor.advance(5.0)
            self.reactor.tcpClients[0][2].clientConnectionFailed(None, Failure(error))
            self.assertEqual(self.health.told, [("s1", words)])

    def test_timeout(self) -> None:
        """A server that does not accept, does not answer, or does not end its answer fails when the time is up."""
        acts: list[Callable[[Connection], None] | None] = [
            None,
            lambda connection: None,
            lambda connection: connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"),
        ]
        for act in acts:
            self.setUp()
            self.checks.start()
            self.reactor.advance(5.0)
            connection = None
            if act is not None:
                connection = Connection(self.reactor, 0)
                act(connection)
            self.reactor.advance(1.9)
            self.assertEqual(self.health.told, [])
            self.reactor.advance(0.1)
            if connection is not None:
                self.assertTrue(connection.closed)
                connection.close()
            self.assertEqual(self.health.told, [("s1", "no whole answer in 2 s")])

    def test_long_content(self) -> None:
        """Of a long answer only the beginning is taken: that is enough to pass."""
        connection = self.first()
        connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        connection.answer(b"x" * (MAX_CONTENT_BYTES - 1))
        self.assertEqual((self.health.told, connection.closed), ([], False))
        connection.answer(b"x")
        self.assertEqual((self.health.told, connection.closed), ([("s1", "passed")], True))

    def test_endless_answers(self) -> None:
        """An answer without an end fails the check soon after it passes a bound of the data path, and costs no more."""
        head, nobody = "head is longer than 65536 bytes", "sent an unexpected interim response"
        endless = [(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", head), (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 99, head)]
        endless += [(b"", EARLY, nobody), (b"", b"HTTP/1.1 100 Continue\r\n\r\n", nobody)]
        for begin, piece, fault in endless:
            self.setUp()
            connection = self.first()
            connection.answer(begin + piece)
            fed = 0
            while not self.health.told:
                self.assertTrue(fed <= 71_000, piece)
                # Many at a time, since all of a head is read again with each piece.
                connection.answer(piece * 50)
                fed += len(piece * 50)
            [(_, why)] = self.health.told
            self.assertIn(fault, why)
            self.assertTrue(connection.closed)
            connection.answer(piece * 1000)
            self.assertEqual(len(self.health.told), 1)

    def test_reset(self) -> None:
        """An answer that only the end of the connection ends is not whole when that is a reset."""
        connection = self.first()
        connection.answer(b"HTTP/1.0 200 OK\r\n\r\nas long as")
        connection.close(ConnectionLost())
        self.assertEqual(self.health.told, [("s1", "it closed the connection without a whole answer")])

    def test_a_drip_is_read_at_leisure(self) -> None:
        """After a piece that leaves the answer unfinished, the next read comes a hundredth of a second later."""
        connection = self.first()
        for piece in (OK[:1], OK[1:20]):
            self.assertTrue(connection.read)
            connection.answer(piece)
            self.assertFalse(connection.read)
            self.reactor.advance(READ_SECONDS)
        self.assertTrue(connection.read)
        connection.answer(OK[20:])
        self.assertEqual(self.health.told, [("s1", "passed")])

    def test_late_loop(self) -> None:
        """When the loop was late, an answer that waits to be read still counts."""
        connection = self.first()
        # A reactor runs what is due, then reads its sockets, and only then runs what became due meanwhile.
        (timeout,) = [call for call in self.reactor.getDelayedCalls() if call.getTime() == 7.0]
        self.reactor.rightNow = 7.0
        self.reactor.calls.remove(timeout)
        timeout.called = 1
        timeout.func()
        connection.answer(OK)
        self.reactor.advance(2.0)
        self.assertEqual(self.health.told, [("s1", "passed")])


class ScheduleTests(ProbeCase):
    def test_spread(self) -> None:
        """The first checks are spread over the interval, by chance."""
        self.checks = self.probing(CHECK, self.backends)
        self.draws = [0.25, 0.75]
        self.checks.start()
        counts = []
        for _ in range(4):
            self.reactor.advance(2.5)
            counts.append(self.asked())
        self.assertEqual(counts, [1, 1, 2, 2])

    def test_interval(self) -> None:
        """The next check begins one interval after the last began, give or take a tenth."""
        for draw, seconds in [(0.0, 9.0), (0.5, 10.0), (0.999, 10.998)]:
            self.setUp()
            connection = self.first()
            self.draws = [draw]
            self.reactor.advance(1.0)
            connection.answer(OK)
            self.reactor.advance(seconds - 1.001)
            self.assertEqual(self.asked(), 1)
            self.reactor.advance(0.002)
            self.assertEqual(self.asked(), 2)

    def test_one_at_a_time(self) -> None:
        """A check that takes longer than the interval delays the next one."""
        self.checks = self.probing(HealthCheck("/", interval=1.0, timeout=3.0))
        self.checks.start()
        self.reactor.advance(0.5)
        connection = Connection(self.reactor, 0)
        self.reactor.pump([0.5] * 5)
        self.assertEqual(self.asked(), 1)
        connection.answer(OK)
        self.reactor.advance(0)
        self.assertEqual(self.asked(), 2)

    def test_so_many_at_a_time(self) -> None:
        """One check more than may be under way begins when another is over; one that was given up never begins."""
        self.patch(active_checks, "MAX_CHECKS", 1)
        third = Backend("s3", "127.0.0.1", 9003)
        self.checks = self.probing(CHECK, [*self.backends, third])
        self.draws = [0.0, 0.01, 0.02]
        self.checks.start()
        self.reactor.pump([0.1] * 3)
        self.assertEqual([port for _, port, *_ in self.reactor.tcpClients], [9001])
        self.checks.follow([self.backends[0], third])
        Connection(self.reactor, 0).answer(OK)
        self.assertEqual([port for _, port, *_ in self.reactor.tcpClients], [9001, 9003])
        # Its time runs from its beginning.
        self.reactor.advance(1.9)
        Connection(self.reactor, 1).answer(OK)
        self.assertEqual(self.health.told, [("s1", "passed"), ("s3", "passed")])
        self.reactor.advance(8.0)
        self.assertEqual(self.asked(), 3)

    def test_goes_on(self) -> None:
        """After a failure it is asked again."""
        self.first().close()
        self.reactor.pump([1.0] * 10)
        Connection(self.reactor, 1).answer(OK)
        self.assertEqual([why for _, why in self.health.told][1:], ["passed"])

    def test_unchecked(self) -> None:
        """A server without a check is never asked."""
        self.checks = self.probing(None)
        self.checks.start()
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ChangeTests(ProbeCase):
    def test_stop(self) -> None:
        """After the stop there is no timer, no connection, and no result."""
        connection = self.first()
        stopped = self.checks.stop()
        self.assertTrue(connection.closed)
        connection.close()
        self.successResultOf(stopped)
        self.assertEqual((self.reactor.getDelayedCalls(), self.health.told), ([], []))

    def test_stop_before_the_start(self) -> None:
        """What has not begun is stopped at once."""
        self.successResultOf(self.checks.stop())

    def test_stop_between(self) -> None:
        """Between two checks there is only a timer to stop."""
        self.first().answer(OK)
        self.successResultOf(self.checks.stop())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_follow(self) -> None:
        """A server that comes is asked, one that goes is not, and one that stays keeps its rhythm."""
        self.checks.start()
        self.reactor.advance(4.0)
        first, second = self.backends
        self.health.follow([(first, CHECK), (second, CHECK)], 0.0)
        self.checks.follow([first, second])
        self.reactor.advance(1.0)
        self.assertEqual([port for _, port, *_ in self.reactor.tcpClients], [9001])
        self.checks.follow([second])
        self.reactor.pump([1.0] * 20)
        self.assertEqual({port for _, port, *_ in self.reactor.tcpClients[1:]}, {9002})

    def test_other_check(self) -> None:
        """A server whose check has changed is asked as it says now."""
        self.checks.start()
        self.health.follow([(self.backends[0], HealthCheck("/new", interval=2.0))], 0.0)
        self.checks.follow(self.backends[:1])
        self.reactor.advance(1.0)
        self.assertEqual(Connection(self.reactor, 0).request[0], b"GET /new HTTP/1.1")
        self.assertEqual(self.asked(), 1)
