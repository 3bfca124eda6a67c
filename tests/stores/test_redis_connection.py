"""The connection to Redis: what is sent when, and what becomes of it when something goes wrong."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.fake_redis import FakeConnection, FakeEndpoint, array, bulk
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.redis_connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis_scripts import encode_command

PING = encode_command(b"PING")
AUTH = encode_command(b"AUTH", b"hunter2")
SELECT = encode_command(b"SELECT", b"3")
DEADLINE = 1.0


class ConnectionOnClock(SynchronousTestCase):
    """A connection whose clock and server are the test's."""

    greeting = [PING]

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.connection = RedisConnection(self.endpoint, "redis:6379", self.clock, DEADLINE, "hunter2")
        self.started = self.connection.start(self.greeting)

    def connect(self) -> FakeConnection:
        server = self.endpoint.accept()
        self.assertEqual(len(server.commands()), len(self.greeting))
        server.reply(b"+OK\r\n" * len(self.greeting))
        self.assertTrue(self.connection.ready)
        return server

    def reason_of(self, call: Deferred[Any]) -> str:
        return str(self.failureResultOf(call, StoreUnavailable).value)


class CallTests(ConnectionOnClock):
    """`call`, on a connection that works and on one that is not there."""

    def test_replies_go_to_their_calls(self) -> None:
        """Each call gets the reply to its own command, however the bytes arrive."""
        server = self.connect()
        calls = [self.connection.call(encode_command(b"ECHO", word)) for word in (b"a", b"b", b"c")]
        self.assertEqual(server.commands(), [[b"ECHO", b"a"], [b"ECHO", b"b"], [b"ECHO", b"c"]])
        for byte in bulk(b"a") + bulk(b"b") + array(b"c", 1, None):
            server.reply(bytes([byte]))
        self.assertEqual([self.successResultOf(call) for call in calls], [b"a", b"b", [b"c", 1, None]])

    def test_a_name_that_looks_like_a_number_stays_bytes(self) -> None:
        """The replies 007, 1.50 and a number in an array are the bytes that Redis sent."""
        server = self.connect()
        calls = [self.connection.call(PING) for _ in range(3)]
        server.reply(bulk(b"007"), bulk(b"1.50"), array(b"007", b"\xff"))
        self.assertEqual([self.successResultOf(call) for call in calls], [b"007", b"1.50", [b"007", b"\xff"]])

    def test_an_error_reply_fails_its_call_only(self) -> None:
        """An error reply fails its call with ErrorReply and Redis's own text; the connection goes on."""
        server = self.connect()
        bad, good = self.connection.call(PING), self.connection.call(PING)
        server.reply(b"-NOSCRIPT No matching script.\r\n", b"+PONG\r\n")
        self.assertEqual(str(self.failureResultOf(bad, ErrorReply).value), "NOSCRIPT No matching script.")
        self.assertEqual(self.successResultOf(good), b"PONG")
        self.assertTrue(self.connection.ready)

    def test_nothing_is_sent_before_the_greeting_is_answered(self) -> None:
        """A call on a new connection fails at once, and its command never goes out."""
        server = self.endpoint.accept()
        server.commands()
        self.assertIn("has not answered yet", self.reason_of(self.connection.call(PING)))
        server.reply(b"+OK\r\n")
        self.assertEqual(server.commands(), [])

    def test_nothing_waits_for_a_connection(self) -> None:
        """Calls while there is no connection fail at once, and do not go out when it is back."""
        self.connect().lose()
        calls = [self.connection.call(PING) for _ in range(3)]
        self.assertEqual({self.reason_of(call) for call in calls}, {"the connection to Redis at redis:6379 was lost"})
        self.clock.advance(0.1)
        self.assertEqual(self.connect().commands(), [])

    def test_a_lost_connection_fails_what_was_under_way(self) -> None:
        """When the connection is lost, all calls under way fail, and what they do then is not sent on it."""
        server = self.connect()
        calls = [self.connection.call(PING) for _ in range(2)]
        again: list[Deferred[Any]] = []
        calls[0].addErrback(lambda failure: again.append(self.connection.call(PING)) or failure)
        server.commands()
        server.lose()
        for call in [*calls, *again]:
            self.assertEqual(self.reason_of(call), "the connection to Redis at redis:6379 was lost")
        self.assertEqual(len(again), 1)
        self.assertEqual(server.commands(), [])


