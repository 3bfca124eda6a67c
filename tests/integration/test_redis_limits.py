"""The rules of take_tokens.lua on a real redis-server, on a clock of the test's."""

from __future__ import annotations

import re
import time

from hiredis import ReplyError
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.lua_client import SECOND, START, Answer, LuaClient, lua_for
from tests.integration.redis_server import MISSING, RedisServer
from tests.stores.contract import digest_of
from twisted_lb.interfaces import MICROTOKENS, LimitRule, Limits, Policy, SharedBucket, shadow_bucket
from twisted_lb.stores.redis.accounts import SpecialReply
from twisted_lb.stores.redis.keys import account_key

M = MICROTOKENS
BY_KEY, ADMITTED, BY_IN_FLIGHT, BY_EVERYONE, BY_ADDRESS, DAMAGED, BY_SHARED = range(7)
NETWORK = "1.2.3.4"
ADDRESS_KEY = b"tokenlb:address:1.2.3.4"
DEEPEST = -(10**15)


def passed(since: float) -> float:
    """Milliseconds that have passed."""
    return (time.monotonic() - since) * 1000


def places(name: str) -> bytes:
    return b"tokenlb:in_flight:{%s}" % digest_of(name).encode()


class OnLua(SynchronousTestCase):
    """An empty Redis, one for all tests of a class."""

    limits = Limits()
    server: RedisServer | None = None

    @classmethod
    def setUpClass(cls) -> None:
        if MISSING:
            raise SkipTest(MISSING)
        cls.server = RedisServer()
        cls.server.start()

    @classmethod
    def tearDownClass(cls) -> None:
        if cls.server is not None:
            cls.server.close()

    def setUp(self) -> None:
        self.lua = self.client(self.limits)
        self.lua.command(b"FLUSHALL")

    def client(self, limits: Limits, instance: bytes = b"me") -> LuaClient:
        assert self.server is not None
        client = LuaClient(self.server.port, limits, instance)
        self.addCleanup(client.close)
        return client

    def outcomes(self, answers: list[Answer]) -> list[tuple[int, int]]:
        return [(answer.outcome, answer.level) for answer in answers]


