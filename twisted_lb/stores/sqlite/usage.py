"""Counts by time of the embedded store (see `twisted_lb.usage`), in memory, and as they are written to disk.

A counter is two arrays, `slot, number, slot, number, ...`, of its minutes and of its half hours, with only those slots
in which something was counted.  On disk it is a row, which is replaced when it has changed.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from twisted_lb.stores.sqlite.schema import UsageRow
from twisted_lb.usage import (
    HALF_HOUR_SECONDS,
    HALF_HOURS,
    MINUTE_SECONDS,
    MINUTES,
    MOST,
    WindowCounts,
    digest_of_subject,
)

# Seconds in a slot, and how many slots there are.
_PERIODS: Final = ((MINUTE_SECONDS, MINUTES), (HALF_HOUR_SECONDS, HALF_HOURS))

_Series = tuple["array[int]", "array[int]"]  # of a counter, in the order of _PERIODS


class UsageCounts:
    """The counts of all subjects; those without a count for a day are dropped."""

    def __init__(self, now_us: Callable[[], int], has_key: Callable[[str], bool]) -> None:
        """`has_key`: whether there is a key with this digest, whatever its state."""
        self.dirty: set[str] = set()  # subjects whose rows on disk are outdated
        self._now_us = now_us
        self._has_key = has_key
        self._subjects: dict[str, dict[str, _Series]] = {}  # first the one without a count for the longest time
        self._of_keys: dict[str, list[str]] = {}  # the subjects that belong to a key, by its digest

    def add(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        """Add these numbers to the present slots.  Counts of a key that does not exist are ignored."""
        now = self._now()
        for subject, more in counts.items():
            if not self._exists(subject):
                continue
            counters = self._subjects.pop(subject, {})
            if not counters:
                self._index(subject)
            for name, number in more.items():
                series = counters.get(name)
                if series is None:
                    series = counters[name] = (array("q"), array("q"))
                for slots, (seconds, length) in zip(series, _PERIODS):
                    _add(slots, now // seconds, number, length)
            self._subjects[subject] = counters
            self.dirty.add(subject)
        self._forget_silent(now)

    def windows(self, subject: str) -> WindowCounts:
        """The numbers of a subject now."""
        now = self._now()
        hour: dict[str, int] = {}
        day: dict[str, int] = {}
        for name, series in sorted(self._subjects.get(subject, {}).items()):
            for window, slots, (seconds, length) in zip((hour, day), series, _PERIODS):
                number = _sum(slots, now // seconds, length)
                if number:
                    window[name] = number
        return WindowCounts(hour, day)

    def remove_key(self, digest: str) -> None:
        """Forget what belongs to this key."""
        for subject in list(self._of_keys.get(digest, ())):
            self._remove(subject)

    def clear(self) -> None:
        """Forget all, for the end."""
        self._subjects.clear()
        self._of_keys.clear()
        self.dirty.clear()

    # The disk

    def load(self, rows: Iterable[UsageRow]) -> None:
        """Load the rows of the database.  Raises ValueError for an invalid row."""
        now = self._now()
        for row in rows:
            series = _series(row, now)
            if series[1] and self._exists(row.subject):
                if row.subject not in self._subjects:
                    self._index(row.subject)
                self._subjects.setdefault(row.subject, {})[row.counter] = series
            else:
                self.dirty.add(row.subject)
        self._subjects = dict(sorted(self._subjects.items(), key=lambda one: _last(one[1])))
        self._forget_silent(now)

    def rows(self, subjects: Iterable[str]) -> tuple[list[UsageRow], list[str]]:
        """The rows to write for these subjects, and the subjects that have no counts any more."""
        rows: list[UsageRow] = []
        removed = []
        for subject in subjects:
            counters = self._subjects.get(subject)
            if counters is None:
                removed.append(subject)
            else:
                for name, (minutes, half_hours) in counters.items():
                    rows.append(UsageRow(subject, name, _bytes(minutes), _bytes(half_hours)))
        return rows, removed

    @property
    def subjects(self) -> list[str]:
        """All subjects that have counts."""
        return list(self._subjects)

    def _now(self) -> int:
        return self._now_us() // 1_000_000

    def _exists(self, subject: str) -> bool:
        digest = digest_of_subject(subject)
        return not digest or self._has_key(digest)

    def _remove(self, subject: str) -> None:
        if self._subjects.pop(subject, None) is None:
            return
        self.dirty.add(subject)
        digest = digest_of_subject(subject)
        if digest:
            self._of_keys[digest].remove(subject)
            if not self._of_keys[digest]:
                del self._of_keys[digest]

    def _index(self, subject: str) -> None:
        digest = digest_of_subject(subject)
        if digest:
            self._of_keys.setdefault(digest, []).append(subject)

    def _forget_silent(self, now: int) -> None:
        oldest = now // HALF_HOUR_SECONDS - HALF_HOURS
        silent = []
        for subject, counters in self._subjects.items():
            if _last(counters) > oldest:
                break
            silent.append(subject)
        for subject in silent:
            self._remove(subject)


def _add(slots: array[int], slot: int, number: int, length: int) -> None:
    if slots and slots[-2] >= slot:
        slots[-1] = min(slots[-1] + number, MOST)
        return
    slots.extend((slot, min(number, MOST)))
    while slots[0] <= slot - length:
        del slots[:2]


def _sum(slots: array[int], slot: int, length: int) -> int:
    total = sum(number for at, number in zip(slots[::2], slots[1::2]) if slot - length < at <= slot)
    return min(total, MOST)


def _last(counters: dict[str, _Series]) -> int:
    """The last half hour in which something was counted."""
    return max(half_hours[-2] for _, half_hours in counters.values())


def _bytes(slots: array[int]) -> bytes:
    if sys.byteorder == "big":
        slots = slots[:]
        slots.byteswap()
    return slots.tobytes()


def _series(row: UsageRow, now: int) -> _Series:
    """What is stored, without slots in the future, which are from before the clock was set back."""
    subject, counter, *stored = row
    if type(subject) is not str or type(counter) is not str:
        raise ValueError(f"{subject!r} {counter!r} is not text")
    series = (array("q"), array("q"))
    for slots, content, (seconds, _) in zip(series, stored, _PERIODS):
        if type(content) is not bytes or len(content) % (2 * slots.itemsize):
            raise ValueError(f"{subject} {counter} has {content!r}")
        slots.frombytes(content)
        if sys.byteorder == "big":
            slots.byteswap()
        while slots and slots[-2] > now // seconds:
            del slots[-2:]
    return series
