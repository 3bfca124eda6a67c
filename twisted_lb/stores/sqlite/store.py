"""The embedded store, for a single process: buckets in memory, accounts and levels in SQLite.

Strategy:

1. All accounts are loaded at the start, so that a request is one dict lookup, and an unknown key costs no more than a
   known one.
2. All disk access is in one thread (`writer`), which keeps the writes in order.
3. The creation or change of an account is committed and synced before the Deferred fires.  A change is stored with the
   level at its time, because a level is refilled under the policy of its row.
4. Changed levels are written about once a second.
5. While nothing can be written, requests are served from memory, and accounts can be neither created nor changed, so
   that no account is lost after it was returned.  The contents of memory are written when that is possible again.

After kill -9 or a power failure no account is lost, but it is forgotten which tokens were taken since a level was last
written, that is in about one second.  A bucket may admit these tokens again, so each such event exceeds the guarantee
by at most what the bucket admitted in that second, and by at most its capacity; a quota, by what was used of it in that
second.  A normal stop loses nothing.

The global bucket, those of networks, routes and pools, and the requests in flight are in memory only: after a restart
the buckets are full and no requests are in flight.

The wall clock: setting it back across a restart pauses nothing, because a time stamp in the future is replaced by the
present time; setting it forward refills buckets, up to the capacity.  With `steady_clock`, which should be used,
setting the wall clock has no effect while the store runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from twisted_lb.interfaces import (
    ADDRESS,
    KEY,
    MICROTOKENS,
    OWN,
    QUOTA,
    Account,
    AccountPage,
    IAccountStore,
    IBucketStore,
    INoticeOutbox,
    IStoreReport,
    ITokenReceiver,
    IUsageStore,
    IUserStore,
    LimitLevel,
    Limits,
    Profile,
    ShadowDecision,
    SharedBucket,
    StoreState,
    StoreUnavailable,
    Taken,
    enforced,
    is_of_user,
    shadow_bucket,
    shadows,
)
from twisted_lb.limits.bucket import check_cost
from twisted_lb.limits.quota_count import QuotaCount
from twisted_lb.notices import Notice
from twisted_lb.quotas import QuotaCharge, UnknownTimeZone
from twisted_lb.repeated import Repeated
from twisted_lb.stores.sqlite.accounts import Disk, EmbeddedAccounts
from twisted_lb.stores.sqlite.database import AccountDatabase
from twisted_lb.stores.sqlite.held import MINUTE_US, HeldKey, HeldUser, HeldUsers
from twisted_lb.stores.sqlite.loading import load_users
from twisted_lb.stores.sqlite.notices import EmbeddedNotices
from twisted_lb.stores.sqlite.other_limits import OtherLimits
from twisted_lb.stores.sqlite.usage import UsageCounts
from twisted_lb.stores.sqlite.users import EmbeddedUsers
from twisted_lb.stores.sqlite.writer import DatabaseWriter, RunBlocking
from twisted_lb.usage import WindowCounts
from twisted_lb.users import Changed, Key, KeyChange, User, UserChange, UserFilter, UserPage

NOTE_SECONDS: Final = 60.0  # from one note of the keys that were used to the next
# The counters of the store.
COUNTS: Final = ("store_up", "store_outages", "store_write_errors")

_new_tuple = tuple.__new__
_log = Logger(__name__)


def steady_clock() -> Callable[[], int]:
    """A clock in microseconds that starts at the wall clock's time, and then follows the monotonic clock."""
    start_ns = time.time_ns() - time.monotonic_ns()
    monotonic_ns = time.monotonic_ns
    return lambda: (start_ns + monotonic_ns()) // 1000