class CostTests(OnLua):
    """The key's own bucket."""

    def test_a_request_costs_what_it_costs(self) -> None:
        """The cost is taken whole or not at all, and a smaller one passes where a larger one was refused."""
        self.lua.create(START, "a", 10)
        costs = [4, 7, 6, 1, 0]
        answers = self.lua.batch(START, *"aaaaa", extras=[(at, cost, "") for at, cost in enumerate(costs, 1)])
        self.assertEqual(
            self.outcomes(answers), [(ADMITTED, 6 * M), (BY_KEY, 6 * M), (ADMITTED, 0), (BY_KEY, 0), (ADMITTED, 0)]
        )

    def test_more_than_the_capacity_is_never_there(self) -> None:
        """A request that costs more than the capacity is refused by a full bucket, and writes nothing."""
        self.lua.create(START, "a", 10, 5.0)
        before = self.lua.changes()
        self.assertEqual(self.lua.take(START + 100 * SECOND, "a", 11)[3:], (BY_KEY, 10 * M))
        self.assertEqual(self.lua.take(START + 100 * SECOND, "a", 1_000_000_000)[3:], (BY_KEY, 10 * M))
        self.assertEqual(self.lua.changes(), before)

    def test_a_debt_is_paid_off_by_the_refill(self) -> None:
        """A charge above the level leaves it below zero; nothing passes, not even for 0, until it is refilled."""
        self.lua.create(START, "a", 10, 2.0)
        self.lua.batch(START, charged=[("a", 14)])
        self.assertEqual(self.lua.level(START, "a"), -4 * M)
        self.assertEqual(self.lua.take(START + SECOND, "a", 0)[3:], (BY_KEY, -2 * M))
        self.assertEqual(self.lua.take(START + 2 * SECOND, "a", 0)[3:], (ADMITTED, 0))
        self.assertEqual(self.lua.take(START + 2 * SECOND, "a")[3:], (BY_KEY, 0))
        self.assertEqual(self.lua.take(START + 3 * SECOND, "a")[3:], (ADMITTED, M))

    def test_a_charge_refills_first(self) -> None:
        """A charge to a bucket that has been full for long is not paid by the refill of that time."""
        self.lua.create(START, "a", 10, 1.0)
        self.lua.batch(START + 1000 * SECOND, charged=[("a", 12)])
        self.assertEqual(self.lua.level(START + 1000 * SECOND, "a"), -2 * M)
        self.assertEqual(self.lua.level(START + 1003 * SECOND, "a"), M)

    def test_a_debt_has_a_bottom(self) -> None:
        """However much is charged, the level stays at -10^15 microtokens, which every number holds exactly."""
        self.lua.create(START, "a", 10, 1.0)
        for _ in range(5):
            self.lua.batch(START, charged=[("a", 1_000_000_000)])
        self.assertEqual(self.lua.level(START, "a"), DEEPEST)
        self.assertEqual(self.lua.level(START + 1, "a"), DEEPEST + 1)

    def test_a_gift_never_fills_above_the_capacity(self) -> None:
        """What is given back counts up to the capacity, also in a batch that charges the same key."""
        self.lua.create(START, "a", 10)
        self.lua.batch(START, charged=[("a", 3)])
        self.lua.batch(START, charged=[("a", -1_000)])
        self.assertEqual(self.lua.level(START, "a"), 10 * M)
        self.lua.batch(START, charged=[("a", 4), ("a", -3), ("a", 2)])
        self.assertEqual(self.lua.level(START, "a"), 7 * M)

    def test_a_gift_and_a_taking_in_one_batch(self) -> None:
        """What a batch gives back, its takings find."""
        self.lua.create(START, "a", 2)
        self.lua.batch(START, "a", "a")
        answers = self.lua.batch(START, "a", "a", charged=[("a", -1)])
        self.assertEqual(self.outcomes(answers), [(ADMITTED, 0), (BY_KEY, 0)])

    def test_a_clock_that_goes_back_refills_nothing(self) -> None:
        """Charges, gifts and takings on a clock that went back neither add tokens nor move the stamp."""
        self.lua.create(START, "a", 100, 1.0)
        self.lua.take(START, "a", 50)
        early = START - 10 * SECOND
        self.lua.batch(early, charged=[("a", 10), ("a", -5)])
        self.assertEqual(self.lua.take(early, "a", 5)[3:], (ADMITTED, 40 * M))
        self.assertEqual(self.lua.level(START, "a"), 40 * M)
        self.assertEqual(self.lua.level(START + SECOND, "a"), 41 * M)

    def test_a_damaged_account_is_unknown(self) -> None:
        """A key of another type is no account, and does not fail the others of its batch."""
        self.lua.create(START, "a", 5)
        self.lua.command(b"SET", account_key(digest_of("b")), b"text")
        answers = self.lua.batch(START, "b", "a", charged=[("b", 3)])
        self.assertEqual([answer.name for answer in answers], [None, b"a"])


