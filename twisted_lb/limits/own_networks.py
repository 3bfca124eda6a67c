"""The buckets of client networks while the store is unavailable: whole ones in each process.

They are no shares of those in the store (see `fallback`), of which a process knows nothing, and nothing of them is
charged to the store.  They are there so that keys cannot be guessed faster in an outage.
"""

from __future__ import annotations

from twisted_lb.interfaces import ADDRESS, Policy, SharedBucket, Taken
from twisted_lb.limits.shared_buckets import SharedBuckets, address_bucket, address_rule


class OwnNetworks:
    """A bucket for each network, full at first."""

    __slots__ = ("_rule", "_buckets")

    def __init__(self, policy: Policy) -> None:
        """A capacity of 0: there is no limit, and all is admitted."""
        self._rule = address_rule(policy)
        self._buckets = SharedBuckets()

    def limits(self, network: str) -> tuple[SharedBucket, ...]:
        """The bucket of this network."""
        return (address_bucket(self._rule, network),)

    def take(self, limits: tuple[SharedBucket, ...], cost: int, now_us: int, spend: bool = True) -> Taken:
        """The decision of the bucket in `limits`.  Without `spend` nothing is taken."""
        rule = self._rule
        if not rule.capacity:
            return Taken(True, b"", 0, 0.0, 0, ADDRESS)
        refusing = self._buckets.refusing(limits, cost, now_us)
        if refusing is not None:
            return Taken(False, b"", rule.capacity, rule.rate_per_sec, refusing[1], ADDRESS)
        level = self._buckets.take(limits, cost, now_us)[0] if spend else self._buckets.level(limits[0], now_us)
        return Taken(True, b"", rule.capacity, rule.rate_per_sec, level, ADDRESS)

    def settle(self, limits: tuple[SharedBucket, ...], tokens: int, now_us: int) -> None:
        """Take `tokens` more, or refund them."""
        self._buckets.settle(limits, tokens, now_us)
