"""This process among the instances that share a Redis: its id, its announcements, its requests in flight.

Strategy: a limit on requests in flight is a lease.  Every instance counts what it admitted and has not
seen the end of, in Redis under its id; ids that have not been announced for LEASE_SECONDS do not count.
So the places of an instance that died are free again by themselves, and nothing is ever cleaned up.

After a lost connection nobody knows which of the last takings were executed.  The instance then takes a
new id, and writes its own count under that: what was uncertain dies with the old id, which the first
announcement of the new one removes.  Otherwise each instance would count twice until the lease is over.

The announcements are also what notices that an idle connection is dead.
"""

from __future__ import annotations

from typing import Any, Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.limits.standby import Standby
from twisted_lb.stores.redis_connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis_scripts import RedisScript, encode_command

ANNOUNCE_SECONDS = 2.0
LEASE_SECONDS = 10.0
PLACES_SECONDS = 86_400  # after which the counts of a key that nobody uses are dropped
INSTANCES_KEY = b"tokenlb:instances"

_log = Logger()


def places_key(digest: str) -> bytes:
    """The key that holds how many requests each instance has in flight for an account."""
    return b"tokenlb:in_flight:{%s}" % digest.encode()


class Instance:
    """What the other instances may know of this one."""

    def __init__(
        self,
        connection: RedisConnection,
        announce: RedisScript,
        standby: Standby,
        reactor: Any,
        new_id: Callable[[], bytes],
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """`new_id` gives an id that no instance ever had.  The number of live ones is told to `standby`."""
        self.id = new_id()
        self._ended: list[bytes] = []  # ids that were this instance's, and are still announced
        self.late = 0.0  # seconds by which others were back before, when the connection was made
        self.in_flight: dict[str, int] = {}  # digest -> requests that this process admitted, and that are not over
        self._connection = connection
        self._announce = announce
        self._standby = standby
        self._new_id = new_id
        self._lease = b"%d" % round(lease_seconds * 1_000_000)
        self._loop = LoopingCall(self._announce_again)
        self._loop.clock = reactor
        self._seconds = min(ANNOUNCE_SECONDS, lease_seconds / 5)

    def start(self) -> None:
        """Announce this instance from time to time, until `leave`."""
        self._loop.start(self._seconds, now=False).addErrback(
            lambda failure: _log.failure("this instance is not announced any more", failure)
        )

    def greeting(self) -> bytes:
        """The announcement as a finished command; Redis must have the script already.

        It writes, so a Redis that cannot be written to refuses it.
        """
        return self._announce.command(INSTANCES_KEY, self.id, self._lease, *self._ended)

    def announced(self, reply: list[Any]) -> None:
        """The reply to an announcement: how many instances live, and whether this one was not known."""
        self._ended.clear()
        self._standby.instances = max(1, int(reply[0]))
        self.late = reply[2] / 1_000_000

    def _announced_again(self, reply: list[Any]) -> None:
        self.announced(reply)
        if reply[1]:
            # The others have taken this process for dead, and do not count its requests any more.
            self._connection.give_up("Redis had forgotten this process, which did not run for a while")

    def renew(self) -> None:
        """Take a new id: what Redis has under the old one is not certain any more."""
        self._ended.append(self.id)
        self.id = self._new_id()

    def leave(self) -> Deferred[None]:
        """Announce no more, and tell the others.  Fires when that is done or has failed."""
        if self._loop.running:
            self._loop.stop()
        if not self._connection.ready:
            return succeed(None)
        left = self._connection.call(encode_command(b"ZREM", INSTANCES_KEY, self.id))
        return left.addCallbacks(lambda _: None, lambda _: None)

    def _announce_again(self) -> None:
        if self._connection.ready:
            announced = self._announce.call(INSTANCES_KEY, self.id, self._lease, *self._ended)
            announced.addCallbacks(self._announced_again, self._not_announced)

    def _not_announced(self, failure: Failure) -> None:
        if failure.check(ErrorReply) is not None:
            self._connection.give_up(failure.getErrorMessage())