class DeadlineTests(ConnectionOnClock):
    """Every call has a deadline of its own."""

    def test_a_late_reply_drops_the_connection(self) -> None:
        """A call without a reply at its deadline fails then, the connection is dropped and made again."""
        server = self.connect()
        call = self.connection.call(PING)
        self.clock.advance(DEADLINE - 0.001)
        self.assertNoResult(call)
        self.clock.advance(0.001)
        self.assertEqual(self.reason_of(call), "Redis at redis:6379 did not answer within 1 s")
        self.assertTrue(server.closing)
        self.assertFalse(self.connection.ready)
        server.lose()
        self.clock.advance(0.1)
        again = self.connect()
        call = self.connection.call(PING)
        again.reply(b"+PONG\r\n")
        self.assertEqual(self.successResultOf(call), b"PONG")

    def test_each_call_has_the_whole_deadline(self) -> None:
        """A call made late in the life of another one is not cut short when that one has been answered."""
        server = self.connect()
        first = self.connection.call(PING)
        self.clock.advance(0.75)
        second = self.connection.call(PING)
        server.reply(b"+1\r\n")
        self.assertEqual(self.successResultOf(first), b"1")
        self.clock.advance(0.75)
        self.assertNoResult(second)
        self.clock.advance(0.25)
        self.reason_of(second)

    def test_calls_behind_a_late_one_fail_with_it(self) -> None:
        """Replies come in order, so a call behind one that is late fails at that one's deadline."""
        self.connect()
        calls = [self.connection.call(PING)]
        self.clock.advance(0.5)
        calls.append(self.connection.call(PING))
        self.clock.advance(0.5)
        for call in calls:
            self.reason_of(call)

    def test_the_greeting_has_a_deadline(self) -> None:
        """A server that accepts and says nothing is given up at the deadline, and tried again."""
        server = self.endpoint.accept()
        self.clock.advance(DEADLINE)
        self.assertTrue(server.closing)
        self.successResultOf(self.started)
        self.clock.advance(0.1)
        self.assertEqual(len(self.endpoint.attempts), 1)

    def test_an_idle_connection_has_no_timer(self) -> None:
        """Once all is answered and a deadline has passed, nothing is left on the clock."""
        server = self.connect()
        for _ in range(5):
            self.connection.call(PING)
            server.reply(b"+PONG\r\n")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(DEADLINE)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.connection.ready)


