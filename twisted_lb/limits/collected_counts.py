"""The counts of this process that have not been sent to the store yet: see `twisted_lb.usage`.

Counting a request takes one look-up, and makes an object only for the first request of a key after `take`.  Only
requests of existing keys, users and limits may be counted here, since the number of these bounds the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from twisted_lb.usage import REFUSED, REQUESTS, TOKENS, key_subject

# Subjects that are kept while the store is unavailable; the counts of others are lost.
MOST_WAITING: Final = 100_000


class CollectedCounts:
    """Counts by subject and counter."""

    __slots__ = ("_ended", "_counts")

    def __init__(self) -> None:
        self._ended: dict[str, list[int]] = {}  # by the digests of keys: requests and tokens
        self._counts: dict[str, dict[str, int]] = {}

    def request_ended(self, digest: str, tokens: int) -> None:
        """An admitted request of this key has ended, at a total cost of `tokens`."""
        ended = self._ended.get(digest)
        if ended is None:
            self._ended[digest] = [1, tokens]
        else:
            ended[0] += 1
            ended[1] += tokens

    def request_refused(self, digest: str, limit: str) -> None:
        """A request of this key was refused by the limit of this name, or for this reason."""
        self.add(key_subject(digest), REFUSED + limit, 1)

    def add(self, subject: str, counter: str, number: int) -> None:
        """Add `number` to any other counter."""
        counts = self._counts.get(subject)
        if counts is None:
            self._counts[subject] = {counter: number}
        else:
            counts[counter] = counts.get(counter, 0) + number

    def take(self, size: int) -> Iterator[dict[str, dict[str, int]]]:
        """Remove all counts at the first step, and return them in parts of `size` subjects."""
        counts, ended = self._counts, self._ended
        self._counts, self._ended = {}, {}
        part: dict[str, dict[str, int]] = {}
        for digest, (requests, tokens) in ended.items():
            subject = key_subject(digest)
            both = counts.pop(subject, {})
            both[REQUESTS] = both.get(REQUESTS, 0) + requests
            both[TOKENS] = both.get(TOKENS, 0) + tokens
            part[subject] = both
            if len(part) == size:
                yield part
                part = {}
        for subject, others in counts.items():
            part[subject] = others
            if len(part) == size:
                yield part
                part = {}
        if part:
            yield part

    def put_back(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Add counts that were taken, but that the store did not get."""
        for subject, others in counts.items():
            if subject in self._counts or len(self._counts) < MOST_WAITING:
                for counter, number in others.items():
                    self.add(subject, counter, number)
