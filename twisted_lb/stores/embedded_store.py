"""The store of a balancer that runs alone: buckets in memory, accounts and levels in SQLite.

Strategy:

1. All accounts are loaded at the start, so that a request is one look-up in a dict and an unknown
   key costs no more than a known one.
2. Everything that touches the disk happens in one thread of the store's own: a synced commit takes
   milliseconds, which is too long for the reactor, and with one thread the writes keep their order.
3. Creating and changing an account is committed and synced before the Deferred fires.  A change is
   stored with the level that it starts from, because a level is refilled under its row's policy.
4. Levels that changed are written about once a second, in slices, so that neither the reactor nor a
   waiting account write is held up for long.

What kill -9 or a power cut can lose: no account, and the takings since a level was last written,
about one second's.  A bucket may admit those tokens once again, so for each such death the bound
of the law is passed by at most what the bucket admitted in that second, and by at most its
capacity.  An orderly stop loses nothing.

The buckets of everyone and of networks, and the requests in flight, are in memory only: after a restart the
former are full and there are none of the latter.

What the clock can do: a wall clock put back across a restart pauses nothing, because a stamp from
the future is taken for now; one put forward refills, up to the capacity.  While the store runs
nothing of this matters with `steady_clock`, which is why it is the one to use.
"""

from __future__ import annotations

import time
from typing import Any, Callable

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from twisted_lb.interfaces import (
    ADDRESS,
    GLOBAL,
    IN_FLIGHT,
    KEY,
    MICROTOKENS,
    Account,
    AccountPage,
    IAccountStore,
    IAsker,
    IBucketStore,
    IStoreReport,
    Limits,
    NameTaken,
    Profile,
    StoreState,
    StoreUnavailable,
    Taken,
)
from twisted_lb.limits.addresses import NetworkBuckets
from twisted_lb.limits.bucket import Bucket, check_capacity, check_cost, check_policy, check_rate
from twisted_lb.stores.embedded_database import AccountDatabase, Row

FLUSH_SECONDS = 1.0
# Levels that go into one transaction: gathering them takes the reactor about 2 ms.
FLUSH_SLICE = 4096
MAX_PAGE = 200  # accounts

# Runs a blocking call elsewhere: (callable, arguments...) -> Deferred of its result.
RunBlocking = Callable[..., "Deferred[Any]"]

_new_tuple = tuple.__new__
_log = Logger()


def steady_clock() -> Callable[[], int]:
    """A clock in microseconds that starts at the wall clock and from then on only runs forward, at its own pace."""
    start_ns = time.time_ns() - time.monotonic_ns()
    monotonic_ns = time.monotonic_ns
    return lambda: (start_ns + monotonic_ns()) // 1000


