"""Buckets of routes and pools on their way to Redis, and while it is away."""

from __future__ import annotations

from itertools import count
from typing import Any

from tests.stores.contract import Asker, digest_of
from tests.stores.fake_redis import FakeEndpoint, array
from tests.stores.redis_on_clock import ANN, LIMITS, UNKNOWN, StoreOnClock, account
from twisted_lb.interfaces import ADDRESS, LimitLevel, LimitRule, Limits, Policy, SharedBucket, Taken
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.batches import MAX_BATCH
from twisted_lb.stores.redis.store import RedisStore

M = 1_000_000
BURST = LimitRule("limit:route|/|burst", "burst", 20, 5.0)
OTHER = LimitRule("limit:pool|p|other", "other", 3, 0.0)
ONE, TWO = BURST.bucket("n"), OTHER.bucket()
ONE_KEY, TWO_KEY = b"limit:route|/|burst|n", b"limit:pool|p|other"
WITHOUT_KEY = (b"", 0, b"0")


class SharedCase(StoreOnClock):
    def take_limited(self, name: str, *limits: SharedBucket, cost: int = 1) -> Asker:
        receiver = Asker()
        self.store.take(digest_of(name), receiver, cost, "", limits)
        return receiver

    def take_without_key(self, *limits: SharedBucket, cost: int = 1) -> Asker:
        receiver = Asker()
        self.store.take_without_key(limits, receiver, cost)
        return receiver


class BatchTests(SharedCase):
    """One call."""

    def test_one_call_for_all(self) -> None:
        """Takings with limits and without, of keys and of no key, go in one call, and charges before them."""
        self.take("a")
        self.take_limited("b", ONE, TWO, cost=4)
        self.take_without_key(TWO, cost=2)
        self.store.release(digest_of("c"), -1, (ONE, TWO))
        self.store.release("", 3, (ONE,))
        self.store.release("", 0, (TWO,))
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual((batch.taken, batch.extras), ([account("a"), account("b")], [(2, 4, b"")]))
        self.assertEqual(batch.limited, [(2, 0, [ONE_KEY, TWO_KEY]), (0, 2, [TWO_KEY])])
        self.assertEqual(batch.shared_charges, [(ONE_KEY, -M), (TWO_KEY, -M), (ONE_KEY, 3 * M)])
        self.assertEqual((batch.charged, batch.global_bucket), ([(account("c"), -M)], -M))

    def test_policies(self) -> None:
        """The call has each bucket once, with its policy."""
        for _ in range(3):
            self.take_without_key(ONE, TWO)
        self.end_of_turn()
        [command] = self.server.commands()
        at = command.index(ONE_KEY)
        self.assertEqual(command[at : at + 6], [ONE_KEY, b"20", b"5.0", TWO_KEY, b"3", b"0.0"])
        self.assertEqual(command.count(ONE_KEY), 1)

    def test_answers(self) -> None:
        """Each taking gets the levels of its own buckets, whatever became of the others of its batch."""
        self.set_up_with(Limits(Policy(100, 0.0), in_flight=5))
        receivers = [
            self.take_limited("a", ONE),
            self.take_limited("nobody", ONE, TWO),
            self.take("plain"),
            self.take_limited("damaged", TWO),
            self.take_limited("refused", ONE, TWO),
            self.take_limited("by the key", TWO),
            self.take_limited("in flight", TWO),
            self.take_without_key(TWO, ONE),
            self.take_without_key(ONE, TWO),
        ]
        self.end_of_turn()
        self.batch()
        refused = (b"ann", 5, b"0.5")
        elements = [*ANN, *UNKNOWN, *ANN, None, 0, 0, 5, 0, *refused, 7, 77, *refused, 0, 9, *refused, 2, 0]
        elements += [*WITHOUT_KEY, 1, 31, *WITHOUT_KEY, 6, 33]
        self.server.reply(array(*elements, 1, 2, 3, 4, 5, 77, 6, 7, 31, 32, 33, 34, 42 * M, b"tokenlb:wrong"))
        ann = Taken(True, b"ann", 5, 0.5, 4 * M)
        self.assertEqual(
            [receiver.answers for receiver in receivers],
            [
                [ann._replace(more=(LimitLevel(20, 5.0, 1, "burst"),))],
                [None],
                [ann],
                ["what Redis holds for this key is not an account"],
                [Taken(False, b"ann", 3, 0.0, 77, "other")],
                [Taken(False, b"ann", 5, 0.5, 9)],
                [Taken(False, b"ann", 5, 0.0, 0, "in-flight")],
                [Taken(True, b"", 3, 0.0, 31, "other", (LimitLevel(20, 5.0, 32, "burst"),))],
                [Taken(False, b"", 20, 5.0, 33, "burst")],
            ],
        )
        # What comes behind the levels.
        assert self.fallback._whole_of_all is not None
        self.assertEqual(self.fallback._whole_of_all.level, 42 * M)

    def test_limits_go_with_their_takings(self) -> None:
        """When there are more than a call holds, each call has those of its own takings."""
        for number in range(MAX_BATCH + 2):
            self.take_limited(f"k{number}", *((ONE,) if number in (0, MAX_BATCH, MAX_BATCH + 1) else ()))
            self.take_without_key(TWO)
            self.store.release("", 1, (ONE,))
        self.end_of_turn()
        batch = self.batch()
        self.assertEqual(batch.limited[0], (1, 0, [ONE_KEY]))
        self.assertEqual((len(batch.limited), len(batch.shared_charges)), (1 + MAX_BATCH, MAX_BATCH))
        elements = [*ANN * MAX_BATCH, *(*WITHOUT_KEY, 1, 0) * MAX_BATCH, *[0] * (1 + MAX_BATCH)]
        self.server.reply(array(*elements))
        batch = self.batch()
        self.assertEqual(batch.limited, [(1, 0, [ONE_KEY]), (2, 0, [ONE_KEY]), *[(0, 1, [TWO_KEY])] * 2])
        self.assertEqual(batch.shared_charges, [(ONE_KEY, M)] * 2)


