"""Begins the next period of a quota: this process knows the calendar, and Redis has the time and what was used.

A taking for which the period is over takes nothing.  The period that contains the time of Redis is computed here, and
begun in Redis by a script that does nothing if another balancer has begun it already (renew_quota.lua).  Then the
taking is sent again.
"""

from __future__ import annotations

from typing import Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import ITokenReceiver, SharedBucket
from twisted_lb.quotas import UnknownTimeZone, period_at
from twisted_lb.stores.redis.accounts import SpecialReply, quota_level
from twisted_lb.stores.redis.batch_encoding import Batch
from twisted_lb.stores.redis.connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis.keys import account_key
from twisted_lb.stores.redis.scripts import RedisScript

_log = BoundedLog(Logger())


class _Take(Protocol):
    def __call__(
        self, digest: str, receiver: ITokenReceiver, cost: int, network: str, limits: tuple[SharedBucket, ...]
    ) -> None: ...


class _Decide(Protocol):
    def __call__(
        self, digest: str, receiver: ITokenReceiver, cost: int, limits: tuple[SharedBucket, ...], reason: str
    ) -> None: ...


class QuotaPeriods:
    """Begins periods."""

    def __init__(self, connection: RedisConnection, take: _Take, decide_without_redis: _Decide) -> None:
        self._connection = connection
        self._renew = RedisScript("renew_quota", connection)
        self._take = take
        self._decide_without_redis = decide_without_redis
        # Takings that wait, by the keys of their users' records.
        self._waiting: dict[bytes, list[tuple[str, ITokenReceiver, int, tuple[SharedBucket, ...]]]] = {}

    def over(self, batch: Batch, place: int, found: SpecialReply) -> None:
        """The period is over for the taking at this place; `found` is the reply about its key."""
        digest, receiver = batch.digests[place], batch.receivers[place]
        cost = next((extra.cost for extra in batch.extras if extra.position == place + 1), 1)
        taking = digest, receiver, cost, batch.limits.get(place + 1, ())
        owner = account_key(found.owner.decode())
        waiting = self._waiting.get(owner)
        if waiting is not None:
            waiting.append(taking)
            return
        quota = quota_level(found.quota)
        assert quota is not None and found.quota is not None, "it has a period"
        try:
            starts_us, ends_us = period_at(quota.per, quota.time_zone, quota.now_us)
        except UnknownTimeZone as error:
            _log.error("zone", "A quota has no period: {reason}", reason=str(error))
            receiver.bucket_unavailable(str(error))
            return
        self._waiting[owner] = [taking]
        renewed = self._renew.call(owner, found.quota[0], b"%d" % starts_us, b"%d" % ends_us)
        renewed.addCallbacks(self._renewed, self._not_renewed, callbackArgs=(owner,), errbackArgs=(owner,))
        renewed.addErrback(_not_handed_out)

    def _renewed(self, _: object, owner: bytes) -> None:
        for digest, receiver, cost, limits in self._waiting.pop(owner):
            try:
                self._take(digest, receiver, cost, "", limits)
            except BaseException:
                _not_handed_out(Failure())

    def _not_renewed(self, failure: Failure, owner: bytes) -> None:
        reason = failure.getErrorMessage()
        if failure.check(ErrorReply) is not None:
            # A Redis that cannot be written to would refuse the next taking too: this is an outage.
            self._connection.give_up(reason)
        for digest, receiver, cost, limits in self._waiting.pop(owner):
            try:
                self._decide_without_redis(digest, receiver, cost, limits, reason)
            except BaseException:
                _not_handed_out(Failure())


def _not_handed_out(failure: Failure) -> None:
    _log.failure("renewal", "a request failed on the renewal of its quota", failure)
