"""Takings on their way to Redis: which go together, and what becomes of them."""

from __future__ import annotations

from hashlib import sha1
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.stores.contract import Asker, digest_of
from tests.stores.fake_redis import FakeConnection, FakeEndpoint, array
from twisted_lb.interfaces import Account, StoreUnavailable, Taken
from twisted_lb.stores.redis_batch import MAX_BATCH
from twisted_lb.stores.redis_scripts import script_text
from twisted_lb.stores.redis_store import RedisStore

NOSCRIPT = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"
GREETING = 4  # commands: the scripts are loaded
ANN = (b"ann", 5, b"0.5", 1, 4_000_000)
UNKNOWN = (None, 0, 0, 0, 0)


def key(name: str) -> bytes:
    return b"tokenlb:{%s}" % digest_of(name).encode()


class StoreOnClock(SynchronousTestCase):
    """A Redis store whose clock and server are the test's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = FakeEndpoint()
        self.store = RedisStore("redis://redis", self.clock, 1.0, self.endpoint)
        self.store.start()
        self.server = self.connect()

    def connect(self) -> FakeConnection:
        server = self.endpoint.accept()
        self.assertEqual([command[:2] for command in server.commands()], [[b"SCRIPT", b"LOAD"]] * GREETING)
        server.reply(b"+sha\r\n" * GREETING)
        return server

    def take(self, name: str) -> Asker:
        asker = Asker()
        self.store.take(digest_of(name), asker)
        return asker

    def end_of_turn(self) -> None:
        self.clock.advance(0)

    def batch(self) -> tuple[list[bytes], list[bytes]]:
        """The keys that tokens are given back to, and those that are taken from, of the one call that was sent."""
        [command] = self.server.commands()
        self.assertIn(command[0], (b"EVALSHA", b"EVAL"))
        count = int(command[2])
        keys, [given_back] = command[3 : 3 + count], command[3 + count :]
        return keys[: int(given_back)], keys[int(given_back) :]


class BatchTests(StoreOnClock):
    """One call for many."""

    def test_one_turn_is_one_call(self) -> None:
        """What one turn of the reactor brings goes out in one call at its end, in the order asked."""
        askers = [self.take(name) for name in ("a", "b", "a")]
        self.assertEqual(self.server.commands(), [])
        self.end_of_turn()
        self.assertEqual(self.batch(), ([], [key("a"), key("b"), key("a")]))
        self.server.reply(array(*ANN, *UNKNOWN, b"ann", 5, b"0.5", 0, 999))
        self.assertEqual(
            [asker.answers for asker in askers],
            [[Taken(True, b"ann", 5, 0.5, 4_000_000)], [None], [Taken(False, b"ann", 5, 0.5, 999)]],
        )
        self.assertEqual((self.store.script_calls, self.store.takes), (1, 3))

    def test_what_comes_during_a_call_goes_with_the_next(self) -> None:
        """While a call is under way nothing is sent, and its reply sends all that came since at once."""
        self.take("a")
        self.end_of_turn()
        self.batch()
        later = [self.take(name) for name in ("b", "c", "d")]
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])
        self.server.reply(array(*ANN))
        self.assertEqual(self.batch(), ([], [key("b"), key("c"), key("d")]))
        self.server.reply(array(*ANN * 3))
        self.assertEqual([len(asker.answers) for asker in later], [1, 1, 1])
        self.assertEqual((self.store.script_calls, self.store.takes), (2, 4))

    def test_after_the_last_reply_the_next_taking_starts_anew(self) -> None:
        """A taking that finds nothing under way goes out at the end of its turn."""
        for _ in range(3):
            asker = self.take("a")
            self.end_of_turn()
            self.batch()
            self.server.reply(array(*ANN))
            self.assertEqual(len(asker.answers), 1)

    def test_a_taking_asked_for_in_an_answer_is_sent(self) -> None:
        """Who asks again within an answer gets an answer to that too."""
        asker = self.take("a")
        again: list[Asker] = []
        asker.told.addCallback(lambda _: again.append(self.take("b")))
        self.end_of_turn()
        self.batch()
        self.server.reply(array(*ANN))
        self.end_of_turn()
        self.assertEqual(self.batch(), ([], [key("b")]))
        self.server.reply(array(*ANN))
        self.assertEqual(len(again[0].answers), 1)

    def test_a_call_has_at_most_so_many_keys(self) -> None:
        """More takings than a call holds go in several calls, one after another, in order."""
        names = [f"k{number}" for number in range(2 * MAX_BATCH + 1)]
        askers = [self.take(name) for name in names]
        self.end_of_turn()
        sent: list[bytes] = []
        for size in (MAX_BATCH, MAX_BATCH, 1):
            keys = self.batch()[1]
            self.assertEqual(len(keys), size)
            sent += keys
            self.server.reply(array(*ANN * size))
        self.assertEqual(sent, [key(name) for name in names])
        self.assertEqual({len(asker.answers) for asker in askers}, {1})

    def test_tokens_are_given_back_in_the_same_call_and_first(self) -> None:
        """A call gives tokens back before it takes, so that a taking of the same turn finds them."""
        self.take("a")
        self.store.give_back(digest_of("b"))
        self.end_of_turn()
        self.assertEqual(self.batch(), ([key("b")], [key("a")]))
        self.server.reply(array(*ANN))

    def test_giving_back_alone_is_a_call(self) -> None:
        """Tokens are given back without a taking too, and a reply without elements is none too few."""
        self.store.give_back(digest_of("b"))
        self.end_of_turn()
        self.assertEqual(self.batch(), ([key("b")], []))
        self.store.give_back(digest_of("c"))
        self.server.reply(b"*0\r\n")
        self.assertEqual(self.batch(), ([key("c")], []))
        self.assertEqual(self.store.takes, 0)

    def test_an_asker_that_raises_does_not_rob_the_others(self) -> None:
        """When one asker raises on its answer, those behind it in the batch still get theirs."""
        asker = self.take("a")
        asker.bucket_answered = lambda taken: 1 / 0  # type: ignore[method-assign,assignment]
        behind = self.take("b")
        self.end_of_turn()
        self.batch()
        self.server.reply(array(*ANN * 2))
        self.assertEqual(len(behind.answers), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_digest_of_another_length_is_unknown(self) -> None:
        """What is no SHA-256 in hexadecimal is answered with None, and never gets into a command."""
        for digest in ("", "x", "a" * 65, "é" * 64):
            asker = Asker()
            self.store.take(digest, asker)
            self.store.give_back(digest)
            self.assertEqual(asker.answers, [None])
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])


class ScriptTests(StoreOnClock):
    """The script by its hash, and when Redis has lost it."""

    def test_the_script_is_called_by_the_hash_of_its_text(self) -> None:
        """A batch is an EVALSHA with the SHA-1 of the text, and does not carry the text."""
        self.take("a")
        self.end_of_turn()
        [command] = self.server.commands()
        self.assertEqual(command[:2], [b"EVALSHA", sha1(script_text("take_tokens")).hexdigest().encode()])

    def test_a_missing_script_is_sent_once_and_the_batch_is_answered(self) -> None:
        """After NOSCRIPT the same batch goes out with the text, and the asker notices nothing."""
        asker = self.take("a")
        self.store.give_back(digest_of("b"))
        self.end_of_turn()
        first = self.batch()
        later = self.take("c")
        self.server.reply(NOSCRIPT)
        [command] = self.server.commands()
        self.assertEqual(command[:2], [b"EVAL", script_text("take_tokens")])
        self.assertEqual(command[2:], [b"2", *first[0], *first[1], b"1"])
        self.assertEqual((asker.answers, later.answers), ([], []))
        self.server.reply(array(*ANN))
        self.assertEqual(asker.answers, [Taken(True, b"ann", 5, 0.5, 4_000_000)])
        self.assertEqual(self.server.commands()[0][0], b"EVALSHA")
        self.assertEqual(self.store.script_calls, 3)

    def test_a_script_that_stays_missing_is_not_tried_for_ever(self) -> None:
        """A NOSCRIPT to the text itself makes the store unavailable to its askers."""
        asker = self.take("a")
        self.end_of_turn()
        self.server.reply(NOSCRIPT, NOSCRIPT)
        self.assertEqual(asker.answers, ["NOSCRIPT No matching script. Please use EVAL."])

    def test_a_missing_account_script_is_sent_too(self) -> None:
        """After NOSCRIPT a creation goes out with its text, and succeeds."""
        created = self.store.create(digest_of("a"), Account("ann", 5, 0.5))
        self.server.reply(NOSCRIPT)
        commands = self.server.commands()
        self.assertEqual([command[0] for command in commands], [b"EVALSHA", b"EVAL"])
        self.assertEqual(commands[0][2:], commands[1][2:])
        self.server.reply(b":0\r\n")
        self.assertIsNone(self.successResultOf(created))


class OutageTests(StoreOnClock):
    """Redis away, silent or in error."""

    def outcome(self, asker: Asker) -> Any:
        [answer] = asker.answers
        return answer

    def test_without_a_connection_all_fails_at_once(self) -> None:
        """While Redis is away a taking fails within the call, and neither it nor a gift is sent later."""
        self.server.lose()
        asker = self.take("a")
        self.store.give_back(digest_of("a"))
        self.assertIn("was lost", self.outcome(asker))
        for call in (
            self.store.create(digest_of("a"), Account("ann", 5, 0.5)),
            self.store.profile(digest_of("a")),
            self.store.change(digest_of("a"), 1, None),
        ):
            self.failureResultOf(call, StoreUnavailable)
        self.clock.advance(0.1)
        self.assertEqual(self.connect().commands(), [])
        self.assertEqual(self.store.takes, 0)

    def test_a_lost_connection_fails_the_batch_and_those_waiting(self) -> None:
        """When the reply is lost, the batch and what waits behind it are told so, and nothing is sent again."""
        under_way = self.take("a")
        self.end_of_turn()
        waiting = self.take("b")
        self.store.give_back(digest_of("b"))
        self.server.commands()
        self.server.lose()
        self.assertIn("was lost", self.outcome(under_way))
        self.assertIn("was lost", self.outcome(waiting))
        self.clock.advance(0.1)
        self.server = self.connect()
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])
        asker = self.take("c")
        self.end_of_turn()
        self.assertEqual(self.batch(), ([], [key("c")]))
        self.server.reply(array(*ANN))
        self.assertTrue(self.outcome(asker).admitted)

    def test_a_connection_lost_before_the_end_of_the_turn_fails_the_batch(self) -> None:
        """A taking whose connection is lost before it was sent is told so."""
        asker = self.take("a")
        self.server.lose()
        self.end_of_turn()
        self.assertIn("was lost", self.outcome(asker))

    def test_a_silent_redis_fails_the_batch_at_the_deadline(self) -> None:
        """At the deadline the batch and those waiting fail; from then on takings fail at once."""
        under_way = self.take("a")
        self.end_of_turn()
        waiting = self.take("b")
        self.clock.advance(1.0)
        for asker in (under_way, waiting, self.take("c")):
            self.assertEqual(self.outcome(asker), "Redis at redis:6379 did not answer within 1 s")

    def test_an_error_fails_its_batch_and_the_next_one_is_sent(self) -> None:
        """An error reply is the reason of its whole batch; what waited is sent all the same."""
        failing = [self.take("a"), self.take("b")]
        self.end_of_turn()
        self.batch()
        waiting = self.take("c")
        self.server.reply(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")
        for asker in failing:
            self.assertIn("OOM command not allowed", self.outcome(asker))
        self.assertEqual(self.batch(), ([], [key("c")]))
        self.server.reply(array(*ANN))
        self.assertTrue(self.outcome(waiting).admitted)

    def test_a_stop_lets_the_last_batch_finish(self) -> None:
        """A token given back right before `stop` is still sent, and only its reply closes the connection."""
        self.store.give_back(digest_of("a"))
        stopped = self.store.stop()
        self.end_of_turn()
        self.assertEqual(self.batch(), ([key("a")], []))
        self.assertFalse(self.server.closing)
        self.server.reply(b"*0\r\n")
        self.assertTrue(self.server.closing)
        self.server.lose()
        self.successResultOf(stopped)

    def test_a_stop_does_not_wait_for_a_silent_redis(self) -> None:
        """A batch that gets no reply holds `stop` up for its deadline at most."""
        asker = self.take("a")
        self.end_of_turn()
        stopped = self.store.stop()
        self.clock.advance(1.0)
        self.successResultOf(stopped)
        self.assertIn("did not answer", self.outcome(asker))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_after_the_stop_takings_are_told(self) -> None:
        """A taking after `stop` is told that the store is stopped."""
        self.store.stop()
        self.assertEqual(self.outcome(self.take("a")), "the Redis store is stopped")