class AwayTests(SharedCase):
    """While Redis is away."""

    def test_decided_by_the_fallback(self) -> None:
        """What is asked for, what waits and what is under way is decided on shares, each once."""
        under_way = self.take_without_key(TWO)
        self.end_of_turn()
        waiting = self.take_without_key(TWO)
        self.server.lose()
        later = [self.take_without_key(TWO) for _ in range(2)]
        admitted = [self.outcome(receiver).admitted for receiver in (under_way, waiting, *later)]
        self.assertEqual(admitted, [True, True, True, False])

    def test_shares_begin_with_the_levels_that_were_told(self) -> None:
        """In an outage a bucket goes on from the level of the last reply, and of what was released since."""
        self.take_without_key(ONE)
        self.end_of_turn()
        self.server.reply(array(*WITHOUT_KEY, 1, 7 * M, 7 * M))
        self.store.release("", 3, (ONE,))
        self.end_of_turn()
        self.server.reply(array())
        self.server.lose()
        self.assertEqual(self.outcome(self.take_without_key(ONE)).level, 3 * M)

    def lose_call(self, carried_out: bool) -> list[tuple[bytes, int]]:
        """What is charged after a call was lost, which has charged and taken."""
        self.fallback.answers[digest_of("a")] = Taken(True, b"ann", 5, 0.5, 0)
        self.take_limited("a", ONE, cost=4)
        self.take_limited("b", ONE)
        self.take_without_key(TWO, cost=2)
        self.take_without_key(TWO, cost=2)
        self.store.release("", 5, (ONE,))
        self.end_of_turn()
        number = self.batch().number
        self.server.lose()
        self.last = b"%d %d 1010" % (number, number if carried_out else 0)
        self.reconnect()
        return [charge for charge in self.batch().shared_charges if charge[1]]

    def test_a_call_that_was_carried_out(self) -> None:
        """What it took is given back, since its takings were decided without Redis, where one of them took as much."""
        self.assertEqual(sorted(self.lose_call(True)), sorted([(ONE_KEY, -4 * M)]))

    def test_a_call_that_was_not_carried_out(self) -> None:
        """Its charges are due, and what was decided without Redis."""
        self.assertEqual(sorted(self.lose_call(False)), sorted([(ONE_KEY, 5 * M), (TWO_KEY, 2 * M)]))

    def test_debts_go_in_chunks(self) -> None:
        """The debts of many buckets are charged in calls of limited size, before any taking."""
        self.server.lose()
        rule = LimitRule("rule", "r", 5, 0.0)
        for number in range(MAX_BATCH + 2):
            self.take_without_key(rule.bucket(str(number)))
        self.reconnect()
        receiver = self.take_without_key(TWO)
        charged = []
        for size in (MAX_BATCH, 2):
            batch = self.batch()
            self.assertEqual((len(batch.shared_charges), batch.limited), (size, []))
            charged += batch.shared_charges
            self.server.reply(array())
        self.assertEqual(charged, [(b"rule|%d" % number, M) for number in range(MAX_BATCH + 2)])
        self.assertEqual(self.batch().limited, [(0, 1, [TWO_KEY])])
        self.server.reply(array(*WITHOUT_KEY, 1, 0, 0))
        self.assertTrue(self.outcome(receiver).admitted)

    def test_charges_that_were_refused(self) -> None:
        """Charges that Redis has refused are charged by the next connection."""
        self.server.lose()
        self.take_without_key(TWO)
        self.reconnect()
        self.assertEqual(self.batch().shared_charges, [(TWO_KEY, M)])
        self.server.reply(b"-OOM command not allowed\r\n")
        self.reconnect()
        self.assertEqual(self.batch().shared_charges, [(TWO_KEY, M)])

    def test_releases_of_a_batch_that_was_refused(self) -> None:
        """What Redis has refused to charge, the share is charged."""
        self.store.release("", 2, (TWO,))
        self.end_of_turn()
        self.server.commands()
        self.server.reply(b"-OOM command not allowed\r\n")
        self.reconnect()
        self.assertEqual(self.batch().shared_charges, [(TWO_KEY, 2 * M)])


