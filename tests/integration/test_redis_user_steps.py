"""Both stores have the same users and keys after each step, whatever is done to them."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.integration.lua_client import START, lua_for
from tests.stores.contract import Asker, digest_of, new_path
from tests.stores.users_contract import id_of
from twisted_lb.interfaces import MICROTOKENS, OWN, Taken
from twisted_lb.stores.redis.accounts import REFUSAL_OF, SpecialReply
from twisted_lb.stores.redis.outcomes import OF_OWN, SPECIAL
from twisted_lb.stores.redis.users import RedisUsers
from twisted_lb.stores.sqlite.store import EmbeddedStore
from twisted_lb.users import (
    ACTIVE,
    DISABLED,
    NO_BUCKET,
    NO_SHADOW,
    REVOKED,
    Key,
    KeyBucket,
    KeyChange,
    Shadow,
    User,
    UserChange,
)

KEYS = "abcd"
levels = st.none() | st.integers(-3 * MICROTOKENS, 12 * MICROTOKENS)
times = st.integers(-5_000_000, 5_000_000)  # before or after now
buckets = st.builds(KeyBucket, st.integers(1, 9), st.sampled_from([0.0, 0.5, 1000.0]), levels)
key_changes = st.tuples(
    st.none() | st.sampled_from([ACTIVE, DISABLED, REVOKED]),
    st.none() | st.just(0) | times,
    st.none() | st.sampled_from(["", "x"]),
    st.none() | st.just(NO_BUCKET) | buckets,
)
shadows = st.builds(Shadow, st.integers(1, 6), st.sampled_from([0.0, 0.5, 1000.0]), levels)
user_changes = st.builds(
    UserChange,
    st.none() | st.integers(1, 12),
    st.none() | st.sampled_from([0.0, 1 / 3, 2.0]),
    levels,
    st.none() | st.booleans(),
    st.none() | st.sampled_from([{}, {"x": 1}]),
    st.none() | st.just(NO_SHADOW) | shadows,
    # See test_redis_quota_steps.
    st.none(),
    st.none(),
)
keys = st.sampled_from(KEYS)
steps = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.just("take"), keys, st.integers(0, 4), st.integers(-2, 3)),
            st.tuples(st.just("take"), keys, st.integers(0, 4), st.just(0)),
            st.tuples(st.just("settle"), keys, st.integers(-3, 3)),
            st.tuples(st.just("change_key"), keys, key_changes),
            st.tuples(st.just("change_user"), user_changes),
            st.tuples(st.just("create_key"), keys, st.none() | buckets),
            st.tuples(st.just("rotate_key"), keys, keys, st.sampled_from([0, 2_000_000]), st.booleans()),
            st.tuples(st.just("delete_user")),
            st.tuples(st.just("create_user"), st.none() | buckets, levels, st.none() | shadows),
            st.tuples(st.just("promote_shadow")),
        ),
        st.integers(0, 3_000_000),
    ),
    max_size=25,
)


class _Script:
    """A script of RedisUsers, with the clock of the test."""

    def __init__(self, case: Any, name: str) -> None:
        self._case = case
        self._name = name

    def call(self, *arguments: bytes, keys: int = 1) -> Deferred[Any]:
        reply = self._case.lua.run(self._name, self._case.now_us, arguments[:keys], *arguments[keys:])
        return succeed(reply)


class StepTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lua = lua_for(self, expiring=False)
        self.now_us = START
        self.redis = RedisUsers(None)  # type: ignore[arg-type]
        for attribute, name in (
            ("_read", "read_user"),
            ("_create", "create_user"),
            ("_change", "change_user"),
            ("_promote", "promote_shadow"),
            ("_delete", "delete_user"),
            ("_create_key", "create_key"),
            ("_change_key", "change_key"),
            ("_rotate_key", "rotate_key"),
        ):
            setattr(self.redis, attribute, _Script(self, name))
        self.embedded = EmbeddedStore(new_path(self), lambda: self.now_us, Clock(), maybeDeferred)
        self.embedded.start()
        self.addCleanup(lambda: self.successResultOf(self.embedded.stop()))

    def both(self, verb: str, *arguments: Any) -> None:
        """Call both stores: the same result, or the same kind of failure."""
        outcomes: list[Any] = []
        for store in (self.redis, self.embedded):
            done: Deferred[Any] = getattr(store, verb)(*arguments)
            done.addBoth(outcomes.append)
        redis, embedded = [getattr(one, "type", one) for one in outcomes]
        self.assertEqual(redis, embedded, (verb, arguments))

    def take(self, key: str, cost: int, more: int) -> None:
        """A request, which costs `more` in the end, as the buckets and shadows that admit it are told."""
        receiver = Asker()
        self.embedded.take(digest_of(key), receiver, cost)
        [taken] = receiver.answers
        answer = self.lua.take(self.now_us, key, cost)
        if taken is None:
            self.assertEqual((answer.name, answer.outcome), (None, 0))
            return
        assert isinstance(taken, Taken)
        outcome = answer.outcome % SPECIAL
        limit = REFUSAL_OF.get(outcome) or {OF_OWN: OWN}.get(outcome, "default")
        self.assertEqual((limit, outcome == 1, answer.level), (taken.limit, taken.admitted, taken.level))
        shadow = SpecialReply(*answer.name).shadow if isinstance(answer.name, list) and outcome == 1 else None
        of_embedded = [(one.shared.rule.capacity, one.would_refuse) for one in taken.shadows]
        self.assertEqual([(shadow[0], shadow[3])] if shadow else [], of_embedded)
        if more and taken.admitted:
            asked = tuple(one.shared for one in taken.shadows if not one.would_refuse)
            self.embedded.release(digest_of(key), more, asked)
            self.lua.batch(self.now_us, charged=[(key, more)], shared_charges=[(one, more) for one in asked])

    # Another instance plays it when it is repeated, on a machine that may be slow.
    @settings(max_examples=60, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow])
    @given(steps)
    def test_both_stores_agree_step_by_step(self, operations: list[Any]) -> None:
        """Users, keys, states, expiries, buckets and answers are the same at every step."""
        self.lua.command(b"FLUSHALL")
        self.both_deleted()
        self.create(None, None, None)
        for (verb, *arguments), elapsed_us in operations:
            self.now_us += elapsed_us
            if verb == "take":
                self.take(*arguments)
            elif verb == "settle":
                key, tokens = arguments
                self.lua.batch(self.now_us, charged=[(key, tokens)])
                self.embedded.release(digest_of(key), tokens)
            elif verb == "change_key":
                key, (state, expires, label, bucket) = arguments
                expires_at = expires and self.now_us + expires
                self.both("change_key", "ann", id_of(key), KeyChange(state, expires_at, label, bucket))
            elif verb == "create_key":
                key, bucket = arguments
                self.both("create_key", "ann", Key(digest_of(key), bucket=bucket))
            elif verb == "rotate_key":
                old, new, grace, keep_expiry = arguments
                self.both("rotate_key", "ann", id_of(old), grace, digest_of(new), keep_expiry)
            elif verb == "create_user":
                self.create(*arguments)
            else:
                self.both(verb, "ann", *arguments)
            self.both("user", "ann")

    def both_deleted(self) -> None:
        self.successResultOf(self.embedded.delete_user("ann"))

    def create(self, bucket: KeyBucket | None, level: int | None, shadow: Shadow | None) -> None:
        first, second = Key(digest_of("a"), bucket=bucket), Key(digest_of("b"))
        self.both("create_user", User("ann", 5, 1.0, level, keys=(first, second), shadow=shadow))