class EveryoneTests(OnLua):
    """The bucket of the whole balancer."""

    limits = Limits(global_bucket=Policy(5, 1.0))

    def global_bucket(self, now_us: int) -> int:
        """Its level, as a refusal tells it."""
        self.lua.create(now_us, "probe", 10**9)
        [answer] = self.lua.batch(now_us, "probe", extras=[(1, 10**9, "")])
        self.assertEqual(answer.outcome, BY_EVERYONE)
        self.lua.command(b"DEL", account_key(digest_of("probe")), b"tokenlb:names")
        return answer.level

    def test_it_is_full_at_first_and_bounds_all_keys_together(self) -> None:
        """Keys with plenty of tokens get the capacity of the global bucket together, then what its rate refills."""
        for name in "ab":
            self.lua.create(START, name, 100)
        answers = self.lua.batch(START, *"abababab")
        self.assertEqual([answer.outcome for answer in answers], [ADMITTED] * 5 + [BY_EVERYONE] * 3)
        self.assertEqual(answers[-1], (b"b", 100, b"0.0", BY_EVERYONE, 0))
        later = self.lua.batch(START + 2 * SECOND, *"aaa")
        self.assertEqual([answer.outcome for answer in later], [ADMITTED, ADMITTED, BY_EVERYONE])

    def test_its_level_is_told(self) -> None:
        """Every reply ends with the level of the global bucket, refilled and after the batch."""
        self.lua.create(START, "a", 100)
        self.lua.batch(START, *"aaa")
        self.assertEqual(self.lua.global_bucket, 2 * M)
        self.lua.batch(START + SECOND)
        self.assertEqual(self.lua.global_bucket, 3 * M)
        self.lua.batch(START + SECOND, charged=[("a", 7)], limited=[(0, 1, self.lua.address("1.2.3.4"))])
        self.assertEqual(self.lua.global_bucket, -4 * M)

    def test_its_refusal_spends_nothing_of_the_key(self) -> None:
        """What the global bucket refused is still in the key's, and a refusal alone writes nothing."""
        self.lua.create(START, "a", 100)
        self.lua.take(START, "a", 5)
        before = self.lua.changes()
        self.assertEqual(self.outcomes(self.lua.batch(START, "a", "a")), [(BY_EVERYONE, 0)] * 2)
        self.assertEqual(self.lua.changes(), before)
        self.assertEqual(self.lua.level(START, "a"), 95 * M)

    def test_the_keys_refusal_spends_nothing_of_everyone(self) -> None:
        """A key without tokens is refused by its own bucket, even when everyone's is empty; that one keeps its own."""
        self.lua.create(START, "poor", 1)
        self.assertEqual(
            self.outcomes(self.lua.batch(START, "poor", "poor", "poor")), [(ADMITTED, 0), (BY_KEY, 0), (BY_KEY, 0)]
        )
        self.assertEqual(self.global_bucket(START), 4 * M)

    def test_the_cost_counts_for_both(self) -> None:
        """A request of cost 3 takes 3 from the key and from everyone; a cheaper one may pass where one was refused."""
        self.lua.create(START, "a", 100)
        answers = self.lua.batch(START, "a", "a", "a", extras=[(1, 3, ""), (2, 3, ""), (3, 2, "")])
        self.assertEqual(self.outcomes(answers), [(ADMITTED, 97 * M), (BY_EVERYONE, 2 * M), (ADMITTED, 95 * M)])

    def test_charges_count_for_everyone(self) -> None:
        """What is charged or given back to a key is so to everyone, below zero and up to the capacity."""
        self.lua.create(START, "a", 100)
        self.lua.batch(START, charged=[("a", 7)])
        self.assertEqual(self.global_bucket(START), -2 * M)
        self.assertEqual(self.global_bucket(START + 3 * SECOND), M)
        self.lua.batch(START + 3 * SECOND, charged=[("a", -100)])
        self.assertEqual(self.global_bucket(START + 3 * SECOND), 5 * M)

    def test_a_charge_refills_everyone_first(self) -> None:
        """A charge after a long silence is not paid by the refill of that time."""
        self.lua.create(START, "a", 100)
        self.lua.take(START, "a")
        self.lua.batch(START + 1000 * SECOND, charged=[("a", 6)])
        self.assertEqual(self.global_bucket(START + 1000 * SECOND), -M)

    def test_a_smaller_capacity_cuts_it(self) -> None:
        """Instances with a smaller capacity see a level of that at most, and a clock gone back changes nothing."""
        self.lua.create(START, "a", 100)
        self.lua.take(START, "a")
        small = self.client(Limits(global_bucket=Policy(2, 0.0)))
        answers = small.batch(START - SECOND, *"aaa")
        self.assertEqual([answer.outcome for answer in answers], [ADMITTED, ADMITTED, BY_EVERYONE])

    def test_a_redis_out_of_memory_does_nothing(self) -> None:
        """When Redis refuses to write, the call fails, and neither the key nor everyone nor a place has changed."""
        limits = Limits(global_bucket=Policy(5, 0.0), in_flight=3)
        lua = self.client(limits)
        lua.create(START, "a", 100)
        lua.create(START, "b", 100)
        lua.command(b"CONFIG", b"SET", b"maxmemory", b"1")
        try:
            self.assertRaises(ReplyError, lua.batch, START, "a", "b", charged=[("b", -1), ("a", 3)])
        finally:
            lua.command(b"CONFIG", b"SET", b"maxmemory", b"0")
        self.assertEqual([lua.level(START, name) for name in "ab"], [100 * M] * 2)
        self.assertEqual(lua.command(b"EXISTS", b"tokenlb:global", places("a"), places("b")), 0)


