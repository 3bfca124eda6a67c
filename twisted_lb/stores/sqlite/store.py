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

kill -9 or a power failure loses no account, and the tokens taken since a level was last written, in about one second.
A bucket may admit these tokens again, so each such event exceeds the guarantee by at most what the bucket admitted in
that second, and by at most its capacity.  An orderly stop loses nothing.

The global bucket, those of networks, routes and pools, and the requests in flight are in memory only: after a restart
the buckets are full and no requests are in flight.

The wall clock: setting it back across a restart pauses nothing, because a time stamp in the future is replaced by the
present time; setting it forward refills buckets, up to the capacity.  With `steady_clock`, which should be used,
setting the wall clock has no effect while the store runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from heapq import nsmallest
from operator import attrgetter
from typing import Any, Callable, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_lb.interfaces import (
    ADDRESS,
    KEY,
    MICROTOKENS,
    Account,
    AccountPage,
    IAccountStore,
    IBucketStore,
    IStoreReport,
    ITokenReceiver,
    LimitLevel,
    Limits,
    NameTaken,
    Profile,
    SharedBucket,
    StoreState,
    StoreUnavailable,
    Taken,
)
from twisted_lb.limits.bucket import NEVER_USED_US, Bucket, check_change, check_cost, check_policy
from twisted_lb.limits.client_networks import IN_USE_SECONDS
from twisted_lb.stores.sqlite.database import AccountDatabase, Row
from twisted_lb.stores.sqlite.other_limits import OtherLimits
from twisted_lb.stores.sqlite.writer import DatabaseWriter, RunBlocking
from twisted_lb.user_names import normalized

MAX_PAGE: Final = 200  # accounts
# The counters of the store.
COUNTS: Final = ("store_up", "store_outages", "store_write_errors")

_new_tuple = tuple.__new__
_log = Logger(__name__)


def steady_clock() -> Callable[[], int]:
    """A clock in microseconds that starts at the wall clock's time, and then follows the monotonic clock."""
    start_ns = time.time_ns() - time.monotonic_ns()
    monotonic_ns = time.monotonic_ns
    return lambda: (start_ns + monotonic_ns()) // 1000


class _HeldBucket(Bucket):
    """A bucket with its account."""

    __slots__ = ("digest", "name", "name_bytes", "in_flight")

    def __init__(self, row: Row, now_us: int) -> None:
        # A time stamp in the future is from before the clock was set back: the bucket must not pause until then.
        super().__init__(row.capacity, row.rate_per_sec, row.level, min(row.stamp_us, now_us))
        self.digest = row.digest
        self.name = row.name
        self.name_bytes = row.name.encode()
        self.in_flight = 0

    def profile(self, now_us: int) -> Profile:
        return Profile(Account(self.name, self.capacity, self.rate_per_sec), self.level_at(now_us))


