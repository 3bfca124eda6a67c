"""What every store promises of quotas, as one suite beside `users_contract`."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import gatherResults, inlineCallbacks
from zope.interface.verify import verifyObject

from tests.stores.contract import StoreCase, digest_of
from tests.stores.users_contract import new_user
from twisted_lb.interfaces import KEY, MICROTOKENS, OWN, QUOTA, INoticeOutbox
from twisted_lb.notices import notice_id
from twisted_lb.quotas import DAY, MONTH, NO_QUOTA, REQUESTS, TOKENS, Quota, QuotaCharge, period_at
from twisted_lb.users import Key, KeyBucket, KeyChange, User, UserChange

DAY_US = 86_400_000_000


class QuotasContract(StoreCase):
    """Quotas, their periods, and what requests and operators do to them."""

    def quota_user(self, quota: Quota, *keys: str, capacity: int = 1000) -> Any:
        return self.store.create_user(new_user("ann", *(keys or ("k",)), capacity=capacity, quota=quota))

    @inlineCallbacks
    def used(self) -> Any:
        """What was used, as operators see it, when everything charged so far is."""
        yield self.take("nobody")
        user = yield self.store.user("ann")
        return None if user.quota is None else user.quota.used

    def charge(self, taken: Any, amount: int, tokens: int = 0, key: str = "k") -> None:
        quota = taken.quota
        self.store.release(
            digest_of(key), tokens, (), QuotaCharge(quota.unit, quota.starts_us, quota.ends_us, amount)
        )

    @inlineCallbacks
    def test_requests_are_counted(self) -> Any:
        """A quota of requests admits so many, whatever they cost; the refusal names it, and takes no tokens."""
        yield self.quota_user(Quota(3, REQUESTS, DAY))
        taken = yield gatherResults([self.take("k", cost) for cost in (1, 5, 0, 1)])
        self.assertEqual([one.admitted for one in taken], [True, True, True, False])
        self.assertEqual([one.quota.left for one in taken], [2, 1, 0, 0])
        refused = taken[3]
        self.assertEqual(refused[:5], (False, b"ann", 3, 0.0, 0))
        self.assertEqual(refused.limit, QUOTA)
        self.assertEqual((yield self.level("k")), 994)
        quota = refused.quota
        self.assertEqual((quota.starts_us, quota.ends_us), period_at(DAY, "UTC", quota.now_us))
        self.assertEqual((quota.amount, quota.unit, quota.per, quota.time_zone), (3, REQUESTS, DAY, "UTC"))
        self.assertLessEqual(quota.starts_us, quota.now_us)
        self.assertEqual((yield self.used()), 3)

    @inlineCallbacks
    def test_tokens_are_counted(self) -> Any:
        """A quota of tokens admits what fits into it, and counts what a request has cost in the end."""
        yield self.quota_user(Quota(10, TOKENS, MONTH, "Europe/Berlin"))
        first = yield self.take("k", 6)
        self.assertEqual((yield self.take("k", 5)).limit, QUOTA)
        second = yield self.take("k", 4)
        self.assertEqual((first.quota.left, second.quota.left), (4, 0))
        self.charge(first, -5, -5)
        self.charge(second, 3, 3)
        self.assertEqual((yield self.used()), 8)
        third = yield self.take("k", 2)
        self.assertTrue(third.admitted)
        self.charge(third, 20, 20)
        over = yield self.take("k", 0)
        self.assertEqual((over.limit, over.quota.left), (QUOTA, -20))
        period = period_at(MONTH, "Europe/Berlin", over.quota.now_us)
        self.assertEqual((over.quota.starts_us, over.quota.ends_us), period)

    @inlineCallbacks
    def test_a_request_that_is_given_back_does_not_count(self) -> Any:
        """What no server has answered is given back to a quota of requests, but not more than was used."""
        yield self.quota_user(Quota(1, REQUESTS, DAY))
        taken = yield self.take("k")
        self.charge(taken, -1, -1)
        self.assertTrue((yield self.take("k")).admitted)
        self.assertFalse((yield self.take("k")).admitted)
        self.charge(taken, -1)
        self.charge(taken, -1)
        self.assertEqual((yield self.used()), 0)

    @inlineCallbacks
    def test_what_belongs_to_another_period_is_not_given_back(self) -> Any:
        """A charge of another period or unit gives nothing back; what is used in addition counts in this one."""
        yield self.quota_user(Quota(5, TOKENS, DAY))
        taken = yield self.take("k", 2)
        quota = taken.quota
        before = QuotaCharge(TOKENS, quota.starts_us - DAY_US, quota.starts_us, -2)
        self.store.release(digest_of("k"), 0, (), before)
        self.charge(taken._replace(quota=quota._replace(unit=REQUESTS)), -1)
        self.assertEqual((yield self.used()), 2)
        self.store.release(digest_of("k"), 0, (), before._replace(amount=2))
        self.assertEqual((yield self.used()), 4)

    @inlineCallbacks
    def test_all_keys_of_a_user_use_the_quota(self) -> Any:
        """It is of the user: a bucket of a key's own, and the user's, refuse before it; and they count nothing then."""
        yield self.quota_user(Quota(3, REQUESTS, DAY), "a", "b", capacity=4)
        yield self.store.change_key("ann", Key(digest_of("b")).key_id, KeyChange(bucket=KeyBucket(1, 0.0)))
        taken = yield gatherResults([self.take("b"), self.take("b"), self.take("a", 9), self.take("a")])
        self.assertEqual([one.limit for one in taken], [KEY, OWN, KEY, KEY])
        self.assertEqual([one.admitted for one in taken], [True, False, False, True])
        self.assertEqual([one.quota.left for one in taken], [2, 2, 2, 1])
        taken = yield gatherResults([self.take("a"), self.take("a")])
        self.assertEqual([(one.limit, one.quota.left) for one in taken], [(KEY, 0), (QUOTA, 0)])

    @inlineCallbacks
    def test_without_a_quota_nothing_is_said_of_one(self) -> Any:
        """A user without a quota has none in decisions, profiles and lists; a charge to it is of no effect."""
        yield self.create("k", "ann")
        taken = yield self.take("k")
        self.assertIsNone(taken.quota)
        self.store.release(digest_of("k"), 1, (), QuotaCharge(TOKENS, 1, 2, 3))
        self.assertIsNone((yield self.used()))
        profile = yield self.store.profile(digest_of("k"))
        self.assertIsNone(profile.quota)
        self.assertEqual(profile.level, 3 * MICROTOKENS)

    @inlineCallbacks
    def test_it_is_in_the_profile(self) -> Any:
        """The profile has what was used of the present period, also before the first request of it."""
        yield self.quota_user(Quota(3, REQUESTS, DAY))
        profile = yield self.store.profile(digest_of("k"))
        self.assertEqual(profile.quota[:5], (3, REQUESTS, DAY, "UTC", 0))
        self.assertGreater(profile.quota.ends_us, 0)
        yield self.take("k")
        found = (yield self.store.profile(digest_of("k"))).quota
        self.assertEqual(found, profile.quota._replace(used=1))
        user = yield self.store.user("ann")
        self.assertEqual(user.quota, found)
        changed = yield self.store.change(digest_of("k"), 9, None)
        self.assertEqual((changed.account.capacity, changed.quota), (9, found))
        page = yield self.store.page("", 9)
        self.assertEqual(page.profiles, [changed._replace(quota=None)])

    @inlineCallbacks
    def test_operators_set_it(self) -> Any:
        """A quota can be set, changed and removed; what was used stays while unit and period do."""
        yield self.create("k", "ann", 1000)
        changed = yield self.store.change_user("ann", UserChange(quota=Quota(3, REQUESTS, DAY)))
        self.assertIsNone(changed.before.quota)
        self.assertEqual(changed.after.quota[:5], (3, REQUESTS, DAY, "UTC", 0))
        yield gatherResults([self.take("k"), self.take("k")])
        for quota, used, admitted in [
            (Quota(4, REQUESTS, DAY), 2, True),
            (Quota(4, REQUESTS, DAY, "Asia/Kolkata"), 3, True),
            (Quota(4, REQUESTS, DAY, "Asia/Kolkata"), 4, False),
            (Quota(4, REQUESTS, MONTH, "Asia/Kolkata"), 0, True),
            (Quota(4, TOKENS, MONTH, "Asia/Kolkata"), 0, True),
        ]:
            changed = yield self.store.change_user("ann", UserChange(quota=quota))
            self.assertEqual(changed.after.quota.used, used, quota)
            taken = yield self.take("k")
            self.assertEqual(taken.admitted, admitted, quota)
            period = period_at(quota.per, quota.time_zone, taken.quota.now_us)
            self.assertEqual((taken.quota.starts_us, taken.quota.ends_us), period)
        changed = yield self.store.change_user("ann", UserChange(capacity=900))
        self.assertEqual(changed.after.quota.used, 1)
        changed = yield self.store.change_user("ann", UserChange(quota_used=4))
        self.assertEqual(changed.after.quota.used, 4)
        self.assertEqual((yield self.take("k")).limit, QUOTA)
        yield self.store.change_user("ann", UserChange(quota_used=0))
        self.assertEqual((yield self.take("k")).quota.left, 3)
        changed = yield self.store.change_user("ann", UserChange(quota=NO_QUOTA))
        self.assertIsNone(changed.after.quota)
        self.assertIsNone((yield self.take("k")).quota)
        changed = yield self.store.change_user("ann", UserChange(quota_used=4))
        self.assertIsNone(changed.after.quota)

    @inlineCallbacks
    def test_states_and_quotas_do_not_disturb_each_other(self) -> Any:
        """A user with a quota can be disabled and enabled, and the quota be set meanwhile."""
        yield self.quota_user(Quota(3, REQUESTS, DAY), "a", "b")
        yield self.store.change_user("ann", UserChange(disabled=True))
        self.assertEqual((yield self.take("b")).limit, "user_disabled")
        changed = yield self.store.change_user("ann", UserChange(quota=Quota(5, REQUESTS, DAY)))
        self.assertTrue(changed.after.disabled)
        yield self.store.change_user("ann", UserChange(disabled=False))
        self.assertEqual((yield self.take("b")).quota.left, 4)
        yield self.store.change_key("ann", Key(digest_of("a")).key_id, KeyChange(label="x"))
        self.assertEqual((yield self.take("a")).quota.left, 3)

    @inlineCallbacks
    def test_an_import_has_what_was_used(self) -> Any:
        """A quota comes back as it was, with its period; a period that is over begins anew."""
        now_us = (yield self.now_of_store())
        starts_us, ends_us = period_at(DAY, "UTC", now_us)
        yield self.quota_user(Quota(3, REQUESTS, DAY, "UTC", 2, starts_us, ends_us))
        user = yield self.store.user("ann")
        self.assertEqual(user.quota, Quota(3, REQUESTS, DAY, "UTC", 2, starts_us, ends_us))
        self.assertEqual((yield self.take("k")).quota.left, 0)
        quota = Quota(3, REQUESTS, DAY, "UTC", 2, starts_us - DAY_US, starts_us)
        yield self.store.create_user(User("bob", 5, 0.0, keys=(Key(digest_of("bob")),), quota=quota))
        user = yield self.store.user("bob")
        self.assertEqual(user.quota, Quota(3, REQUESTS, DAY, "UTC", 0, starts_us, ends_us))
        self.assertEqual((yield self.take("bob")).quota.left, 2)

    @inlineCallbacks
    def now_of_store(self) -> Any:
        yield self.store.create_user(new_user("clock", "clock", quota=Quota(1, REQUESTS, DAY)))
        taken = yield self.take("clock")
        return taken.quota.now_us

    @inlineCallbacks
    def test_what_cannot_be_a_quota(self) -> Any:
        """An unknown zone, unit or period, and amounts out of bounds are refused, and change nothing."""
        yield self.create("k", "ann")
        for quota in [
            Quota(0, REQUESTS, MONTH),
            Quota(10**12 + 1, REQUESTS, DAY),
            Quota(1, "bytes", DAY),
            Quota(1, REQUESTS, "week"),
            Quota(1, REQUESTS, DAY, "Europe/Atlantis"),
            Quota(1, REQUESTS, DAY, "../UTC"),
            Quota(1, REQUESTS, DAY, "UTC", -1),
            Quota(1, REQUESTS, DAY, "UTC", 0, 5, 5),
        ]:
            yield self.assertFailure(self.store.change_user("ann", UserChange(quota=quota)), ValueError)
            yield self.assertFailure(self.store.create_user(new_user("bob", "b", quota=quota)), ValueError)
        yield self.assertFailure(self.store.change_user("ann", UserChange(quota_used=-1)), ValueError)
        self.assertIsNone((yield self.used()))

    @inlineCallbacks
    def test_a_stored_period_is_never_shortened_or_repeated(self) -> Any:
        """A period of the future, as of a clock that went back, counts until its end."""
        now_us = (yield self.now_of_store())
        starts_us, ends_us = period_at(DAY, "UTC", now_us + 2 * DAY_US)
        yield self.quota_user(Quota(3, REQUESTS, DAY, "UTC", 2, starts_us, ends_us))
        taken = yield gatherResults([self.take("k"), self.take("k")])
        self.assertEqual([one.admitted for one in taken], [True, False])
        self.assertEqual(taken[0].quota.ends_us, ends_us)

    @inlineCallbacks
    def test_a_period_that_seems_to_overlap_goes_on(self) -> Any:
        """A period that ended within a day, by another database of zones, goes on until the end of that day."""
        now_us = (yield self.now_of_store())
        starts_us, ends_us = period_at(DAY, "UTC", now_us)
        ended = starts_us + (now_us - starts_us) // 2
        yield self.quota_user(Quota(3, REQUESTS, DAY, "UTC", 2, ended - DAY_US, ended))
        taken = yield gatherResults([self.take("k"), self.take("k")])
        self.assertEqual([one.admitted for one in taken], [True, False])
        self.assertEqual((taken[0].quota.starts_us, taken[0].quota.ends_us), (ended - DAY_US, ends_us))

    # Notices

    def test_it_has_notices(self) -> None:
        """A store provides INoticeOutbox."""
        self.assertTrue(verifyObject(INoticeOutbox, self.store))

    def claimed(self, most: int = 10, lease: float = 60.0) -> Any:
        """Notices that are due."""
        return self.store.claim_notices(most, lease)

    def some_time(self) -> Any:
        """Let the store write, if it does so later."""
        raise NotImplementedError

    @inlineCallbacks
    def test_thresholds_make_one_notice_each(self) -> Any:
        """At 80 and 100 percent there is one notice each, also when what was used is given back and used again."""
        self.store.want_notices()
        yield self.quota_user(Quota(5, REQUESTS, DAY))
        taken = yield gatherResults([self.take("k") for _ in range(3)])
        yield self.some_time()
        self.assertEqual((yield self.claimed()), [])
        taken = yield self.take("k")
        yield self.some_time()
        [notice] = yield self.claimed()
        self.assertEqual((notice.threshold, notice.user, notice.quota.used), (80, "ann", 4))
        self.assertEqual(notice.id, notice_id(digest_of("k"), taken.quota.starts_us, 80))
        self.assertEqual(notice.time_us, taken.quota.now_us)
        self.assertEqual(notice.quota, Quota(5, REQUESTS, DAY, "UTC", 4, taken.quota.starts_us, taken.quota.ends_us))
        self.charge(taken, -1, -1)
        for _ in range(3):
            yield self.take("k")
        yield self.some_time()
        [notice] = yield self.claimed()
        self.assertEqual((notice.threshold, notice.quota.used), (100, 5))
        yield self.store.change_user("ann", UserChange(quota_used=0))
        yield self.store.change_user("ann", UserChange(quota=Quota(2, REQUESTS, DAY)))
        yield gatherResults([self.take("k") for _ in range(2)])
        yield self.some_time()
        self.assertEqual((yield self.claimed()), [])

    @inlineCallbacks
    def test_one_request_may_reach_both(self) -> Any:
        """A cost that is settled may reach both thresholds at once."""
        self.store.want_notices()
        yield self.claimed()
        yield self.quota_user(Quota(100, TOKENS, DAY))
        taken = yield self.take("k", 7)
        self.charge(taken, 500, 500)
        yield self.used()
        yield self.some_time()
        notices = yield self.claimed()
        self.assertEqual(sorted((one.threshold, one.quota.used) for one in notices), [(80, 507), (100, 507)])

    @inlineCallbacks
    def test_without_somebody_who_takes_them_there_are_none(self) -> Any:
        """Nobody wants notices: none are made."""
        yield self.quota_user(Quota(1, REQUESTS, DAY))
        yield self.take("k")
        yield self.some_time()
        self.store.want_notices()
        self.assertEqual((yield self.claimed()), [])

    @inlineCallbacks
    def test_a_webhook_that_is_gone(self) -> Any:
        """No notices are made until it is wanted anew."""
        self.store.want_notices("digest")
        yield self.claimed()
        yield self.store.refuse_notices()
        yield self.claimed()
        yield self.quota_user(Quota(1, REQUESTS, DAY))
        yield self.take("k")
        yield self.some_time()
        self.store.want_notices("digest")
        self.assertEqual((yield self.claimed()), [])
        yield self.store.change_user("ann", UserChange(quota_used=0))
        yield self.take("k")
        yield self.some_time()
        self.assertEqual(len((yield self.claimed())), 2)

    @inlineCallbacks
    def test_notices_of_a_user_that_is_deleted(self) -> Any:
        """They are not delivered any more; those of others are."""
        self.store.want_notices()
        yield self.claimed()
        yield self.quota_user(Quota(1, REQUESTS, DAY))
        yield self.store.create_user(new_user("ann b", "other", quota=Quota(1, REQUESTS, DAY)))
        yield self.take("k")
        yield self.take("other")
        yield self.some_time()
        self.assertEqual(len((yield self.claimed(10, 0.0))), 4)
        yield self.store.delete_user("ann")
        self.assertEqual([one.user for one in (yield self.claimed())], ["ann b"] * 2)

    @inlineCallbacks
    def test_notices_of_a_quota_that_begins_anew(self) -> Any:
        """Removed and set again, or with another unit, it has the notices again, with the same ids."""
        self.store.want_notices()
        yield self.claimed()
        yield self.quota_user(Quota(1, REQUESTS, DAY))
        found = []
        for change in (None, Quota(1, REQUESTS, DAY), Quota(1, TOKENS, DAY)):
            if change is not None and change.unit == REQUESTS:
                yield self.store.change_user("ann", UserChange(quota=NO_QUOTA))
            if change is not None:
                yield self.store.change_user("ann", UserChange(quota=change))
            taken = yield self.take("k")
            yield self.some_time()
            notices = yield self.claimed()
            self.assertEqual({one.quota.unit for one in notices}, {taken.quota.unit})
            found.append({(one.threshold, one.id) for one in notices})
            for one in notices:
                yield self.store.remove_notice(one.id)
        ids = {(threshold, notice_id(digest_of("k"), taken.quota.starts_us, threshold)) for threshold in (80, 100)}
        self.assertEqual(found, [ids] * 3)

    @inlineCallbacks
    def test_a_notice_is_leased_delayed_and_removed(self) -> Any:
        """A notice that is claimed is not due for others; later, it is again, until it is removed."""
        self.store.want_notices()
        yield self.claimed()
        yield self.quota_user(Quota(1, REQUESTS, DAY))
        yield self.take("k")
        yield self.some_time()
        [first] = yield self.claimed(1)
        [second] = yield self.claimed()
        self.assertEqual((first.threshold, second.threshold) in [(80, 100), (100, 80)], True)
        self.assertEqual((yield self.claimed()), [])
        yield self.store.delay_notice(first.id, 0.0)
        self.assertEqual((yield self.claimed()), [first])
        yield self.store.remove_notice(first.id)
        yield self.store.delay_notice(first.id, 0.0)
        yield self.store.delay_notice(second.id, 0.0)
        yield self.store.remove_notice(first.id)
        self.assertEqual((yield self.claimed()), [second])
