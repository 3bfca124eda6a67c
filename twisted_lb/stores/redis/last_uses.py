"""Notes in Redis when keys were last used: once a minute, with many keys in one call, and when the process stops.

The fallback knows which keys were used (see `recent_keys`), so this costs requests nothing.  If a process serves more
keys in a minute than it remembers (LOCAL_KEYS), the last use of some is not noted.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from twisted.internet.defer import Deferred, succeed

from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.limits.fallback import Fallback
from twisted_lb.repeated import Repeated
from twisted_lb.stores.redis.batch_encoding import is_digest
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.keys import account_key
from twisted_lb.stores.redis.scripts import RedisScript

NOTE_SECONDS = 60.0
MAX_NOTED = 256  # keys, in one call


class LastUses:
    """The last uses of the keys that this process has decided about."""

    def __init__(self, connection: RedisConnection, fallback: Fallback, reactor: Any) -> None:
        self._connection = connection
        self._fallback = fallback
        self._script = RedisScript("note_used", connection)
        self._noted_at = fallback.now()
        self._repeated = Repeated(reactor, self.note, "the note of the keys that were used")

    def start(self) -> None:
        """Note them every minute, until `stop`."""
        self._repeated.start(NOTE_SECONDS)

    def stop(self) -> Deferred[None]:
        """Note them once more.  Fires when that is done or has failed."""
        self._repeated.stop()
        return self.note()

    def note(self) -> Deferred[None]:
        """Note the keys that were used since this was done last; does not fail while Redis is unavailable."""
        if not self._connection.ready:
            return succeed(None)
        return Deferred.fromCoroutine(self._note())

    async def _note(self) -> None:
        since, now = self._noted_at, self._fallback.now()
        used = ((digest, at) for digest, at in self._fallback.used_since(since) if is_digest(digest))
        try:
            while chunk := dict(islice(used, MAX_NOTED)):
                ages = [b"%d" % max(0, round((now - at) * 1_000_000)) for at in chunk.values()]
                await self._script.call(*map(account_key, chunk), *ages, keys=len(chunk))
        except StoreUnavailable:
            # They are noted the next time.
            return
        self._noted_at = now