class InFlightTests(OnLua):
    """Requests in flight of a key, as a lease."""

    limits = Limits(in_flight=2)

    def setUp(self) -> None:
        super().setUp()
        self.lua.create(START, "a", 100)
        self.lua.create(START, "b", 100)

    def test_a_place_is_free_again_when_a_request_ends(self) -> None:
        """Two requests pass, the third is refused and spends nothing, and each end lets one more pass."""
        answers = self.lua.batch(START, *"aaab")
        outcomes = [(ADMITTED, 99 * M), (ADMITTED, 98 * M), (BY_IN_FLIGHT, 0), (ADMITTED, 99 * M)]
        self.assertEqual(self.outcomes(answers), outcomes)
        answers = self.lua.batch(START, *"aa", released=["a"])
        self.assertEqual(self.outcomes(answers), [(ADMITTED, 97 * M), (BY_IN_FLIGHT, 0)])
        self.assertEqual(self.lua.command(b"HGETALL", places("a")), [b"me", b"2"])

    def test_the_last_end_leaves_nothing(self) -> None:
        """When no request of a key is in flight, its hash is gone; an end too many does not make room for more."""
        self.lua.batch(START, "a", "a")
        self.assertEqual(self.lua.command(b"TTL", places("a")), 86400)
        self.lua.batch(START, released=["a", "a", "a"])
        self.assertEqual(self.lua.command(b"EXISTS", places("a")), 0)
        self.lua.batch(START, released=["a"])
        self.assertEqual([one.outcome for one in self.lua.batch(START, *"aaa")], [ADMITTED, ADMITTED, BY_IN_FLIGHT])

    def test_a_refusal_writes_nothing(self) -> None:
        """Neither a refusal for a place nor one by the key's bucket changes anything in Redis."""
        self.lua.create(START, "empty", 1)
        self.lua.batch(START, "a", "a", "empty")
        before = self.lua.changes()
        self.lua.batch(START, "a", "empty", "nobody")
        self.assertEqual(self.lua.changes(), before)

    def test_the_keys_bucket_is_asked_first_and_everyone_last(self) -> None:
        """The first that refuses is told: the key's bucket, then the places, then the global bucket."""
        lua = self.client(Limits(global_bucket=Policy(3, 0.0), in_flight=2))
        lua.create(START, "poor", 2)
        answers = lua.batch(START, "poor", "poor", "poor", "a", "b", "a")
        self.assertEqual(
            [answer.outcome for answer in answers],
            [ADMITTED, ADMITTED, BY_KEY, ADMITTED, BY_EVERYONE, BY_EVERYONE],
        )
        self.assertEqual(lua.command(b"EXISTS", places("b")), 0)
        self.assertEqual(lua.command(b"HGET", places("a"), b"me"), b"1")
        lua.command(b"DEL", b"tokenlb:global")
        self.assertEqual(
            [answer.outcome for answer in lua.batch(START, "a", "a", "b", "b")],
            [ADMITTED, BY_IN_FLIGHT, ADMITTED, ADMITTED],
        )

    def test_instances_count_together_while_they_live(self) -> None:
        """The places of another instance count until it has been silent for ten seconds, and then not."""
        other = self.client(self.limits, b"other")
        for instance in (b"me", b"other"):
            self.lua.announce(START, instance)
        other.batch(START, "a", "a")
        self.assertEqual(self.lua.take(START + 9 * SECOND, "a").outcome, BY_IN_FLIGHT)
        self.assertEqual(self.lua.take(START + 10 * SECOND, "a").outcome, BY_IN_FLIGHT)
        self.assertEqual(self.lua.take(START + 10 * SECOND + 1, "a").outcome, ADMITTED)
        # What counted no more was removed on the way.
        self.assertEqual(self.lua.command(b"HGETALL", places("a")), [b"me", b"1"])

    def test_an_instance_counts_its_own_without_an_announcement(self) -> None:
        """An instance whose announcements are late still counts what it has in flight itself."""
        self.lua.batch(START, "a", "a")
        self.assertEqual(self.lua.take(START + 3600 * SECOND, "a").outcome, BY_IN_FLIGHT)

    def test_an_instance_that_left_does_not_count(self) -> None:
        """After its removal the places of an instance are free at once."""
        other = self.client(self.limits, b"other")
        self.lua.announce(START, b"other")
        other.batch(START, "a", "a")
        self.lua.command(b"ZREM", b"tokenlb:instances", b"other")
        self.assertEqual(self.lua.take(START, "a").outcome, ADMITTED)

    def test_the_living_are_counted(self) -> None:
        """An announcement counts those who were heard of in the last ten seconds, and forgets the others."""
        self.assertEqual(self.lua.announce(START, b"one"), 1)
        self.assertEqual(self.lua.announce(START + 6 * SECOND, b"two"), 2)
        self.assertEqual(self.lua.announce(START + 12 * SECOND, b"two"), 1)
        # It was not heard of for ten seconds in which another one was.
        self.assertEqual(self.lua.announce(START + 12 * SECOND, b"two"), 1)
        self.assertEqual(self.lua.command(b"ZRANGE", b"tokenlb:instances", b"0", b"-1"), [b"two"])

    def test_a_clock_that_went_back_does_not_keep_the_dead(self) -> None:
        """An announcement from far in the future, by a clock that was since set back, is no sign of life."""
        self.lua.announce(START + 3600 * SECOND, b"dead")
        self.assertEqual(self.lua.announce(START, b"me"), 1)


