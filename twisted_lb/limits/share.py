"""One instance's share of a bucket, which it uses while the store is unavailable: see `fallback`."""

from __future__ import annotations

from twisted_lb.interfaces import MICROTOKENS
from twisted_lb.limits.bucket import Bucket


class Share(Bucket):
    """One of `parts` equal parts of a bucket.  Its capacity is at least one token, and may be a fraction."""

    __slots__ = ("parts", "_unspent")

    def __init__(self, whole: Bucket, parts: int, now_us: int) -> None:
        """The level is that of `whole` at `now_us`, divided by `parts`."""
        rate = whole.rate_per_sec / parts
        super().__init__(whole.capacity, rate, whole.level_at(now_us) // parts, now_us)
        self._full = max(whole.capacity * MICROTOKENS // parts, MICROTOKENS)
        self.level = min(self.level, self._full)
        self.parts = parts
        self._unspent = Bucket(whole.capacity, rate, self.level, now_us)
        self._unspent._full = self._full

    def change_whole(self, capacity: int, rate_per_sec: float, now_us: int) -> None:
        """Set another policy of the bucket of which this is a part."""
        rate = rate_per_sec / self.parts
        full = max(capacity * MICROTOKENS // self.parts, MICROTOKENS)
        unspent = self._unspent
        self.change(capacity, rate, now_us)
        unspent.change(capacity, rate, now_us)
        self._full = unspent._full = full
        self.level = min(self.level, full)
        unspent.level = min(unspent.level, full)

    def debt(self, now_us: int) -> int:
        """The microtokens to charge to the store, so that it has what is left here; negative: to refund."""
        return self._unspent.level_at(now_us) - self.level_at(now_us)
