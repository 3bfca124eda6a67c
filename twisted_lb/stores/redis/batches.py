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

from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import (
    ADDRESS,
    KEY,
    MICROTOKENS,
    ITokenReceiver,
    Limits,
    Taken,
)
from twisted_lb.limits.bucket import MAX_COST
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.accounts import FoundKey
from twisted_lb.stores.redis.batch_encoding import (
    GIVE_TO_ADDRESS,
    OF_USERS_ALONE,
    TAKE_OF_ADDRESS,
    Batch,
    BatchFrame,
    Extra,
    is_digest,
)
from twisted_lb.stores.redis.connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis.instances import Instance
from twisted_lb.stores.redis.local_decisions import LocalDecisions, answer
from twisted_lb.stores.redis.lost_call import LostCall, lost_call, still_due
from twisted_lb.stores.redis.outcomes import DAMAGED, OF_IN_FLIGHT, Outcomes
from twisted_lb.stores.redis.scripts import RedisScript
from twisted_lb.stores.redis.wrong_keys import WrongKeys

MAX_BATCH: Final = 256  # of each kind in one call: takings (some 600 us in Redis), releases, charges, addresses

_new_tuple = tuple.__new__
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
        self.waits_for = ""  # on shares, with a connection: what for
        self.on_outage: Callable[[], None] = lambda: None  # Redis has said that others come back from an outage
        self._connection = connection
        self._script = script
        self._reactor = reactor
        self._frame = frame
        self._fallback = fallback
        self._limits = limits
        self._counting = limits.in_flight > 0
        self._instance = instance
        self._in_flight = instance.in_flight
        self._with_addresses = limits.address.capacity > 0
        self._with_global = limits.global_bucket.capacity > 0
        self._outcomes = Outcomes(fallback, limits)
        self._local = LocalDecisions(fallback, instance.in_flight, limits, look_up)
        self._on_shares = True
        self._held = False
        self._under_way = False  # a call is under way, or is due at the end of this turn, or all is held
        self._due: IDelayedCall | None = None
        self._digests: list[str] = []
        self._receivers: list[ITokenReceiver] = []  # of the same place in _digests
        self._extras: list[Extra] = []  # of takings, by their places
        self._released: list[str] = []
        self._charged: list[str] = []
        self._tokens: list[int] = []  # of the same place in _charged
        self._addresses: list[tuple[Extra, ITokenReceiver | None]] = []
        self._on_idle: list[Deferred[None]] = []
        self._number = 0  # of the last call
        self._wrong_keys = WrongKeys(reactor.seconds)
        self._lost: LostCall | None = None  # there is one at most: no other call is made before it is resolved

    def take(self, digest: str, receiver: ITokenReceiver, cost: int = 1, network: str = "") -> None:
        """See IBucketStore.  ValueError for a cost that is not from 0 to MAX_COST."""
        if self._on_shares or not self._connection.ready:
            self._local.decide(digest, receiver, cost, network, self._reason(), self._can_ask())
            return
        if not is_digest(digest):
            receiver.bucket_answered(None)
            return
        self._digests.append(digest)
        self._receivers.append(receiver)
        if cost != 1 or network:
            self._add_extra(cost, network)
        if not self._under_way:
            self._send_soon()

    def release(self, digest: str, tokens: int) -> None:
        """See IBucketStore.  Tried once: what Redis may have given back already is not given back again."""
        if self._counting:
            left = self._in_flight.get(digest, 0) - 1
            if left > 0:
                self._in_flight[digest] = left
            else:
                self._in_flight.pop(digest, None)
        elif not tokens:
            return
        if not is_digest(digest):
            return
        if self._on_shares or not self._connection.ready:
            # Its place is free already: Redis will hear the count of this process.
            if tokens:
                self._fallback.release(digest, tokens)
            return
        if self._counting:
            self._released.append(digest)
        if tokens:
            self._charged.append(digest)
            self._tokens.append(tokens)
            self._fallback.settled(digest, tokens)
        if not self._under_way:
            self._send_soon()

    def take_address(self, network: str, receiver: ITokenReceiver) -> None:
        """See IBucketStore.  On shares, this process has buckets of its own."""
        if not self._with_addresses or self._on_shares or not self._connection.ready:
            receiver.bucket_answered(self._fallback.of_network(network, spend=True))
            return
        self._addresses.append((Extra(0, TAKE_OF_ADDRESS, network), receiver))
        if not self._under_way:
            self._send_soon()

    def give_back_address(self, network: str) -> None:
        """See IBucketStore."""
        if not self._with_addresses:
            return
        if self._on_shares or not self._connection.ready:
            self._fallback.give_back_to_network(network)
            return
        self._addresses.append((Extra(0, GIVE_TO_ADDRESS, network), None))
        if not self._under_way:
            self._send_soon()

    def next_number(self) -> int:
        """A number above those of all calls so far."""
        self._number += 1
        return self._number

    def resolved(self, last: bytes | None) -> tuple[list[tuple[str, int]], int]:
        """What is due of a call whose reply was lost, as `still_due`; nothing where there was none."""
        lost, self._lost = self._lost, None
        return ([], 0) if lost is None else still_due(lost, last)

    def charge(self, debts: dict[str, int], global_bucket: int) -> Deferred[Any]:
        """A call of its own, while all is held: charge microtokens to keys, and to the global bucket.

        When its reply is lost, what is due is told by `resolved`.
        """
        number = self.next_number()
        charges = [(digest, amount) for digest, amount in debts.items() if is_digest(digest)]
        called = self._script.call_encoded(
            *self._frame.encode(
                number,
                [],
                charged=[digest for digest, _ in charges],
                charges=[amount for _, amount in charges],
                global_bucket=global_bucket,
                extras=[OF_USERS_ALONE],
            )
        )
        return called.addErrback(self._charge_lost, LostCall(number, [], charges, global_bucket))

    def _charge_lost(self, failure: Failure, lost: LostCall) -> Failure:
        if failure.check(ErrorReply) is None:
            self._lost = lost
        return failure

    def use_shares(self) -> None:
        """From now on the fallback decides, also of what was held; a call that is under way is waited for."""
        self._on_shares = True
        if self._held:
            self._held = False
            self._next()

    def hold(self) -> None:
        """Send nothing, and decide nothing; what is asked for waits.  No call may be under way."""
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
        # A new instance has no share: those of the others are the whole bucket.
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

    def _send_soon(self) -> None:
        self._under_way = True
        self._due = self._reactor.callLater(0, self._next)

    # Sending

    def _next(self) -> None:
        if self._on_shares or not self._connection.ready:
            self._fail_waiting()
        elif self._digests or self._released or self._charged or self._addresses:
            self._send()
        else:
            self._rest()

    def _send(self) -> None:
        released, self._released = self._released, []
        if len(released) > MAX_BATCH:
            released, self._released = released[:MAX_BATCH], released[MAX_BATCH:]
        addresses, self._addresses = self._addresses, []
        if len(addresses) > MAX_BATCH:
            addresses, self._addresses = addresses[:MAX_BATCH], addresses[MAX_BATCH:]
        batch = self._take_out([(extra.network, receiver) for extra, receiver in addresses if receiver is not None])
        self.takes += len(batch.receivers)
        number = self.next_number()
        count, encoded = self._frame.encode(
            number,
            batch.digests,
            released,
            batch.charged,
            [tokens * MICROTOKENS for tokens in batch.tokens],
            sum(batch.tokens) * MICROTOKENS,
            batch.extras + [extra for extra, _ in addresses] if addresses else batch.extras,
        )
        self._script.call_encoded(count, encoded).addCallbacks(
            self._answered, self._unanswered, callbackArgs=(batch,), errbackArgs=(batch, number)
        ).addErrback(_not_handed_out)

    def _take_out(self, address_askers: list[tuple[str, ITokenReceiver]]) -> Batch:
        """What goes with the next call, beside releases and addresses."""
        digests, self._digests = self._digests, []
        receivers, self._receivers = self._receivers, []
        extras, self._extras = self._extras, []
        if len(digests) > MAX_BATCH:
            digests, self._digests = digests[:MAX_BATCH], digests[MAX_BATCH:]
            receivers, self._receivers = receivers[:MAX_BATCH], receivers[MAX_BATCH:]
            later = [extra._replace(position=extra.position - MAX_BATCH) for extra in extras]
            extras = [extra for extra in extras if extra.position <= MAX_BATCH]
            self._extras = later[len(extras) :]
        charged, self._charged = self._charged, []
        tokens, self._tokens = self._tokens, []
        if len(charged) > MAX_BATCH:
            charged, self._charged = charged[:MAX_BATCH], charged[MAX_BATCH:]
            tokens, self._tokens = tokens[:MAX_BATCH], tokens[MAX_BATCH:]
        return Batch(digests, receivers, extras, charged, tokens, address_askers)

    def _rest(self) -> None:
        self._under_way = False
        waiting, self._on_idle = self._on_idle, []
        for idle in waiting:
            idle.callback(None)

    # Handing out

    def _answered(self, reply: list[Any], batch: Batch) -> None:
        # First the next batch, so that Redis works while the answers are handed out.
        self._next()
        fallback, counting, in_flight = self._fallback, self._counting, self._in_flight
        fallback.tidy()
        recent, now = fallback.recent, fallback.now()
        element = iter(reply)
        for digest, receiver, name, capacity, rate, outcome, level in zip(
            batch.digests, batch.receivers, element, element, element, element, element
        ):
            if name is None and outcome == DAMAGED:
                try:
                    receiver.bucket_unavailable("what Redis holds for this key is not an account")
                except BaseException:
                    _log.failure("unavailable", "a request failed on its bucket being unavailable")
                continue
            if name is None:
                taken = None
                fallback.forget(digest)
            elif outcome < OF_IN_FLIGHT:
                taken = _new_tuple(Taken, (outcome == 1, name, capacity, float(rate), level, KEY))
                recent[digest] = (taken, now)
                if counting and outcome:
                    in_flight[digest] = in_flight.get(digest, 0) + 1
            else:
                taken = self._outcomes.taken(digest, name, capacity, rate, outcome, level)
                if counting and taken.admitted:
                    in_flight[digest] = in_flight.get(digest, 0) + 1
            try:
                receiver.bucket_answered(taken)
            except BaseException:
                _log.failure("answer", "a request failed on its bucket's answer")
        if batch.address_askers:
            self._answer_addresses(batch.address_askers, element)
        if self._with_global:
            fallback.seen_of_all(next(element, 0))
        for key in element:
            self._wrong_keys.found(key)

    def _answer_addresses(self, receivers: list[tuple[str, ITokenReceiver]], element: Iterator[Any]) -> None:
        policy = self._limits.address
        for (_, receiver), _, _, _, outcome, level in zip(receivers, element, element, element, element, element):
            taken = Taken(outcome == 1, b"", policy.capacity, policy.rate_per_sec, level, ADDRESS)
            answer(receiver, taken)

    # Redis away

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
        self._local.decide_batch(batch, reason, refused, self._can_ask())

    def _fail_waiting(self) -> None:
        batch = Batch(
            self._digests,
            self._receivers,
            self._extras,
            self._charged,
            self._tokens,
            [(extra.network, receiver) for extra, receiver in self._addresses if receiver is not None],
        )
        self._digests, self._receivers, self._extras = [], [], []
        self._released, self._charged, self._tokens, self._addresses = [], [], [], []
        self._rest()
        self._local.decide_batch(batch, self._reason(), True, self._can_ask())


def _not_handed_out(failure: Failure) -> None:
    _log.failure("batch", "a batch was not handed out", failure)