class SharedTests(OnLua):
    """The buckets of routes and pools in Redis."""

    def setUp(self) -> None:
        super().setUp()
        self.lua.create(START, "a", 100)

    def ttl(self, shared: SharedBucket) -> int:
        return int(self.lua.command(b"PTTL", b"tokenlb:" + shared.key.encode()))

    def take(self, now_us: int, *limits: SharedBucket, cost: int = 1) -> Answer:
        [answer] = self.lua.batch(now_us, limited=[(0, cost, limits)])
        return answer

    def test_a_shadow_of_a_user_that_is_never_full_expires(self) -> None:
        """A late charge may make it when the policy is removed: at rate 0 it is dropped after a month without use."""
        shared = shadow_bucket(digest_of("a"), 5, 0.0)
        self.lua.batch(START, shared_charges=[(shared, 2)])
        self.assertTrue(0 < self.ttl(shared) <= 30 * 86_400_000)

    def test_it_expires_when_it_is_full_and_not_before(self) -> None:
        """The expiry is later than the time to full by one to two seconds; at rate 0 there is none, also after another
        rate."""
        rule = LimitRule("limit:route|/|one", "one", 10, 2.0)
        shared = rule.bucket()
        began = time.monotonic()
        self.take(START, shared, cost=8)
        self.assertTrue(5_000 - passed(began) < self.ttl(shared) <= 6_000)
        began = time.monotonic()
        self.lua.batch(START + SECOND, shared_charges=[(shared, -4)])
        self.assertTrue(3_000 - passed(began) < self.ttl(shared) <= 4_000)
        rule.rate_per_sec = 0.0
        self.take(START + SECOND, shared)
        self.assertEqual(self.ttl(shared), -1)
        rule.rate_per_sec = 1.0
        self.take(START + SECOND, shared)
        self.assertGreater(self.ttl(shared), 4_000)

    def test_what_is_refused_writes_nothing(self) -> None:
        """A refusal by a shared bucket, or of a request whose other limits would have admitted it, writes nothing."""
        small, large = (LimitRule(f"limit:route|/|{at}", str(at), at, 1.0).bucket() for at in (2, 50))
        self.take(START, small, large)
        changes = self.lua.changes()
        answers = self.lua.batch(
            START + 10, "a", extras=[(1, 30, "")], limited=[(1, 0, (large, small)), (0, 2, (small, large))]
        )
        self.assertEqual(self.outcomes(answers), [(BY_SHARED + 1, M + 10), (BY_SHARED, M + 10)])
        self.assertEqual(self.lua.levels, [49 * M + 10, M + 10] + [M + 10, 49 * M + 10])
        self.assertEqual(self.lua.changes(), changes)

    def test_one_bucket_for_keys_and_their_network(self) -> None:
        """What is taken for an unknown key and what pays for a request without one is the same bucket."""
        lua = self.client(Limits(address=Policy(3, 0.0)))
        limited = [(0, 1, lua.address(NETWORK))] * 2
        answers = lua.batch(START, "x", "x", extras=[(1, 1, NETWORK), (2, 1, NETWORK)], limited=limited)
        self.assertEqual([answer.outcome for answer in answers], [0, BY_ADDRESS, ADMITTED, ADMITTED])

    def test_without_limits_redis_does_what_it_did(self) -> None:
        """A batch without shared buckets reads and writes as many keys as before: commands are counted."""
        self.lua.command(b"CONFIG", b"RESETSTAT")
        self.lua.batch(START, "a", "a", charged=[("a", 1)])
        stats = self.lua.command(b"INFO", b"commandstats").decode()
        counted = dict(re.findall("cmdstat_([a-z]+):calls=([0-9]+)", stats))
        for ours in ("config|resetstat", "info", "evalsha"):
            counted.pop(ours.partition("|")[0], None)
        self.assertEqual(counted, {"hmget": "1", "hset": "1", "mget": "1", "set": "1"})


