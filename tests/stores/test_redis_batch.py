"""Takings on their way to Redis: which go together, and how they are answered."""

from __future__ import annotations

from hashlib import sha1

from tests.stores.contract import Asker, digest_of
from tests.stores.fake_redis import array
from tests.stores.redis_on_clock import ANN, EVERYONE, LIMITS, NOSCRIPT, UNKNOWN, StoreOnClock, account
from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, Account, Limits, Policy, Taken
from twisted_lb.limits.client_networks import IN_USE_SECONDS
from twisted_lb.stores.redis.batches import MAX_BATCH
from twisted_lb.stores.redis.scripts import script_text


class BatchTests(StoreOnClock):
    """One call for many."""

    def test_one_turn_is_one_call(self) -> None:
        """What one turn of the reactor brings goes out in one call at its end, in the order asked."""
        receivers = [self.take(name) for name in ("a", "b", "a")]
        self.assertEqual(self.server.commands(), [])
        self.end_of_turn()
        self.assertEqual(self.batch().taken, [account("a"), account("b"), account("a")])
        self.server.reply(array(*ANN, *UNKNOWN, b"ann", 5, b"0.5", 0, 999))
        self.assertEqual(
            [receiver.answers for receiver in receivers],
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
        self.assertEqual(self.batch().taken, [account("b"), account("c"), account("d")])
        self.server.reply(array(*ANN * 3))
        self.assertEqual([len(receiver.answers) for receiver in later], [1, 1, 1])
        self.assertEqual((self.store.script_calls, self.store.takes), (2, 4))

    def test_after_the_last_reply_the_next_taking_starts_anew(self) -> None:
        """A taking that finds nothing under way goes out at the end of its turn."""
        for _ in range(3):
            receiver = self.take("a")
            self.end_of_turn()
            self.batch()
            self.server.reply(array(*ANN))
            self.assertEqual(len(receiver.answers), 1)

    def test_a_taking_asked_for_in_an_answer_is_sent(self) -> None:
        """Who asks again within an answer gets an answer to that too."""
        receiver = self.take("a")
        again: list[Asker] = []
        receiver.told.addCallback(lambda _: again.append(self.take("b")))
        self.end_of_turn()
        self.batch()
        self.server.reply(array(*ANN))
        self.end_of_turn()
        self.assertEqual(self.batch().taken, [account("b")])
        self.server.reply(array(*ANN))
        self.assertEqual(len(again[0].answers), 1)

    def test_a_call_has_at_most_so_many_takings(self) -> None:
        """More takings than a call holds go in several calls, one after another, in order."""
        names = [f"k{number}" for number in range(2 * MAX_BATCH + 1)]
        receivers = [self.take(name) for name in names]
        self.end_of_turn()
        sent: list[bytes] = []
        for size in (MAX_BATCH, MAX_BATCH, 1):
            keys = self.batch().taken
            self.assertEqual(len(keys), size)
            sent += keys
            self.server.reply(array(*ANN * size))
        self.assertEqual(sent, [account(name) for name in names])
        self.assertEqual({len(receiver.answers) for receiver in receivers}, {1})

    def test_an_asker_that_raises_does_not_rob_the_others(self) -> None:
        """When one receiver raises on its answer, those behind it in the batch still get theirs."""
        receiver = self.take("a")
        receiver.bucket_answered = lambda taken: 1 / 0  # type: ignore[method-assign,assignment]
        behind = self.take("b")
        self.end_of_turn()
        self.batch()
        self.server.reply(array(*ANN * 2))
        self.assertEqual(len(behind.answers), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_digest_of_another_length_is_unknown(self) -> None:
        """What is no SHA-256 in hexadecimal is answered with None, and never gets into a command."""
        for digest in ("", "x", "a" * 65, "é" * 64):
            receiver = Asker()
            self.store.take(digest, receiver)
            self.store.release(digest, -1)
            self.assertEqual(receiver.answers, [None])
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])