@implementer(IBucketStore, IAccountStore, IStoreReport)
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
        """`now_us` gives microseconds since 1970; `reactor` has time and threads.

        `run_blocking` replaces the thread of the store, for tests.
        """
        self.counts_in_flight = limits.in_flight > 0
        self._other_limits = OtherLimits(limits, now_us())
        self._data_dir = data_dir
        self._now_us = now_us
        self._reactor = reactor
        self._given_run_blocking = run_blocking
        self._database: AccountDatabase | None = None
        self._writer: DatabaseWriter | None = None
        self._buckets: dict[str, _HeldBucket] = {}
        self._names: set[str] = set()  # normalized
        self._dirty: set[_HeldBucket] = set()

    # Called by the service.

    def start(self) -> None:
        """Open the database and load all accounts.  Raises StoreUnavailable with the path."""
        database = AccountDatabase(self._data_dir)
        try:
            rows = database.rows()
        except StoreUnavailable:
            database.close()
            raise
        now_us = self._now_us()
        for row in rows:
            self._buckets[row.digest] = _HeldBucket(row, now_us)
            # An earlier version may not have normalized it.
            self._names.add(normalized(row.name))
        if database.created:
            _log.info("No database was found; {path} was created without users", path=database.path)
        self._database = database
        self._writer = DatabaseWriter(database, self._buckets, self._dirty, self._reactor, self._given_run_blocking)
        self._writer.start()

    def stop(self) -> Deferred[None]:
        """Write all levels and close the database.  Called last, when no more tokens are taken."""
        writer, self._writer = self._writer, None
        if writer is None:
            return succeed(None)
        return writer.stop().addBoth(self._closed)

    def _closed(self, result: object) -> object:
        self._database = None
        self._buckets.clear()
        self._names.clear()
        return result

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
        other_limits = self._other_limits
        if bucket is None or (network and other_limits.limits_networks):
            refused = None
            if not self._in_use(bucket):
                refused = other_limits.refused_network(network, bucket is None, self._now_us())
            if bucket is None or refused is not None:
                receiver.bucket_answered(refused)
                return
        now_us = self._now_us()
        before = (bucket.level, bucket.stamp_us) if limits or other_limits.limits_keys else None
        admitted, level = bucket.take(cost, now_us)
        more: tuple[LimitLevel, ...] = ()
        if admitted:
            if before is not None:
                refused = other_limits.refused(bucket.name_bytes, bucket.in_flight, cost, limits, now_us)
                if refused is not None:
                    # Nothing is taken then; a refund would not undo the refill.
                    bucket.level, bucket.stamp_us = before
                    receiver.bucket_answered(refused)
                    return
                if limits:
                    more = other_limits.take_shared(cost, limits, now_us)
                if self.counts_in_flight:
                    bucket.in_flight += 1
            self._dirty.add(bucket)
        # Taken(...) without the call of its Python-level __new__: this runs once per request.
        answer = (admitted, bucket.name_bytes, bucket.capacity, bucket.rate_per_sec, level, KEY, more)
        receiver.bucket_answered(_new_tuple(Taken, answer))

    def _in_use(self, bucket: _HeldBucket | None) -> bool:
        if bucket is None or bucket.stamp_us <= NEVER_USED_US:
            return False
        return self._now_us() - bucket.stamp_us <= IN_USE_SECONDS * 1_000_000

    def take_without_key(
        self, limits: tuple[SharedBucket, ...], receiver: ITokenReceiver, cost: int = 1
    ) -> None:
        """See IBucketStore.  Answers within the call.  ValueError for a cost that is not from 0 to MAX_COST."""
        check_cost(cost)
        receiver.bucket_answered(self._other_limits.take_without_key(cost, limits, self._now_us()))

    def release(self, digest: str, tokens: int, limits: tuple[SharedBucket, ...] = ()) -> None:
        """See IBucketStore."""
        now_us = self._now_us()
        if tokens and limits:
            self._other_limits.settle_shared(tokens, limits, now_us)
        bucket = self._buckets.get(digest)
        if bucket is None:
            return
        if self.counts_in_flight:
            bucket.in_flight = max(0, bucket.in_flight - 1)
        if tokens:
            bucket.settle(tokens, now_us)
            self._dirty.add(bucket)
            self._other_limits.settle_global(tokens, now_us)

    def take_address(self, network: str, receiver: ITokenReceiver, cost: int = 1, served: bool = False) -> None:
        """See IBucketStore.  Answers within the call."""
        if self._other_limits.limits_networks:
            self.take_without_key(self._other_limits.address(network), receiver, cost)
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

    # IAccountStore

    def create(self, digest: str, account: Account) -> Deferred[None]:
        """See IAccountStore.  Fails with ValueError for an invalid policy, or a digest in use."""
        # Nothing was checked yet: where this is compiled, what has a type must be of it.
        given: tuple[Any, ...] = account
        name, capacity, rate_per_sec = given
        name = normalized(name)
        try:
            check_policy(capacity, rate_per_sec)
            if b"\0" in name.encode():
                raise ValueError("name: expected text without NUL")
        except ValueError:
            return fail(Failure())
        if name in self._names:
            return fail(NameTaken(name))
        if digest in self._buckets:
            return fail(ValueError("an account has this key already"))
        row = Row(digest, name, capacity, float(rate_per_sec), capacity * MICROTOKENS, NEVER_USED_US)
        writer, database = self._writer, self._database
        if writer is None or database is None:
            return fail(_not_running())
        # The name is taken from here on, so that only one of two concurrent creations gets it.
        self._names.add(name)
        stored = writer.write(database.insert, row)
        stored.addCallbacks(self._created, self._not_created, callbackArgs=(row,), errbackArgs=(name,))
        return writer.answer(stored)

    def _created(self, _: object, row: Row) -> None:
        self._buckets[row.digest] = _HeldBucket(row, row.stamp_us)

    def _not_created(self, failure: Failure, name: str) -> Failure:
        self._names.discard(name)
        return failure

    def profile(self, digest: str) -> Deferred[Profile | None]:
        """See IAccountStore."""
        bucket = self._buckets.get(digest)
        return succeed(None if bucket is None else bucket.profile(self._now_us()))

    def in_use(self, digest: str) -> Deferred[bool]:
        """See IAccountStore."""
        return succeed(self._in_use(self._buckets.get(digest)))

    def change(self, digest: str, capacity: Any, rate_per_sec: Any) -> Deferred[Profile | None]:
        """See IAccountStore, also for the types.  Fails with ValueError for an invalid policy."""
        try:
            check_change(capacity, rate_per_sec)
        except ValueError:
            return fail(Failure())
        bucket = self._buckets.get(digest)
        if bucket is None:
            return succeed(None)
        writer, database = self._writer, self._database
        if writer is None or database is None:
            return fail(_not_running())
        # From now on every level of this bucket, stored or in memory, has a time stamp no earlier than the
        # change: however the process ends, the time before it is never refilled under the new policy.
        bucket.refill(self._now_us())
        stored = writer.write(database.change, digest, capacity, rate_per_sec, bucket.level, bucket.stamp_us)
        return writer.answer(stored.addCallback(self._changed, bucket, capacity, rate_per_sec))

    def _changed(
        self, _: object, bucket: _HeldBucket, capacity: int | None, rate_per_sec: float | None
    ) -> Profile:
        now_us = self._now_us()
        # Values for None are read here, not when the change was requested: another change may have come first.
        bucket.change(
            bucket.capacity if capacity is None else capacity,
            bucket.rate_per_sec if rate_per_sec is None else float(rate_per_sec),
            now_us,
        )
        self._dirty.add(bucket)
        return bucket.profile(now_us)

    def page(self, after: str, count: int) -> Deferred[AccountPage]:
        """See IAccountStore.  Fails with ValueError for a count that is not from 1 to 200, or an invalid name."""
        try:
            if not 1 <= count <= MAX_PAGE:
                raise ValueError(f"count: expected a whole number from 1 to {MAX_PAGE}, not {count!r}")
            after.encode()
        except ValueError:
            return fail(Failure())
        writer, database = self._writer, self._database
        if writer is None or database is None:
            return fail(_not_running())
        found = writer.run(database.names, after, count + 1)
        found.addErrback(self._names_in_memory, after.encode(), count + 1)
        return found.addCallback(self._page, count)

    def _names_in_memory(self, failure: Failure, after: bytes, count: int) -> list[tuple[str, str]]:
        """The page without the index of the database, in time proportional to the number of all accounts."""
        failure.trap(StoreUnavailable)
        later = (bucket for bucket in self._buckets.values() if bucket.name_bytes > after)
        return [(bucket.name, bucket.digest) for bucket in nsmallest(count, later, key=attrgetter("name_bytes"))]

    def _page(self, names: list[tuple[str, str]], count: int) -> AccountPage:
        now_us = self._now_us()
        # An account that was stored a moment ago may not be in memory yet.
        buckets = [self._buckets[digest] for _, digest in names[:count] if digest in self._buckets]
        more_after = names[count - 1][0] if len(names) > count else None
        return AccountPage([bucket.profile(now_us) for bucket in buckets], more_after)


def _not_running() -> StoreUnavailable:
    return StoreUnavailable("the embedded store is not running")
