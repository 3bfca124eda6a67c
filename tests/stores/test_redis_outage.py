"""Redis away, silent or in error: what becomes of takings, and what Redis is told afterwards."""

from __future__ import annotations

from typing import Any

from tests.stores.contract import Asker, digest_of
from tests.stores.fake_redis import FakeEndpoint, array, bulk
from tests.stores.redis_on_clock import ANN, LIMITS, SCRIPTS, UNKNOWN, StoreOnClock, account, read_batch
from twisted_lb.interfaces import ADDRESS, GLOBAL, MICROTOKENS, Account, Limits, Policy, StoreUnavailable, Taken
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.batches import MAX_BATCH
from twisted_lb.stores.redis.store import RedisStore

LOCAL = Taken(True, b"ann", 5, 0.5, 1_000_000)


class AwayTests(StoreOnClock):
    """What is asked while there is no connection."""

    def test_accounts_fail_at_once(self) -> None:
        """While Redis is away every call for an account fails within the call, with StoreUnavailable."""
        self.server.lose()
        for call in (
            self.store.create(digest_of("a"), Account("ann", 5, 0.5)),
            self.store.profile(digest_of("a")),
            self.store.change(digest_of("a"), 1, None),
            self.store.page("", 10),
        ):
            self.failureResultOf(call, StoreUnavailable)

    def test_the_standby_decides_within_the_call(self) -> None:
        """While Redis is away the fallback's answer is the answer, at the cost of the request; none is unavailable."""
        self.fallback.answers[digest_of("a")] = LOCAL
        self.server.lose()
        self.assertEqual(self.outcome(self.take("a", 4)), LOCAL)
        self.assertIn("was lost", self.outcome(self.take("b")))
        self.assertEqual(self.fallback.asked, [(digest_of("a"), 4, 0), (digest_of("b"), 1, 0)])

    def test_nothing_of_an_outage_is_sent_later(self) -> None:
        """Neither takings nor charges nor addresses of an outage go to Redis when it is back."""
        self.set_up_with(LIMITS)
        self.server.lose()
        self.take("a", 3, "1.2.3.4")
        self.store.release(digest_of("a"), -1)
        self.store.take_address("1.2.3.4", Asker())
        self.store.release_address("1.2.3.4", -1)
        self.reconnect()
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])
        self.assertEqual(self.store.takes, 0)

    def test_charges_go_to_the_standby(self) -> None:
        """A request that ends while Redis is away is charged to the fallback, unless it charges nothing."""
        self.server.lose()
        self.store.release(digest_of("a"), 7)
        self.store.release(digest_of("b"), -1)
        self.store.release(digest_of("c"), 0)
        self.assertEqual(self.fallback.released, [(digest_of("a"), 7), (digest_of("b"), -1)])

    def of_network(self, network: str) -> Any:
        receiver = Asker()
        self.store.take_address(network, receiver)
        return self.outcome(receiver)

    def test_networks(self) -> None:
        """While Redis is away the process has buckets of its own for networks, and a token can be put back."""
        self.set_up_with(LIMITS)
        self.server.lose()
        for level in (2, 1, 0):
            self.assertEqual(self.of_network("1.2.3.4"), Taken(True, b"", 3, 10.0, level * 1_000_000, ADDRESS))
        self.assertEqual(self.of_network("1.2.3.4"), Taken(False, b"", 3, 10.0, 0, ADDRESS))
        self.store.release_address("1.2.3.4", -1)
        self.assertTrue(self.of_network("1.2.3.4").admitted)
        self.assertTrue(self.of_network("1.2.3.5").admitted)

    def test_guesses(self) -> None:
        """A key that nobody knows costs a token of its network, and without one even a right guess is refused."""
        self.set_up_with(LIMITS)
        self.server.lose()
        self.fallback.answers[digest_of("right")] = LOCAL
        for _ in range(3):
            self.assertEqual(self.outcome(self.take("right", 1, "1.2.3.4")), LOCAL)
            self.assertIn("was lost", self.outcome(self.take("wrong", 1, "1.2.3.4")))
        for key in ("wrong", "right"):
            self.assertEqual(self.outcome(self.take(key, 1, "1.2.3.4")), Taken(False, b"", 3, 10.0, 0, ADDRESS))
        self.assertEqual(self.outcome(self.take("right")), LOCAL)


