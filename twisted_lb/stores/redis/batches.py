"""Many requests for tokens in one script call.

While a call is in progress, requests wait for the next call, which includes all of them.  When none is in progress, a
call is sent at the end of the present iteration of the event loop, so that the requests of one iteration share it.
Under load the batches grow with the load; a single request waits only for the end of its iteration.

There are three states:

1. On Redis (`use_redis`).
2. On shares (`use_shares`): while Redis is unavailable, and until all balancers are back from an outage (see
   `recovery`).  New requests, waiting requests and those in progress are each decided once, by the fallback.
3. Held (`hold`): requests wait while the tokens that were spent on shares are charged.

A call whose reply was lost may have been executed: it is kept until this is known (see `lost_call`), and then none of
its tokens are counted twice.

The keys of many users in one script call require a single Redis; Redis Cluster would refuse them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import ADDRESS, MICROTOKENS, ITokenReceiver, Limits, SharedBucket, Taken
from twisted_lb.limits.bucket import MAX_COST, check_cost
from twisted_lb.limits.fallback import Fallback
from twisted_lb.limits.shared_buckets import address_bucket, address_rule
from twisted_lb.quotas import QuotaCharge
from twisted_lb.stores.redis.accounts import FoundKey
from twisted_lb.stores.redis.batch_answers import BatchAnswers
from twisted_lb.stores.redis.batch_encoding import (
    OF_USERS_ALONE,
    Batch,
    BatchFrame,
    Extra,
    WithoutKey,
    charge_extra,
    is_digest,
)
from twisted_lb.stores.redis.connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis.instances import Instance
from twisted_lb.stores.redis.local_decisions import LocalDecisions
from twisted_lb.stores.redis.lost_call import NOTHING_DUE, Due, LostCall, lost_call, still_due
from twisted_lb.stores.redis.quota_periods import QuotaPeriods
from twisted_lb.stores.redis.scripts import RedisScript
from twisted_lb.stores.redis.shared_part import Limited
from twisted_lb.stores.redis.wrong_keys import WrongKeys

# Of each kind in one call: takings with a key (some 600 us in Redis) and without, releases, charges.
MAX_BATCH: Final = 256

_log = BoundedLog(Logger(__name__))


class TokenBatches:
    """Takings, releases and charges on their way to Redis."""

    def __init__(
        self,
        connection: RedisConnection,
        script: RedisScript,
        reactor: IReactorTime,
        frame: BatchFrame,
        instance: Instance,
        fallback: Fallback,
        limits: Limits,
        look_up: Callable[[str], Deferred[FoundKey | None]] | None = None,
    ) -> None:
        """It begins on shares.  `look_up` asks Redis for a key."""
        self.takes = 0
        self.waits_for = ""  # what it waits for while it is on shares, with a connection
        self.on_outage: Callable[[], None] = lambda: None  # Redis has reported that others come back from an outage
        self._connection = connection
        self._script = script
        self._reactor = reactor
        self._frame = frame
        self._fallback = fallback
        self._limits = limits
        self._counting = limits.in_flight > 0
        self._instance = instance
        self._in_flight = instance.in_flight
        self._address_rule = address_rule(limits.address)
        self._with_addresses = limits.address.capacity > 0
        self._with_global = limits.global_bucket.capacity > 0
        self._local = LocalDecisions(fallback, instance.in_flight, limits, look_up)
        self._on_shares = True
        self._held = False
        self._under_way = False  # a call is under way, or due at the end of this iteration, or all is held
        self._due: IDelayedCall | None = None
        self._digests: list[str] = []
        self._receivers: list[ITokenReceiver] = []  # at the same places as in _digests
        self._extras: list[Extra] = []  # of takings, by their places
        self._released: list[str] = []
        self._charged: list[str] = []
        self._tokens: list[int] = []  # at the same places as in _charged
        self._quota_charges: dict[int, QuotaCharge] = {}  # by their places in _charged
        self._shared_limits: dict[int, tuple[SharedBucket, ...]] = {}  # of takings, by their places from 1
        self._without_key: list[WithoutKey] = []
        self._shared_charges: list[tuple[SharedBucket, int]] = []  # tokens
        self._on_idle: list[Deferred[None]] = []
        self._number = 0  # of the last call
        self._answers = BatchAnswers(fallback, instance.in_flight, limits, WrongKeys(reactor.seconds))
        self._answers.on_period_over = QuotaPeriods(connection, self.take, self._decide_without_redis).over
        self._lost: LostCall | None = None  # there is one at most: no other call is made before it is resolved

    def take(
        self,
        digest: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        network: str = "",
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        """See IBucketStore.  ValueError for a cost that is not from 0 to MAX_COST."""
        if self._on_shares or not self._connection.ready:
            self._local.decide(digest, receiver, cost, network, limits, self._reason(), self._can_ask())
            return
        if not is_digest(digest):
            receiver.bucket_answered(None)
            return
        self._digests.append(digest)
        self._receivers.append(receiver)
        if cost != 1 or network:
            self._add_extra(cost, network)
        if limits:
            self._shared_limits[len(self._digests)] = limits
        if not self._under_way:
            self._send_soon()

    def take_without_key(
        self, limits: tuple[SharedBucket, ...], receiver: ITokenReceiver, cost: int = 1
    ) -> None:
        """See IBucketStore.  ValueError for a cost that is not from 0 to MAX_COST."""
        self._take_without_key(WithoutKey(limits, cost, receiver))

    def _take_without_key(self, without_key: WithoutKey) -> None:
        check_cost(without_key.cost)
        if self._on_shares or not self._connection.ready:
            self._local.decide_without_key(without_key, self._reason(), self._instance.new)
            return
        self._without_key.append(without_key)
        if not self._under_way:
            self._send_soon()

    def release(
        self,
        digest: str,
        tokens: int,
        limits: tuple[SharedBucket, ...] = (),
        quota: QuotaCharge | None = None,
    ) -> None:
        """See IBucketStore.  Tried once: what Redis may have refunded already is not refunded again."""
        if not digest:
            self._charge_shared(tokens, limits)
            return
        if self._counting:
            left = self._in_flight.get(digest, 0) - 1
            if left > 0:
                self._in_flight[digest] = left
            else:
                self._in_flight.pop(digest, None)
        elif not tokens and quota is None:
            return
        if not is_digest(digest):
            return
        if self._on_shares or not self._connection.ready:
            # Its place is free already: Redis will get the count of this process.
            if tokens:
                self._fallback.release(digest, tokens, limits)
            if quota is not None:
                self._fallback.charge_quota(digest, quota)
            return
        if self._counting:
            self._released.append(digest)
        if tokens or quota is not None:
            if quota is not None:
                self._quota_charges[len(self._charged)] = quota
                self._fallback.settled_quota(digest, quota)
            self._charged.append(digest)
            self._tokens.append(tokens)
            self._fallback.settled(digest, tokens)
            if limits:
                self._charge_shared(tokens, limits)
        if not self._under_way:
            self._send_soon()

    def _charge_shared(self, tokens: int, limits: tuple[SharedBucket, ...]) -> None:
        if not tokens:
            return
        if self._on_shares or not self._connection.ready:
            self._fallback.release("", tokens, limits)
            return
        self._shared_charges += [(shared, tokens) for shared in limits]
        self._fallback.settled_shared(limits, tokens)
        if not self._under_way:
            self._send_soon()

    def take_address(
        self,
        network: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        served: bool = False,
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        """See IBucketStore.  On shares, this process has buckets of its own."""
        if self._with_addresses:
            limits = (address_bucket(self._address_rule, network), *limits)
        without_key = WithoutKey(limits, cost, receiver, served)
        if limits:
            self._take_without_key(without_key)
        elif self._on_shares or not self._connection.ready:
            self._local.decide_without_key(without_key, self._reason(), self._instance.new)
        else:
            receiver.bucket_answered(Taken(True, b"", 0, 0.0, 0, ADDRESS))

    def release_address(self, network: str, tokens: int) -> None:
        """See IBucketStore."""
        if self._with_addresses:
            self._charge_shared(tokens, (address_bucket(self._address_rule, network),))

    def next_number(self) -> int:
        """A number above those of all calls so far."""
        self._number += 1
        return self._number

    def resolved(self, last: bytes | None) -> Due:
        """What is still due of a call whose reply was lost, see `still_due`; nothing if there was none."""
        lost, self._lost = self._lost, None
        return NOTHING_DUE if lost is None else still_due(lost, last)

    def charge(
        self,
        debts: dict[str, int],
        global_bucket: int,
        shared: Sequence[tuple[SharedBucket, int]] = (),
        quotas: Sequence[tuple[str, QuotaCharge]] = (),
    ) -> Deferred[Any]:
        """A call of its own, while all is held: charge microtokens to keys, to the global bucket and to shared ones.

        If its reply is lost, `resolved` returns what is due.
        """
        number = self.next_number()
        charges = [(digest, amount) for digest, amount in debts.items() if is_digest(digest)]
        of_quotas = {len(charges) + place: charge for place, (_, charge) in enumerate(quotas)}
        charges += [(digest, 0) for digest, _ in quotas]
        called = self._script.call_encoded(
            *self._frame.encode(
                number,
                [],
                charged=[digest for digest, _ in charges],
                charges=[amount for _, amount in charges],
                global_bucket=global_bucket,
                extras=[OF_USERS_ALONE, *[charge_extra(*one) for one in of_quotas.items()]],
                shared_charges=shared,
            )
        )
        lost = LostCall(number, [], charges, global_bucket, [], list(shared), list(quotas))
        return called.addErrback(self._charge_lost, lost)

    def _charge_lost(self, failure: Failure, lost: LostCall) -> Failure:
        if failure.check(ErrorReply) is None:
            self._lost = lost
        return failure

    def use_shares(self) -> None:
        """From now on the fallback decides, also on what was held; a call that is under way may still complete."""
        self._on_shares = True
        if self._held:
            self._held = False
            self._next()

    def hold(self) -> None:
        """Send and decide nothing: all requests wait.  No call may be under way."""
        self._on_shares = False
        self._held = self._under_way = True
        if self._due is not None and self._due.active():
            self._due.cancel()

    def use_redis(self) -> None:
        """Send what was held, and what is asked for from now on."""
        self._on_shares = self._held = False
        self._next()

    def _reason(self) -> str:
        return self._connection.reason or self.waits_for

    def _can_ask(self) -> bool:
        # A new instance has no share: the shares of the others add up to the whole bucket.
        return self._connection.ready and not self._instance.new

    def idle(self) -> Deferred[None]:
        """Fires when all that was asked for so far is done or has failed; calls have deadlines, so it does fire."""
        if not self._under_way:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._on_idle.append(idle)
        return idle

    def _add_extra(self, cost: int, network: str) -> None:
        if not 0 <= cost <= MAX_COST:
            del self._digests[-1], self._receivers[-1]
            raise ValueError(f"cost: expected a whole number from 0 to {MAX_COST}, not {cost!r}")
        if not self._with_addresses:
            network = ""
        if cost != 1 or network:
            self._extras.append(Extra(len(self._digests), cost, network))

    def _decide_without_redis(
        self, digest: str, receiver: ITokenReceiver, cost: int, limits: tuple[SharedBucket, ...], reason: str
    ) -> None:
        self._local.decide(digest, receiver, cost, "", limits, reason, False)

    def _send_soon(self) -> None:
        self._under_way = True
        self._due = self._reactor.callLater(0, self._next)

    # Sending

    def _next(self) -> None:
        if self._on_shares or not self._connection.ready:
            self._fail_waiting()
        elif self._digests or self._released or self._charged or self._without_key or self._shared_charges:
            self._send()
        else:
            self._rest()

    def _send(self) -> None:
        released, self._released = self._released, []
        if len(released) > MAX_BATCH:
            released, self._released = released[:MAX_BATCH], released[MAX_BATCH:]
        batch = self._take_out()
        self.takes += len(batch.receivers)
        number = self.next_number()
        shared: list[tuple[SharedBucket, int]] = []
        limited: list[Limited] = []
        if batch.limits or batch.without_key or batch.shared_charges:
            shared = [(bucket, tokens * MICROTOKENS) for bucket, tokens in batch.shared_charges]
            limited = batch.limited
        parts, encoded = self._frame.encode(
            number,
            batch.digests,
            released,
            batch.charged,
            [tokens * MICROTOKENS for tokens in batch.tokens],
            sum(batch.tokens) * MICROTOKENS,
            [*batch.extras, *[charge_extra(*one) for one in batch.quota_charges.items()]]
            if batch.quota_charges
            else batch.extras,
            shared,
            limited,
        )
        self._script.call_encoded(parts, encoded).addCallbacks(
            self._answered, self._unanswered, callbackArgs=(batch,), errbackArgs=(batch, number)
        ).addErrback(_not_handed_out)

    def _take_out(self) -> Batch:
        """What the next call contains, besides releases."""
        digests, self._digests = self._digests, []
        receivers, self._receivers = self._receivers, []
        extras, self._extras = self._extras, []
        limits, self._shared_limits = self._shared_limits, {}
        if len(digests) > MAX_BATCH:
            digests, self._digests = digests[:MAX_BATCH], digests[MAX_BATCH:]
            receivers, self._receivers = receivers[:MAX_BATCH], receivers[MAX_BATCH:]
            later = [extra._replace(position=extra.position - MAX_BATCH) for extra in extras]
            extras = [extra for extra in extras if extra.position <= MAX_BATCH]
            self._extras = later[len(extras) :]
            self._shared_limits = {place - MAX_BATCH: limits[place] for place in limits if place > MAX_BATCH}
            limits = {place: limits[place] for place in limits if place <= MAX_BATCH}
        charged, self._charged = self._charged, []
        tokens, self._tokens = self._tokens, []
        quotas, self._quota_charges = self._quota_charges, {}
        if len(charged) > MAX_BATCH:
            self._quota_charges = {place - MAX_BATCH: quotas[place] for place in quotas if place >= MAX_BATCH}
            quotas = {place: quotas[place] for place in quotas if place < MAX_BATCH}
            charged, self._charged = charged[:MAX_BATCH], charged[MAX_BATCH:]
            tokens, self._tokens = tokens[:MAX_BATCH], tokens[MAX_BATCH:]
        without_key, self._without_key = self._without_key, []
        if len(without_key) > MAX_BATCH:
            without_key, self._without_key = without_key[:MAX_BATCH], without_key[MAX_BATCH:]
        shared_charges, self._shared_charges = self._shared_charges, []
        if len(shared_charges) > MAX_BATCH:
            shared_charges, self._shared_charges = shared_charges[:MAX_BATCH], shared_charges[MAX_BATCH:]
        return Batch(digests, receivers, extras, charged, tokens, limits, without_key, shared_charges, quotas)

    def _rest(self) -> None:
        self._under_way = False
        waiting, self._on_idle = self._on_idle, []
        for idle in waiting:
            idle.callback(None)

    def _answered(self, reply: list[Any], batch: Batch) -> None:
        # First the next batch, so that Redis works while the answers are handed out.
        self._next()
        self._answers.hand_out(reply, batch)

    # Redis unavailable

    def _unanswered(self, failure: Failure, batch: Batch, number: int) -> None:
        reason = failure.getErrorMessage()
        refused = failure.check(ErrorReply) is not None
        if refused and reason.startswith("OUTAGE"):
            self.on_outage()
        elif refused:
            # A Redis that cannot be written to would refuse the next batch too.
            self._connection.give_up(reason)
        else:
            self._lost = lost_call(number, batch)
        self._next()
        self._local.decide_batch(batch, reason, refused, self._can_ask(), self._instance.new)

    def _fail_waiting(self) -> None:
        batch = Batch(
            self._digests,
            self._receivers,
            self._extras,
            self._charged,
            self._tokens,
            self._shared_limits,
            self._without_key,
            self._shared_charges,
            self._quota_charges,
        )
        self._digests, self._receivers, self._extras, self._shared_limits = [], [], [], {}
        self._released, self._charged, self._tokens = [], [], []
        self._without_key, self._shared_charges, self._quota_charges = [], [], {}
        self._rest()
        self._local.decide_batch(batch, self._reason(), True, self._can_ask(), self._instance.new)


def _not_handed_out(failure: Failure) -> None:
    _log.failure("batch", "a batch was not handed out", failure)
