"""The shares of buckets of routes and pools during an outage of the store: see `fallback`, which has those of keys.

The last levels that the store has reported are kept for a bounded number of buckets, in two generations.  A bucket that
is not among them counts as full.  The number of shares of unbounded rules (see LimitRule) is bounded too: what a
dropped share has admitted is not charged to the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from twisted_lb.interfaces import MICROTOKENS, LimitLevel, ShadowDecision, SharedBucket
from twisted_lb.limits.bucket import Bucket
from twisted_lb.limits.share import Share

MAX_SHARES: Final = 100_000


class SharedShares:
    """What an instance knows of the buckets that it has used, and its shares of them."""

    def __init__(self, keys: int, divide: Callable[[Bucket, int], Share], most: int = MAX_SHARES) -> None:
        """`keys` is the maximum number of known levels, `most` that of shares of unbounded rules.

        `divide` makes a share of a bucket, at a time in microseconds.
        """
        self._keys = keys
        self._divide = divide
        self._most = most
        self._recent: dict[str, tuple[int, int]] = {}  # key -> level, and its time
        self._older: dict[str, tuple[int, int]] = {}
        self._shares: dict[str, tuple[SharedBucket, Share]] = {}
        self._unbounded: OrderedDict[str, tuple[SharedBucket, Share]] = OrderedDict()
        self._pending: dict[str, tuple[SharedBucket, int]] = {}  # microtokens to charge to buckets without a share

    # While the store is available

    def seen(self, shared: SharedBucket, level: int, now_us: int) -> None:
        """The store has reported the level of this bucket, in microtokens."""
        if len(self._recent) >= max(1, self._keys // 2) and shared.key not in self._recent:
            self._older, self._recent = self._recent, {}
        self._recent[shared.key] = level, now_us

    def settled(self, limits: tuple[SharedBucket, ...], tokens: int, now_us: int) -> None:
        """A request cost `tokens` more than was taken; the store is charged by the caller."""
        for shared in limits:
            whole = self._whole(shared, now_us)
            whole.refill(now_us)
            whole.settle(tokens, now_us)
            self.seen(shared, whole.level, now_us)

    # During an outage

    def known(self, shared: SharedBucket, now_us: int) -> LimitLevel:
        """The last known state of the whole bucket, refilled since."""
        rule = shared.rule
        return LimitLevel(rule.capacity, rule.rate_per_sec, self._whole(shared, now_us).level_at(now_us), rule.name)

    def refusing(self, limits: tuple[SharedBucket, ...], cost: int, now_us: int) -> LimitLevel | None:
        """The first bucket whose share has less than `cost` tokens; None: all have them.  Takes nothing."""
        for shared in limits:
            share = self._share(shared, now_us)
            level = share.level_at(now_us)
            if level < cost * MICROTOKENS:
                return _described(shared, share, level)
        return None

    def take(self, limits: tuple[SharedBucket, ...], cost: int, now_us: int) -> tuple[LimitLevel, ...]:
        """Take `cost` tokens from all shares, which must have them (see `refusing`)."""
        found = []
        for shared in limits:
            share = self._share(shared, now_us)
            _, level = share.take(cost, now_us)
            found.append(_described(shared, share, level))
        return tuple(found)

    def take_shadows(
        self, limits: tuple[SharedBucket, ...], cost: int, now_us: int
    ) -> tuple[ShadowDecision, ...]:
        """Take `cost` tokens from each share that has them; return the decision of each."""
        decisions = []
        for shared in limits:
            admitted, _ = self._share(shared, now_us).take(cost, now_us)
            decisions.append(ShadowDecision(shared, not admitted))
        return tuple(decisions)

    def settle(self, limits: tuple[SharedBucket, ...], tokens: int, now_us: int) -> None:
        """Take `tokens` more from all shares; negative `tokens` are refunded."""
        for shared in limits:
            self._share(shared, now_us).settle(tokens, now_us)

    def charge_later(self, limits: tuple[SharedBucket, ...], tokens: int) -> None:
        """Charge these buckets after the outage; for modes without shares."""
        for shared in limits:
            if shared.key in self._pending or len(self._pending) < self._keys:
                _, amount = self._pending.get(shared.key, (shared, 0))
                self._pending[shared.key] = shared, amount + tokens * MICROTOKENS

    # After the outage

    def still_missing(self, shared: SharedBucket, amount: int, now_us: int) -> int:
        """See Fallback.still_missing."""
        known = self._known(shared)
        if amount >= 0 or known is None:
            return amount
        level, seen_us = known
        rule = shared.rule
        elapsed_us = max(0, now_us - seen_us)
        beyond = level + int(elapsed_us * rule.rate_per_sec) - rule.capacity * MICROTOKENS
        return min(0, amount + max(0, beyond))

    def debts(self, now_us: int) -> list[tuple[SharedBucket, int]]:
        """The microtokens to charge to each bucket; negative: to refund.  Ends the shares, as Fallback.debts does."""
        charges = self._pending
        self._pending = {}
        for held in (self._shares, self._unbounded):
            for shared, share in held.values():
                _, amount = charges.get(shared.key, (shared, 0))
                charges[shared.key] = shared, amount + share.debt(now_us)
                self._left(shared, share, now_us)
            held.clear()
        return [charge for charge in charges.values() if charge[1]]

    def _left(self, shared: SharedBucket, share: Share, now_us: int) -> None:
        level = min(share.level_at(now_us) * share.parts, shared.rule.capacity * MICROTOKENS)
        self.seen(shared, level, now_us)

    def _known(self, shared: SharedBucket) -> tuple[int, int] | None:
        return self._recent.get(shared.key) or self._older.get(shared.key)

    def _whole(self, shared: SharedBucket, now_us: int) -> Bucket:
        """The last known state of the bucket."""
        rule = shared.rule
        level, seen_us = self._known(shared) or (rule.capacity * MICROTOKENS, now_us)
        return Bucket(rule.capacity, rule.rate_per_sec, level, seen_us)

    def _share(self, shared: SharedBucket, now_us: int) -> Share:
        rule = shared.rule
        shares = self._unbounded if rule.unbounded else self._shares
        found = shares.get(shared.key)
        if found is None:
            found = shares[shared.key] = shared, self._divide(self._whole(shared, now_us), now_us)
            if len(self._unbounded) > self._most:
                _, (dropped, share) = self._unbounded.popitem(last=False)
                self._left(dropped, share, now_us)
        elif rule.unbounded:
            self._unbounded.move_to_end(shared.key)
        share = found[1]
        if share.capacity != rule.capacity or share.rate_per_sec != rule.rate_per_sec / share.parts:
            share.change_whole(rule.capacity, rule.rate_per_sec, now_us)
        return share


def _described(shared: SharedBucket, share: Share, level: int) -> LimitLevel:
    return LimitLevel(shared.rule.capacity, share.rate_per_sec, level, shared.rule.name)