@implementer(IBucketStore, IAccountStore, IUserStore, IUsageStore, INoticeOutbox, IStoreReport)
class EmbeddedStore:
    """Buckets and accounts of one process; `data_dir` is created when it is missing."""

    def __init__(
        self,
        data_dir: str,
        now_us: Callable[[], int],
        reactor: Any,
        run_blocking: RunBlocking | None = None,
        limits: Limits = Limits(),
    ) -> None:
        """`now_us` returns microseconds since 1970; `reactor` provides IReactorTime and IReactorThreads.

        `run_blocking` replaces the thread of the store, for tests.
        """
        self.counts_in_flight = limits.in_flight > 0
        self._other_limits = OtherLimits(limits, now_us())
        self._data_dir = data_dir
        self._now_us = now_us
        self._reactor = reactor
        self._given_run_blocking = run_blocking
        self._writer: DatabaseWriter | None = None
        self._held = held = HeldUsers()
        self._buckets: dict[str, HeldUser] = held.usable
        self._dirty: set[HeldUser] = set()
        self._dirty_keys: set[HeldKey] = set()
        self._in_flight: dict[str, int] = {}  # by the digests of keys
        self._used: set[str] = set()  # digests of the keys that were used since this was noted last
        self._noting = Repeated(reactor, self._each_minute, "the note of the keys that were used")
        self._usage = UsageCounts(now_us, lambda digest: held.key(digest) is not None)
        held.on_key_removed = self._usage.remove_key
        self._accounts = EmbeddedAccounts(held, self._dirty, now_us)
        self._notices = EmbeddedNotices(now_us)
        self._users = EmbeddedUsers(held, self._dirty, self._dirty_keys, now_us, self._accounts, self._notices)

    # Called by the service.

    def start(self) -> None:
        """Open the database and load all accounts.  Raises StoreUnavailable with the path."""
        database = AccountDatabase(self._data_dir)
        try:
            self._load(database)
        except StoreUnavailable:
            self._clear()
            database.close()
            raise
        if database.created:
            _log.info("No database was found; {path} was created without users", path=database.path)
        self._writer = writer = DatabaseWriter(
            database,
            self._held,
            self._dirty,
            self._dirty_keys,
            self._usage,
            self._reactor,
            self._given_run_blocking,
            self._notices,
        )
        self._accounts.disk = Disk(database, writer)
        self._notices.remove = lambda notice_id: writer.run(database.remove_notices, [notice_id])
        writer.start()
        self._noting.start(NOTE_SECONDS)

    def _load(self, database: AccountDatabase) -> None:
        load_users(database, self._held, self._now_us())
        try:
            self._usage.load(database.usage_rows())
        except ValueError as error:
            raise StoreUnavailable(f"the database {database.path} is damaged: usage: {error}") from None
        try:
            self._notices.load(database.notice_rows())
        except ValueError as error:
            raise StoreUnavailable(f"the database {database.path} is damaged: it has what is {error}") from None

    def _each_minute(self) -> None:
        self._note_used()
        self._other_limits.forget_full(self._now_us())

    def _note_used(self) -> None:
        """Note the last use of keys, to the minute."""
        used_us = self._now_us() // MINUTE_US * MINUTE_US
        used, self._used = self._used, set()
        for digest in used:
            key = self._held.key(digest)
            if key is not None and key.used_us < used_us:
                key.used_us = used_us
                self._dirty_keys.add(key)

    def stop(self) -> Deferred[None]:
        """Write all levels and close the database.  Called last, when no more tokens are taken."""
        writer, self._writer = self._writer, None
        if writer is None:
            return succeed(None)
        self._noting.stop()
        self._note_used()
        return writer.stop().addBoth(self._closed)

    def _closed(self, result: object) -> object:
        self._accounts.disk = None
        self._notices.remove = None
        self._clear()
        return result

    def _clear(self) -> None:
        self._held.clear()
        self._usage.clear()
        self._notices.clear()

    # IBucketStore

    def take(
        self,
        digest: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        network: str = "",
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        """See IBucketStore.  Answers within the call.  ValueError for a cost that is not from 0 to MAX_COST."""
        if cost != 1:
            check_cost(cost)
        bucket = self._buckets.get(digest)
        if bucket is None:
            key = self._held.known(digest)
            if key is not None:
                try:
                    taken = self._take_of_key(key, cost, network, limits)
                except UnknownTimeZone as error:
                    receiver.bucket_unavailable(str(error))
                    return
                receiver.bucket_answered(taken)
                return
        other_limits = self._other_limits
        if bucket is None or (network and other_limits.limits_networks):
            refused = None
            if bucket is None or not bucket.in_use(self._now_us()):
                refused = other_limits.refused_network(network, bucket is None, self._now_us())
            if bucket is None or refused is not None:
                receiver.bucket_answered(refused)
                return
        now_us = self._now_us()
        before = (bucket.level, bucket.stamp_us) if limits or other_limits.limits_keys else None
        admitted, level = bucket.take(cost, now_us)
        self._used.add(digest)
        more: tuple[LimitLevel, ...] = ()
        decisions: tuple[ShadowDecision, ...] = ()
        if admitted:
            if before is not None:
                in_flight = self._in_flight.get(digest, 0)
                binding = enforced(limits)
                refused = other_limits.refused(bucket.name_bytes, in_flight, cost, binding, now_us)
                if refused is not None:
                    # Nothing is taken then; a refund would not undo the refill.
                    bucket.level, bucket.stamp_us = before
                    receiver.bucket_answered(refused)
                    return
                if limits:
                    more = other_limits.take_shared(cost, binding, now_us)
                    decisions = other_limits.take_shadows(cost, shadows(limits), now_us)
                if self.counts_in_flight:
                    self._in_flight[digest] = in_flight + 1
            self._dirty.add(bucket)
        # Taken(...) without the call of its Python-level __new__: this runs once per request.
        answer = (
            admitted,
            bucket.name_bytes,
            bucket.capacity,
            bucket.rate_per_sec,
            level,
            KEY,
            more,
            decisions,
            None,
            True,
        )
        receiver.bucket_answered(_new_tuple(Taken, answer))

    def _take_of_key(self, key: HeldKey, cost: int, network: str, limits: tuple[SharedBucket, ...]) -> Taken:
        """The decision for a key that is not plain (see `held`)."""
        user, now_us, other_limits = key.user, self._now_us(), self._other_limits
        name = user.name_bytes
        if not user.in_use(now_us) and (refused := other_limits.refused_network(network, False, now_us)) is not None:
            return refused
        if reason := key.refusal(now_us):
            return Taken(False, name, 0, 0.0, 0, reason)
        self._used.add(key.digest)
        quota = user.quota
        if quota is not None:
            quota.begin(now_us)
        own, before = key.own, (user.level, user.stamp_us)
        admitted, level = user.take(cost, now_us)
        if not admitted:
            refused = Taken(False, name, user.capacity, user.rate_per_sec, level)
            return refused if quota is None else _with_quota(refused, quota, now_us)
        more: tuple[LimitLevel, ...] = ()
        refused = None
        if own is not None:
            own_level = own.level_at(now_us)
            if own_level < cost * MICROTOKENS:
                refused = Taken(False, name, own.capacity, own.rate_per_sec, own_level, OWN)
        if refused is None and quota is not None and quota.refuses(cost):
            refused = Taken(False, name, quota.amount, 0.0, (quota.amount - quota.used) * MICROTOKENS, QUOTA)
        in_flight = self._in_flight.get(key.digest, 0)
        binding = enforced(limits)
        if refused is None and (limits or other_limits.limits_keys):
            refused = other_limits.refused(name, in_flight, cost, binding, now_us)
        if refused is not None:
            user.level, user.stamp_us = before
            return refused if quota is None else _with_quota(refused, quota, now_us)
        if own is not None:
            _, own_level = own.take(cost, now_us)
            more = (LimitLevel(own.capacity, own.rate_per_sec, own_level, OWN),)
            self._dirty_keys.add(key)
        decisions: tuple[ShadowDecision, ...] = ()
        if limits:
            more += other_limits.take_shared(cost, binding, now_us)
            decisions = other_limits.take_shadows(cost, shadows(limits), now_us)
        shadow = user.shadow
        if shadow is not None:
            has_tokens, _ = shadow.take(cost, now_us)
            shared = shadow_bucket(user.digest, shadow.capacity, shadow.rate_per_sec)
            decisions += (ShadowDecision(shared, not has_tokens),)
        if self.counts_in_flight:
            self._in_flight[key.digest] = in_flight + 1
        self._dirty.add(user)
        taken = Taken(True, name, user.capacity, user.rate_per_sec, level, KEY, more, decisions)
        if quota is None:
            return taken
        quota.take(cost)
        self._notices.look(user.digest, user.name, quota, now_us)
        return _with_quota(taken, quota, now_us)

    def take_without_key(
        self, limits: tuple[SharedBucket, ...], receiver: ITokenReceiver, cost: int = 1
    ) -> None:
        """See IBucketStore.  Answers within the call.  ValueError for a cost that is not from 0 to MAX_COST."""
        check_cost(cost)
        receiver.bucket_answered(self._other_limits.take_without_key(cost, limits, self._now_us()))

    def release(
        self,
        digest: str,
        tokens: int,
        limits: tuple[SharedBucket, ...] = (),
        quota: QuotaCharge | None = None,
    ) -> None:
        """See IBucketStore."""
        now_us = self._now_us()
        if quota is not None:
            self._charge_quota(digest, quota, now_us)
        if tokens and limits:
            if is_of_user(limits[-1]):
                self._settle_shadow(tokens, limits[-1], now_us)
                limits = limits[:-1]
            self._other_limits.settle_shared(tokens, limits, now_us)
        if not digest:
            return
        if self.counts_in_flight:
            left = self._in_flight.get(digest, 0) - 1
            if left > 0:
                self._in_flight[digest] = left
            else:
                self._in_flight.pop(digest, None)
        if tokens:
            bucket = self._buckets.get(digest)
            if bucket is None:
                key = self._held.key(digest)
                if key is None:
                    return
                bucket = key.user
                if key.own is not None:
                    key.own.settle(tokens, now_us)
                    self._dirty_keys.add(key)
            bucket.settle(tokens, now_us)
            self._dirty.add(bucket)
            self._other_limits.settle_global(tokens, now_us)

    def _charge_quota(self, digest: str, charge: QuotaCharge, now_us: int) -> None:
        key = self._held.key(digest)
        quota = key.user.quota if key is not None else None
        if key is None or quota is None:
            return
        if quota.charge(charge, now_us):
            self._notices.look(key.user.digest, key.user.name, quota, now_us)
            self._dirty.add(key.user)

    def _settle_shadow(self, tokens: int, shared: SharedBucket, now_us: int) -> None:
        """The shadow of a user has admitted a request that cost `tokens` more than was taken."""
        user = self._held.users.get(shared.rule.key.partition(":")[2])
        if user is not None and user.shadow is not None:
            user.shadow.settle(tokens, now_us)
            self._dirty.add(user)

    def take_address(
        self,
        network: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        served: bool = False,
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        """See IBucketStore.  Answers within the call."""
        if self._other_limits.limits_networks:
            self.take_without_key((*self._other_limits.address(network), *limits), receiver, cost)
        elif limits:
            self.take_without_key(limits, receiver, cost)
        else:
            receiver.bucket_answered(Taken(True, b"", 0, 0.0, 0, ADDRESS))

    def release_address(self, network: str, tokens: int) -> None:
        """See IBucketStore."""
        if self._other_limits.limits_networks:
            self.release("", tokens, self._other_limits.address(network))

    # IStoreReport

    def state(self) -> StoreState:
        """See IStoreReport.  The store is up while it can write."""
        return StoreState(True, "") if self._writer is None else self._writer.state()

    def counts(self) -> dict[str, float]:
        """See IStoreReport."""
        writer = self._writer
        if writer is None:
            return {}
        return dict(zip(COUNTS, (float(writer.state().up), writer.outages, writer.errors)))

    def levels(self, buckets: Sequence[SharedBucket]) -> Deferred[list[int]]:
        """See IStoreReport."""
        return succeed(self._other_limits.levels(buckets, self._now_us()))

    # IAccountStore: see EmbeddedAccounts

    def create(self, digest: str, account: Account) -> Deferred[None]:
        return self._accounts.create(digest, account)

    def profile(self, digest: str) -> Deferred[Profile | None]:
        return self._accounts.profile(digest)

    def in_use(self, digest: str) -> Deferred[bool]:
        return self._accounts.in_use(digest)

    def change(self, digest: str, capacity: Any, rate_per_sec: Any) -> Deferred[Profile | None]:
        return self._accounts.change(digest, capacity, rate_per_sec)

    def page(self, after: str, count: int) -> Deferred[AccountPage]:
        return self._accounts.page(after, count)

    # IUserStore: see EmbeddedUsers

    def user_page(self, after: str, count: int, filter: UserFilter) -> Deferred[UserPage]:
        return self._users.user_page(after, count, filter)

    def user(self, name: str) -> Deferred[User | None]:
        return self._users.user(name)

    def user_of_key(self, digest: str) -> Deferred[User | None]:
        return self._users.user_of_key(digest)

    def find_key(self, key_id: str) -> Deferred[User | None]:
        return self._users.find_key(key_id)

    def create_user(self, user: User) -> Deferred[None]:
        return self._users.create_user(user)

    def change_user(self, name: str, change: UserChange) -> Deferred[Changed | None]:
        return self._users.change_user(name, change)

    def promote_shadow(self, name: str) -> Deferred[Changed | None]:
        return self._users.promote_shadow(name)

    def delete_user(self, name: str) -> Deferred[User | None]:
        return self._users.delete_user(name)

    def create_key(self, name: str, key: Key) -> Deferred[Changed | None]:
        return self._users.create_key(name, key)

    def change_key(self, name: str, key_id: str, change: KeyChange) -> Deferred[Changed | None]:
        return self._users.change_key(name, key_id, change)

    def rotate_key(
        self, name: str, key_id: str, grace_us: Any, digest: str, keep_expiry: bool = False
    ) -> Deferred[Changed | None]:
        return self._users.rotate_key(name, key_id, grace_us, digest, keep_expiry)

    def refused_keys(self, digests: Sequence[str]) -> Deferred[list[str]]:
        return self._users.refused_keys(digests)

    # IUsageStore: see UsageCounts

    def add_counts(self, counts: Mapping[str, Mapping[str, int]]) -> Deferred[dict[str, Mapping[str, int]]]:
        self._usage.add(counts)
        return succeed({})

    def counts_of(self, subjects: Sequence[str]) -> Deferred[list[WindowCounts]]:
        return succeed([self._usage.windows(subject) for subject in subjects])

    # INoticeOutbox: see EmbeddedNotices

    def want_notices(self, webhook: str = "") -> None:
        self._notices.want_notices(webhook)

    def refuse_notices(self) -> Deferred[None]:
        return self._notices.refuse_notices()

    def claim_notices(self, most: int, lease_seconds: float) -> Deferred[list[Notice]]:
        return self._notices.claim_notices(most, lease_seconds)

    def remove_notice(self, notice_id: str) -> Deferred[None]:
        return self._notices.remove_notice(notice_id)

    def delay_notice(self, notice_id: str, seconds: float) -> Deferred[None]:
        return self._notices.delay_notice(notice_id, seconds)


def _with_quota(taken: Taken, quota: QuotaCount, now_us: int) -> Taken:
    return taken._replace(quota=quota.level(now_us))