class AddressTests(OnLua):
    """The bucket of a client's network."""

    limits = Limits(address=Policy(3, 0.5))

    def setUp(self) -> None:
        super().setUp()
        self.lua.create(START, "a", 100)

    def level(self) -> int:
        return int(self.lua.command(b"HGET", ADDRESS_KEY, b"level"))

    def test_unknown_keys_cost_a_token_and_known_ones_none(self) -> None:
        """A known key takes no token of its network, an unknown one takes one; an empty bucket refuses both."""
        takes = ["a", "x", "a", "y", "z", "a", "x"]
        answers = self.lua.batch(START, *takes, extras=[(at, 1, NETWORK) for at in range(1, 8)])
        self.assertEqual(
            [(answer.name, answer.outcome) for answer in answers],
            [(b"a", ADMITTED), (None, 0), (b"a", ADMITTED), (None, 0), (None, 0), (b"", BY_ADDRESS), (b"", BY_ADDRESS)],
        )
        self.assertEqual(answers[-1], (b"", 3, b"0.5", BY_ADDRESS, 0))
        self.assertEqual(self.lua.level(START, "a"), 98 * M)

    def test_without_a_network_it_is_not_asked(self) -> None:
        """A key that was seen from this network before passes, however empty the network's bucket is."""
        self.lua.batch(START, *"xxxx", extras=[(at, 1, NETWORK) for at in range(1, 5)])
        self.assertEqual([one.outcome for one in self.lua.batch(START, "a", "x")], [ADMITTED, 0])

    def test_it_refills(self) -> None:
        """At half a token a second the network may try again after two seconds, not before."""
        self.lua.batch(START, *"xxx", extras=[(at, 1, NETWORK) for at in range(1, 4)])
        self.assertEqual(self.lua.take(START + 2 * SECOND - 2, "a", 1, NETWORK)[3:], (BY_ADDRESS, 999_999))
        self.assertEqual(self.lua.take(START + 2 * SECOND, "a", 1, NETWORK).outcome, ADMITTED)

    def test_networks_are_apart(self) -> None:
        """What one network tried does not count for another."""
        self.lua.batch(START, *"xxx", extras=[(at, 1, NETWORK) for at in range(1, 4)])
        self.assertEqual(self.lua.take(START, "a", 1, "2001:db8::/64").outcome, ADMITTED)

    def test_tokens_of_an_address_alone(self) -> None:
        """Tokens are given back and taken without a key, answered in order, behind the takings of keys."""
        address = self.lua.address(NETWORK)
        self.lua.batch(START, limited=[(0, 1, address)] * 2)
        answers = self.lua.batch(START, "a", shared_charges=[(*address, -1)], limited=[(0, 1, address)] * 3)
        self.assertEqual(answers[0].name, b"a")
        self.assertEqual(self.outcomes(answers[1:]), [(ADMITTED, M), (ADMITTED, 0), (BY_SHARED, 0)])
        self.assertEqual(self.lua.levels, [M, 0, 0])

    def test_a_gift_to_a_full_bucket_writes_nothing(self) -> None:
        """Giving back to a network whose bucket is full makes no bucket."""
        before = self.lua.changes()
        self.lua.batch(START, shared_charges=[(*self.lua.address(NETWORK), -1)])
        self.assertEqual(self.lua.changes(), before)

    def test_it_expires_when_it_is_full_and_not_before(self) -> None:
        """The expiry is later than the time to full by one to two seconds, and at rate 0 there is none."""
        began = time.monotonic()
        self.lua.batch(START, limited=[(0, 1, self.lua.address(NETWORK))] * 3)
        ttl = self.lua.command(b"PTTL", ADDRESS_KEY)
        self.assertTrue(7_000 - passed(began) < ttl <= 8_000, ttl)
        began = time.monotonic()
        self.lua.batch(START + 4 * SECOND, shared_charges=[(*self.lua.address(NETWORK), -1)])
        ttl = self.lua.command(b"PTTL", ADDRESS_KEY)
        self.assertTrue(5_000 - passed(began) < ttl <= 6_000, ttl)
        # On a clock that went back it is full only after its stamp.
        self.lua.batch(START - 20 * SECOND, limited=[(0, 1, self.lua.address(NETWORK))])
        ttl = self.lua.command(b"PTTL", ADDRESS_KEY)
        self.assertGreater(ttl, 23_000)
        still = self.client(Limits(address=Policy(3, 0.0)))
        still.batch(START, limited=[(0, 1, still.address("5.6.7.8"))])
        self.assertEqual(still.command(b"PTTL", b"tokenlb:address:5.6.7.8"), -1)
        slow = self.client(Limits(address=Policy(1_000_000_000, 1e-300)))
        slow.batch(START, limited=[(0, 1, slow.address("5.6.7.9"))])
        self.assertEqual(slow.command(b"PTTL", b"tokenlb:address:5.6.7.9"), -1)


