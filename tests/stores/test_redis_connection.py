"""The connection to Redis: what is sent when, and what becomes of it when something goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.stores.fake_redis import FakeConnection, FakeEndpoint, array, bulk
from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.redis.connection import USUAL, ErrorReply, RedisConnection
from twisted_lb.stores.redis.protocol import encode_command
from twisted_lb.stores.redis.watched import IWatched

PING = encode_command(b"PING")
AUTH = encode_command(b"AUTH", b"hunter2")
SELECT = encode_command(b"SELECT", b"3")
DEADLINE = 1.0


class ConnectionOnClock(SynchronousTestCase):
    """A connection whose clock and server are the test's."""

    greeting = [PING]

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = self.new_endpoint()
        self.connection = RedisConnection(self.endpoint, "redis:6379", self.clock, DEADLINE, "hunter2")
        self.told: list[Any] = []  # what the owner was told, and whether calls could be made then
        self.connection.on_ready = lambda replies: self.told.append((replies, self.connection.ready))
        self.connection.on_down = lambda: self.told.append((self.connection.reason, self.connection.ready))
        self.started = self.connection.start(lambda: self.greeting)

    def new_endpoint(self) -> FakeEndpoint:
        return FakeEndpoint()

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

    def test_since_when_nobody_is_served(self) -> None:
        """After a loss Redis is silent from then on; after a deadline, from soon after the call that had no answer."""
        server = self.connect()
        self.clock.advance(3.0)
        server.lose()
        self.assertEqual(self.connection.silent_since, 3.0)
        self.clock.advance(1.0)
        self.connect()
        self.assertEqual(self.connection.silent_since, 3.0)
        self.clock.advance(1.0)
        self.connection.call(PING).addErrback(lambda _: None)
        self.clock.advance(DEADLINE)
        self.clock.advance(DEADLINE)
        self.assertFalse(self.connection.ready)
        self.assertAlmostEqual(self.connection.silent_since, 5.0 + USUAL * DEADLINE)

    def test_the_greeting_has_five_deadlines(self) -> None:
        """A server that accepts and says nothing is given up after five deadlines, and tried again."""
        server = self.endpoint.accept()
        self.clock.advance(5 * DEADLINE - 0.001)
        self.assertFalse(server.closing)
        self.clock.pump([0.002, 0.002])
        self.assertTrue(server.closing)
        self.successResultOf(self.started)
        self.assertIn("did not answer within 5 s", self.connection.reason)
        self.clock.advance(0.1)
        self.assertEqual(len(self.endpoint.attempts), 1)

    def test_a_short_deadline_leaves_the_greeting_half_a_second(self) -> None:
        """With a deadline of 10 ms the greeting has 500 ms."""
        connection = RedisConnection(self.endpoint, "redis:6379", self.clock, 0.01)
        connection.start(lambda: [PING])
        del self.endpoint.attempts[0]
        server = self.endpoint.accept()
        self.clock.advance(0.499)
        self.assertFalse(server.closing)
        self.clock.pump([0.002, 0.002])
        self.assertTrue(server.closing)

    def test_a_reply_that_waits_in_the_socket_is_read_first(self) -> None:
        """A reply that the next turn of the reactor reads is in time, although the timer ran before it."""
        server = self.connect()
        # Timers of one moment run in the order in which they were set, and the socket is read after all of them.
        self.clock.callLater(DEADLINE, self.clock.callLater, 0, server.reply, b"+PONG\r\n")
        call = self.connection.call(PING)
        self.clock.advance(DEADLINE)
        self.assertEqual(self.successResultOf(call), b"PONG")
        self.assertTrue(self.connection.ready)

    def test_a_process_that_stood_still_waits_for_as_long_again(self) -> None:
        """When the timer is 0.5 s late, the command gets 0.5 s more, and the connection is dropped only then."""
        self.connect()
        call = self.connection.call(PING)
        self.clock.advance(DEADLINE + 0.5)
        self.assertNoResult(call)
        self.clock.advance(0.49)
        self.assertNoResult(call)
        self.clock.advance(0.02)
        self.assertIn("did not answer within 1 s", self.reason_of(call))

    def test_a_process_that_stood_still_for_long_waits_one_more_deadline(self) -> None:
        """However late the timer is, the command gets one deadline more at most."""
        server = self.connect()
        calls = [self.connection.call(PING) for _ in range(2)]
        self.clock.advance(3600)
        server.reply(b"+PONG\r\n")
        self.assertEqual(self.successResultOf(calls[0]), b"PONG")
        self.assertNoResult(calls[1])
        self.clock.advance(DEADLINE)
        self.reason_of(calls[1])

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

    def test_attempts_wait_a_tenth_and_then_twice_as_long_up_to_half_a_second(self) -> None:
        """The waits between failing attempts are 0.1, 0.2, 0.4, 0.5 and 0.5 seconds."""
        for wait in (0.1, 0.2, 0.4, 0.5, 0.5):
            self.endpoint.refuse()
            self.clock.advance(wait - 0.01)
            self.assertEqual(self.endpoint.attempts, [])
            self.clock.advance(0.010001)
            self.assertEqual(len(self.endpoint.attempts), 1)

    def test_after_success_the_wait_is_short_again(self) -> None:
        """A connection that worked for a second and was lost is tried again after a tenth of a second."""
        for wait in (0.1, 0.2, 0.4):
            self.endpoint.refuse()
            self.clock.advance(wait)
        server = self.connect()
        self.clock.advance(1.0)
        server.lose()
        self.clock.advance(0.1)
        self.connect()

    def test_up_and_down_in_a_row_waits_longer(self) -> None:
        """Connections that work for a moment only are made after growing waits, not ten times a second."""
        for wait in (0.1, 0.2, 0.4, 0.5):
            self.connect().lose()
            self.clock.advance(wait - 0.01)
            self.assertEqual(self.endpoint.attempts, [])
            self.clock.advance(0.010001)

    def test_an_attempt_without_an_end_is_ended(self) -> None:
        """An attempt that nothing comes of is cancelled after 2 s, the next after 4 s, up to 32 s."""
        for seconds, patience in enumerate((2.0, 4.0, 8.0, 16.0, 32.0, 32.0)):
            self.clock.advance(patience - 0.01)
            self.assertEqual(self.endpoint.cancelled, seconds)
            self.clock.advance(0.02)
            self.assertEqual(self.endpoint.cancelled, seconds + 1)
            self.assertIn(f"nothing came of it within {patience:g} s", self.connection.reason)
            self.clock.advance(0.5)

    def test_an_attempt_that_ends_makes_the_next_one_short_again(self) -> None:
        """After an attempt that was refused, the patience with the next one is 2 s."""
        self.clock.advance(2.0)
        self.clock.advance(0.1)
        del self.endpoint.attempts[0]
        self.endpoint.refuse()
        self.clock.advance(0.2)
        self.clock.advance(2.0)
        self.assertEqual(self.endpoint.cancelled, 2)

    def test_a_connection_that_comes_after_its_attempt_was_ended_is_closed(self) -> None:
        """A connection from an attempt that was given up gets no greeting, and the next attempt counts."""
        another: Deferred[Any] = Deferred()

        class Stubborn(FakeEndpoint):
            """Does not end an attempt that is cancelled, but goes on to another one."""

            def connect(self, factory: Any) -> Deferred[Any]:
                return super().connect(factory).addErrback(lambda _: another)

        endpoint = Stubborn()
        connection = RedisConnection(endpoint, "redis:6379", self.clock, DEADLINE)
        connection.start(lambda: [PING])
        factory, _ = endpoint.attempts.pop()
        self.clock.advance(2.0)
        self.assertEqual(endpoint.cancelled, 1)
        self.clock.advance(0.1)
        late = FakeConnection(factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 6379)))
        another.callback(late.protocol)
        self.assertTrue(late.closing)
        self.assertEqual(late.commands(), [])
        endpoint.accept().reply(b"+OK\r\n")
        self.assertTrue(connection.ready)

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
        """However many attempts fail and for whatever reasons, the log has the first, and once that it is over."""
        with capturedLogs() as events:
            for wait in (0.1, 0.2):
                self.endpoint.refuse()
                self.clock.advance(wait)
            self.endpoint.accept().reply(b"-LOADING Redis is loading\r\n")
            self.clock.advance(0.4)
            server = self.connect()
            server.lose()
            self.clock.advance(0.5)
            self.endpoint.refuse()
        self.assertEqual([event["log_level"].name for event in events], ["error", "info", "error"])
        self.assertIn("cannot connect", events[0]["reason"])
        self.assertEqual(events[1]["place"], "redis:6379")
        self.assertIn("was lost", events[2]["reason"])

    def test_stop_closes_the_connection(self) -> None:
        """`stop` fires when the connection is closed; calls fail then, and nothing is tried again."""
        server = self.connect()
        under_way = self.connection.call(PING)
        stopped = self.connection.stop()
        self.assertTrue(server.closing)
        self.assertNoResult(stopped)
        self.assertIs(self.connection.stop(), stopped)
        server.lose()
        self.successResultOf(stopped)
        self.assertEqual(self.reason_of(under_way), "the Redis store is stopped")
        self.assertEqual(self.reason_of(self.connection.call(PING)), "the Redis store is stopped")
        self.clock.advance(60)
        self.assertEqual(self.endpoint.attempts, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_cuts_a_server_that_does_not_let_go(self) -> None:
        """When the connection is not closed within the greeting's deadline, it is aborted."""
        server = self.connect()
        self.connection.stop()
        self.clock.advance(5 * DEADLINE - 0.01)
        self.assertFalse(server.transport.disconnected)
        self.clock.advance(0.02)
        self.assertTrue(server.transport.disconnected)

    def test_stop_during_the_greeting(self) -> None:
        """An error in answer to the greeting of a connection that is being closed starts nothing anew."""
        server = self.endpoint.accept()
        stopped = self.connection.stop()
        server.reply(b"-LOADING\r\n")
        server.lose()
        self.successResultOf(stopped)
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

    def test_the_greeting_is_asked_for_each_connection(self) -> None:
        """What the owner wants to send first may be another thing each time."""
        self.connect().lose()
        self.greeting = [PING]
        self.clock.advance(0.1)
        self.assertEqual(self.endpoint.accept().commands(), [[b"PING"]])

    def test_a_greeting_that_cannot_be_made_is_one_more_reason_to_try_again(self) -> None:
        """When the owner's greeting raises, that is logged and the connection dropped; the next one may work."""

        def broken() -> list[bytes]:
            raise ZeroDivisionError("no greeting")

        connection = RedisConnection(self.endpoint, "redis:6379", self.clock, DEADLINE)
        connection.start(broken)
        del self.endpoint.attempts[0]
        server = self.endpoint.accept()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertTrue(server.closing)
        self.assertIn("no greeting", connection.reason)
        self.clock.advance(0.1)
        self.assertEqual(len(self.endpoint.attempts), 1)


class OwnerTests(ConnectionOnClock):
    """What the owner is told, and what it may do."""

    def test_ready_comes_before_anything_else(self) -> None:
        """`on_ready` has the greeting's replies, and its calls are the first on the connection."""
        calls: list[Deferred[Any]] = []
        self.connection.on_ready = lambda replies: calls.append(self.connection.call(encode_command(*replies)))
        self.started.addCallback(lambda _: calls.append(self.connection.call(PING)))
        server = self.endpoint.accept()
        server.commands()
        server.reply(b"+FIRST\r\n")
        self.assertEqual(server.commands(), [[b"FIRST"], [b"PING"]])

    def test_up_and_down_are_told_once_each(self) -> None:
        """Attempts that fail are not told; a connection that was ready and is lost is, with the reason."""
        self.endpoint.refuse()
        self.clock.advance(0.1)
        self.endpoint.accept().lose()
        self.clock.advance(0.2)
        self.assertEqual(self.told, [])
        server = self.connect()
        self.assertEqual(self.told, [([b"OK"], True)])
        server.lose()
        self.assertEqual(self.told[1:], [("the connection to Redis at redis:6379 was lost", False)])
        self.clock.advance(0.4)
        self.endpoint.refuse()
        self.assertEqual(len(self.told), 2)

    def test_a_drop_is_told_before_the_calls_fail(self) -> None:
        """When the deadline passes, the owner hears of it first, and then the calls fail."""
        self.connect()
        self.connection.call(PING).addErrback(lambda _: self.told.append("failed"))
        self.clock.advance(DEADLINE)
        self.assertEqual(self.told[1:], [("Redis at redis:6379 did not answer within 1 s", False), "failed"])

    def test_a_loss_is_told_before_the_calls_fail(self) -> None:
        """When the connection is lost, the owner hears of it first, and then the calls fail."""
        server = self.connect()
        self.connection.call(PING).addErrback(lambda _: self.told.append("failed"))
        server.lose()
        self.assertEqual(self.told[1:], [("the connection to Redis at redis:6379 was lost", False), "failed"])

    def test_a_stop_is_not_told(self) -> None:
        """`stop` is what the owner does itself."""
        server = self.connect()
        self.connection.stop()
        server.lose()
        self.assertEqual(len(self.told), 1)

    def test_giving_up_drops_the_connection(self) -> None:
        """A connection that answers to no use is down at once, its calls fail, and it is made again."""
        server = self.connect()
        calls = [self.connection.call(PING) for _ in range(3)]
        calls[0].addErrback(lambda failure: self.connection.give_up(failure.getErrorMessage()))
        server.reply(b"-READONLY You can't write against a read only replica.\r\n", b"+1\r\n")
        reason = "Redis at redis:6379 is of no use: READONLY You can't write against a read only replica."
        self.assertEqual([self.reason_of(call) for call in calls[1:]], [reason, reason])
        self.assertEqual(self.told[1:], [(reason, False)])
        self.assertTrue(server.closing)
        self.clock.advance(0.1)
        self.connect()

    def test_giving_up_what_is_not_there_does_nothing(self) -> None:
        """`give_up` before a connection counts, and after it was lost, changes nothing."""
        server = self.endpoint.accept()
        self.connection.give_up("READONLY")
        self.assertFalse(server.closing)
        server.lose()
        self.connection.give_up("READONLY")
        self.assertEqual(self.connection.reason, "the connection to Redis at redis:6379 was lost before it answered")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_the_owner_may_give_up_what_is_just_ready(self) -> None:
        """When `on_ready` gives up, the log never says that the connection is up, and it is made again."""
        self.connection.on_ready = lambda replies: self.connection.give_up("the reply is nonsense")
        with capturedLogs() as events:
            server = self.endpoint.accept()
            server.reply(b"+OK\r\n")
        self.assertTrue(server.closing)
        self.assertEqual([event["log_level"].name for event in events], ["error"])
        self.clock.advance(0.1)
        self.assertEqual(len(self.endpoint.attempts), 1)

    def test_late_replies_reach_nobody(self) -> None:
        """What a dropped connection still brings is no answer to a call on the next one."""
        server = self.connect()
        late = self.connection.call(PING)
        self.clock.advance(DEADLINE)
        self.reason_of(late)
        self.clock.advance(0.1)
        again = self.connect()
        call = self.connection.call(PING)
        server.reply(b"+STALE\r\n")
        server.lose()
        self.assertNoResult(call)
        self.assertTrue(self.connection.ready)
        again.reply(b"+FRESH\r\n")
        self.assertEqual(self.successResultOf(call), b"FRESH")

    def test_trouble_with_tls_is_told_in_words(self) -> None:
        """A handshake that fails on the certificate says what to look at."""
        server = self.endpoint.accept()
        why = SSL.Error([("SSL routines", "", "certificate verify failed")])
        server.protocol.connectionLost(Failure(why))
        self.assertIn("was lost before it answered: its certificate cannot be verified", self.connection.reason)
        self.assertIn("REDIS_TLS_CA_FILE", self.connection.reason)


@implementer(IWatched)
class WatchedEndpoint(FakeEndpoint):
    """An endpoint whose place may move; the questions wait for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[Deferred[str]] = []
        self.unasked = 0

    def moved(self) -> Deferred[str]:
        question: Deferred[str] = Deferred(self._cancel_question)
        self.questions.append(question)
        return question

    def _cancel_question(self, question: Deferred[str]) -> None:
        self.unasked += 1


class WatchTests(ConnectionOnClock):
    """A place that may move."""

    endpoint: WatchedEndpoint
    new_endpoint: Callable[..., FakeEndpoint] = lambda self: WatchedEndpoint()

    def test_it_is_looked_at_every_second(self) -> None:
        """A second after the connection counts, and after each answer, the endpoint is asked once."""
        self.connect()
        for count in (1, 2, 3):
            self.clock.advance(0.99)
            self.assertEqual(self.endpoint.questions, [])
            self.clock.advance(0.011)
            self.clock.advance(5)
            self.endpoint.questions.pop().callback("")
        self.assertTrue(self.connection.ready)

    def test_a_connection_to_yesterdays_place_is_left(self) -> None:
        """When the endpoint says that the place has moved, the connection is dropped, says so, and is made again."""
        server = self.connect()
        self.clock.advance(1)
        self.endpoint.questions.pop().callback("the master is b:6379 now")
        self.assertTrue(server.closing)
        self.assertEqual(self.connection.reason, "Redis at redis:6379 has moved: the master is b:6379 now")
        self.clock.advance(0.1)
        self.connect()

    def test_an_answer_about_a_lost_connection_is_not_heard(self) -> None:
        """A question under way ends with its connection, and so does the timer of the next one."""
        server = self.connect()
        self.clock.advance(1)
        server.lose()
        self.assertEqual(self.endpoint.unasked, 1)
        self.clock.advance(0.1)
        self.connect().lose()
        self.clock.advance(0.2)
        self.assertEqual(len(self.endpoint.questions), 1)

    def test_stop_ends_the_watch(self) -> None:
        """Nothing is left on the clock after `stop`."""
        server = self.connect()
        self.connection.stop()
        server.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])
