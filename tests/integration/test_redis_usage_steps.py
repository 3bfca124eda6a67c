"""Both stores have the same counts by time after each step."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.integration.lua_client import SECOND, START, lua_for
from tests.stores.contract import digest_of, new_path
from tests.stores.users_contract import new_user
from twisted_lb.stores.redis.keys import account_key, usage_key
from twisted_lb.stores.redis.usage import RedisUsage
from twisted_lb.stores.sqlite.store import EmbeddedStore
from twisted_lb.usage import HALF_HOURS, MINUTES, key_subject

KEY, GONE = key_subject(digest_of("k")), key_subject(digest_of("gone"))
SUBJECTS = [KEY, GONE, "limit:route|api|burst"]
numbers = st.one_of(st.integers(0, 3), st.integers(0, 2**53 - 1))
counters = st.sampled_from(["requests", "tokens", "refused:default", "refused:a.b:c-d"])
counts = st.dictionaries(counters, numbers, min_size=1, max_size=4)
seconds = st.one_of(st.integers(0, 59), st.sampled_from([60, 1800, 3599, 3600]), st.integers(0, 100_000))
steps = st.lists(
    st.tuples(st.dictionaries(st.sampled_from(SUBJECTS), counts, max_size=3), seconds),
    max_size=12,
)


class _Connected:
    ready = True


class _Script:
    """A script of RedisUsage, with the clock of the test."""

    def __init__(self, case: Any, name: str) -> None:
        self._case = case
        self._name = name

    def call(self, *arguments: bytes, keys: int = 1) -> Deferred[Any]:
        return succeed(self._case.lua.run(self._name, self._case.now_us, arguments[:keys], *arguments[keys:]))


class UsageStepTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lua = lua_for(self, expiring=False)
        self.now_us = START
        self.redis = RedisUsage(_Connected())  # type: ignore[arg-type]
        for attribute, name in (("_add", "add_counts"), ("_read", "read_counts")):
            setattr(self.redis, attribute, _Script(self, name))
        self.embedded = EmbeddedStore(new_path(self), lambda: self.now_us, Clock(), maybeDeferred)
        self.embedded.start()
        self.addCleanup(lambda: self.successResultOf(self.embedded.stop()))

    def begin(self) -> None:
        """Both are empty, and have the key of one user."""
        self.lua.command(b"FLUSHALL")
        self.successResultOf(self.embedded.delete_user("ann"))
        self.successResultOf(self.embedded.create_user(new_user("ann", "k")))
        self.lua.create(self.now_us, "k", 5)
        # What is counted of other subjects lasts for a day.
        self.now_us += 2 * 86_400 * SECOND

    # Another instance plays it when it is repeated, on a machine that may be slow.
    @settings(max_examples=30, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow])
    @given(steps)
    def test_both_stores_agree_step_by_step(self, operations: list[Any]) -> None:
        """Whatever is counted when, the hour and the day are the same at every step."""
        self.begin()
        for added, elapsed in operations:
            self.now_us += elapsed * SECOND
            for store in (self.redis, self.embedded):
                self.assertEqual(self.successResultOf(store.add_counts(added)), {})
            self.agree()
        self.now_us += 86_400 * SECOND
        self.agree()

    def agree(self) -> None:
        found = [self.successResultOf(store.counts_of(SUBJECTS)) for store in (self.redis, self.embedded)]
        self.assertEqual(*found)
        self.assertEqual(found[0][1], ({}, {}))

    def test_a_hash_is_small_and_expires(self) -> None:
        """After 25 hours of a count in every minute, a hash has 108 fields, in Redis's compact form, and an expiry."""
        self.begin()
        place = usage_key(KEY)
        for _ in range(25 * 60):
            self.now_us += 60 * SECOND
            self.successResultOf(self.redis.add_counts({KEY: {"requests": 100, "tokens": 1000}}))
        self.assertEqual(self.lua.command(b"HLEN", place), MINUTES + HALF_HOURS)
        self.assertIn(self.lua.command(b"OBJECT", b"ENCODING", place), (b"listpack", b"ziplist"))
        self.assertGreater(self.lua.command(b"TTL", place), 86_400)
        [(hour, day)] = self.successResultOf(self.redis.counts_of([KEY]))
        self.assertEqual((hour["requests"], day["requests"]), (6000, (47 * 30 + 1) * 100))

    def test_a_key_of_another_type_is_replaced(self) -> None:
        """What is not a hash is counted as nothing, and is no obstacle."""
        self.begin()
        self.lua.command(b"SET", usage_key(KEY), b"x")
        self.assertEqual(self.successResultOf(self.redis.counts_of([KEY])), [({}, {})])
        self.successResultOf(self.redis.add_counts({KEY: {"requests": 1}}))
        self.assertEqual(self.successResultOf(self.redis.counts_of([KEY])), [({"requests": 1}, {"requests": 1})])

    def test_a_damaged_hash_counts_what_can_be_read(self) -> None:
        """Fields that this program did not write are left out."""
        self.begin()
        fields = [b"m1", b"x", b"h2", b"", b"m", b"1 a=b", b"other", b"5 requests=1"]
        self.lua.command(b"HSET", usage_key(KEY), *fields)
        self.successResultOf(self.redis.add_counts({KEY: {"requests": 1}}))
        self.assertEqual(self.successResultOf(self.redis.counts_of([KEY])), [({"requests": 1}, {"requests": 1})])

    def test_reading_and_refused_counts_write_nothing(self) -> None:
        """Neither a question nor counts of a key that is not there change anything in Redis."""
        self.begin()
        before = self.lua.changes()
        self.successResultOf(self.redis.counts_of(SUBJECTS))
        self.successResultOf(self.redis.add_counts({GONE: {"requests": 1}}))
        self.assertEqual(self.lua.changes(), before)
        self.assertEqual(self.lua.command(b"EXISTS", account_key(digest_of("gone"))), 0)
