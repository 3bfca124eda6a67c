"""Counts by time in Redis: see `twisted_lb.usage`, and counts.lua for how they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from twisted.internet.defer import Deferred

from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.redis.connection import ErrorReply, RedisConnection
from twisted_lb.stores.redis.keys import usage_key
from twisted_lb.stores.redis.scripts import RedisScript, unavailable
from twisted_lb.usage import WindowCounts, digest_of_subject

# Subjects in one call, which takes Redis 1 or 2 ms: other calls wait for it.
MAX_ADDED: Final = 50
MAX_READ: Final = 10


class RedisUsage:
    """The methods of IUsageStore on one connection."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self._add = RedisScript("add_counts", connection, "counts")
        self._read = RedisScript("read_counts", connection, "counts")

    def add_counts(self, counts: Mapping[str, Mapping[str, int]]) -> Deferred[dict[str, Mapping[str, int]]]:
        """See IUsageStore."""
        return Deferred.fromCoroutine(self._add_counts(counts))

    async def _add_counts(self, counts: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
        left = iter(counts.items())
        while chunk := list(islice(left, MAX_ADDED)):
            if not self._connection.ready:
                return dict(chunk) | dict(left)
            keys = [usage_key(subject) for subject, _ in chunk]
            arguments = [part for subject, more in chunk for part in (digest_of_subject(subject).encode(), _text(more))]
            try:
                await self._add.call(*keys, *arguments, keys=len(keys))
            except ErrorReply:
                # The script does nothing that could fail after its first write.
                return dict(chunk) | dict(left)
            except StoreUnavailable:
                # Whether these were counted is unknown.
                return dict(left)
        return {}

    def counts_of(self, subjects: Sequence[str]) -> Deferred[list[WindowCounts]]:
        """See IUsageStore."""
        return Deferred.fromCoroutine(self._counts(subjects))

    async def _counts(self, subjects: Sequence[str]) -> list[WindowCounts]:
        found: list[WindowCounts] = []
        for first in range(0, len(subjects), MAX_READ):
            keys = [usage_key(subject) for subject in subjects[first : first + MAX_READ]]
            reply = await self._read.call(*keys, keys=len(keys)).addErrback(unavailable)
            found += [WindowCounts(_window(hour), _window(day)) for hour, day in reply]
        return found


def _text(counts: Mapping[str, int]) -> bytes:
    return " ".join([f"{name}={number}" for name, number in counts.items()]).encode()


def _window(reply: list[bytes]) -> dict[str, int]:
    pairs = zip(reply[::2], reply[1::2])
    return {name.decode(): int(number) for name, number in sorted(pairs) if number != b"0"}
