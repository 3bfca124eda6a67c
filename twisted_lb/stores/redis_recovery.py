"""What a new connection to Redis begins with.

Strategy: before any taking goes out, Redis learns what this process knows better: first how many
requests it has in flight (under its new id, see `redis_instances`), then what was spent without Redis,
one sum for each key.  Nothing else of an outage is ever sent.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.limits.standby import Standby
from twisted_lb.stores.redis_batch import MAX_BATCH, TokenBatches
from twisted_lb.stores.redis_connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis_instances import PLACES_SECONDS, Instance, places_key
from twisted_lb.stores.redis_scripts import RedisScript

_log = Logger()


class Recovery:
    """Brings Redis up to date after each connect, a chunk a call."""

    def __init__(
        self,
        connection: RedisConnection,
        restore: RedisScript,
        batches: TokenBatches,
        instance: Instance,
        standby: Standby,
    ) -> None:
        self._connection = connection
        self._restore = restore
        self._batches = batches
        self._instance = instance
        self._standby = standby
        self._places: list[tuple[str, int]] = []  # digest, requests in flight; still to be told
        self._debts: dict[str, int] = {}  # digest -> microtokens, still to be charged
        self._debt_of_everyone = 0

    def begin(self, last: bytes | None) -> None:
        """The connection is ready: takings wait until Redis is up to date.

        `last` is what Redis knows of this process's last call (see `redis_lost_call`).
        """
        self._batches.hold()
        self._places = list(self._instance.in_flight.items())
        debts, everyone = self._standby.debts(self._instance.late)
        for digest, microtokens in debts:
            self._owe(digest, microtokens)
        self._debt_of_everyone += everyone
        due, everyone = self._batches.resolved(last)
        for digest, microtokens in due:
            self._owe(digest, microtokens)
        self._debt_of_everyone += everyone
        self._go_on()

    def _owe(self, digest: str, microtokens: int) -> None:
        self._debts[digest] = self._debts.get(digest, 0) + microtokens

    def _go_on(self, _: object = None) -> None:
        if not self._connection.ready or not (self._places or self._debts or self._debt_of_everyone):
            self._batches.go_on()
            return
        step = self._tell_places() if self._places else self._charge_debts()
        step.addCallback(self._go_on).addErrback(lambda failure: _log.failure("Redis is not up to date", failure))

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
        everyone, self._debt_of_everyone = self._debt_of_everyone, 0
        return self._batches.charge(chunk, everyone).addErrback(self._not_charged, chunk, everyone)

    def _not_charged(self, failure: Failure, chunk: dict[str, int], everyone: int) -> None:
        # What may have been charged is known when the next connection has asked for it.
        if failure.check(ErrorReply) is not None:
            for digest, microtokens in chunk.items():
                self._owe(digest, microtokens)
            self._debt_of_everyone += everyone
        self._failed(failure)

    def _failed(self, failure: Failure) -> None:
        if failure.check(ErrorReply) is not None:
            self._connection.give_up(failure.getErrorMessage())
