"""Many takings in one script call.

Strategy: while a call is under way, what comes in waits for the next one, which takes it all.  When
none is under way, the call goes out at the end of this turn of the reactor, so that the requests
that one turn brings share it.  Under load the batch grows with the load; alone, a request waits for
nothing but the turn that it came in.

A batch is one command: the keys to give back to, then the keys to take from.  Since every digest has
the same length, all keys are framed with one `join`.  Keys of many users in one script call need one
Redis; Redis Cluster would refuse them.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.interfaces import IAsker, Taken
from twisted_lb.stores.redis_connection import RedisConnection
from twisted_lb.stores.redis_scripts import RedisScript, account_key, encode_parts

MAX_BATCH = 256  # keys in one call: some 600 us in Redis

DIGEST_LENGTH = 64  # SHA-256 in hexadecimal

_FIRST_KEY, _AFTER_LAST = encode_parts(account_key("x" * DIGEST_LENGTH)).split(b"x" * DIGEST_LENGTH)
_BETWEEN_KEYS = (_AFTER_LAST + _FIRST_KEY).decode()

_new_tuple = tuple.__new__
_log = Logger()


class TokenBatches:
    """Takings and givings-back on their way to Redis."""

    def __init__(self, connection: RedisConnection, script: RedisScript, reactor: IReactorTime) -> None:
        self.takes = 0
        self._connection = connection
        self._script = script
        self._reactor = reactor
        self._under_way = False  # a call is under way, or is due at the end of this turn
        self._digests: list[str] = []
        self._askers: list[IAsker] = []  # of the same place in _digests
        self._given_back: list[str] = []
        self._on_idle: list[Deferred[None]] = []

    def take(self, digest: str, asker: IAsker) -> None:
        """See IBucketStore."""
        if not self._connection.ready:
            asker.bucket_unavailable(self._connection.reason)
            return
        if len(digest) != DIGEST_LENGTH or not digest.isascii():
            # It would break the framing of the whole batch.
            asker.bucket_answered(None)
            return
        self._digests.append(digest)
        self._askers.append(asker)
        if not self._under_way:
            self._under_way = True
            self._reactor.callLater(0, self._send)

    def give_back(self, digest: str) -> None:
        """See IBucketStore.  Tried once: what Redis may have done already is not done again."""
        if not self._connection.ready or len(digest) != DIGEST_LENGTH or not digest.isascii():
            return
        self._given_back.append(digest)
        if not self._under_way:
            self._under_way = True
            self._reactor.callLater(0, self._send)

    def idle(self) -> Deferred[None]:
        """Fires when all that was asked for so far is done or has failed; calls have deadlines, so it does fire."""
        if not self._under_way:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._on_idle.append(idle)
        return idle

    def _send(self) -> None:
        if not self._connection.ready:
            self._fail_waiting()
            return
        given_back = self._given_back[:MAX_BATCH]
        room = MAX_BATCH - len(given_back)
        digests, askers = self._digests[:room], self._askers[:room]
        del self._given_back[:MAX_BATCH], self._digests[:room], self._askers[:room]
        self.takes += len(askers)
        keys = len(given_back) + len(digests)
        encoded = b"".join(
            (
                encode_parts(b"%d" % keys),
                _FIRST_KEY,
                _BETWEEN_KEYS.join(given_back + digests).encode("ascii"),
                _AFTER_LAST,
                encode_parts(b"%d" % len(given_back)),
            )
        )
        self._script.call_encoded(keys + 2, encoded).addCallbacks(
            self._answered, self._unanswered, callbackArgs=(askers,), errbackArgs=(askers,)
        ).addErrback(lambda failure: _log.failure("a batch was not handed out", failure))

    def _next(self) -> None:
        if self._digests or self._given_back:
            self._send()
        else:
            self._rest()

    def _rest(self) -> None:
        self._under_way = False
        waiting, self._on_idle = self._on_idle, []
        for idle in waiting:
            idle.callback(None)

    def _answered(self, reply: list[Any], askers: list[IAsker]) -> None:
        # First the next batch, so that Redis works while the answers are handed out.
        self._next()
        element = iter(reply)
        for asker, name, capacity, rate, admitted, level in zip(askers, element, element, element, element, element):
            taken = None if name is None else _new_tuple(Taken, (admitted == 1, name, capacity, float(rate), level))
            try:
                asker.bucket_answered(taken)
            except Exception:
                _log.failure("a request failed on its bucket's answer")

    def _unanswered(self, failure: Failure, askers: list[IAsker]) -> None:
        self._next()
        _tell_unavailable(askers, failure.getErrorMessage())

    def _fail_waiting(self) -> None:
        askers, self._askers, self._digests, self._given_back = self._askers, [], [], []
        self._rest()
        _tell_unavailable(askers, self._connection.reason)


def _tell_unavailable(askers: list[IAsker], reason: str) -> None:
    for asker in askers:
        try:
            asker.bucket_unavailable(reason)
        except Exception:
            _log.failure("a request failed on its bucket being unavailable")