class ChargeTests(StoreOnClock):
    """Tokens charged and given back after the request."""

    def test_charges_go_with_the_takings(self) -> None:
        """A call charges before it takes, in microtokens; the sum of the batch is charged to everyone."""
        self.take("a")
        self.store.release(digest_of("b"), -1)
        self.store.release(digest_of("c"), 3)
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual(batch.charged, [(account("b"), -1_000_000), (account("c"), 3_000_000)])
        self.assertEqual((batch.released, batch.taken, batch.global_bucket), ([], [account("a")], 2_000_000))
        self.server.reply(array(*ANN))

    def test_a_charge_alone_is_a_call(self) -> None:
        """Tokens are given back without a taking too, and a reply without elements is none too few."""
        self.store.release(digest_of("b"), -1)
        self.end_of_turn()
        self.assertEqual(self.batch().charged, [(account("b"), -1_000_000)])
        self.store.release(digest_of("c"), -2)
        self.server.reply(b"*0\r\n")
        self.assertEqual(self.batch().charged, [(account("c"), -2_000_000)])
        self.assertEqual(self.store.takes, 0)

    def test_an_end_that_changes_nothing_sends_nothing(self) -> None:
        """Without a limit on requests in flight, a release of no tokens is no call."""
        self.assertIs(self.store.counts_in_flight, False)
        self.store.release(digest_of("a"), 0)
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])

    def test_many_charges_go_in_several_calls(self) -> None:
        """More charges than a call holds go one call after another, and each is sent once."""
        for number in range(MAX_BATCH + 2):
            self.store.release(digest_of(f"k{number}"), number + 1)
        self.end_of_turn()
        self.assertEqual(len(self.batch().charged), MAX_BATCH)
        self.server.reply(b"*0\r\n")
        rest = [(account(f"k{number}"), (number + 1) * 1_000_000) for number in (MAX_BATCH, MAX_BATCH + 1)]
        self.assertEqual(self.batch().charged, rest)


class ExtraTests(StoreOnClock):
    """Takings that cost something else than one token, or come from a new network."""

    limits = LIMITS

    def test_the_extras_name_the_takings(self) -> None:
        """Only a taking with another cost or with a network has an extra, which says its place in the batch."""
        self.take("a")
        self.take("b", 7)
        self.take("c", 1, "1.2.3.4")
        self.take("d", 1_000_000_000, "2001:db8::/64")
        self.take("e", 0)
        self.end_of_turn()
        extras = [(2, 7, b""), (3, 1, b"1.2.3.4"), (4, 1_000_000_000, b"2001:db8::/64"), (5, 0, b"")]
        self.assertEqual(self.batch().extras, extras)

    def test_the_extras_go_with_their_takings(self) -> None:
        """When takings are spread over several calls, each call has the extras of its own takings."""
        for number in range(2 * MAX_BATCH + 5):
            self.take(f"k{number}", 9 if number in (0, MAX_BATCH - 1, MAX_BATCH, 2 * MAX_BATCH + 4) else 1)
        self.end_of_turn()
        for size, places in ((MAX_BATCH, [1, MAX_BATCH]), (MAX_BATCH, [1]), (5, [5])):
            self.assertEqual(self.batch().extras, [(place, 9, b"") for place in places])
            self.server.reply(array(*ANN * size))

    def test_a_cost_that_cannot_be_is_an_error(self) -> None:
        """A cost below 0 or above 10^9 raises ValueError, and the taking is not in the batch."""
        for cost in (-1, 1_000_000_001):
            self.assertRaises(ValueError, self.take, "a", cost)
        self.take("b")
        self.end_of_turn()
        self.assertEqual(self.batch().taken, [account("b")])

    def test_each_limit_that_refuses_is_told_with_its_own_numbers(self) -> None:
        """A refusal by another limit than the key's has the numbers of that limit, and its name."""
        receivers = [self.take(name, 1, "1.2.3.4") for name in "abc"]
        self.end_of_turn()
        self.batch()
        self.server.reply(
            array(b"ann", 5, b"0.5", 2, 0, b"ann", 5, b"0.5", 3, -7, b"", LIMITS.address.capacity, b"10.0", 4, 999)
        )
        global_bucket, address = LIMITS.global_bucket, LIMITS.address
        self.assertEqual(
            [receiver.answers for receiver in receivers],
            [
                [Taken(False, b"ann", LIMITS.in_flight, 0.0, 0, IN_FLIGHT)],
                [Taken(False, b"ann", global_bucket.capacity, global_bucket.rate_per_sec, -7, GLOBAL)],
                [Taken(False, b"", address.capacity, address.rate_per_sec, 999, ADDRESS)],
            ],
        )

    def test_the_limits_are_in_every_call(self) -> None:
        """A call says the limit in flight, the instance, its lease, the policies beside the key's, and the process."""
        self.take("a")
        self.end_of_turn()
        self.assertEqual(
            self.batch().constant,
            [b"2", b"id1", b"10000000", b"1000", b"100.0", b"3", b"10.0", b"%d" % (IN_USE_SECONDS * 10**6), b"id1"],
        )

    def test_without_a_limit_on_addresses_networks_are_not_sent(self) -> None:
        """A network is no extra where addresses have no bucket, and what has no key is admitted at once."""
        self.set_up_with(Limits(global_bucket=EVERYONE))
        self.take("a", 1, "1.2.3.4")
        receiver = Asker()
        self.store.take_address("1.2.3.4", receiver)
        self.store.release_address("1.2.3.4", -1)
        self.assertEqual([(taken.admitted, taken.limit) for taken in receiver.answers], [(True, ADDRESS)])
        self.end_of_turn()
        self.assertEqual(self.batch().extras, [])

    def test_addresses_go_in_the_same_call(self) -> None:
        """Tokens of addresses are taken and given back in the call of the takings, and answered behind them."""
        key = self.take("a")
        one, two = Asker(), Asker()
        self.store.take_address("1.2.3.4", one)
        self.store.release_address("1.2.3.5", -1)
        self.store.take_address("1.2.3.6", two)
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual(batch.limited, [(0, 1, [b"address:1.2.3.4"]), (0, 1, [b"address:1.2.3.6"])])
        self.assertEqual(batch.shared_charges, [(b"address:1.2.3.5", -1_000_000)])
        self.server.reply(array(*ANN, b"", 0, b"0", 1, 2_000_000, b"", 0, b"0", 6, 5, 2_000_000, 5))
        self.assertEqual(key.answers, [Taken(True, b"ann", 5, 0.5, 4_000_000)])
        self.assertEqual(one.answers, [Taken(True, b"", 3, 10.0, 2_000_000, ADDRESS)])
        self.assertEqual(two.answers, [Taken(False, b"", 3, 10.0, 5, ADDRESS)])

    def test_an_address_alone_is_a_call(self) -> None:
        """A call for an address alone has no keys at all."""
        self.set_up_with(Limits(address=Policy(3, 10.0)))
        receiver = Asker()
        self.store.take_address("1.2.3.4", receiver)
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual((batch.taken, batch.limited), ([], [(0, 1, [b"address:1.2.3.4"])]))
        self.server.reply(array(b"", 0, b"0", 1, 2_000_000, 2_000_000))
        self.assertTrue(receiver.answers[0].admitted)  # type: ignore[union-attr]