class SpecialKeyTests(SynchronousTestCase):
    """What is replied about keys of which there is more to say."""

    def setUp(self) -> None:
        self.lua = lua_for(self)

    def special(self, name: str, state: str, **fields: object) -> None:
        """Something more about the first key of a user."""
        written = [part for field in fields.items() for part in field]
        key = account_key(digest_of(name))
        self.lua.command(b"HSET", key, b"state", state.encode(), *[str(part).encode() for part in written])

    def test_what_is_kept_of_a_call(self) -> None:
        """Redis keeps which takings were admitted, and of which shadows they have tokens: see still_due."""
        asked, other = (LimitRule(f"limit:all||{name}", name, 2, 0.0).bucket("", True) for name in "xy")
        for name in "ab":
            self.lua.create(START, name, 4)
        self.special("a", "active active 0 shared s", shadow_capacity=1, shadow_rate="0.0")
        last = b"tokenlb:last:process%d" % id(self.lua)
        self.lua.batch(START, "b", "a", "a", extras=[(3, 9, "")])
        self.assertEqual(self.lua.command(b"GET", last), b"1 1 120")
        enforced = LimitRule("limit:all||z", "z", 9, 0.0).bucket()
        # Those without a key are taken first.
        without_key = (0, 2, (enforced, asked)), (0, 1, (enforced, other)), (0, 9, (enforced, other))
        self.lua.batch(START, "a", "b", limited=[(2, 0, (asked, other)), *without_key])
        self.assertEqual(self.lua.command(b"GET", last), b"2 2 11110 01110")

    def test_each_thing_has_its_place(self) -> None:
        """A reply has as many elements whatever there is, and nil in the places of what there is not."""
        own = {"key_capacity": 7, "key_rate": "0.5"}
        quota = {"quota": "5 requests day UTC", "quota_starts": START - SECOND, "quota_ends": START + SECOND}
        shadow = {"shadow_capacity": 1, "shadow_rate": "0.25"}
        used = [[b"5 requests day UTC", number, START - SECOND, START + SECOND, START] for number in (1, 2)]
        asked = [[1, b"0.25", 0, 0], [1, b"0.25", 0, 1]]
        for name, state, fields, places in (
            ("a", "active active 0 own", own, [(7, b"0.5", 6 * M, None, None), (7, b"0.5", 5 * M, None, None)]),
            ("b", "active active 0 shared q", quota, [(0, None, 0, used[0], None), (0, None, 0, used[1], None)]),
            ("c", "active active 0 shared s", shadow, [(0, None, 0, None, asked[0]), (0, None, 0, None, asked[1])]),
            ("d", "active active 0 shared qs", quota | shadow, [(0, None, 0, *both) for both in zip(used, asked)]),
        ):
            self.lua.create(START, name, 100)
            self.special(name, state, **fields)
            for answer, (capacity, rate, level, of_quota, of_shadow) in zip(self.lua.batch(START, name, name), places):
                found = SpecialReply(*answer.name)  # type: ignore[misc]
                self.assertEqual((found.name, found.owner, found.left), (name.encode(), digest_of(name).encode(), 0))
                self.assertEqual((found.own_capacity, found.own_rate or None, found.own_level), (capacity, rate, level))
                self.assertEqual((found.quota, found.shadow), (of_quota, of_shadow))
            # Without a taking, it is the same.
            read = self.lua.run("read_account", START, [account_key(digest_of(name))])
            shadow_read = None if of_shadow is None else [*of_shadow[:3], 0]
            self.assertEqual(SpecialReply(read[0], *read[6:])[6:], (of_quota, shadow_read))
