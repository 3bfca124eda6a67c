"""Decisions while the store is unavailable: each process has a share of each bucket that it has used recently.

Each decision of the store is recorded (`recent`).  During an outage the first request of a key creates a share: the
last policy and level, refilled since then, divided by the number of live instances.

The guarantee across an outage.  A bucket has capacity c and rate r; there are n instances, each with a share (c/n,
r/n), and all know the same level L.  Times are relative to the time of L.

1. During the outage each share is a separate bucket, which admits at most L/n + r/n * t; all shares together admit
   L + r * t, as the bucket itself would have.
2. The bucket in the store, from which nothing is taken meanwhile, is refilled to R = min(L + r * t, c).  Each instance
   knows its part of this: R/n = min(L/n + r/n * t, c/n), the level of its share if no tokens had been taken.  The level
   of its share is l.  It charges R/n - l, so the store continues with R - sum(R/n - l) = sum(l): the sum of what is
   left in the shares.

   All instances charge before any of them takes from the store again (see stores/redis/recovery.py).

   The charge is never more than was taken, because a share that becomes full no longer depends on what was taken
   before, like any bucket; and the refill of a long outage never counts twice, in the share and in the store.
   A refund to a full share is lost, as it would be for a full bucket.
3. What is left in a share is recorded as the key's level, until the store decides for the key again.  So another outage
   soon afterwards, or before the charge has succeeded, does not begin with L again.

Deviations, which are documented in docs/limits.md:

- An instance may know an outdated L, from which others have taken since.  All shares together hold at most c, so one
  outage admits at most c more than the guarantee, or c plus one instance's part of the rate if the others still have
  the store.
- A share holds at least one whole token, so n instances have max(c, n) tokens.
- A request whose cost leaves a debt delays only the share of its own instance.
- The shares of a quota are parts of what was left of it, rounded down; after the end of its period, parts of the whole
  amount.  Instances may know outdated values of what was left.  All shares together are still at most the amount, so
  that one outage admits at most this amount beyond the quota of a period.  What was used is charged to the period in
  which it was used.
- The share of a key's own bucket is not charged to the store: only that of the user's bucket is.
- The state of a key is the last one that this process has learned from the store.
- Rounding: the store may continue with up to n microtokens more than is left in the shares, which are rounded down to
  whole microtokens; and each take from a share drops less than one microtoken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted_lb.interfaces import (
    ADDRESS,
    GLOBAL,
    IN_FLIGHT,
    KEY,
    MICROTOKENS,
    OWN,
    QUOTA,
    Limits,
    SharedBucket,
    Taken,
    enforced,
    shadows,
)
from twisted_lb.limits.bucket import Bucket
from twisted_lb.limits.own_networks import OwnNetworks
from twisted_lb.limits.quota_share import QuotaShare
from twisted_lb.limits.recent_keys import SpecialKey, aged
from twisted_lb.limits.recent_quotas import ALLOW, LOCAL, RecentQuotas
from twisted_lb.limits.share import Share
from twisted_lb.limits.shared_shares import SharedShares
from twisted_lb.users import KEY_EXPIRED

DENY: Final = "deny"

# Tokens refilled in this time before an outage may have been taken by other instances, so shares do not include them.
OTHERS_SECONDS: Final = 0.25

ADMITTED: Final = "standby_admitted"
REFUSED: Final = "standby_refused"
UNKNOWN: Final = "standby_unknown"
# The names in IStoreReport.counts of a store with a fallback.
COUNTS: Final = ("store_up", "store_outages", ADMITTED, REFUSED, UNKNOWN, "script_calls", "takes", "instances")


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)


class Fallback(RecentQuotas):
    """Decides about requests during an outage."""

    def __init__(self, mode: str, now: Callable[[], float], keys: int, limits: Limits) -> None:
        """`mode` is LOCAL, DENY or ALLOW; `now` is a monotonic clock in seconds; `keys`: the maximum number of keys."""
        super().__init__(now, keys, mode)
        self.away_since = now()  # since when the store may have served no instance; set when an outage begins
        self.counts: dict[str, float] = {ADMITTED: 0, REFUSED: 0, UNKNOWN: 0}
        self._limits = limits
        self._shares: dict[str, Share] = {}  # of users' buckets, by the digests of their first keys
        self._own_shares: dict[str, Share] = {}  # of keys' own buckets, by the digests of the keys
        self._networks = OwnNetworks(limits.address)
        self.shared = SharedShares(keys, self._divided)  # of routes and pools
        self._pending: dict[str, int] = {}  # microtokens to charge to keys without a share
        # The global bucket as last known, this process's share of it, and further microtokens to charge to it.
        global_bucket = limits.global_bucket
        capacity, rate = global_bucket
        self._whole_of_all = (
            Bucket(capacity, rate, capacity * MICROTOKENS, _us(self._turned_at)) if capacity else None
        )
        self._share_of_all: Share | None = None
        self._pending_of_all = 0

    def seen_of_all(self, level: int) -> None:
        """The store has reported the level of the global bucket, in microtokens."""
        whole = self._whole_of_all
        if whole is not None:
            self._whole_of_all = Bucket(whole.capacity, whole.rate_per_sec, level, _us(self.now()))

    def settled(self, digest: str, tokens: int) -> None:
        """A request cost `tokens` more (or less, if negative) than was taken; the store is charged by the caller."""
        owner = self._owner(digest)
        known = self._of_user(owner)
        if known is not None:
            taken, seen_at = known
            now = self.now()
            whole = _whole(taken, seen_at)
            whole.refill(_us(now))
            whole.settle(tokens, _us(now))
            self._keep(owner, aged(taken, now - seen_at)._replace(level=whole.level), now)

    def take(
        self, digest: str, cost: int, in_flight: int, limits: tuple[SharedBucket, ...] = ()
    ) -> Taken | None:
        """Decide about a request that costs `cost` tokens; None if that is not possible.

        `in_flight` is the number of requests of this key that this process has admitted and that have not ended;
        `limits` are the shared buckets from which it needs tokens too.
        """
        special = self._special(digest)
        known = self._bucket_of(digest, special)
        if known is None or self.mode == DENY:
            self.counts[UNKNOWN] += 1
            return None
        if special is not None and special.expires <= self.now():
            self.counts[REFUSED] += 1
            return Taken(False, known[0].name, 0, 0.0, 0, KEY_EXPIRED)
        if self.mode == ALLOW:
            self.counts[ADMITTED] += 1
            return self._uncounted(digest if special is None else special.owner, known)
        taken = self._decide(digest, special, known, cost, in_flight, limits)
        self.counts[ADMITTED if taken.admitted else REFUSED] += 1
        return taken

    def _uncounted(self, owner: str, known: tuple[Taken, float]) -> Taken:
        """With ALLOW: a request is admitted, and told what the store has if no others take from it."""
        now = self.now()
        level = _whole(*known).level_at(_us(now))
        quota = self._quota_share(owner, known)
        of_quota = None if quota is None else quota.level(now)
        return known[0]._replace(
            admitted=True, level=level, limit=KEY, more=(), shadows=(), quota=of_quota, counted=False
        )

    def take_without_key(self, limits: tuple[SharedBucket, ...], cost: int) -> Taken | None:
        """The same for a request without a key, which needs tokens from these buckets."""
        if self.mode == DENY:
            self.counts[UNKNOWN] += 1
            return None
        taken = self._decide_without_key(limits, cost)
        self.counts[ADMITTED if taken.admitted else REFUSED] += 1
        return taken

    def _decide_without_key(self, limits: tuple[SharedBucket, ...], cost: int) -> Taken:
        now_us = _us(self.now())
        binding = enforced(limits)
        if self.mode == ALLOW:
            levels = tuple([self.shared.known(shared, now_us) for shared in binding])
            return Taken(True, b"", *levels[0], more=levels[1:], counted=False)
        refused = self.shared.refusing(binding, cost, now_us)
        if refused is not None:
            return Taken(False, b"", *refused)
        levels = self.shared.take(binding, cost, now_us)
        decisions = self.shared.take_shadows(shadows(limits), cost, now_us)
        return Taken(True, b"", *levels[0], more=levels[1:], shadows=decisions)

    def _decide(
        self,
        digest: str,
        special: SpecialKey | None,
        known: tuple[Taken, float],
        cost: int,
        in_flight: int,
        limits: tuple[SharedBucket, ...],
    ) -> Taken:
        owner = digest if special is None else special.owner
        quota = self._quota_share(owner, known)
        taken = self._decide_limits(digest, special, known, cost, in_flight, limits, quota)
        return taken if quota is None else taken._replace(quota=quota.level(self.now()))

    def _decide_limits(
        self,
        digest: str,
        special: SpecialKey | None,
        known: tuple[Taken, float],
        cost: int,
        in_flight: int,
        limits: tuple[SharedBucket, ...],
        quota: QuotaShare | None,
    ) -> Taken:
        now_us = _us(self.now())
        share = self._share(digest if special is None else special.owner, known, now_us)
        name, capacity = known[0].name, known[0].capacity
        # A refusal stores nothing, not even the refill: frequent requests must not lose fractions of a microtoken.
        level = share.level_at(now_us)
        if level < cost * MICROTOKENS:
            return Taken(False, name, capacity, share.rate_per_sec, level)
        own = self._own_share(digest, special, now_us)
        if own is not None:
            own_level = own.level_at(now_us)
            if own_level < cost * MICROTOKENS:
                return Taken(False, name, own.capacity, own.rate_per_sec, own_level, OWN)
        if quota is not None and quota.left < quota.need(cost):
            return Taken(False, name, quota.amount, 0.0, quota.left * MICROTOKENS, QUOTA)
        if self._limits.in_flight:
            most = max(1, self._limits.in_flight // self.instances)
            if in_flight >= most:
                return Taken(False, name, most, 0.0, 0, IN_FLIGHT)
        binding = enforced(limits)
        refused = self.shared.refusing(binding, cost, now_us) if binding else None
        if refused is not None:
            return Taken(False, name, *refused)
        global_bucket = self._global_bucket(now_us)
        if global_bucket is not None:
            admitted, left = global_bucket.take(cost, now_us)
            if not admitted:
                policy = self._limits.global_bucket
                return Taken(False, name, policy.capacity, global_bucket.rate_per_sec, left, GLOBAL)
        if own is not None:
            own.take(cost, now_us)
        if quota is not None:
            quota.take(cost)
        _, level = share.take(cost, now_us)
        more = self.shared.take(binding, cost, now_us) if binding else ()
        asked = shadows(limits)
        of_user = self.shadow_policy(digest)
        if of_user is not None:
            asked += (of_user,)
        decisions = self.shared.take_shadows(asked, cost, now_us) if asked else ()
        return Taken(True, name, capacity, share.rate_per_sec, level, KEY, more, decisions)

    def _share(self, owner: str, known: tuple[Taken, float], now_us: int) -> Share:
        """The share of a user's bucket; it is created from the last known state of the bucket."""
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = self._divided(_whole(*known), now_us)
        return share

    def _own_share(self, digest: str, special: SpecialKey | None, now_us: int) -> Share | None:
        """The share of a key's own bucket, if it has one."""
        if special is None or not special.own.capacity:
            return None
        share = self._own_shares.get(digest)
        if share is None:
            whole = Bucket(*special.own, special.level, _us(special.seen_at))
            share = self._own_shares[digest] = self._divided(whole, now_us)
        return share

    def _global_bucket(self, now_us: int) -> Share | None:
        """The share of the global bucket, if there is one."""
        if self._share_of_all is None and self._whole_of_all is not None:
            self._share_of_all = self._divided(self._whole_of_all, now_us)
        return self._share_of_all

    def _divided(self, whole: Bucket, now_us: int) -> Share:
        parts, stamp_us = self.instances, whole.stamp_us
        if parts > 1:
            # Other instances may have taken the tokens refilled in this time.
            stamp_us += max(0, min(_us(self.away_since) - stamp_us, _us(OTHERS_SECONDS)))
        return Share(Bucket(whole.capacity, whole.rate_per_sec, whole.level, stamp_us), parts, now_us)

    def of_network(self, network: str, spend: bool) -> Taken:
        """The decision of a network's bucket about an unknown key; its token is taken only with `spend`."""
        return self._networks.take(self._networks.limits(network), 1, _us(self.now()), spend)

    def of_address(self, limits: tuple[SharedBucket, ...], cost: int) -> Taken:
        """The decision of the bucket of a client's network, the only one in `limits` apart from shadows."""
        now_us = _us(self.now())
        taken = self._networks.take(enforced(limits), cost, now_us)
        asked = shadows(limits)
        if not (asked and taken.admitted and self.mode == LOCAL):
            return taken
        return taken._replace(shadows=self.shared.take_shadows(asked, cost, now_us))

    def release(self, digest: str, tokens: int, limits: tuple[SharedBucket, ...] = ()) -> None:
        """A request has ended during the outage, whether it was admitted here or by the store.

        With ALLOW and DENY, it was the store that has counted it: it is charged afterwards.
        It costs `tokens` more than was taken for it; negative: less.  `digest` is "" for a request without a key.
        """
        if limits and limits[0].rule.name == ADDRESS:
            self._networks.settle(limits, tokens, _us(self.now()))
            return
        if not tokens:
            return
        now_us = _us(self.now())
        if limits and self.mode == LOCAL:
            self.shared.settle(limits, tokens, now_us)
        elif limits:
            self.shared.charge_later(limits, tokens)
        if not digest:
            return
        amount = tokens * MICROTOKENS
        special = self._special(digest)
        owner = digest if special is None else special.owner
        known = self._of_user(owner)
        if known is not None and self.mode == LOCAL:
            self._share(owner, known, now_us).settle(tokens, now_us)
            own = self._own_share(digest, special, now_us)
            if own is not None:
                own.settle(tokens, now_us)
        elif owner in self._pending or len(self._pending) < self._keys:
            self._pending[owner] = self._pending.get(owner, 0) + amount
        global_bucket = self._global_bucket(now_us)
        if global_bucket is not None and self.mode == LOCAL:
            global_bucket.settle(tokens, now_us)
        elif global_bucket is not None:
            self._pending_of_all += amount

    def still_missing(self, digest: str, amount: int) -> int:
        """The charge to make in place of one of `amount` microtokens that was late or undone; negative: a refund.

        A refund to a bucket that has become full since then is lost, as it would have been at the time.
        """
        known = self._of_user(self._owner(digest))
        if amount >= 0 or known is None:
            return amount
        return self._gift(_whole(*known), amount)

    def still_missing_of_all(self, amount: int) -> int:
        """The same for the global bucket."""
        whole = self._whole_of_all
        if amount >= 0 or whole is None:
            return amount
        return self._gift(whole, amount)

    def _gift(self, whole: Bucket, amount: int) -> int:
        # As if it had been refunded before the refill.  The refunds of all instances that know the same level are not
        # more than this in total.
        elapsed_us = max(0, _us(self.now()) - whole.stamp_us)
        beyond = whole.level + int(elapsed_us * whole.rate_per_sec) - whole.capacity * MICROTOKENS
        return min(0, amount + max(0, beyond))

    def shared_still_missing(self, shared: SharedBucket, amount: int) -> int:
        """The same for a shared bucket."""
        return self.shared.still_missing(shared, amount, _us(self.now()))

    def shared_debts(self) -> list[tuple[SharedBucket, int]]:
        """Like `debts`, for shared buckets."""
        return self.shared.debts(_us(self.now()))

    def seen_shared(self, shared: SharedBucket, level: int) -> None:
        """The store has reported the level of a shared bucket, in microtokens."""
        self.shared.seen(shared, level, _us(self.now()))

    def settled_shared(self, limits: tuple[SharedBucket, ...], tokens: int) -> None:
        """See `settled`."""
        if limits and limits[0].rule.name == ADDRESS:
            # Networks have whole buckets here, for which no levels are recorded.
            return
        self.shared.settled(limits, tokens, _us(self.now()))

    def debts(self) -> tuple[list[tuple[str, int]], int]:
        """The microtokens to charge to each user's bucket, and to the global one, after an outage; negative: to refund.

        A user's bucket is named by the digest of the user's first key.  Must be called once at the end of each outage.
        What is left in the shares is recorded as the last known levels.
        """
        now = self.now()
        now_us = _us(now)
        charges, of_global_bucket = self._pending, self._pending_of_all
        for digest, share in self._shares.items():
            charges[digest] = charges.get(digest, 0) + share.debt(now_us)
            known = self._of_user(digest)
            if known is not None:
                level = min(share.level_at(now_us) * share.parts, known[0].capacity * MICROTOKENS)
                self._keep(digest, aged(known[0], now - known[1])._replace(level=level), now)
        for digest, share in self._own_shares.items():
            special = self._special(digest)
            if special is not None:
                level = min(share.level_at(now_us) * share.parts, special.own.capacity * MICROTOKENS)
                self._specials[digest] = special._replace(level=level, seen_at=now)
        self._own_shares = {}
        if self._share_of_all is not None and self._whole_of_all is not None:
            share, whole = self._share_of_all, self._whole_of_all
            of_global_bucket += share.debt(now_us)
            level = share.level_at(now_us) * share.parts
            self._whole_of_all = Bucket(whole.capacity, whole.rate_per_sec, level, now_us)
        self._shares, self._pending, self._share_of_all, self._pending_of_all = {}, {}, None, 0
        return [(digest, amount) for digest, amount in charges.items() if amount], of_global_bucket


def _whole(taken: Taken, seen_at: float) -> Bucket:
    """The bucket as the store reported it, at the time `seen_at` in seconds."""
    return Bucket(taken.capacity, taken.rate_per_sec, taken.level, _us(seen_at))
