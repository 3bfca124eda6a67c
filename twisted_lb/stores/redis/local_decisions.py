"""Requests for tokens that are decided in this process, by the fallback: while Redis is unavailable, and until all
instances are back from an outage.

While Redis is unavailable, a key that the fallback does not know cannot be distinguished from a guess.  While this
process waits for other instances to come back, it looks the key up in Redis; the account is known from then on, with
the same share as if it had been known throughout the outage.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import ADDRESS, KEY, ITokenReceiver, Limits, SharedBucket, Taken, shadow_bucket
from twisted_lb.limits.fallback import DENY, Fallback
from twisted_lb.stores.redis.accounts import FoundKey, quota_level, special_key
from twisted_lb.stores.redis.batch_encoding import Batch, Extra, WithoutKey, is_digest

_NO_EXTRA = Extra(0, 1, "")

_log = BoundedLog(Logger())


class LocalDecisions:
    """Answers receivers without a taking in Redis."""

    def __init__(
        self,
        fallback: Fallback,
        in_flight: dict[str, int],
        limits: Limits,
        look_up: Callable[[str], Deferred[FoundKey | None]] | None,
    ) -> None:
        """`in_flight`: digest -> requests that this process admitted and that are not over; updated here.

        `look_up` asks Redis for a key, and fails with StoreUnavailable.
        """
        self._fallback = fallback
        self._in_flight = in_flight
        self._counting = limits.in_flight > 0
        self._with_addresses = limits.address.capacity > 0
        self._look_up = look_up

    def decide(
        self,
        digest: str,
        receiver: ITokenReceiver,
        cost: int,
        network: str,
        limits: tuple[SharedBucket, ...],
        reason: str,
        can_ask: bool,
    ) -> None:
        """Answer one taking, within the call unless Redis is asked; `reason` is why Redis does not decide it.

        `can_ask`: Redis may be asked for a key that is not known.
        """
        fallback = self._fallback
        known = fallback.knows(digest)
        if network and self._with_addresses and not known:
            refused = fallback.of_network(network, spend=False)
            if not refused.admitted:
                receiver.bucket_answered(refused)
                return
        if known or not can_ask or self._look_up is None or fallback.mode == DENY or not is_digest(digest):
            self._take(digest, receiver, cost, network, limits, reason)
            return
        asked = self._look_up(digest)
        asked.addCallback(self._learn, digest, receiver, cost, network, limits, reason)
        asked.addErrback(self._not_learned, receiver)
        asked.addErrback(lambda failure: _log.failure("answer", "a request failed on its bucket's answer", failure))

    def decide_batch(self, batch: Batch, reason: str, unsent: bool, can_ask: bool, new: bool) -> None:
        """Answer all of a batch.  `unsent`: it is certain that Redis has executed none of it."""
        if unsent:
            for digest, tokens in zip(batch.charged, batch.tokens):
                if tokens:
                    self._fallback.release(digest, tokens)
            for place, charge in batch.quota_charges.items():
                self._fallback.charge_quota(batch.charged[place], charge, True)
            for shared, tokens in batch.shared_charges:
                self._fallback.release("", tokens, (shared,))
        extras = {extra.position: extra for extra in batch.extras}
        for position, (digest, receiver) in enumerate(zip(batch.digests, batch.receivers), 1):
            _, cost, network = extras.get(position, _NO_EXTRA)
            try:
                self.decide(digest, receiver, cost, network, batch.limits.get(position, ()), reason, can_ask)
            except BaseException:
                _log.failure("unavailable", "a request failed on its bucket being unavailable")
        for without_key in batch.without_key:
            try:
                self.decide_without_key(without_key, reason, new)
            except BaseException:
                _log.failure("unavailable", "a request failed on its bucket being unavailable")

    def decide_without_key(self, without_key: WithoutKey, reason: str, new: bool) -> None:
        """The same for a request without a key; `new`: this instance has never decided about a request with Redis."""
        limits, cost, receiver, served = without_key
        fallback = self._fallback
        if not limits or limits[0].rule.name == ADDRESS or limits[0].shadow:
            # If networks have no limit, there may be only shadows.
            if served and fallback.mode == DENY:
                receiver.bucket_unavailable(reason)
            else:
                receiver.bucket_answered(fallback.of_address(limits, cost))
            return
        # A new instance has no share: the shares of the others add up to the whole bucket.
        taken = None if new else fallback.take_without_key(limits, cost)
        if taken is None:
            receiver.bucket_unavailable(reason)
        else:
            receiver.bucket_answered(taken)

    def _learn(
        self,
        found: FoundKey | None,
        digest: str,
        receiver: ITokenReceiver,
        cost: int,
        network: str,
        limits: tuple[SharedBucket, ...],
        reason: str,
    ) -> None:
        fallback = self._fallback
        if found is None:
            if network:
                fallback.of_network(network, spend=True)
            receiver.bucket_answered(None)
            return
        name, capacity, rate_per_sec = found.profile.account
        level = found.profile.level
        if found.refused:
            receiver.bucket_answered(Taken(False, name.encode(), 0, 0.0, 0, found.refused))
            return
        if not fallback.knows(digest):
            reply = found.special
            quota = None if reply is None else quota_level(reply.quota)
            taken = Taken(True, name.encode(), capacity, rate_per_sec, level, KEY, quota=quota)
            if reply is None:
                fallback.recent[digest] = taken, fallback.now()
            else:
                special = special_key(reply, fallback.now())
                fallback.seen_special(digest, special, taken)
                if reply.shadow is not None:
                    fallback.seen_shared(shadow_bucket(special.owner, *special.shadow), reply.shadow[2])
        self._take(digest, receiver, cost, network, limits, reason)

    def _not_learned(self, failure: Failure, receiver: ITokenReceiver) -> None:
        receiver.bucket_unavailable(failure.getErrorMessage())

    def _take(
        self,
        digest: str,
        receiver: ITokenReceiver,
        cost: int,
        network: str,
        limits: tuple[SharedBucket, ...],
        reason: str,
    ) -> None:
        in_flight = self._in_flight.get(digest, 0)
        taken = self._fallback.take(digest, cost, in_flight, limits)
        if taken is None:
            if network:
                # As far as is known, it was a guess.
                self._fallback.of_network(network, spend=True)
            receiver.bucket_unavailable(reason)
            return
        if self._counting and taken.admitted:
            self._in_flight[digest] = in_flight + 1
        receiver.bucket_answered(taken)


def answer(receiver: ITokenReceiver, taken: Taken) -> None:
    """Pass it to the receiver; an exception that this raises is logged."""
    try:
        receiver.bucket_answered(taken)
    except BaseException:
        _log.failure("answer", "a request failed on its bucket's answer")