class _HeldBucket(Bucket):
    """A bucket with the account that it belongs to."""

    __slots__ = ("digest", "name", "name_bytes", "in_flight")

    def __init__(self, row: Row, now_us: int) -> None:
        # A stamp from the future comes from a clock that was put back: the bucket must not stand still until then.
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
        everyone, address, self._most_in_flight = limits
        self.counts_in_flight = self._most_in_flight > 0
        self._everyone = Bucket(*everyone, everyone.capacity * MICROTOKENS, now_us()) if everyone.capacity else None
        self._networks = NetworkBuckets(address) if address.capacity else None
        # Whether more than the key's own bucket has to be asked.
        self._more = self._everyone is not None or self.counts_in_flight
        self._data_dir = data_dir
        self._now_us = now_us
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._given_run_blocking = run_blocking
        self._database: AccountDatabase | None = None
        self._buckets: dict[str, _HeldBucket] = {}
        self._names: set[str] = set()
        self._dirty: set[_HeldBucket] = set()
        self._flush_failed = False
        self._flushing: LoopingCall | None = None
        self._flushing_stopped: Deferred[Any] | None = None

    # What the service calls.

    def start(self) -> None:
        """Open the database and load every account.  Raises StoreUnavailable with a text that names the path."""
        database = AccountDatabase(self._data_dir)
        try:
            rows = database.rows()
        except StoreUnavailable:
            database.close()
            raise
        now_us = self._now_us()
        for row in rows:
            self._buckets[row.digest] = _HeldBucket(row, now_us)
            self._names.add(row.name)
        self._database = database
        if self._given_run_blocking is None:
            self._pool = ThreadPool(1, 1, "tokenlb-database")
            self._pool.start()
        self._flushing = LoopingCall(self._flush)
        self._flushing.clock = self._reactor
        self._flushing_stopped = self._flushing.start(FLUSH_SECONDS, now=False)

    def stop(self) -> Deferred[None]:
        """Write every level and close the database.  To be called last, when nothing is taken any more."""
        database = self._database
        if database is None or self._flushing is None or self._flushing_stopped is None:
            return succeed(None)
        stopped, self._flushing_stopped = self._flushing_stopped, None
        # This waits for a flush under way, whose later slices are not yet with the thread.
        self._flushing.stop()
        done: Deferred[Any] = stopped.addCallback(lambda _: self._flush())
        done.addCallback(lambda _: self._run_blocking(database.close))
        return done.addBoth(self._closed)

    def _closed(self, result: object) -> object:
        self._database = None
        self._buckets.clear()
        self._names.clear()
        if self._pool is not None:
            self._pool.stop()
            self._pool = None
        return result

    # IBucketStore

    def take(self, digest: str, asker: IAsker, cost: int = 1, network: str = "") -> None:
        """See IBucketStore.  Answers within the call.  ValueError for a cost that is not from 0 to MAX_COST."""
        if cost != 1:
            check_cost(cost)
        bucket = self._buckets.get(digest)
        if bucket is None or (network and self._networks is not None):
            refused = self._refused_network(network, spend=bucket is None)
            if bucket is None or refused is not None:
                asker.bucket_answered(refused)
                return
        now_us = self._now_us()
        before = (bucket.level, bucket.stamp_us) if self._more else None
        admitted, level = bucket.take(cost, now_us)
        if admitted:
            if before is not None and (refused := self._refused_otherwise(bucket, cost, now_us)) is not None:
                # Nothing is taken then; and giving it back would not undo the refill.
                bucket.level, bucket.stamp_us = before
                asker.bucket_answered(refused)
                return
            self._dirty.add(bucket)
        # Taken(...) without the call of its Python-level __new__: this runs once a request.
        answer = (admitted, bucket.name_bytes, bucket.capacity, bucket.rate_per_sec, level, KEY)
        asker.bucket_answered(_new_tuple(Taken, answer))

    def _refused_otherwise(self, bucket: _HeldBucket, cost: int, now_us: int) -> Taken | None:
        """Ask the limits beside the key's bucket: the first refusal, or None, and they have taken it."""
        if self.counts_in_flight and bucket.in_flight >= self._most_in_flight:
            return Taken(False, bucket.name_bytes, self._most_in_flight, 0.0, 0, IN_FLIGHT)
        everyone = self._everyone
        if everyone is not None:
            admitted, level = everyone.take(cost, now_us)
            if not admitted:
                return Taken(False, bucket.name_bytes, everyone.capacity, everyone.rate_per_sec, level, GLOBAL)
        if self.counts_in_flight:
            bucket.in_flight += 1
        return None

    def _refused_network(self, network: str, spend: bool) -> Taken | None:
        """The refusal of a network's bucket that has no token; otherwise None, and the token is spent if asked for."""
        networks = self._networks
        if networks is None or not network:
            return None
        now_us = self._now_us()
        if spend:
            admitted, level = networks.take(network, now_us)
        else:
            level = networks.level(network, now_us)
            admitted = level >= MICROTOKENS
        return None if admitted else Taken(False, b"", *networks.policy, level, ADDRESS)

    def release(self, digest: str, tokens: int) -> None:
        """See IBucketStore."""
        bucket = self._buckets.get(digest)
        if bucket is None:
            return
        if self.counts_in_flight:
            bucket.in_flight = max(0, bucket.in_flight - 1)
        if tokens:
            now_us = self._now_us()
            bucket.settle(tokens, now_us)
            self._dirty.add(bucket)
            if self._everyone is not None:
                self._everyone.settle(tokens, now_us)

    def take_address(self, network: str, asker: IAsker) -> None:
        """See IBucketStore.  Answers within the call."""
        networks = self._networks
        if networks is None:
            asker.bucket_answered(Taken(True, b"", 0, 0.0, 0, ADDRESS))
            return
        admitted, level = networks.take(network, self._now_us())
        asker.bucket_answered(Taken(admitted, b"", *networks.policy, level, ADDRESS))

    def give_back_address(self, network: str) -> None:
        """See IBucketStore."""
        if self._networks is not None:
            self._networks.give_back(network)

    # IStoreReport

    def state(self) -> StoreState:
        """See IStoreReport.  It is where the process is."""
        return StoreState(True, "")

    def counts(self) -> dict[str, float]:
        """See IStoreReport."""
        return {}

    # IAccountStore

    def create(self, digest: str, account: Account) -> Deferred[None]:
        """See IAccountStore.  Fails with ValueError on a policy that no bucket can have, or a digest in use."""
        name, capacity, rate_per_sec = account
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
        row = Row(digest, name, capacity, float(rate_per_sec), capacity * MICROTOKENS, self._now_us())
        # The name is taken from here on, so that of two creations under way only one gets it.
        self._names.add(name)
        return self._durably(AccountDatabase.insert, row).addCallbacks(
            self._created, self._not_created, callbackArgs=(row,), errbackArgs=(name,)
        )

    def _created(self, _: object, row: Row) -> None:
        self._buckets[row.digest] = _HeldBucket(row, row.stamp_us)

    def _not_created(self, failure: Failure, name: str) -> Failure:
        self._names.discard(name)
        return failure

    def profile(self, digest: str) -> Deferred[Profile | None]:
        """See IAccountStore."""
        bucket = self._buckets.get(digest)
        return succeed(None if bucket is None else bucket.profile(self._now_us()))

    def change(self, digest: str, capacity: int | None, rate_per_sec: float | None) -> Deferred[Profile | None]:
        """See IAccountStore.  Fails with ValueError on a policy that no bucket can have."""
        try:
            if capacity is not None:
                check_capacity(capacity)
            if rate_per_sec is not None:
                check_rate(rate_per_sec)
        except ValueError:
            return fail(Failure())
        bucket = self._buckets.get(digest)
        if bucket is None:
            return succeed(None)
        # From now on every level of this bucket, stored or in memory, is stamped no earlier than the
        # change: however the process ends, time before it is never refilled under the new policy.
        bucket.refill(self._now_us())
        stored = self._durably(AccountDatabase.change, digest, capacity, rate_per_sec, bucket.level, bucket.stamp_us)
        return stored.addCallback(self._changed, bucket, capacity, rate_per_sec)

    def _changed(
        self, _: object, bucket: _HeldBucket, capacity: int | None, rate_per_sec: float | None
    ) -> Profile:
        now_us = self._now_us()
        # What is None is read here, not when the change was asked for: another may have come first.
        bucket.change(
            bucket.capacity if capacity is None else capacity,
            bucket.rate_per_sec if rate_per_sec is None else float(rate_per_sec),
            now_us,
        )
        self._dirty.add(bucket)
        return bucket.profile(now_us)

    def page(self, after: str, count: int) -> Deferred[AccountPage]:
        """See IAccountStore.  Fails with ValueError on a count that is not from 1 to 200, or a name that is none."""
        try:
            if not 1 <= count <= MAX_PAGE:
                raise ValueError(f"count: expected a whole number from 1 to {MAX_PAGE}, not {count!r}")
            after.encode()
        except ValueError:
            return fail(Failure())
        if self._database is None:
            return fail(StoreUnavailable("the embedded store is not running"))
        found = self._run_blocking(self._database.names, after, count + 1)
        return found.addCallback(self._page, count)

    def _page(self, names: list[tuple[str, str]], count: int) -> AccountPage:
        now_us = self._now_us()
        # One that was stored a moment ago may not be here yet.
        buckets = [self._buckets[digest] for _, digest in names[:count] if digest in self._buckets]
        more_after = names[count - 1][0] if len(names) > count else None
        return AccountPage([bucket.profile(now_us) for bucket in buckets], more_after)

    # The disk

    def _durably(self, write: Callable[..., None], *arguments: object) -> Deferred[Any]:
        if self._database is None:
            return fail(StoreUnavailable("the embedded store is not running"))
        return self._run_blocking(write, self._database, *arguments)

    def _run_blocking(self, call: Callable[..., object], *arguments: object) -> Deferred[Any]:
        if self._given_run_blocking is not None:
            return self._given_run_blocking(call, *arguments)
        assert self._pool is not None, "started with the database"
        return deferToThreadPool(self._reactor, self._pool, call, *arguments)

    def _flush(self) -> Deferred[None]:
        """Write the levels that have changed so far.  Never fails: what could not be written stays dirty."""
        dirty, self._dirty = self._dirty, set()
        return self._flush_slice(list(dirty))

    def _flush_slice(self, dirty: list[_HeldBucket]) -> Deferred[None]:
        if not dirty:
            return succeed(None)
        levels = [(bucket.level, bucket.stamp_us, bucket.digest) for bucket in dirty[:FLUSH_SLICE]]
        written = self._durably(AccountDatabase.write_levels, levels)
        return written.addCallbacks(
            self._slice_flushed, self._not_flushed, callbackArgs=(dirty[FLUSH_SLICE:],), errbackArgs=(dirty,)
        )

    def _slice_flushed(self, _: object, rest: list[_HeldBucket]) -> Deferred[None]:
        if self._flush_failed:
            self._flush_failed = False
            _log.info("bucket levels are written again")
        return self._flush_slice(rest)

    def _not_flushed(self, failure: Failure, buckets: list[_HeldBucket]) -> None:
        self._dirty.update(buckets)
        if not self._flush_failed:
            self._flush_failed = True
            _log.error(
                "bucket levels cannot be written: {reason}; they are kept in memory and tried again every second",
                reason=failure.getErrorMessage(),
            )
