"""Quotas on a real redis-server: several balancers, periods that end, outages, and one notice for all."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks
from twisted.internet.task import deferLater

from tests.integration.on_redis import OnRedis
from tests.stores.contract import Asker, digest_of
from tests.stores.users_contract import new_user
from twisted_lb.interfaces import KEY, QUOTA, Taken
from twisted_lb.quotas import DAY, NO_QUOTA, REQUESTS, TOKENS, Quota, QuotaCharge, period_at
from twisted_lb.stores.redis.keys import account_key
from twisted_lb.users import UserChange

DAY_US = 86_400_000_000
ANN = account_key(digest_of("k")).decode()


class QuotaCase(OnRedis):
    def create(self, quota: Quota, *keys: str) -> Any:
        user = new_user("ann", *(keys or ("k",)), capacity=1000, quota=quota)
        return self.store.create_user(user)

    def take_of(self, store: Any, key: str = "k", cost: int = 1) -> Any:
        receiver = Asker()
        store.take(digest_of(key), receiver, cost)
        return receiver.told

    def used(self) -> Any:
        return self.store.user("ann").addCallback(lambda user: user.quota.used)


class BalancerTests(QuotaCase):
    """Several balancers share a quota."""

    @inlineCallbacks
    def test_a_period_is_begun_once(self) -> Any:
        """Two balancers, with many requests at once, begin the period once: together they admit the quota."""
        other = self.new_store()
        yield other.start()
        yield self.create(Quota(30, REQUESTS, DAY, "Europe/Berlin"))
        for _ in range(3):
            taken = yield gatherResults([self.take_of(store) for _ in range(40) for store in (self.store, other)])
            self.assertEqual(sum(one.admitted for one in taken), 30)
            self.assertEqual({one.limit for one in taken}, {KEY, QUOTA})
            [period] = {(one.quota.starts_us, one.quota.ends_us) for one in taken}
            self.assertEqual(period, period_at(DAY, "Europe/Berlin", taken[0].quota.now_us))
            # The day ends.
            starts_us, ends_us = period
            self.server.command(
                "HSET", ANN, "quota_starts", str(starts_us - DAY_US), "quota_ends", str(starts_us)
            )

    @inlineCallbacks
    def test_one_notice_for_all(self) -> Any:
        """However many balancers take at once, each threshold has one notice, which one of them gets."""
        other = self.new_store()
        yield other.start()
        yield gatherResults([store.claim_notices(10, 60.0) for store in (self.store, other)])
        yield self.create(Quota(50, REQUESTS, DAY))
        yield gatherResults([self.take_of(store) for _ in range(60) for store in (self.store, other)])
        claimed = yield gatherResults([store.claim_notices(10, 60.0) for store in (self.store, other)])
        found = sorted([one for notices in claimed for one in notices], key=lambda one: one.threshold)
        self.assertEqual([one.threshold for one in found], [80, 100])
        # The count is that at the end of the step, which may be one of many requests.
        self.assertTrue(40 <= found[0].quota.used <= found[1].quota.used == 50)

    @inlineCallbacks
    def test_notices_are_wanted_before_the_first_request(self) -> Any:
        """A store that was asked for notices before it started makes them from its first request on."""
        other = self.new_store()
        other.want_notices()
        yield other.start()
        yield self.create(Quota(1, REQUESTS, DAY))
        yield self.take_of(other)
        notices = yield other.claim_notices(10, 60.0)
        self.assertEqual(len(notices), 2)

    @inlineCallbacks
    def test_what_is_stored_of_a_user_without_a_quota(self) -> Any:
        """When the quota is removed, nothing of it is left, and the key is a plain one again."""
        yield self.create(Quota(5, REQUESTS, DAY))
        yield self.take("k")
        self.assertIn(b"\r\nactive active 0 shared q\r\n", self.server.command("HGETALL", ANN))
        yield self.store.change_user("ann", UserChange(quota=NO_QUOTA))
        fields = self.server.command("HKEYS", ANN)
        self.assertNotIn(b"quota", fields)
        self.assertNotIn(b"state", fields)

    @inlineCallbacks
    def test_a_damaged_quota_admits_nothing(self) -> Any:
        """What is not a quota is reported as a wrong key; others of the batch are not concerned."""
        yield self.create(Quota(5, REQUESTS, DAY), "k", "k2")
        yield self.store.create_user(new_user("bob", "b"))
        # Lua reads hexadecimal numbers, and Python does not.
        for name, value, sound in (("rate", "0x5", "0"), ("quota_used", "nan", "nan")):
            self.server.command("HSET", ANN, name, value)
            answers = yield gatherResults([self.take("k"), self.take("k2"), self.take("b")])
            self.assertEqual([type(one) for one in answers], [str, str, Taken])
            self.server.command("HSET", ANN, name, sound)
        self.store.release(digest_of("k"), 0, (), QuotaCharge(REQUESTS, 1, 2, -1))
        self.assertTrue((yield self.take("b")).admitted)

    @inlineCallbacks
    def test_wrong_keys_of_notices(self) -> Any:
        """Keys of notices with another type are replaced, and no taking fails."""
        yield self.store.claim_notices(10, 60.0)
        self.server.command("SET", "tokenlb:notices", "x")
        self.server.command("SET", "tokenlb:notices_due", "x")
        yield self.create(Quota(1, REQUESTS, DAY))
        self.assertTrue((yield self.take("k")).admitted)
        notices = yield self.store.claim_notices(10, 60.0)
        self.assertEqual(sorted(one.threshold for one in notices), [80, 100])
        self.flushLoggedErrors()


    @inlineCallbacks
    def test_a_webhook_that_is_gone(self) -> Any:
        """Who has the same URL gets nothing more until one of them starts, or a day is over; another URL goes on."""
        same, other, new = self.new_store(), self.new_store(), self.new_store()
        for store, webhook in ((self.store, "a"), (same, "a"), (other, "b"), (new, "a")):
            store.want_notices(webhook)
            if store is not new:
                yield store.start() if store is not self.store else None
                yield store.claim_notices(0, 60.0)
        yield self.create(Quota(1, REQUESTS, DAY))
        yield self.take("k")
        yield self.store.refuse_notices()
        self.assertEqual(self.server.command("EXISTS", "tokenlb:webhook"), b":0\r\n")
        self.assertIn(self.server.command("TTL", "tokenlb:webhook_gone"), (b":86400\r\n", b":86399\r\n"))
        self.assertEqual((yield same.claim_notices(10, 0.0)), [])
        self.assertEqual(self.server.command("EXISTS", "tokenlb:webhook"), b":0\r\n")
        self.assertEqual(len((yield other.claim_notices(10, 0.0))), 2)
        yield new.start()
        yield new.claim_notices(0, 0.0)
        self.assertEqual(len((yield same.claim_notices(10, 0.0))), 2)

    @inlineCallbacks
    def test_old_notices(self) -> Any:
        """What nobody has sent or given up in eight hours is removed, however much there is; damaged ones stay."""
        yield self.store.claim_notices(0, 60.0)
        yield self.create(Quota(1, REQUESTS, DAY))
        now_us = (yield self.take("k")).quota.now_us
        self.server.command("DEL", "tokenlb:notices", "tokenlb:notices_due")
        hour_us = 3_600_000_000
        ages = [8 * hour_us + 1_000_000] * 60 + [7 * hour_us]
        for number, age_us in enumerate(ages):
            text = f"80 {now_us - age_us} 1 1 2 1 requests day UTC ann"
            self.server.command("HSET", "tokenlb:notices", f"msg_{number}", text)
            self.server.command("ZADD", "tokenlb:notices_due", str(number), f"msg_{number}")
        self.server.command("HSET", "tokenlb:notices", "damaged", "junk")
        self.server.command("ZADD", "tokenlb:notices_due", "1", "damaged")
        self.assertEqual([one.id for one in (yield self.store.claim_notices(2, 60.0))], ["msg_60"])
        self.assertEqual(self.server.command("HLEN", "tokenlb:notices"), b":2\r\n")
        self.assertEqual(self.server.command("ZCARD", "tokenlb:notices_due"), b":2\r\n")
        for key in ("tokenlb:notices", "tokenlb:notices_due"):
            self.assertIn(self.server.command("TTL", key), (b":32400\r\n", b":32399\r\n"))


class QuotaOutageTests(QuotaCase):
    """Redis is away for some time."""

    appendonly = True
    mode = "local"
    deadline = 1.0

    @inlineCallbacks
    def outage(self) -> Any:
        self.server.kill()
        while self.store.state().up:
            yield self.take("k")
            yield deferLater(self.reactor, 0.02)

    @inlineCallbacks
    def back(self) -> Any:
        self.server.start()
        for _ in range(3000):
            if self.store.state().up:
                return
            yield deferLater(self.reactor, 0.02)
        self.fail("Redis is not back in 60 seconds")

    @inlineCallbacks
    def test_what_was_spent_meanwhile_is_charged(self) -> Any:
        """Requests of an outage go on with what was left, and count afterwards."""
        yield self.create(Quota(40, REQUESTS, DAY))
        first = yield gatherResults([self.take("k") for _ in range(10)])
        yield self.outage()
        taken = yield gatherResults([self.take("k") for _ in range(60)])
        self.assertEqual({one.limit for one in taken}, {KEY, QUOTA})
        # A request of before that no server has answered.
        quota = first[0].quota
        self.store.release(digest_of("k"), -1, (), QuotaCharge(REQUESTS, quota.starts_us, quota.ends_us, -1))
        yield self.back()
        self.assertEqual((yield self.used()), 39)
        self.assertTrue((yield self.take("k")).admitted)
        self.assertEqual((yield self.take("k")).limit, QUOTA)

    @inlineCallbacks
    def test_a_period_that_has_ended_meanwhile(self) -> Any:
        """What was spent of a period that is over in Redis does not count in the next one."""
        yield self.create(Quota(40, TOKENS, DAY))
        yield self.take("k")
        yield self.outage()
        before = yield self.take("k")
        self.assertTrue(before.admitted)
        self.server.start()
        starts_us = before.quota.starts_us
        for _ in range(3000):
            if self.store.state().up:
                break
            yield deferLater(self.reactor, 0.02)
        used = yield self.used()
        self.assertGreaterEqual(used, 2)
        charge = QuotaCharge(TOKENS, starts_us - DAY_US, starts_us, 7)
        yield self.store._batches.charge({}, 0, (), [(digest_of("k"), charge)])
        self.assertEqual((yield self.used()), used)
        # And what was spent of the next one begins it.
        later = QuotaCharge(TOKENS, starts_us + DAY_US, starts_us + 2 * DAY_US, 7)
        yield self.store._batches.charge({}, 0, (), [(digest_of("k"), later), (digest_of("k"), later)])
        user = yield self.store.user("ann")
        self.assertEqual((user.quota.used, user.quota.starts_us), (14, starts_us + DAY_US))