class EveryoneTests(StoreOnClock):
    """The bucket of everyone, of which each reply tells the level."""

    def test_its_share_begins_with_the_level_that_was_told(self) -> None:
        """In an outage the global bucket goes on from the level that the last reply ended with."""
        self.set_up_with(Limits(Policy(100, 0.0)))
        self.take("a")
        self.end_of_turn()
        self.server.reply(array(b"ann", 1000, b"0.0", 1, 900_000_000, 42_000_000))
        self.server.lose()
        taken = [Fallback.take(self.fallback, digest_of("a"), 1, 0) for _ in range(2)]
        self.assertTrue(all(one is not None and one.admitted for one in taken))
        refused = Fallback.take(self.fallback, digest_of("a"), 50, 0)
        assert refused is not None
        self.assertEqual((refused.limit, refused.level), (GLOBAL, 40_000_000))


class LossTests(StoreOnClock):
    """What was under way, and what waited."""

    def test_a_lost_connection_leaves_all_to_the_standby(self) -> None:
        """When the reply is lost, the batch and what waits behind it are decided by the fallback, each once."""
        self.fallback.answers[digest_of("a")] = LOCAL
        under_way = [self.take("a", 2), self.take("x")]
        self.end_of_turn()
        waiting = [self.take("a", 3), self.take("b")]
        self.server.commands()
        self.server.lose()
        self.assertEqual([self.outcome(under_way[0]), self.outcome(waiting[0])], [LOCAL, LOCAL])
        for receiver in (under_way[1], waiting[1]):
            self.assertIn("was lost", self.outcome(receiver))
        costs = sorted((digest, cost) for digest, cost, _ in self.fallback.asked)
        self.assertEqual(
            costs, sorted([(digest_of("a"), 2), (digest_of("x"), 1), (digest_of("a"), 3), (digest_of("b"), 1)])
        )
        self.reconnect()
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])
        receiver = self.take("c")
        self.end_of_turn()
        self.assertEqual(self.batch().taken, [account("c")])
        self.server.reply(array(*ANN))
        self.assertTrue(self.outcome(receiver).admitted)

    def test_a_connection_lost_before_the_end_of_the_turn(self) -> None:
        """A taking whose connection is lost before it was sent is decided by the fallback, and not sent."""
        receiver = self.take("a")
        self.server.lose()
        self.end_of_turn()
        self.assertIn("was lost", self.outcome(receiver))
        self.assertEqual(self.store.takes, 0)

    def test_charges_of_unknown_fate_wait_until_it_is_known(self) -> None:
        """Of a lost batch the fallback gets nothing, of what waited behind it everything."""
        for name, tokens in (("a", 3), ("b", -1)):
            self.store.release(digest_of(name), tokens)
        self.end_of_turn()
        for name, tokens in (("c", 4), ("d", -2)):
            self.store.release(digest_of(name), tokens)
        self.server.lose()
        self.assertEqual(
            sorted(self.fallback.released), sorted([(digest_of("c"), 4), (digest_of("d"), -2)])
        )

    def test_addresses_of_a_lost_batch_are_admitted(self) -> None:
        """A taking of an address's token whose reply is lost, or that waited, is admitted."""
        self.set_up_with(LIMITS)
        under_way, waiting = Asker(), Asker()
        self.store.take_address("1.2.3.4", under_way)
        self.end_of_turn()
        self.store.take_address("1.2.3.4", waiting)
        self.server.lose()
        self.assertEqual([self.outcome(under_way).admitted, self.outcome(waiting).admitted], [True, True])

    def test_a_silent_redis_costs_one_deadline(self) -> None:
        """Soon after the deadline the batch and those waiting are decided; from then on takings are at once."""
        under_way = self.take("a")
        self.end_of_turn()
        waiting = self.take("b")
        self.clock.advance(1.0)
        self.end_of_turn()
        for receiver in (under_way, waiting, self.take("c")):
            self.assertEqual(self.outcome(receiver), "Redis at redis:6379 did not answer within 1 s")

    def test_an_error_is_an_outage(self) -> None:
        """An error reply closes the connection: its batch and what waited are decided by the fallback."""
        failing = [self.take("a"), self.take("b")]
        self.store.release(digest_of("a"), -1)
        self.end_of_turn()
        waiting = self.take("c")
        self.server.commands()
        self.server.reply(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n")
        for receiver in (*failing, waiting):
            self.assertIn("OOM command not allowed", self.outcome(receiver))
        self.assertTrue(self.server.closing)
        self.assertEqual(self.server.commands(), [])
        # An error reply says that nothing was done.
        self.assertEqual(self.fallback.released, [(digest_of("a"), -1)])
        self.assertFalse(self.store.state().up)

    def test_an_asker_that_raises_does_not_rob_the_others(self) -> None:
        """When one receiver raises on being told of the outage, the others are told all the same."""
        receiver = self.take("a")
        receiver.bucket_unavailable = lambda reason: 1 / 0  # type: ignore[method-assign,assignment]
        behind = self.take("b")
        self.end_of_turn()
        self.server.lose()
        self.assertEqual(len(behind.answers), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class RecoveryTests(StoreOnClock):
    """What Redis is told when it is back."""

    def test_debts_are_charged_before_any_taking(self) -> None:
        """A new connection charges what was spent without Redis first; takings wait for that."""
        self.server.lose()
        self.fallback.owed = ([(digest_of("a"), 1_500_000), (digest_of("b"), -7)], 1_499_993)
        self.reconnect()
        receiver = self.take("a")
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual(batch.charged, [(account("a"), 1_500_000), (account("b"), -7)])
        self.assertEqual((batch.global_bucket, batch.taken), (1_499_993, []))
        self.server.reply(b"*0\r\n")
        self.assertEqual(self.batch().taken, [account("a")])
        self.server.reply(array(*ANN))
        self.assertTrue(self.outcome(receiver).admitted)

    def test_many_debts_go_in_chunks(self) -> None:
        """The debts of many keys are charged in calls of limited size, and that of everyone once."""
        self.server.lose()
        debts = [(digest_of(f"k{number}"), number + 1) for number in range(MAX_BATCH + 1)]
        self.fallback.owed = (debts, 99)
        self.reconnect()
        charged = []
        for size, global_bucket in ((MAX_BATCH, 99), (1, 0)):
            batch = self.batch()
            self.assertEqual((len(batch.charged), batch.global_bucket), (size, global_bucket))
            charged += batch.charged
            self.server.reply(b"*0\r\n")
        self.assertEqual(charged, [(account(f"k{number}"), number + 1) for number in range(MAX_BATCH + 1)])
        self.end_of_turn()
        self.assertEqual(self.server.commands(), [])

    def recovery_lost(self, carried_out: bool) -> dict[bytes, int]:
        """What the next connection charges when the first part of MAX_BATCH + 3 debts was lost."""
        self.server.lose()
        debts = [(digest_of(f"k{number}"), number - 1) for number in range(MAX_BATCH + 3)]
        self.fallback.owed = (debts, 0)
        self.reconnect()
        number = self.batch().number
        receiver = self.take("a")
        self.server.lose()
        self.assertIn("was lost", self.outcome(receiver))
        self.fallback.owed = ([(digest_of(f"k{MAX_BATCH}"), 100), (digest_of("new"), 5)], 105)
        self.last = b"%d %d " % (number, number if carried_out else 0)
        self.reconnect()
        self.assertGreater(int(self.resolved[4]), number)
        charged = dict(self.batch().charged)
        self.server.reply(b"*0\r\n")
        for command in self.server.commands():
            charged.update(read_batch(command).charged)
        return charged

    def test_a_recovery_that_was_lost(self) -> None:
        """Debts of a call that was not carried out are charged by the next connection, gifts as well."""
        expected = {account(f"k{number}"): number - 1 for number in range(MAX_BATCH + 3)}
        expected[account(f"k{MAX_BATCH}")] += 100
        self.assertEqual(self.recovery_lost(False), {**expected, account("new"): 5})

    def test_a_recovery_whose_reply_was_lost(self) -> None:
        """Debts of a call that was carried out are not charged again."""
        expected = {account(f"k{number}"): number - 1 for number in range(MAX_BATCH, MAX_BATCH + 3)}
        expected[account(f"k{MAX_BATCH}")] += 100
        self.assertEqual(self.recovery_lost(True), {**expected, account("new"): 5})

    def test_takings_whose_reply_was_lost(self) -> None:
        """What Redis has taken for requests that were decided without it is given back, and what it refused is not."""
        for name, cost in (("a", 1), ("b", 3), ("c", 1), ("a", 1)):
            self.take(name, cost)
        self.end_of_turn()
        number = self.batch().number
        self.server.lose()
        self.last = b"%d %d 1101" % (number, number)
        self.reconnect()
        self.assertEqual(dict(self.batch().charged), {account("a"): -2 * MICROTOKENS, account("b"): -3 * MICROTOKENS})

    def test_takings_that_redis_never_saw(self) -> None:
        """A batch that was not carried out leaves nothing to charge, and what it was to charge is due."""
        self.take("a")
        self.store.release(digest_of("b"), 2)
        self.store.release(digest_of("c"), -1)
        self.end_of_turn()
        self.server.lose()
        for last in (None, b"nonsense", b"7 0 "):
            self.last = last
            self.reconnect()
            self.assertEqual(dict(self.batch().charged), {account("b"): 2 * MICROTOKENS, account("c"): -MICROTOKENS})
            self.server.lose()

    def test_a_connection_without_debts_takes_at_once(self) -> None:
        """After an outage in which nothing was spent the first call is the first taking."""
        self.server.lose()
        self.reconnect()
        self.take("a")
        self.end_of_turn()
        self.assertEqual(self.batch().taken, [account("a")])


class StopTests(StoreOnClock):
    """The end of a store."""

    def test_a_stop_lets_the_last_batch_finish(self) -> None:
        """What was charged right before `stop` is still sent; then the instance leaves, and the connection closes."""
        self.store.release(digest_of("a"), -1)
        stopped = self.store.stop()
        self.end_of_turn()
        self.assertEqual(self.batch().charged, [(account("a"), -1_000_000)])
        self.assertFalse(self.server.closing)
        self.server.reply(b"*0\r\n")
        self.assertEqual(self.server.commands(), [[b"ZREM", b"tokenlb:instances", b"id1"]])
        self.assertFalse(self.server.closing)
        self.server.reply(b":1\r\n")
        self.assertTrue(self.server.closing)
        self.server.lose()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_does_not_wait_for_a_silent_redis(self) -> None:
        """A batch that gets no reply holds `stop` up for its deadline at most."""
        receiver = self.take("a")
        self.end_of_turn()
        stopped = self.store.stop()
        self.clock.advance(1.0)
        self.end_of_turn()
        self.successResultOf(stopped)
        self.assertIn("did not answer", self.outcome(receiver))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_after_the_stop_takings_are_told(self) -> None:
        """A taking after `stop` is told that the store is stopped."""
        self.store.stop()
        self.server.reply(b":1\r\n")
        self.assertEqual(self.outcome(self.take("a")), "the Redis store is stopped")


class MemoryTests(StoreOnClock):
    """What the fallback is told while all is well."""

    def test_answers_of_the_keys_bucket_are_remembered(self) -> None:
        """An answer with the numbers of the key's bucket is remembered with its time, other answers are not."""
        self.set_up_with(LIMITS)
        for name in "abcd":
            self.take(name)
        self.end_of_turn()
        self.clock.advance(0.25)
        self.server.reply(array(*ANN, b"bob", 5, b"0.5", 0, 3, b"cid", 5, b"0.5", 3, -7, *UNKNOWN))
        self.assertEqual(
            dict(self.fallback.recent),
            {
                digest_of("a"): (Taken(True, b"ann", 5, 0.5, 4_000_000), 0.25),
                digest_of("b"): (Taken(False, b"bob", 5, 0.5, 3), 0.25),
            },
        )
        self.assertEqual(self.fallback.tidied, 1)

    def test_the_state_says_why_and_what_happens(self) -> None:
        """A store that is up says so; one that is down gives the reason, and what requests get meanwhile."""
        self.assertEqual(self.store.state(), (True, "", True))
        self.server.lose()
        up, reason, reached = self.store.state()
        self.assertEqual((up, reached), (False, True))
        self.assertIn("the connection to Redis at redis:6379 was lost", reason)
        self.assertIn("share of tokens in this process", reason)

    def test_the_counts(self) -> None:
        """Outages, calls, takings and live instances are counted, next to what the fallback counts."""
        self.take("a")
        self.end_of_turn()
        self.server.reply(array(*ANN))
        self.server.lose()
        counts = self.store.counts()
        names = ("store_up", "store_outages", "takes", "script_calls")
        self.assertEqual([counts[name] for name in names], [0, 1, 1, 1])
        self.reconnect(alive=3)
        counts = self.store.counts()
        self.assertEqual([counts[name] for name in ("store_up", "store_outages", "instances")], [1, 1, 3])
        self.assertLessEqual({"standby_admitted", "standby_refused", "standby_unknown"}, set(counts))

    def test_a_store_that_never_connected(self) -> None:
        """Before the first connection takings are decided by the fallback, and that is no loss of a connection."""
        store = RedisStore("redis://redis", self.clock, Limits(), self.fallback, 1.0, FakeEndpoint())
        self.assertFalse(store.state().reached)
        store.start()
        receiver = Asker()
        store.take(digest_of("a"), receiver)
        self.assertEqual(self.outcome(receiver), "Redis at redis:6379 has not answered yet")
        self.assertEqual([store.counts()[name] for name in ("store_up", "store_outages")], [0, 0])

    def test_without_a_standby_nothing_is_admitted(self) -> None:
        """A store without a fallback answers nothing for a Redis that is away, not even for keys seen before."""
        store = RedisStore("redis://redis", self.clock, endpoint=(endpoint := FakeEndpoint()))
        store.start()
        server = endpoint.accept()
        server.reply(b"+sha\r\n" * SCRIPTS)
        server.reply(bulk(None), b"*3\r\n:1\r\n:1\r\n:0\r\n")
        first, second = Asker(), Asker()
        store.take(digest_of("a"), first)
        self.end_of_turn()
        server.reply(array(*ANN))
        server.lose()
        store.take(digest_of("a"), second)
        self.assertTrue(self.outcome(first).admitted)
        self.assertIn("was lost", self.outcome(second))
        self.assertIn("requests are answered 503", store.state().reason)


class OneCallAtATimeTests(StoreOnClock):
    """The recovery and the takings do not overtake each other."""

    limits = LIMITS

    def test_a_taking_right_before_the_loss_does_not_start_a_second_call(self) -> None:
        """A call that was due when the connection was lost is not sent while the next connection recovers."""
        self.take("a")
        self.server.lose()
        self.fallback.owed = ([(digest_of("a"), 5)], 5)
        self.reconnect()
        self.take("b")
        self.end_of_turn()
        [command] = self.server.commands()
        self.assertEqual(read_batch(command).charged, [(account("a"), 5)])