class ModesTests(SharedCase):
    def with_mode(self, mode: str, limits: Limits = LIMITS) -> None:
        self.endpoint = FakeEndpoint()
        number = count(1)
        fallback = Fallback(mode, self.clock.seconds, 1000, limits)
        new_id: Any = lambda: b"id%d" % next(number)  # noqa: E731
        self.store = RedisStore("redis://redis", self.clock, limits, fallback, 1.0, self.endpoint, new_id=new_id)
        self.store.start()
        self.server = self.connect()

    def of_address(self, served: bool, cost: int = 1) -> Any:
        receiver = Asker()
        self.store.take_address("1.2.3.4", receiver, cost, served)
        return self.outcome(receiver)

    def test_deny(self) -> None:
        """With `deny` no request is served without a key, whoever pays for it; those that are refused are limited."""
        for limits in (LIMITS, Limits()):
            self.with_mode("deny", limits)
            self.server.lose()
            self.assertIn("was lost", self.outcome(self.take_without_key(TWO)))
            self.assertIn("was lost", self.of_address(True))
            self.assertTrue(self.of_address(False).admitted)

    def test_deny_of_what_was_under_way(self) -> None:
        """The same of requests whose call was lost, and of those that wait for the next one."""
        self.with_mode("deny")
        receivers = [Asker() for _ in range(4)]
        for receiver, served in zip(receivers, (True, False, True, False)):
            self.store.take_address("1.2.3.4", receiver, 1, served)
            self.end_of_turn()
        self.server.lose()
        self.assertEqual([isinstance(self.outcome(receiver), str) for receiver in receivers], [True, False] * 2)

    def test_local_and_allow(self) -> None:
        """With `local` and `allow` networks pay in this process."""
        for mode in ("local", "allow"):
            self.with_mode(mode)
            self.server.lose()
            self.assertEqual(self.of_address(True, 2), Taken(True, b"", 3, 10.0, M, ADDRESS))
            self.assertEqual(self.of_address(True, 2), Taken(False, b"", 3, 10.0, M, ADDRESS))
            self.store.release_address("1.2.3.4", -1)
            self.assertEqual(self.of_address(True, 2).level, 0)

    def test_a_new_instance_has_no_share(self) -> None:
        """An instance that has never reached Redis admits nothing of a bucket that others may have spent."""
        self.endpoint = FakeEndpoint()
        fallback = Fallback("local", self.clock.seconds, 1000, LIMITS)
        self.store = RedisStore("redis://redis", self.clock, LIMITS, fallback, 1.0, self.endpoint)
        self.store.start()
        self.assertIsInstance(self.outcome(self.take_without_key(TWO)), str)
