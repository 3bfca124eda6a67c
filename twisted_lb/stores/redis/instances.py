"""This process among the instances that share a Redis: its id, its announcements, its requests in flight.

A limit on requests in flight is a lease.  Each instance counts in Redis, under its id, the requests that it has
admitted and that have not ended; ids that were not announced for LEASE_SECONDS do not count.  So the requests of an
instance that has crashed stop counting by themselves.

After a lost connection it is not known which of the last calls were executed.  The instance then takes a new id, and
writes its own count under it; the uncertain count belongs to the old id, which the first announcement of the new one
removes.  Otherwise each instance would count twice until the lease expires.

The announcements also detect that an idle connection is dead, and that other instances come back from an outage (see
`recovery`).  Their replies name the keys whose state was changed, so that these are not used with their old state in an
outage that follows.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.limits.fallback import Fallback
from twisted_lb.repeated import Repeated
from twisted_lb.stores.redis.connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis.keys import INSTANCES_KEY, RETURNING_KEY, SWITCH_KEY
from twisted_lb.stores.redis.protocol import encode_command
from twisted_lb.stores.redis.scripts import RedisScript

# Instances that come back from an outage wait for the announcement of one that has not noticed it.
ANNOUNCE_SECONDS = 0.5
LATE_SECONDS = 0.25  # by which an announcement may be late, on a busy machine
LEASE_SECONDS = 10.0

# What an instance that calls rejoin.lua is doing.
BACK, CHARGED, NEW, JOIN = b"back", b"charged", b"new", b"join"

_log = Logger()


class Rejoined(NamedTuple):
    """The reply of rejoin.lua."""

    missing: int  # instances that are waited for
    wait_us: int  # 0: use Redis; below 0: ask again; above 0: see rejoin.lua


class Instance:
    """This instance, as the others see it in Redis."""

    def __init__(
        self,
        connection: RedisConnection,
        announce: RedisScript,
        rejoin: RedisScript,
        fallback: Fallback,
        reactor: Any,
        new_id: Callable[[], bytes],
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """`new_id` returns an id that no instance ever had.  `fallback` gets the number of live instances."""
        self.id = new_id()
        self.new = True  # it has never taken from Redis
        self.returning = True  # it does not take from Redis yet
        self.on_outage: Callable[[], None] = lambda: None  # others come back from one
        self.in_flight: dict[str, int] = {}  # digest -> requests that this process admitted, and that are not over
        self._ended: list[bytes] = []  # ids that were this instance's, and are still announced
        self._connection = connection
        self._announce = announce
        self._rejoin = rejoin
        self._fallback = fallback
        self._new_id = new_id
        self._lease = b"%d" % round(lease_seconds * 1_000_000)
        self._heard_us = 0  # the time of Redis up to which changes of keys are known here
        self._loop = Repeated(reactor, self._announce_again, "the announcement of this instance")
        self._seconds = min(ANNOUNCE_SECONDS, lease_seconds / 5)
        self._usual = b"%d" % round((self._seconds + LATE_SECONDS) * 1_000_000)

    def start(self) -> None:
        """Announce this instance periodically, until `leave`."""
        self._loop.start(self._seconds)

    def rejoin(self, what: bytes) -> Deferred[Rejoined]:
        """Report BACK, CHARGED, NEW or JOIN to the others; fails as `RedisConnection.call` does."""
        return self._rejoin.call(*self._rejoining(what), keys=3).addCallback(self.rejoined)

    def greeting(self, what: bytes) -> bytes:
        """The same as an encoded command, whose reply is for `rejoined`; Redis must have the script already.

        It writes, so a Redis that cannot be written to refuses it.
        """
        return self._rejoin.command(*self._rejoining(what), keys=3)

    def _rejoining(self, what: bytes) -> list[bytes]:
        keys = [INSTANCES_KEY, RETURNING_KEY, SWITCH_KEY]
        return [*keys, self.id, self._lease, what, self._usual, *self._ended]

    def rejoined(self, reply: list[Any]) -> Rejoined:
        """The reply of Redis about the other instances."""
        self._ended.clear()
        alive, missing, wait_us = reply
        # Until all are back, a missing one may just not have announced itself yet: its share stays reserved.
        self._fallback.instances = max(1, alive, self._fallback.instances if wait_us < 0 else 0)
        return Rejoined(missing, wait_us)

    def _announced(self, reply: list[Any]) -> None:
        alive, forgotten, outage, *changes = reply
        if changes:
            self._heard_us, *changed = changes
            for digest in changed:
                self._fallback.forget(digest.decode("latin-1"))
        if not self.returning:
            self._fallback.instances = max(1, alive)
        if forgotten:
            # The others have considered this process dead, and do not count its requests any more.
            self._connection.give_up("Redis had forgotten this process, which did not run for a while")
        elif outage and not self.returning:
            self.on_outage()

    def renew(self) -> None:
        """Take a new id: what Redis holds under the old one is uncertain."""
        self._ended.append(self.id)
        self.id = self._new_id()

    def leave(self) -> Deferred[None]:
        """Stop announcing, and remove this instance.  Fires when that is done or has failed."""
        self._loop.stop()
        if not self._connection.ready:
            return succeed(None)
        if self.returning:
            self.rejoin(CHARGED).addErrback(lambda _: None)
        left = self._connection.call(encode_command(b"ZREM", INSTANCES_KEY, self.id))
        return left.addCallbacks(lambda _: None, lambda _: None)

    def _announce_again(self) -> None:
        if self._connection.ready and not self.returning:
            announced = self._announce.call(INSTANCES_KEY, self.id, self._lease, b"%d" % self._heard_us)
            announced.addCallbacks(self._announced, self._not_announced)

    def _not_announced(self, failure: Failure) -> None:
        if failure.check(ErrorReply) is not None:
            self._connection.give_up(failure.getErrorMessage())
