"""Opening connections to hosts with several addresses, on a clock."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectError, ConnectionRefusedError, NoRouteError, TimeoutError
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.scripted import Names, ScriptedConnector
from twisted_lb.config.pool import ServerTls
from twisted_lb.network.dialer import DEAD_SECONDS, SPEAKS_NO_TLS, DeadAddresses, Dialer, Unreachable, ordered
from twisted_lb.network.tls_client import TlsClient, TlsContexts
from twisted_lb.network.tls_errors import CertificateNotVerified, HandshakeFailed

ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"


class Taker:
    """Notes what becomes of a wish."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shortage = ""

    def build_protocol(self, address: str) -> Protocol:
        self.said.append(address)
        return Protocol()

    def connect_failed(self, reason: Unreachable) -> None:
        self.said.append(reason.detail)
        self.shortage = reason.shortage


class Attempt:
    """An attempt, as the network has it."""

    def __init__(self, address: str, factory: ClientFactory, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.connector = ScriptedConnector()
        self._factory = factory

    def connect(self) -> Any:
        return self._factory.buildProtocol(None)  # type: ignore[arg-type]

    def fail(self, error: Exception) -> None:
        self._factory.clientConnectionFailed(None, Failure(error))  # type: ignore[arg-type]


class TlsAttempt(Attempt):
    """One with TLS."""

    def __init__(self, address: str, factory: ClientFactory, timeout: float, tcp_connected: Callable[[], None]) -> None:
        super().__init__(address, factory, timeout)
        self.tcp_connected = tcp_connected


class DialerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.names = Names(self.clock)
        self.attempts: list[Any] = []
        self.tls: TlsClient | None = None
        dead = DeadAddresses(self.clock.seconds)
        self.dialer = Dialer(self.clock, self.names, dead, self.dial, self.dial_tls, TlsContexts())

    def dial(self, host: str, port: int, factory: ClientFactory, timeout: float) -> ScriptedConnector:
        self.attempts.append(Attempt(host, factory, timeout))
        return self.attempts[-1].connector

    def dial_tls(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float,
        tls: TlsClient,
        tcp_connected: Any,
        preface: bytes,
    ) -> ScriptedConnector:
        self.assertEqual((tls, preface), (self.tls, b"preface"))
        self.attempts.append(TlsAttempt(host, factory, timeout, tcp_connected))
        return self.attempts[-1].connector

    def open(self, *addresses: str, timeout: float = 5.0) -> Taker:
        """Open a connection to a host with these addresses."""
        self.names.addresses["host"] = list(addresses)
        taker = Taker()
        self.dialling = self.dialer.open("host", 80, timeout, taker, self.tls, b"preface")
        self.clock.advance(0)
        return taker

    @property
    def tried(self) -> list[str]:
        """The addresses that were tried since the last call."""
        tried = [attempt.address for attempt in self.attempts]
        self.last, self.attempts = self.attempts, []
        return tried

    def assert_over(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AttemptTests(DialerCase):
    def test_literal(self) -> None:
        """An IP address is dialled at once, with the whole time, and no timer of its own."""
        for host in ("192.0.2.1", "::1"):
            taker = Taker()
            self.dialer.open(host, 80, 5.0, taker)
            self.assert_over()
            attempt = self.attempts.pop()
            self.assertEqual((attempt.address, attempt.timeout), (host, 5.0))
            self.assertIsInstance(attempt.connect(), Protocol)
            self.assertEqual(taker.said, [host])

    def test_failures_in_turn(self) -> None:
        """Each failure leads to the next address at once, and the last one's reason is told."""
        taker = self.open(ONE, TWO)
        for error in (ConnectionRefusedError(), NoRouteError()):
            self.assertEqual(taker.said, [])
            self.attempts[-1].fail(error)
        self.assertEqual((len(set(self.tried)), taker.said), (2, ["no route to it"]))
        self.assertEqual(self.names.doubted, ["host"])
        self.assert_over()

    def test_silence(self) -> None:
        """Addresses that say nothing are overtaken after a quarter of a second each; the winner ends all others."""
        taker = self.open(ONE, TWO, THREE)
        self.clock.advance(0.24)
        self.assertEqual(len(self.attempts), 1)
        self.clock.advance(0.01)
        self.assertEqual(len(self.attempts), 2)
        self.clock.advance(0.25)
        first, second, third = self.attempts
        third.connect()
        self.assertEqual(taker.said, [third.address])
        self.assertEqual([one.connector.stopped for one in (first, second, third)], [True, True, False])
        self.assert_over()

    def test_late_loser(self) -> None:
        """A connection that comes when another one has won is not used."""
        taker = self.open(ONE, TWO)
        self.clock.advance(0.25)
        first, second = self.attempts
        first.connect()
        self.assertIsNone(second.connect())
        self.assertEqual(taker.said, [first.address])

    def test_first_may_win_late(self) -> None:
        """What was tried first goes on while others are tried, and may win."""
        taker = self.open(ONE, TWO)
        self.clock.advance(1)
        first, second = self.attempts
        second.fail(ConnectionRefusedError())
        self.assertEqual(taker.said, [])
        first.connect()
        self.assertEqual(taker.said, [first.address])

    def test_one_deadline(self) -> None:
        """All attempts and the name have one deadline together."""
        taker = self.open(ONE, TWO, THREE, timeout=1.0)
        self.clock.pump([0.25, 0.25])
        self.assertEqual([round(one.timeout, 2) for one in self.attempts], [1.0, 0.75, 0.5])
        self.clock.advance(0.5)
        for attempt in self.attempts:
            attempt.fail(TimeoutError())
        self.assertEqual(taker.said, ["no connection in time"])
        self.assert_over()

    def test_many_addresses(self) -> None:
        """When the time is over, addresses that are left are not tried."""
        taker = self.open(*[f"192.0.2.{number}" for number in range(1, 40)], timeout=1.0)
        for _ in range(10):
            self.clock.advance(0.25)
        attempts, self.attempts = self.attempts, []
        self.assertEqual(len(attempts), 4)
        for attempt in attempts:
            attempt.fail(TimeoutError())
        self.assertEqual((taker.said, self.attempts), (["no connection in time"], []))
        self.assert_over()

    def test_no_name(self) -> None:
        """A name that cannot be resolved is told, with the reason."""
        self.assertEqual(self.open().said, ["its name has no address"])

    def test_late_family(self) -> None:
        """Addresses that are found later are tried, while earlier ones are silent and after they have failed."""
        self.names.late.add("host")
        for fails in (False, True):
            taker = self.open("2001:db8::1")
            self.assertEqual(self.tried, ["2001:db8::1"])
            if fails:
                self.last[0].fail(ConnectionRefusedError())
                self.assertEqual(taker.said, [])
            self.clock.advance(1)
            self.names.rest(("2001:db8::1", ONE))
            self.assertEqual(self.tried, [ONE])
            self.last[0].connect()
            self.assertEqual(taker.said, [ONE])
            self.clock.advance(10)

    def test_no_late_family(self) -> None:
        """Where no other address is found, the failure is told; at the deadline in any case."""
        self.names.late.add("host")
        for rest in ((ONE,), None):
            taker = self.open(ONE)
            self.attempts[0].fail(ConnectionRefusedError())
            if rest is None:
                self.clock.advance(4)
                self.assertEqual(taker.said, [])
                self.clock.advance(1)
            else:
                self.names.rest(rest)
            self.assertEqual((taker.said, len(self.tried)), (["connection refused"], 1))

    def test_cancelled(self) -> None:
        """After a cancellation nothing is told, tried or left, at whatever moment it comes."""
        for seconds in (None, 0.0, 0.3):
            taker = Taker()
            self.names.addresses["host"] = [ONE, TWO]
            dialling = self.dialer.open("host", 80, 5.0, taker)
            if seconds is not None:
                self.clock.advance(0)
                self.clock.advance(seconds)
            dialling.cancel()
            self.clock.advance(10)
            self.assertTrue(all(attempt.connector.stopped for attempt in self.attempts))
            self.assertEqual(taker.said, [])
            self.assert_over()


class HandshakeTests(DialerCase):
    """With TLS: the race is that of TCP, and the handshake follows."""

    def setUp(self) -> None:
        super().setUp()
        self.tls = TlsContexts().client(ServerTls("host"))

    def test_first_tcp_connection_wins(self) -> None:
        """When a TCP connection is open the others end, and no further one begins while its handshake takes time."""
        taker = self.open(ONE, TWO, THREE)
        self.clock.advance(0.25)
        first, second = self.attempts
        second.tcp_connected()
        self.assertEqual((first.connector.stopped, second.connector.stopped), (True, False))
        self.clock.advance(4)
        self.assertEqual((len(self.attempts), taker.said), (2, []))
        second.connect()
        self.assertEqual(taker.said, [second.address])
        self.assert_over()

    def test_a_failed_handshake_is_one_of_its_address(self) -> None:
        """The other addresses are tried, also those that were slower, within the one deadline."""
        taker = self.open(ONE, TWO, THREE)
        self.clock.advance(0.25)
        first, second = self.attempts
        second.tcp_connected()
        self.clock.advance(1)
        second.fail(HandshakeFailed("no"))
        third = self.attempts[2]
        self.assertEqual(third.timeout, 3.75)
        third.tcp_connected()
        third.fail(HandshakeFailed("neither"))
        self.assertEqual(self.attempts[3].address, first.address)
        self.attempts[3].tcp_connected()
        self.attempts[3].fail(HandshakeFailed("nor this"))
        self.assertEqual(taker.said, ["the TLS handshake failed: nor this"])
        self.assertEqual(self.names.doubted, ["host"])
        self.assert_over()

    def test_words(self) -> None:
        """Each failure is told in OpenSSL's words, with what an operator can do about it."""
        cases: list[tuple[Exception, str]] = [
            (CertificateNotVerified("certificate has expired"),
             "its certificate cannot be verified: certificate has expired"),
            (HandshakeFailed("wrong version number"), f"the TLS handshake failed: wrong version number{SPEAKS_NO_TLS}"),
            (TimeoutError(), "its TLS handshake was not complete in time"),
        ]
        for error, expected in cases:
            taker = self.open(ONE)
            self.attempts[-1].tcp_connected()
            self.attempts[-1].fail(error)
            self.assertEqual(taker.said, [expected])
        taker = self.open(ONE)
        self.attempts[-1].fail(TimeoutError())
        self.assertEqual(taker.said, ["no connection in time"])

    def test_a_session_is_not_tried_twice(self) -> None:
        """After a failed handshake the next one begins without the session; after a failed connection with it."""
        session: Any = object()
        assert self.tls is not None
        for handshaking in (False, True):
            self.tls.session = session
            self.open(ONE)
            if handshaking:
                self.attempts[-1].tcp_connected()
            self.attempts[-1].fail(HandshakeFailed("no"))
            self.assertEqual(self.tls.session, None if handshaking else session)

    def test_cancelled(self) -> None:
        """A connection that is not needed any more ends within its handshake."""
        taker = self.open(ONE, TWO)
        self.attempts[0].tcp_connected()
        self.dialling.cancel()
        self.assertTrue(self.attempts[0].connector.stopped)
        self.attempts[0].fail(HandshakeFailed("cancelled"))
        self.assertEqual((len(self.attempts), taker.said), (1, []))
        self.assert_over()


class OrderTests(DialerCase):
    def test_families(self) -> None:
        """IPv6 and IPv4 take turns, IPv6 first, and each connection begins with the next address."""
        addresses = ["4a.1", "4b.1", ":6a", ":6b", "4c.1"]
        self.assertEqual(ordered(addresses, 0), [":6a", "4a.1", ":6b", "4b.1", "4c.1"])
        self.assertEqual(ordered(addresses, 1), [":6b", "4b.1", ":6a", "4c.1", "4a.1"])
        self.assertEqual(ordered([], 3), [])

    def test_all_are_used(self) -> None:
        """Connections are spread over all addresses that take them."""
        begun = []
        for _ in range(6):
            self.open(ONE, TWO, THREE)
            begun += self.tried
            self.last[0].connect()
        self.assertEqual(sorted(begun), [ONE, ONE, TWO, TWO, THREE, THREE])

    def test_dead_last(self) -> None:
        """An address that has failed or was overtaken is tried last for a while, and first again after that."""
        for overtaken in (True, False):
            self.setUp()
            self.open(ONE, TWO)
            dead = self.attempts[0]
            if overtaken:
                self.clock.advance(0.25)
            else:
                dead.fail(ConnectionRefusedError())
            self.attempts[1].connect()
            for _ in range(4):
                self.attempts.clear()
                self.open(ONE, TWO)
                self.assertNotEqual(self.attempts[0].address, dead.address)
                self.attempts[0].connect()
            self.clock.advance(DEAD_SECONDS)
            begun = set()
            for _ in range(2):
                self.attempts.clear()
                self.open(ONE, TWO)
                begun.add(self.attempts[0].address)
                self.attempts[0].connect()
            self.assertEqual(begun, {ONE, TWO})

    def test_works_again(self) -> None:
        """A dead address that takes a connection is like the others again."""
        dead = DeadAddresses(self.clock.seconds)
        dead.failed(ONE, 80)
        self.assertEqual(dead.last([ONE, TWO], 80), [TWO, ONE])
        self.assertEqual(dead.last([ONE, TWO], 81), [ONE, TWO])
        dead.worked(ONE, 80)
        self.assertEqual(dead.last([ONE, TWO], 80), [ONE, TWO])


class ShortageTests(DialerCase):
    def test_shortage(self) -> None:
        """When this machine is short of something, that is told, and no address is taken for dead."""
        for number, words in [
            (errno.EMFILE, "open files"),
            (errno.ENFILE, "open files"),
            (errno.EADDRNOTAVAIL, "no local port"),
            (errno.ENOBUFS, "no memory"),
        ]:
            self.setUp()
            taker = self.open("127.0.0.1")
            self.attempts[0].fail(ConnectError(number, "x"))
            self.assertEqual(len(taker.said), 1)
            self.assertIn(words, taker.shortage)
            self.assertEqual(self.dialer.dead.last(["127.0.0.1", TWO], 80), ["127.0.0.1", TWO])

    def test_others_fail_too(self) -> None:
        """It is told also when another address has failed for a reason of its own."""
        taker = self.open("127.0.0.1", TWO)
        self.attempts[0].fail(ConnectError(errno.EMFILE, "x"))
        self.attempts[1].fail(ConnectionRefusedError())
        self.assertIn("open files", taker.shortage)

    def test_no_way(self) -> None:
        """An address of a kind that this machine does not have at all is no shortage."""
        self.patch(__import__("twisted_lb.network.shortage").network.shortage, "_has_way", lambda *place: False)
        taker = self.open("2001:db8::1")
        self.attempts[0].fail(ConnectError(errno.EADDRNOTAVAIL, "x"))
        self.assertEqual((taker.shortage, len(taker.said)), ("", 1))