class ReconnectTests(ConnectionOnClock):
    """Up and down."""

    def test_attempts_wait_a_tenth_and_then_twice_as_long_up_to_two_seconds(self) -> None:
        """The waits between failing attempts are 0.1, 0.2, 0.4, 0.8, 1.6, 2 and 2 seconds."""
        for wait in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
            self.endpoint.refuse()
            self.clock.advance(wait - 0.01)
            self.assertEqual(self.endpoint.attempts, [])
            self.clock.advance(0.010001)
            self.assertEqual(len(self.endpoint.attempts), 1)

    def test_after_success_the_wait_is_short_again(self) -> None:
        """A connection that worked and was lost is tried again after a tenth of a second."""
        for wait in (0.1, 0.2, 0.4):
            self.endpoint.refuse()
            self.clock.advance(wait)
        self.connect().lose()
        self.clock.advance(0.1)
        self.connect()

    def test_start_fires_when_the_first_attempt_has_ended(self) -> None:
        """The Deferred of `start` waits for the greeting's replies."""
        server = self.endpoint.accept()
        self.assertNoResult(self.started)
        server.reply(b"+PONG\r\n")
        self.successResultOf(self.started)

    def test_start_fires_when_redis_is_away(self) -> None:
        """The Deferred of `start` fires without a failure when nobody listens, and calls say why they fail."""
        self.endpoint.refuse()
        self.assertIsNone(self.successResultOf(self.started))
        self.assertIn("cannot connect to Redis at redis:6379: ", self.reason_of(self.connection.call(PING)))

    def test_a_change_of_state_is_one_line(self) -> None:
        """However many attempts fail for one reason, the log says so once, and once that it is over."""
        with capturedLogs() as events:
            for wait in (0.1, 0.2, 0.4, 0.8):
                self.endpoint.refuse()
                self.clock.advance(wait)
            self.connect()
        self.assertEqual(len(events), 2)
        self.assertIn("cannot connect", events[0]["reason"])
        self.assertEqual(events[1]["place"], "redis:6379")

    def test_stop_closes_the_connection(self) -> None:
        """`stop` fires when the connection is closed; calls fail then, and nothing is tried again."""
        server = self.connect()
        under_way = self.connection.call(PING)
        stopped = self.connection.stop()
        self.assertTrue(server.closing)
        self.assertNoResult(stopped)
        server.lose()
        self.successResultOf(stopped)
        self.assertEqual(self.reason_of(under_way), "the Redis store is stopped")
        self.assertEqual(self.reason_of(self.connection.call(PING)), "the Redis store is stopped")
        self.clock.advance(60)
        self.assertEqual(self.endpoint.attempts, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_ends_a_wait(self) -> None:
        """`stop` between two attempts fires at once, and the next attempt is not made."""
        self.endpoint.refuse()
        self.successResultOf(self.connection.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_ends_an_attempt(self) -> None:
        """`stop` during an attempt cancels it, and whoever waits for the start waits no more."""
        self.successResultOf(self.connection.stop())
        self.successResultOf(self.started)
        self.assertEqual(self.endpoint.cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class GreetingTests(ConnectionOnClock):
    """Password and database."""

    greeting = [AUTH, SELECT]

    def test_they_are_sent_first(self) -> None:
        """AUTH and SELECT are the first two commands, in this order, and the connection counts after both."""
        server = self.endpoint.accept()
        self.assertEqual(server.commands(), [[b"AUTH", b"hunter2"], [b"SELECT", b"3"]])
        server.reply(b"+OK\r\n")
        self.assertFalse(self.connection.ready)
        server.reply(b"+OK\r\n")
        self.assertTrue(self.connection.ready)

    def test_a_refused_greeting_is_tried_again(self) -> None:
        """Whichever of the two is refused, Redis is tried again, and works once it accepts both."""
        wait = 0.1
        for replies in (b"-WRONGPASS no\r\n", b"+OK\r\n-ERR DB index\r\n", b"-LOADING\r\n", b"-NOAUTH\r\n-NOAUTH\r\n"):
            server = self.endpoint.accept()
            server.reply(replies)
            self.assertTrue(server.closing)
            self.assertIn("refused the connection", self.reason_of(self.connection.call(PING)))
            server.lose()
            self.clock.advance(wait)
            wait *= 2
        server = self.connect()
        call = self.connection.call(PING)
        server.reply(b"+PONG\r\n")
        self.assertEqual(self.successResultOf(call), b"PONG")

    def test_a_connection_lost_during_the_greeting_is_tried_again(self) -> None:
        """A connection that is cut after the password, or before, is made again."""
        self.endpoint.accept().lose()
        self.clock.advance(0.1)
        server = self.endpoint.accept()
        server.reply(b"+OK\r\n")
        server.lose()
        self.clock.advance(0.2)
        self.connect()

    def test_the_password_is_in_no_message(self) -> None:
        """A server that repeats the password in its error does not bring it into the reason."""
        self.endpoint.accept().reply(b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n")
        reason = self.reason_of(self.connection.call(PING))
        self.assertIn("'***'", reason)
        self.assertNotIn("hunter2", reason)
