"""The recent decisions of a store for each key, which are used when the store is unavailable.

A key is *special* if it is not the only one of its user, expires, or has its own bucket, or if its user has a quota or
a shadow policy.  For other keys only the last decision is known, which also describes the bucket of the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from math import inf
from typing import Any, Final, NamedTuple

from twisted_lb.interfaces import KEY, Policy, SharedBucket, Taken, shadow_bucket
from twisted_lb.quotas import QuotaLevel

# A key is dropped when there was no decision for it for this time; possibly after half of it.
FORGET_SECONDS: Final = 600.0

MAX_NEWS: Final = 1000  # keys per call

# What a row of `news` is about.
_BUCKET: Final = "bucket"
_SPECIAL: Final = "special"

# Before the digest of a user's first key in `recent`: the user's bucket is known, but not whether the key is valid.
OF_USER: Final = "user "


class SpecialKey(NamedTuple):
    """What is known of a special key."""

    owner: str  # the digest of the user's first key
    expires: float  # seconds, by the clock of the fallback
    own: Policy  # of its own bucket; capacity 0: it has none
    level: int  # of its own bucket, microtokens
    seen_at: float  # seconds, of the decision
    shadow: Policy = Policy()  # of its user; capacity 0: there is none


def aged(taken: Taken, seconds: float) -> Taken:
    """The decision as of `seconds` later: if it has a quota, the time of the quota is moved with it."""
    quota = taken.quota
    if quota is None:
        return taken
    return taken._replace(quota=quota._replace(now_us=quota.now_us + int(seconds * 1_000_000)))


class RecentKeys:
    """The keys for which a store has decided recently, and their users' buckets."""

    def __init__(self, now: Callable[[], float], keys: int) -> None:
        """`now` is a monotonic clock in seconds; `keys` is the maximum number of keys."""
        self.now = now
        # The decisions about users' buckets, and their times.  Set by the store for each key that is not special, and
        # by `seen_special` for the users of special keys.
        self.recent: dict[str, tuple[Taken, float]] = {}
        self._keys = keys
        self._older: dict[str, tuple[Taken, float]] = {}
        self._specials: dict[str, SpecialKey] = {}
        self._older_specials: dict[str, SpecialKey] = {}
        # How many keys of `recent` and `_specials`, in the order of insertion, `news` has returned.
        self._told = self._told_specials = 0
        self._turned_at = now()

    def tidy(self) -> None:
        """Drop old keys; must be called periodically while the store is available."""
        now = self.now()
        age = now - self._turned_at
        if len(self.recent) + len(self._specials) > self._keys // 2 or age > FORGET_SECONDS / 2:
            self._older = self.recent if age <= FORGET_SECONDS else {}
            self._older_specials = self._specials if age <= FORGET_SECONDS else {}
            self.recent = {}
            self._specials = {}
            self._told = self._told_specials = 0
            self._turned_at = now

    def seen_special(self, digest: str, key: SpecialKey, taken: Taken) -> None:
        """The store has decided for this key; `taken` describes the bucket of its user."""
        self.recent.pop(digest, None)
        self._older.pop(digest, None)
        self._specials[digest] = key
        self.recent[OF_USER + key.owner] = taken, self.now()

    def forget(self, digest: str) -> None:
        """The store has said that this key must not be used."""
        for known in (self.recent, self._older):
            known.pop(digest, None)
        for specials in (self._specials, self._older_specials):
            specials.pop(digest, None)

    def used_since(self, since: float) -> Iterator[tuple[str, float]]:
        """The keys for which the store has decided since this time (in seconds), with the time of each decision."""
        for known in (self._older, self.recent):
            for digest, (_, at) in list(known.items()):
                if at >= since and not digest.startswith(OF_USER):
                    yield digest, at
        for specials in (self._older_specials, self._specials):
            for digest, key in list(specials.items()):
                if key.seen_at >= since:
                    yield digest, key.seen_at

    def news(self, most: int = MAX_NEWS) -> list[tuple[Any, ...]]:
        """The keys for which the store has decided since the last call, each at most twice in FORGET_SECONDS.

        A row begins with its kind.  "bucket": the digest, the user's name decoded as Latin-1, the capacity, the rate,
        the level in microtokens, and the QuotaLevel of the user's quota or None.  "special": the digest, its owner, the
        seconds until it expires (-1: it does not), the capacity, the rate and the level of its own bucket, and the
        capacity and the rate of its user's shadow policy.
        """
        new = list(islice(self.recent.items(), self._told, self._told + most))
        self._told += len(new)
        specials = list(islice(self._specials.items(), self._told_specials, self._told_specials + most))
        self._told_specials += len(specials)
        now = self.now()
        rows: list[tuple[Any, ...]] = []
        for digest, (taken, seen_at) in new:
            quota = aged(taken, now - seen_at).quota
            row = (_BUCKET, digest, taken.name.decode("latin-1"), taken.capacity, taken.rate_per_sec, taken.level)
            rows.append((*row, None if quota is None else list(quota)))
        for digest, (owner, expires, own, level, _, shadow) in specials:
            left = -1 if expires == inf else max(expires - now, 0)
            rows.append((_SPECIAL, digest, owner, left, *own, level, *shadow))
        return rows

    def learn(self, news: Iterable[Sequence[Any]]) -> None:
        """Add the `news` of another process that shares the store."""
        now = self.now()
        for kind, *row in news:
            if kind == _SPECIAL:
                digest, owner, left, capacity, rate_per_sec, level, *shadow = row
                expires = inf if left < 0 else now + left
                if digest not in self._specials and len(self._older_specials) < self._keys:
                    key = SpecialKey(owner, expires, Policy(capacity, rate_per_sec), level, now, Policy(*shadow))
                    self._older_specials[digest] = key
            elif kind == _BUCKET:
                digest, name, capacity, rate_per_sec, level, of_quota = row
                quota = None if of_quota is None else QuotaLevel(*of_quota)
                if digest not in self.recent and len(self._older) < self._keys:
                    taken = Taken(True, name.encode("latin-1"), capacity, rate_per_sec, level, KEY, quota=quota)
                    self._older[digest] = taken, now

    def knows(self, digest: str) -> bool:
        """Whether the store has decided for this key recently."""
        return self._bucket_of(digest, self._special(digest)) is not None

    def shadow_policy(self, digest: str) -> SharedBucket | None:
        """The bucket of the shadow policy of a key's user, as far as it is known that there is one."""
        special = self._special(digest)
        if special is None or not special.shadow.capacity:
            return None
        return shadow_bucket(special.owner, *special.shadow)

    def _known(self, digest: str) -> tuple[Taken, float] | None:
        return self.recent.get(digest) or self._older.get(digest)

    def _special(self, digest: str) -> SpecialKey | None:
        special = self._specials.get(digest) or self._older_specials.get(digest)
        if special is None:
            return None
        known = self._known(digest)
        # A later decision says that the key is not special any more.
        return None if known is not None and known[1] > special.seen_at else special

    def _owner(self, digest: str) -> str:
        """The digest of the first key of a key's user, which names the user's bucket."""
        special = self._special(digest)
        return digest if special is None else special.owner

    def _of_user(self, owner: str) -> tuple[Taken, float] | None:
        """The last decision about the bucket of a user, by any key."""
        one, other = self._known(owner), self._known(OF_USER + owner)
        if one is None or other is None:
            return one or other
        # If both have the same time, the one with the lower level.
        return one if (one[1], -one[0].level) >= (other[1], -other[0].level) else other

    def _bucket_of(self, digest: str, special: SpecialKey | None) -> tuple[Taken, float] | None:
        """The last decision about the bucket of a key's user; None: it is not known whether this key is valid."""
        if special is not None:
            return self._of_user(special.owner)
        return self._of_user(digest) if self._known(digest) is not None else None

    def _keep(self, owner: str, taken: Taken, now: float) -> None:
        """Record the bucket of a user, without a decision about a key."""
        self.recent[owner if self._known(owner) is not None else OF_USER + owner] = taken, now
