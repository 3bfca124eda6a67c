"""Warns once in the log if Redis may evict keys, which would lose users.

The policy is in INFO, which more users of a hosted Redis are allowed to call than CONFIG; CONFIG is the second choice.
A Redis that allows neither is used without the check: this is advice, not a condition for serving.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.protocol import encode_command

KEEPS_ALL = "noeviction"
_INFO = encode_command(b"INFO", b"memory")
_CONFIG = encode_command(b"CONFIG", b"GET", b"maxmemory-policy")
_IN_INFO = re.compile(rb"^maxmemory_policy:([a-z-]+)\r?$", re.MULTILINE)

_log = Logger()


class EvictionAdvice:
    """Checks each Redis that becomes ready, and logs what has changed."""

    def __init__(self, connection: RedisConnection, place: str) -> None:
        """`place` names the server in the log."""
        self._connection = connection
        self._place = place
        self._said = KEEPS_ALL

    def look(self) -> None:
        """Ask Redis for its policy, and warn of one that evicts keys, unless it was the same last time."""
        asked: Deferred[str] = Deferred.fromCoroutine(self._policy())
        asked.addCallback(self._found)
        asked.addErrback(lambda failure: _log.failure("The eviction policy of Redis was not understood", failure))

    async def _policy(self) -> str:
        """The policy, or "" where it cannot be known."""
        found = _IN_INFO.search(_bytes(await self._asked(_INFO)))
        if found is not None:
            return found[1].decode()
        reply = await self._asked(_CONFIG)
        return _bytes(reply[1]).decode("utf-8", "replace") if isinstance(reply, list) and len(reply) == 2 else ""

    async def _asked(self, command: bytes) -> Any:
        try:
            return await self._connection.call(command)
        # An error reply (no permission, no such command), or a connection that was lost: the next one is checked.
        except StoreUnavailable:
            return None

    def _found(self, policy: str) -> None:
        if not policy or policy == self._said:
            return
        self._said = policy
        if policy != KEEPS_ALL:
            _log.warn(
                "Redis at {place} has maxmemory-policy {policy}: when its memory is full it throws away {what}. Set"
                " maxmemory-policy noeviction there, and give twisted_lb a Redis that is not a cache",
                place=self._place,
                policy=policy,
                what=_what_goes(policy),
            )


def _what_goes(policy: str) -> str:
    if policy.startswith("volatile-"):
        # Users have no expiry.
        return "the counts of requests in flight and the buckets of client addresses, whose limits then begin anew"
    return "users with their API keys, who get 401 from then on"


def _bytes(reply: Any) -> bytes:
    return reply if isinstance(reply, bytes) else b""