class ScriptTests(StoreOnClock):
    """The script by its hash, and when Redis has lost it."""

    def test_the_script_is_called_by_the_hash_of_its_text(self) -> None:
        """A batch is an EVALSHA with the SHA-1 of the text, and does not carry the text."""
        self.take("a")
        self.end_of_turn()
        [command] = self.server.commands()
        self.assertEqual(command[:2], [b"EVALSHA", sha1(script_text("take_tokens")).hexdigest().encode()])

    def test_a_missing_script_is_sent_once_and_the_batch_is_answered(self) -> None:
        """After NOSCRIPT the same batch goes out with the text, and the receiver notices nothing."""
        receiver = self.take("a")
        self.store.release(digest_of("b"), -1)
        self.end_of_turn()
        [first] = self.server.commands()
        later = self.take("c")
        self.server.reply(NOSCRIPT)
        [command] = self.server.commands()
        self.assertEqual(command[:2], [b"EVAL", script_text("take_tokens")])
        self.assertEqual(command[2:], first[2:])
        self.assertEqual((receiver.answers, later.answers), ([], []))
        self.server.reply(array(*ANN))
        self.assertEqual(receiver.answers, [Taken(True, b"ann", 5, 0.5, 4_000_000)])
        self.assertEqual(self.server.commands()[0][0], b"EVALSHA")
        self.assertEqual(self.store.script_calls, 3)

    def test_a_script_that_stays_missing_is_not_tried_for_ever(self) -> None:
        """A NOSCRIPT to the text itself makes the store unavailable to its receivers."""
        receiver = self.take("a")
        self.end_of_turn()
        self.server.reply(NOSCRIPT, NOSCRIPT)
        self.assertEqual(receiver.answers, ["NOSCRIPT No matching script. Please use EVAL."])

    def test_a_missing_account_script_is_sent_too(self) -> None:
        """After NOSCRIPT a creation goes out with its text, and succeeds."""
        created = self.store.create(digest_of("a"), Account("ann", 5, 0.5))
        self.server.reply(NOSCRIPT)
        commands = self.server.commands()
        self.assertEqual([command[0] for command in commands], [b"EVALSHA", b"EVAL"])
        self.assertEqual(commands[0][2:], commands[1][2:])
        self.server.reply(b":0\r\n")
        self.assertIsNone(self.successResultOf(created))
