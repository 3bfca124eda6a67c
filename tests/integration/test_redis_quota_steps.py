"""Both stores have used the same of a quota, and of a shadow, after each step, whatever is done to them."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.hypothesis_profile import given
from tests.integration.lua_client import START, lua_for
from tests.integration.test_redis_user_steps import _Script
from tests.stores.contract import Asker, digest_of, new_path
from twisted_lb.interfaces import MICROTOKENS, OWN, QUOTA, Taken
from twisted_lb.quotas import DAY, MONTH, NO_QUOTA, REQUESTS, TOKENS, Quota, QuotaCharge, period_at
from twisted_lb.stores.redis.accounts import SpecialReply, quota_level
from twisted_lb.stores.redis.batch_encoding import charge_extra
from twisted_lb.stores.redis.keys import account_key
from twisted_lb.stores.redis.outcomes import OF_OWN, OF_QUOTA, PERIOD_OVER, SPECIAL
from twisted_lb.stores.redis.users import RedisUsers
from twisted_lb.stores.sqlite.store import EmbeddedStore
from twisted_lb.users import NO_SHADOW, Key, KeyBucket, Shadow, User, UserChange

HOUR = 3_600_000_000
LIMITS = {0: "default", 1: "default", OF_OWN: OWN, OF_QUOTA: QUOTA}
quota_values = st.tuples(
    st.integers(1, 8),
    st.sampled_from([REQUESTS, TOKENS]),
    st.sampled_from([DAY, DAY, MONTH]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo"]),
).map(lambda values: Quota(*values))
shadows = st.builds(Shadow, st.integers(1, 12), st.just(0.0), st.none() | st.integers(0, 12 * MICROTOKENS))
keys = st.sampled_from("ab")
# Settled are the takings so far, by their places from the end.
operations = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.just("take"), keys, st.integers(0, 4)),
            st.tuples(st.just("take"), keys, st.integers(0, 4)),
            st.tuples(st.just("take"), keys, st.integers(0, 4)),
            st.tuples(st.just("charge"), st.integers(0, 3), st.integers(-4, 4)),
            st.tuples(
                st.just("change"),
                st.none() | st.just(NO_QUOTA) | quota_values,
                st.none() | st.integers(0, 9),
                st.none() | st.just(NO_SHADOW) | shadows,
            ),
            st.tuples(st.just("promote")),
        ),
        st.sampled_from([0, 0, 1, HOUR, 7 * HOUR, 25 * HOUR, -30 * HOUR, 31 * 24 * HOUR]),
    ),
    max_size=30,
)


class QuotaStepTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lua = lua_for(self, expiring=False)
        self.now_us = START
        self.redis = RedisUsers(None)  # type: ignore[arg-type]
        for attribute, name in (
            ("_read", "read_user"),
            ("_create", "create_user"),
            ("_change", "change_user"),
            ("_delete", "delete_user"),
            ("_promote", "promote_shadow"),
        ):
            setattr(self.redis, attribute, _Script(self, name))
        self.embedded = EmbeddedStore(new_path(self), lambda: self.now_us, Clock(), maybeDeferred)
        self.embedded.want_notices()
        self.embedded.start()
        self.addCleanup(lambda: self.successResultOf(self.embedded.stop()))

    def both(self, verb: str, *arguments: Any) -> Any:
        """Call both stores: the same result."""
        outcomes: list[Any] = []
        for store in (self.redis, self.embedded):
            done: Deferred[Any] = getattr(store, verb)(*arguments)
            done.addBoth(outcomes.append)
        self.assertEqual(*outcomes, (verb, arguments))
        return outcomes[0]

    def take_in_redis(self, key: str, cost: int) -> Any:
        """The reply, when the period of the quota has been renewed."""
        answer = self.lua.take(self.now_us, key, cost)
        if answer.outcome == SPECIAL + PERIOD_OVER:
            found = SpecialReply(*answer.name)  # type: ignore[misc]
            quota = quota_level(found.quota)
            assert quota is not None and found.quota is not None
            owner, text = account_key(found.owner.decode()), found.quota[0]
            period = [b"%d" % time for time in period_at(quota.per, quota.time_zone, quota.now_us)]
            for _ in range(2):
                # As by two balancers: the second one changes nothing.
                reply = self.lua.run("renew_quota", self.now_us, [owner], text, *period)
                self.assertEqual(reply, 1)
            answer = self.lua.take(self.now_us, key, cost)
        return answer

    def take(self, key: str, cost: int) -> Taken:
        receiver = Asker()
        self.embedded.take(digest_of(key), receiver, cost)
        [taken] = receiver.answers
        assert isinstance(taken, Taken)
        answer = self.take_in_redis(key, cost)
        outcome = answer.outcome % SPECIAL
        self.assertEqual((LIMITS[outcome], outcome == 1), (taken.limit, taken.admitted))
        if outcome != OF_QUOTA:
            self.assertEqual(answer.level, taken.level)
        found = SpecialReply(*answer.name) if isinstance(answer.name, list) else None
        self.assertEqual(None if found is None else quota_level(found.quota), taken.quota)
        shadow = self.successResultOf(self.embedded.user("ann")).shadow
        if shadow is None:
            self.assertIsNone(found and found.shadow)
        else:
            capacity, _, level, would_refuse = found.shadow
            self.assertEqual((capacity, level), (shadow.capacity, shadow.level))
            self.assertEqual([bool(would_refuse)] * taken.admitted, [one.would_refuse for one in taken.shadows])
        return taken

    def charge(self, taken: Taken, amount: int) -> None:
        if not amount:
            return
        quota, charge, extras = taken.quota, None, []
        if quota is not None:
            charge = QuotaCharge(quota.unit, quota.starts_us, quota.ends_us, amount)
            extras = [tuple(charge_extra(0, charge))]
        shared = tuple(one.shared for one in taken.shadows if not one.would_refuse)
        self.embedded.release(digest_of("a"), amount, shared, charge)
        self.lua.batch(
            self.now_us, charged=[("a", amount)], extras=extras, shared_charges=[(one, amount) for one in shared]
        )
        if self.successResultOf(self.embedded.user("ann")).shadow is None:
            # What was charged to a shadow that is there no more.
            self.lua.command(b"DEL", b"tokenlb:shadow_bucket:{%s}" % digest_of("a").encode())

    def notices_in_redis(self) -> set[bytes]:
        return set(self.lua.command(b"HKEYS", b"tokenlb:notices"))

    @settings(max_examples=80, suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow])
    @given(operations)
    def test_both_stores_agree_step_by_step(self, steps: list[Any]) -> None:
        """Answers, what was used, periods and notices are the same at every step."""
        self.lua.command(b"FLUSHALL")
        self.lua.command(b"SET", b"tokenlb:webhook", b"1")
        self.successResultOf(self.embedded.delete_user("ann"))
        self.now_us = START
        for notice in self.successResultOf(self.embedded.claim_notices(1000, 0.0)):
            self.successResultOf(self.embedded.remove_notice(notice.id))
        self.embedded._notices.clear()
        kept = Key(digest_of("a")), Key(digest_of("b"), bucket=KeyBucket(40, 0.0))
        quota = Quota(5, TOKENS, DAY)
        shadow = Shadow(7, 0.0)
        self.both("create_user", User("ann", 60, 0.0, keys=kept, created_at=START, quota=quota, shadow=shadow))
        taken: list[Taken] = []
        for (verb, *arguments), elapsed_us in steps:
            self.now_us += elapsed_us
            if verb == "take":
                taken.append(self.take(*arguments))
            elif verb == "charge":
                place, amount = arguments
                if place < len(taken) and taken[-1 - place].admitted:
                    self.charge(taken[-1 - place], amount)
            elif verb == "promote":
                if self.successResultOf(self.embedded.user("ann")).shadow is not None:
                    self.both("promote_shadow", "ann")
            else:
                quota, used, shadow = arguments
                self.both("change_user", "ann", UserChange(quota=quota, quota_used=used, shadow=shadow))
            self.both("user", "ann")
            embedded = self.embedded._notices.rows()
            self.assertEqual({notice.encode() for notice, _ in embedded}, self.notices_in_redis())
