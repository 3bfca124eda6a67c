"""The return from an outage: all instances go back to Redis at the same moment.

In an outage each instance has a share of each bucket, and when Redis is available again, it charges what it spent of
its shares.  Until all instances have done so, Redis does not know what was spent, and the whole bucket would be
available to the first instance.  Therefore no instance takes tokens from Redis until all have charged (rejoin.lua):

1. BACK.  The instance continues with its shares, and asks Redis every POLL_SECONDS whether all others are back, or have
   been silent for their lease.  So does an instance that has not noticed the outage: Redis refuses its calls, and
   reports this with the reply to its next announcement.
2. The last instance and Redis agree on a moment of which all others learn in time.  At that moment each instance holds
   its requests, writes how many requests it has in flight (under its new id, see `instances`), and charges what it
   spent, one sum for each key.  Nothing else about an outage is ever sent.
3. CHARGED.  The instance asks every HELD_POLL_SECONDS whether all have charged.  Then the held requests, and all new
   ones, take their tokens from Redis.  If an instance does not charge in time, all return to their shares and to step
   1.

An instance that is alone begins with step 2 as soon as it is connected.  A new instance has nothing to charge, but must
not take what others have spent: if some instances are silent, it waits up to NEW_SECONDS for them to come back.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.interfaces import SharedBucket, StoreUnavailable
from twisted_lb.limits.fallback import Fallback
from twisted_lb.quotas import QuotaCharge
from twisted_lb.stores.redis.batches import MAX_BATCH, TokenBatches
from twisted_lb.stores.redis.connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis.instances import BACK, CHARGED, JOIN, NEW, Instance, Rejoined
from twisted_lb.stores.redis.keys import PLACES_SECONDS, places_key
from twisted_lb.stores.redis.scripts import RedisScript

POLL_SECONDS = 0.1  # less than LEAD of rejoin.lua, so that each learns of the moment before it
HELD_POLL_SECONDS = 0.005  # while requests are held
NEW_SECONDS = 1.0  # twice the time between two attempts to connect

_log = Logger()


class Recovery:
    """Brings this instance from its shares back to Redis, after each connect and when others come back."""

    def __init__(
        self,
        connection: RedisConnection,
        restore: RedisScript,
        batches: TokenBatches,
        instance: Instance,
        fallback: Fallback,
        reactor: IReactorTime,
    ) -> None:
        self.on_over: Callable[[], None] = lambda: None  # this instance takes from Redis again
        self._connection = connection
        self._restore = restore
        self._batches = batches
        self._instance = instance
        self._fallback = fallback
        self._reactor = reactor
        self._new_since: float | None = None
        self._timer: IDelayedCall | None = None
        self._finished: Deferred[None] | None = None  # set while this instance stops
        self._places: list[tuple[str, int]] = []  # digest, requests in flight; not sent yet
        self._lost_due: list[tuple[str, int]] = []  # digest, microtokens: what is due of calls whose reply was lost
        self._lost_due_of_global = 0
        self._debts: dict[str, int] = {}  # digest -> microtokens, still to be charged
        self._global_debt = 0
        self._lost_due_of_shared: list[tuple[SharedBucket, int]] = []
        self._lost_due_of_shadows: list[tuple[str, int]] = []  # digest, microtokens: of users' shadow policies
        self._shared_debts: dict[str, tuple[SharedBucket, int]] = {}  # by the keys of the buckets
        self._lost_takings: list[tuple[str, int]] = []  # digest, tokens: counted by the quotas of calls that were lost
        self._quota_debts: list[tuple[str, QuotaCharge]] = []

    def greeting(self) -> bytes:
        """The command with which a new connection announces itself; its reply is for `begin`."""
        return self._instance.greeting(self._what())

    def begin(self, last: bytes | None, reply: list[Any]) -> None:
        """The connection is ready, and greeted.

        `last` is what Redis knows of this process's last call (see `lost_call`).
        """
        due = self._batches.resolved(last)
        self._lost_due += due.keys
        self._lost_due_of_global += due.global_bucket
        self._lost_due_of_shared += due.shared
        self._quota_debts += due.quotas
        self._lost_takings += due.taken
        self._lost_due_of_shadows += due.of_shadows
        self._rejoined(self._instance.rejoined(reply))

    def lost(self) -> None:
        """The connection is not ready any more, or others come back: from now on the fallback decides."""
        if not self._instance.returning:
            ready = self._connection.ready
            self._fallback.away_since = self._reactor.seconds() if ready else self._connection.silent_since
            self._instance.returning = True
        self._stop_timer()
        self._batches.use_shares()
        self._finish()

    def rejoin(self) -> None:
        """After `lost`: others come back from an outage, and this connection is ready."""
        self._poll()

    def finish(self) -> Deferred[None]:
        """Charge what was spent without Redis now, as this instance stops.  Fires when that is done or has failed."""
        if not self._instance.returning or not self._connection.ready or self._finished is not None:
            self._stop_timer()
            return succeed(None)
        finished: Deferred[None] = Deferred()
        self._finished = finished
        if self._timer is not None:
            self._stop_timer()
            self._hold(together=False)
        return finished

    def _what(self) -> bytes:
        if not self._instance.new:
            return BACK
        now = self._reactor.seconds()
        if self._new_since is None:
            self._new_since = now
        return NEW if now - self._new_since < NEW_SECONDS else JOIN

    # 1. On shares

    def _rejoined(self, rejoined: Rejoined) -> None:
        missing, wait_us = rejoined
        self._batches.waits_for = (
            f"Redis is back, and {missing} balancers that shared it are waited for"
            if missing
            else "Redis is back, and all balancers are about to go back to it"
        )
        if wait_us == 0 or self._finished is not None:
            self._hold(together=False)
        elif wait_us > 0:
            self._later(wait_us / 1_000_000, self._hold)
        else:
            self._later(POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        self._timer = None
        self._instance.rejoin(self._what()).addCallbacks(self._rejoined, self._failed).addErrback(self._broken)

    # 2. At the moment

    def _hold(self, together: bool = True) -> None:
        self._timer = None
        self._batches.hold()
        self._places = list(self._instance.in_flight.items())
        # Before `debts`, which changes what is known of the buckets.
        for digest, microtokens in self._lost_due:
            self._owe(digest, self._fallback.still_missing(digest, microtokens))
        self._global_debt += self._fallback.still_missing_of_all(self._lost_due_of_global)
        for digest, microtokens in self._lost_due_of_shadows:
            shadow = self._fallback.shadow_policy(digest)
            if shadow is not None:
                self._lost_due_of_shared.append((shadow, microtokens))
        for shared, microtokens in self._lost_due_of_shared:
            self._owe_shared(shared, self._fallback.shared_still_missing(shared, microtokens))
        self._lost_due, self._lost_due_of_global = [], 0
        self._lost_due_of_shared, self._lost_due_of_shadows = [], []
        for digest, tokens in self._lost_takings:
            self._quota_debts += self._fallback.quota_refund(digest, tokens)
        self._lost_takings = []
        self._quota_debts += self._fallback.quota_debts()
        debts, global_bucket = self._fallback.debts()
        for digest, microtokens in debts:
            self._owe(digest, microtokens)
        self._global_debt += global_bucket
        for shared, microtokens in self._fallback.shared_debts():
            self._owe_shared(shared, microtokens)
        self._go_on(together)

    def _owe_shared(self, shared: SharedBucket, microtokens: int) -> None:
        _, owed = self._shared_debts.get(shared.key, (shared, 0))
        self._shared_debts[shared.key] = shared, owed + microtokens

    def _owe(self, digest: str, microtokens: int) -> None:
        self._debts[digest] = self._debts.get(digest, 0) + microtokens

    def _go_on(self, together: bool) -> None:
        if not self._connection.ready:
            return
        if self._places or self._debts or self._global_debt or self._shared_debts or self._quota_debts:
            step = self._tell_places() if self._places else self._charge_debts()
            step.addCallback(lambda _: self._go_on(together)).addErrback(self._broken)
        elif together and self._finished is None:
            self._ask_for_others()
        else:
            self._over()

    def _tell_places(self) -> Deferred[Any]:
        chunk, self._places = self._places[:MAX_BATCH], self._places[MAX_BATCH:]
        told = self._restore.call(
            *[places_key(digest) for digest, _ in chunk],
            self._instance.id,
            b"%d" % PLACES_SECONDS,
            *[b"%d" % count for _, count in chunk],
            keys=len(chunk),
        )
        return told.addErrback(self._failed)

    def _charge_debts(self) -> Deferred[Any]:
        chunk = dict(islice(self._debts.items(), MAX_BATCH))
        for digest in chunk:
            del self._debts[digest]
        global_bucket, self._global_debt = self._global_debt, 0
        shared = list(islice(self._shared_debts.values(), MAX_BATCH))
        for one, _ in shared:
            del self._shared_debts[one.key]
        room = MAX_BATCH - len(chunk)
        quotas, self._quota_debts = self._quota_debts[:room], self._quota_debts[room:]
        charged = self._batches.charge(chunk, global_bucket, shared, quotas)
        return charged.addErrback(self._not_charged, chunk, global_bucket, shared, quotas)

    def _not_charged(
        self,
        failure: Failure,
        chunk: dict[str, int],
        global_bucket: int,
        shared: list[tuple[SharedBucket, int]],
        quotas: list[tuple[str, QuotaCharge]],
    ) -> None:
        # What has been charged is known after the query of the next connection.
        if failure.check(ErrorReply) is not None:
            for digest, microtokens in chunk.items():
                self._owe(digest, microtokens)
            self._global_debt += global_bucket
            for one, microtokens in shared:
                self._owe_shared(one, microtokens)
            self._quota_debts += quotas
        self._failed(failure)

    # 3. All have charged

    def _ask_for_others(self) -> None:
        self._timer = None
        self._instance.rejoin(CHARGED).addCallbacks(self._others, self._failed).addErrback(self._broken)

    def _others(self, rejoined: Rejoined) -> None:
        if rejoined.wait_us == 0 or self._finished is not None:
            self._over()
        elif rejoined.wait_us > 0:
            self._later(HELD_POLL_SECONDS, self._ask_for_others)
        else:
            self._batches.use_shares()
            self._poll()

    def _over(self) -> None:
        self._instance.new = False
        if self._finished is not None:
            # This instance stops.  What is held is decided without Redis, since the others may have spent the tokens.
            self._batches.use_shares()
            self._finish()
            return
        self._instance.returning = False
        self._batches.use_redis()
        self.on_over()

    def _finish(self) -> None:
        if self._finished is not None and not self._finished.called:
            self._finished.callback(None)

    def _failed(self, failure: Failure) -> None:
        # A connection that was lost has called `lost` already.
        if failure.check(ErrorReply) is not None:
            self._connection.give_up(failure.getErrorMessage())
        elif failure.check(StoreUnavailable) is None:
            self._broken(failure)

    def _broken(self, failure: Failure) -> None:
        # Otherwise the others would wait for this instance for ever: the next connection begins again.
        _log.failure("Redis is not up to date", failure)
        self._connection.give_up(f"it could not be brought up to date: {failure.getErrorMessage()}")

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer = self._reactor.callLater(seconds, call)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
