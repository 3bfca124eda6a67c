"""The limits of routes and pools: the shared buckets from which a request takes tokens.

A limit has one bucket for all requests, one for each client network, or one for each key.  In the last case, requests
without a key have one for each client network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from twisted_lb.interfaces import LimitRule, SharedBucket

PER_KEY: Final = "key"
PER_NETWORK: Final = "network"


class RequestLimit(NamedTuple):
    """One limit."""

    per: str  # PER_KEY, PER_NETWORK, or anything else for a single bucket
    rule: LimitRule
    of_networks: LimitRule  # for requests without a key; with PER_NETWORK, for all requests
    shadow: bool = False

    def bucket(self, digest: str, network: str) -> SharedBucket:
        """See RequestLimits.buckets."""
        if self.per == PER_NETWORK or (self.per == PER_KEY and not digest):
            return self.of_networks.bucket(network, self.shadow)
        return self.rule.bucket(digest if self.per == PER_KEY else "", self.shadow)


class RequestLimits:
    """The limits of a route, then those of its pool, then those of all routes; shadows come last."""

    __slots__ = ("key", "_limits")

    def __init__(self, limits: Sequence[RequestLimit]) -> None:
        enforced = [limit for limit in limits if not limit.shadow]
        self._limits = (*enforced, *[limit for limit in limits if limit.shadow])
        # Equal for equal sets of enforced limits; "" if none is enforced.
        self.key = " ".join([limit.rule.key for limit in enforced])

    def buckets(self, digest: str, network: str) -> tuple[SharedBucket, ...]:
        """The buckets for a request; `digest` is that of its key, or "", and `network` is that of its client."""
        return tuple([limit.bucket(digest, network) for limit in self._limits])
