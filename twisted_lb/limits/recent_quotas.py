"""Quotas while the store is unavailable: see `fallback`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted_lb.interfaces import Taken
from twisted_lb.limits.quota_share import QuotaShare
from twisted_lb.limits.recent_keys import RecentKeys
from twisted_lb.quotas import REQUESTS, QuotaCharge, QuotaLevel

LOCAL: Final = "local"
ALLOW: Final = "allow"  # requests of known keys are admitted during an outage, and are not counted


class RecentQuotas(RecentKeys):
    """The keys for which a store has decided recently, and the shares of their users' quotas."""

    def __init__(self, now: Callable[[], float], keys: int, mode: str) -> None:
        """See Fallback."""
        super().__init__(now, keys)
        self.mode = mode
        self.instances = 1  # live ones, as last known
        self._quota_shares: dict[str, QuotaShare] = {}  # by the digests of users' first keys
        self._pending_quotas: list[tuple[str, QuotaCharge]] = []  # to charge to quotas without a share

    def seen_quota(self, owner: str, quota: QuotaLevel) -> None:
        """The store has reported what is left of a user's quota, when another limit than the user's bucket refused."""
        known = self._of_user(owner)
        if known is not None and known[0].quota is not None:
            taken, seen_at = known
            # The time of a recorded quota is that of the decision with which it is recorded.
            earlier = quota._replace(now_us=quota.now_us - int((self.now() - seen_at) * 1_000_000))
            self._keep(owner, taken._replace(quota=earlier), seen_at)

    def settled_quota(self, digest: str, charge: QuotaCharge) -> None:
        """A charge to the quota of a key's user, which the caller passes to the store."""
        owner = self._owner(digest)
        known = self._of_user(owner)
        if known is not None and known[0].quota is not None and known[0].quota.starts_us == charge.starts_us:
            taken, seen_at = known
            quota = known[0].quota
            self._keep(owner, taken._replace(quota=quota._replace(left=quota.left - charge.amount)), seen_at)

    def charge_quota(self, digest: str, charge: QuotaCharge, settled: bool = False) -> None:
        """The same during an outage: it is charged to the store afterwards.

        `settled`: `settled_quota` was called for it, but the store did not get it.
        """
        owner = self._owner(digest)
        share = self._quota_shares.get(owner)
        known = self._of_user(owner) if self.mode == LOCAL and not settled else None
        if share is None and known is not None:
            share = self._quota_share(owner, known)
        if share is not None:
            share.charge(charge)
        elif len(self._pending_quotas) < self._keys:
            self._pending_quotas.append((owner, charge))

    def quota_refund(self, digest: str, tokens: int) -> list[tuple[str, QuotaCharge]]:
        """The charges that refund a request of `tokens` tokens; none if the user is not known to have a quota."""
        owner = self._owner(digest)
        known = self._of_user(owner)
        if known is None or known[0].quota is None:
            return []
        quota = known[0].quota
        amount = 1 if quota.unit == REQUESTS else tokens
        return [(owner, QuotaCharge(quota.unit, quota.starts_us, quota.ends_us, -amount))] if amount else []

    def quota_debts(self) -> list[tuple[str, QuotaCharge]]:
        """The charges to users' quotas after an outage; a user is named by the digest of the first key.

        Must be called once at the end of each outage, before `debts`.
        """
        debts, self._pending_quotas = self._pending_quotas, []
        for owner, share in self._quota_shares.items():
            debts += [(owner, charge) for charge in share.debts()]
            known = self._of_user(owner)
            if known is not None:
                taken, seen_at = known
                self._keep(owner, taken._replace(quota=share.whole()), seen_at)
        self._quota_shares = {}
        return debts

    def _quota_share(self, owner: str, known: tuple[Taken, float]) -> QuotaShare | None:
        """The share of a user's quota, if there is one, in the present period; with ALLOW, the whole quota."""
        share = self._quota_shares.get(owner)
        if share is None:
            taken, seen_at = known
            if taken.quota is None:
                return None
            share = self._quota_shares[owner] = QuotaShare(
                taken.quota, seen_at, 1 if self.mode == ALLOW else self.instances
            )
        share.begin(self.now())
        return share
