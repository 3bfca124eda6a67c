"""Sentinels that a test plays itself: who is asked when, and what becomes of each answer."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.stores.fake_redis import FakeConnection, FakeEndpoint, array
from twisted_lb.stores.redis.sentinel import ASK_SECONDS, SentinelEndpoint, SentinelTrouble
from twisted_lb.stores.redis.watched import IWatched

S1, S2, S3 = ("s1", 26379), ("s2", 26379), ("s3", 26380)
QUESTION = [b"SENTINEL", b"get-master-addr-by-name", b"payments"]


class WithSentinels(SynchronousTestCase):
    """Three sentinels; every host is a FakeEndpoint of the test."""

    password = ""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hosts: dict[tuple[str, int], FakeEndpoint] = {}
        self.endpoint = SentinelEndpoint((S1, S2, S3), "payments", self.password, self.to_host, self.clock)
        self.factory = Factory.forProtocol(Protocol)

    def to_host(self, host: str, port: int) -> IStreamClientEndpoint:
        return self.hosts.setdefault((host, port), FakeEndpoint())

    def begin(self) -> None:
        """Begin to connect, whatever the end of it."""
        self.endpoint.connect(self.factory).addErrback(lambda _: None)

    def asked(self) -> tuple[str, int] | None:
        """Who is being connected to now."""
        waiting = [address for address, host in self.hosts.items() if host.attempts]
        self.assertLessEqual(len(waiting), 1)
        return waiting[0] if waiting else None

    def answer(self, sentinel: tuple[str, int], reply: bytes) -> FakeConnection:
        """Let `sentinel`, which must be the one that is connected to now, answer its question."""
        self.assertEqual(self.asked(), sentinel)
        connection = self.hosts[sentinel].accept()
        self.assertEqual(connection.commands()[-1], QUESTION)
        connection.reply(reply)
        return connection

    def name(self, sentinel: tuple[str, int], host: bytes = b"10.0.0.1", port: bytes = b"6379") -> FakeConnection:
        """Let `sentinel` name a master."""
        return self.answer(sentinel, array(host, port))

    def connected(self) -> Any:
        """A connection that was made, to the master at 10.0.0.1, as the first sentinel says."""
        connecting = self.endpoint.connect(self.factory)
        self.name(S1)
        self.hosts["10.0.0.1", 6379].accept()
        return self.successResultOf(connecting)


class ConnectTests(WithSentinels):
    """`connect`."""

    def test_interfaces(self) -> None:
        """It is a stream endpoint, and one that is watched."""
        verifyObject(IStreamClientEndpoint, self.endpoint)
        verifyObject(IWatched, self.endpoint)

    def test_the_first_sentinel_names_the_master(self) -> None:
        """One sentinel is asked, its connection closed, and the connection goes where it says."""
        connecting = self.endpoint.connect(self.factory)
        self.assertTrue(self.name(S1).closing)
        self.assertEqual(self.asked(), ("10.0.0.1", 6379))
        self.hosts["10.0.0.1", 6379].accept()
        self.assertIs(self.successResultOf(connecting).factory, self.factory)

    def test_the_answer_may_come_byte_by_byte(self) -> None:
        """An answer in pieces is read whole."""
        self.begin()
        connection = self.answer(S1, b"")
        for byte in array(b"::1", b"7000"):
            connection.reply(bytes([byte]))
        self.assertEqual(self.asked(), ("::1", 7000))

    def test_a_sentinel_that_is_away_is_followed_by_the_next(self) -> None:
        """Refusing, cutting the connection and giving no answer in time each lead to the next sentinel."""
        connecting = self.endpoint.connect(self.factory)
        self.hosts[S1].refuse()
        self.assertEqual(self.asked(), S2)
        self.hosts[S2].accept().lose()
        self.assertEqual(self.asked(), S3)
        silent = self.hosts[S3].accept()
        self.clock.advance(ASK_SECONDS - 0.01)
        self.assertFalse(silent.closing)
        self.clock.advance(0.02)
        self.assertTrue(silent.closing)
        self.failureResultOf(connecting, SentinelTrouble)

    def test_useless_answers_are_followed_by_the_next(self) -> None:
        """No such master, an error, and what is no address each lead to the next sentinel; the failure names all."""
        for reply, words in (
            (b"*-1\r\n", "it knows no master of this name"),
            (b"-NOAUTH Authentication required.\r\n", "NOAUTH Authentication required"),
            (b"+OK\r\n", "its answer is not an address"),
            (array(b"10.0.0.1"), "its answer is not an address"),
            (array(b"10.0.0.1", b"port"), "its answer is not an address"),
            (array(b"\xff", b"1"), "its answer is not an address"),
            (b"HTTP/1.1 400 Bad Request\r\n", "Protocol error"),
        ):
            self.setUp()
            connecting = self.endpoint.connect(self.factory)
            self.hosts[S1].refuse()
            self.assertTrue(self.answer(S2, reply).closing)
            self.answer(S3, reply)
            message = str(self.failureResultOf(connecting, SentinelTrouble).value)
            self.assertTrue(message.startswith("no sentinel names a master of payments: s1:26379: "), message)
            self.assertIn("s2:26379: " + words, message)
            self.assertIn("s3:26380: " + words, message)

    def test_no_answer_in_time_is_told(self) -> None:
        """The failure says of a silent sentinel that it gave no answer within half a second."""
        connecting = self.endpoint.connect(self.factory)
        for sentinel in (S1, S2, S3):
            self.hosts[sentinel].accept()
            self.clock.advance(ASK_SECONDS)
        message = str(self.failureResultOf(connecting, SentinelTrouble).value)
        self.assertIn("s1:26379: no answer within 0.5 s; s2:26379: no answer within 0.5 s", message)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_trouble_with_tls_is_told_in_words(self) -> None:
        """A sentinel whose certificate is not trusted is named with what to look at."""
        connecting = self.endpoint.connect(self.factory)
        why = SSL.Error([("SSL routines", "", "certificate verify failed")])
        self.hosts[S1].accept().protocol.connectionLost(Failure(why))
        self.hosts[S2].refuse()
        self.hosts[S3].refuse()
        message = str(self.failureResultOf(connecting, SentinelTrouble).value)
        self.assertIn("s1:26379: its certificate cannot be verified", message)

    def test_a_master_that_is_away_is_told_with_who_named_it(self) -> None:
        """When the master refuses, the failure names it and the sentinel."""
        connecting = self.endpoint.connect(self.factory)
        self.name(S1, b"::1")
        self.hosts["::1", 6379].refuse()
        message = str(self.failureResultOf(connecting, SentinelTrouble).value)
        self.assertIn("the master is [::1]:6379, says the sentinel s1:26379: Connection was refused", message)

    def test_a_change_of_master_is_one_line(self) -> None:
        """The log names the master when it is another one than before, and only then."""
        with capturedLogs() as events:
            self.connected()
            self.connected()
            self.begin()
            self.name(S1, b"10.0.0.2")
        self.assertEqual([event["master"] for event in events], ["10.0.0.1:6379", "10.0.0.2:6379"])


class OrderTests(WithSentinels):
    """Who is asked first."""

    def test_who_answered_last_is_asked_first(self) -> None:
        """After the second sentinel answered in place of the first, it is the one that is asked."""
        self.begin()
        self.hosts[S1].refuse()
        self.name(S2)
        self.hosts["10.0.0.1", 6379].accept()
        self.begin()
        self.assertEqual(self.asked(), S2)

    def test_who_was_silent_is_asked_last(self) -> None:
        """A sentinel that was silent is asked after those that answered, even if they named a master that is away."""
        self.begin()
        self.hosts[S1].refuse()
        for sentinel in (S2, S3, S2, S3):
            self.name(sentinel)
            self.hosts["10.0.0.1", 6379].refuse()
            self.begin()
        self.hosts[S2].refuse()
        self.hosts[S3].refuse()
        self.assertEqual(self.asked(), S1)

    def test_who_named_a_master_that_is_away_is_asked_after_the_others(self) -> None:
        """A sentinel that is cut off from the others does not lead to the dead master for ever."""
        self.begin()
        self.name(S1)
        self.hosts["10.0.0.1", 6379].refuse()
        self.begin()
        self.name(S2, b"10.0.0.2")
        self.assertEqual(self.asked(), ("10.0.0.2", 6379))

    def test_who_was_asked_when_the_search_was_given_up_is_asked_last(self) -> None:
        """A sentinel whose host name nobody resolves does not take each attempt with it."""
        connecting = self.endpoint.connect(self.factory)
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertEqual(self.hosts[S1].cancelled, 1)
        self.hosts.clear()
        self.begin()
        self.assertEqual(self.asked(), S2)


class CancelTests(WithSentinels):
    """A search can be given up at every step, and leaves nothing behind."""

    def assert_nothing_left(self, connecting: Deferred[Any]) -> None:
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_a_sentinel_is_asked(self) -> None:
        """Its connection is closed, and no other sentinel is asked."""
        connecting = self.endpoint.connect(self.factory)
        self.hosts[S1].refuse()
        question = self.hosts[S2].accept()
        self.assert_nothing_left(connecting)
        self.assertTrue(question.closing)
        question.lose()
        self.assertIsNone(self.asked())

    def test_while_the_master_is_connected_to(self) -> None:
        """The attempt to connect to the master is cancelled."""
        connecting = self.endpoint.connect(self.factory)
        self.name(S1)
        self.assert_nothing_left(connecting)
        self.assertEqual(self.hosts["10.0.0.1", 6379].cancelled, 1)


class MovedTests(WithSentinels):
    """`moved`."""

    def test_the_same_master(self) -> None:
        """A sentinel that names the master of our connection says that nothing has moved."""
        self.connected()
        moved = self.endpoint.moved()
        self.name(S1)
        self.assertEqual(self.successResultOf(moved), "")

    def test_another_master(self) -> None:
        """A sentinel that names another one is told, with both."""
        self.connected()
        moved = self.endpoint.moved()
        self.name(S1, b"10.0.0.2")
        self.assertEqual(self.successResultOf(moved), "the master is 10.0.0.2:6379 now, says the sentinel s1:26379")

    def test_no_sentinel_answers(self) -> None:
        """Without any sentinel nobody can tell, and the connection is not left."""
        self.connected()
        moved = self.endpoint.moved()
        for sentinel in (S1, S2, S3):
            self.hosts[sentinel].refuse()
        self.assertEqual(self.successResultOf(moved), "")

    def test_it_can_be_cancelled(self) -> None:
        """A question that nobody wants answered any more closes its connection."""
        self.connected()
        moved = self.endpoint.moved()
        question = self.hosts[S1].accept()
        moved.cancel()
        self.failureResultOf(moved, CancelledError)
        self.assertTrue(question.closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PasswordTests(WithSentinels):
    """Sentinels with a password."""

    password = "s3cret"

    def test_it_is_sent_first(self) -> None:
        """AUTH goes before the question, and both replies are waited for."""
        connecting = self.endpoint.connect(self.factory)
        connection = self.hosts[S1].accept()
        self.assertEqual(connection.commands(), [[b"AUTH", b"s3cret"], QUESTION])
        connection.reply(b"+OK\r\n")
        self.assertEqual(self.asked(), None)
        connection.reply(array(b"10.0.0.1", b"6379"))
        self.assertEqual(self.asked(), ("10.0.0.1", 6379))
        self.assertNoResult(connecting)

    def test_a_refusal_is_told_without_it(self) -> None:
        """A sentinel that refuses the password is named with its words, and the password is not in them."""
        connecting = self.endpoint.connect(self.factory)
        for sentinel in (S1, S2, S3):
            self.hosts[sentinel].accept().reply(b"-WRONGPASS s3cret is wrong\r\n-NOAUTH\r\n")
        message = str(self.failureResultOf(connecting, SentinelTrouble).value)
        self.assertIn("s1:26379: WRONGPASS *** is wrong", message)
        self.assertNotIn("s3cret", message)
