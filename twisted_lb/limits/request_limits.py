"""The limits that routes and pools have themselves: which shared buckets a request takes tokens from.

A limit has one bucket for all requests, one for each client network, or one for each key.  In the last case it has one
for each network of requests without a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from twisted_lb.interfaces import LimitRule, SharedBucket

PER_KEY: Final = "key"
PER_NETWORK: Final = "network"


class RequestLimit(NamedTuple):
    """One limit."""

    per: str  # PER_KEY, PER_NETWORK, or anything else for one bucket
    rule: LimitRule
    of_networks: LimitRule  # for requests without a key, and with PER_NETWORK for all
    shadow: bool = False

    def bucket(self, digest: str, network: str) -> SharedBucket:
        """See RequestLimits.buckets."""
        if self.per == PER_NETWORK or (self.per == PER_KEY and not digest):
            return self.of_networks.bucket(network, self.shadow)
        return self.rule.bucket(digest if self.per == PER_KEY else "", self.shadow)


class RequestLimits:
    """The limits of a route, those of its pool behind them, and then those of all routes; shadows last."""

    __slots__ = ("key", "_limits")

    def __init__(self, limits: Sequence[RequestLimit]) -> None:
        enforced = [limit for limit in limits if not limit.shadow]
        self._limits = (*enforced, *[limit for limit in limits if limit.shadow])
        # The same for the same limits that are enforced; "" if none is.
        self.key = " ".join([limit.rule.key for limit in enforced])

    def buckets(self, digest: str, network: str) -> tuple[SharedBucket, ...]:
        """The buckets of a request; `digest` is that of its key, "" without one, and `network` that of its client."""
        return tuple([limit.bucket(digest, network) for limit in self._limits])
