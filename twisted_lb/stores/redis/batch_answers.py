"""Passes the reply of take_tokens.lua to the receivers that have asked for tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice, repeat
from typing import Any, Final

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import (
    ADDRESS,
    GLOBAL,
    IN_FLIGHT,
    KEY,
    LimitLevel,
    Limits,
    ShadowDecision,
    SharedBucket,
    Taken,
)
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.accounts import REFUSAL_OF, SpecialReply, quota_level
from twisted_lb.stores.redis.batch_encoding import Batch, WithoutKey
from twisted_lb.stores.redis.local_decisions import answer
from twisted_lb.stores.redis.outcomes import PERIOD_OVER, SPECIAL, refused_key, special_taken
from twisted_lb.stores.redis.wrong_keys import WrongKeys

# The outcomes of take_tokens.lua: 0 and 1 are of the user's bucket, the last one and those above it of shared buckets;
# see also `outcomes`.
_OF_IN_FLIGHT, _OF_GLOBAL, _OF_ADDRESS, _DAMAGED, _OF_SHARED = 2, 3, 4, 5, 6
_ADMITTED: Final = 1

_new_tuple = tuple.__new__
_log = BoundedLog(Logger(__name__))


class BatchAnswers:
    """Reads replies; the fallback learns from them."""

    def __init__(
        self, fallback: Fallback, in_flight: dict[str, int], limits: Limits, wrong_keys: WrongKeys
    ) -> None:
        """`in_flight`: digest -> requests that this process admitted and that are not over; updated here."""
        self._fallback = fallback
        self._in_flight = in_flight
        self._limits = limits
        self._counting = limits.in_flight > 0
        self._with_global = limits.global_bucket.capacity > 0
        self._wrong_keys = wrong_keys
        # Called with a taking's place and special key if the period of its quota has to be renewed first.
        self.on_period_over: Callable[[Batch, int, SpecialReply], None] = lambda batch, place, found: None

    def hand_out(self, reply: list[Any], batch: Batch) -> None:
        """Pass the decisions to all receivers of a batch."""
        fallback, counting, in_flight = self._fallback, self._counting, self._in_flight
        fallback.tidy()
        recent, now = fallback.recent, fallback.now()
        element = iter(reply)
        levels = _levels(reply, batch) if batch.limits or batch.without_key else iter(reply[:0])
        limits_of = map(batch.limits.get, count(1)) if batch.limits else repeat(None)
        for digest, receiver, limits, name, capacity, rate, outcome, level in zip(
            batch.digests, batch.receivers, limits_of, element, element, element, element, element
        ):
            more: tuple[LimitLevel, ...] = ()
            decisions: tuple[ShadowDecision, ...] = ()
            if limits is not None:
                more, decisions = self._seen(limits, levels)
            if name is None and outcome == _DAMAGED:
                try:
                    receiver.bucket_unavailable("what Redis holds for this key is not an account")
                except BaseException:
                    _log.failure("unavailable", "a request failed on its bucket being unavailable")
                continue
            if name is None:
                taken = None
                fallback.forget(digest)
            elif outcome < _OF_IN_FLIGHT:
                if not outcome:
                    more = decisions = ()
                taken = _new_tuple(
                    Taken, (outcome == 1, name, capacity, float(rate), level, KEY, more, decisions, None, True)
                )
                recent[digest] = (taken, now)
                if counting and outcome:
                    in_flight[digest] = in_flight.get(digest, 0) + 1
            elif outcome == SPECIAL + PERIOD_OVER:
                try:
                    self.on_period_over(batch, batch.receivers.index(receiver), SpecialReply(*name))
                except BaseException:
                    _log.failure("period", "a request failed on the end of its quota's period")
                continue
            elif outcome >= SPECIAL:
                answer = capacity, float(rate), outcome - SPECIAL, level
                taken = self._special(digest, SpecialReply(*name), answer, more, decisions)
                if counting and taken.admitted:
                    in_flight[digest] = in_flight.get(digest, 0) + 1
            elif outcome in REFUSAL_OF:
                taken = refused_key(digest, name, outcome, fallback)
            else:
                taken = self._refused(outcome, name, level, more)
            try:
                receiver.bucket_answered(taken)
            except BaseException:
                _log.failure("answer", "a request failed on its bucket's answer")
        if batch.limits or batch.without_key:
            self._answer_without_key(batch.without_key, element, levels)
            element = levels
        if self._with_global:
            fallback.seen_of_all(next(element, 0))
        for key in element:
            self._wrong_keys.found(key)

    def _special(
        self,
        digest: str,
        found: SpecialReply,
        answer: tuple[int, float, int, int],
        more: tuple[LimitLevel, ...],
        decisions: tuple[ShadowDecision, ...],
    ) -> Taken:
        """The decision about a special key (see `recent_keys`)."""
        taken = special_taken(digest, found, answer, more, decisions, self._fallback)
        if taken is not None:
            return taken
        return self._refused(answer[2], found.name, answer[3], more)._replace(quota=quota_level(found.quota))

    def _refused(self, outcome: int, name: bytes, level: int, more: tuple[LimitLevel, ...]) -> Taken:
        """A refusal by another limit than the key's bucket; `more` are the shared buckets."""
        if outcome >= _OF_SHARED:
            return Taken(False, name, *more[outcome - _OF_SHARED])
        if outcome == _OF_IN_FLIGHT:
            return Taken(False, name, self._limits.in_flight, 0.0, level, IN_FLIGHT)
        limits = self._limits
        limit, policy = (GLOBAL, limits.global_bucket) if outcome == _OF_GLOBAL else (ADDRESS, limits.address)
        return Taken(False, name, policy.capacity, policy.rate_per_sec, level, limit)

    def _seen(
        self, limits: tuple[SharedBucket, ...], levels: Iterator[Any]
    ) -> tuple[tuple[LimitLevel, ...], tuple[ShadowDecision, ...]]:
        """The levels of the shared buckets of one taking, and the decisions of shadows."""
        found = []
        decisions = []
        for shared in limits:
            level = next(levels)
            rule = shared.rule
            if rule.name != ADDRESS:
                self._fallback.seen_shared(shared, level)
            if shared.shadow:
                decisions.append(ShadowDecision(shared, next(levels) == 1))
            else:
                found.append(LimitLevel(rule.capacity, rule.rate_per_sec, level, rule.name))
        return tuple(found), tuple(decisions)

    def _answer_without_key(
        self, without_key: list[WithoutKey], element: Iterator[Any], levels: Iterator[Any]
    ) -> None:
        for (limits, _, receiver, _), _, _, _, outcome, _ in zip(
            without_key, element, element, element, element, element
        ):
            seen, decisions = self._seen(limits, levels)
            if not seen:
                taken = Taken(True, b"", 0, 0.0, 0, ADDRESS, shadows=decisions)
            elif outcome == _ADMITTED:
                taken = Taken(True, b"", *seen[0], more=seen[1:], shadows=decisions)
            else:
                taken = Taken(False, b"", *seen[outcome - _OF_SHARED])
            answer(receiver, taken)


def _levels(reply: list[Any], batch: Batch) -> Iterator[Any]:
    """What comes after the answers: the levels of the shared buckets, and the rest."""
    return islice(reply, 5 * (len(batch.digests) + len(batch.without_key)), None)
