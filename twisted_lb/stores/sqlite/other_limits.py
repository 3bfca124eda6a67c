"""The limits besides the bucket of a key, in the memory of one process: see `store`."""

from __future__ import annotations

from collections.abc import Sequence

from twisted_lb.interfaces import (
    ADDRESS,
    GLOBAL,
    IN_FLIGHT,
    MICROTOKENS,
    LimitLevel,
    Limits,
    ShadowDecision,
    SharedBucket,
    Taken,
    enforced,
    shadows,
)
from twisted_lb.limits.bucket import Bucket
from twisted_lb.limits.shared_buckets import SharedBuckets, address_bucket, address_rule


class OtherLimits:
    """Requests in flight, the global bucket, and those of routes, pools and networks."""

    def __init__(self, limits: Limits, now_us: int) -> None:
        global_bucket, address, self._most_in_flight = limits
        self._global_bucket = (
            Bucket(*global_bucket, global_bucket.capacity * MICROTOKENS, now_us) if global_bucket.capacity else None
        )
        self._shared = SharedBuckets()
        self._address_rule = address_rule(address)
        self.limits_networks = address.capacity > 0
        # Whether all requests with a key have one of these limits.
        self.limits_keys = self._global_bucket is not None or self._most_in_flight > 0

    def refused(
        self, name: bytes, in_flight: int, cost: int, limits: tuple[SharedBucket, ...], now_us: int
    ) -> Taken | None:
        """The first refusal of a request whose key has `in_flight` other requests in flight.

        None: all limits admit it, and its tokens are taken from the global bucket, but not from `limits` yet.
        """
        if self._most_in_flight and in_flight >= self._most_in_flight:
            return Taken(False, name, self._most_in_flight, 0.0, 0, IN_FLIGHT)
        refused = self._refused_shared(name, cost, limits, now_us) if limits else None
        if refused is not None:
            return refused
        global_bucket = self._global_bucket
        if global_bucket is not None:
            admitted, level = global_bucket.take(cost, now_us)
            if not admitted:
                return Taken(False, name, global_bucket.capacity, global_bucket.rate_per_sec, level, GLOBAL)
        return None

    def take_shared(self, cost: int, limits: tuple[SharedBucket, ...], now_us: int) -> tuple[LimitLevel, ...]:
        """Take from buckets that do not refuse."""
        levels = self._shared.take(limits, cost, now_us)
        return tuple(
            [
                LimitLevel(rule.capacity, rule.rate_per_sec, level, rule.name)
                for (rule, *_), level in zip(limits, levels)
            ]
        )

    def take_shadows(
        self, cost: int, limits: tuple[SharedBucket, ...], now_us: int
    ) -> tuple[ShadowDecision, ...]:
        """Ask shadows for the tokens of a request that was admitted."""
        return self._shared.take_shadows(limits, cost, now_us)

    def take_without_key(self, cost: int, limits: tuple[SharedBucket, ...], now_us: int) -> Taken:
        """The decision about a request without a key; all its limits may be shadows."""
        binding = enforced(limits)
        refused = self._refused_shared(b"", cost, binding, now_us)
        if refused is not None:
            return refused
        levels = self.take_shared(cost, binding, now_us)
        decisions = self.take_shadows(cost, shadows(limits), now_us)
        if not levels:
            return Taken(True, b"", 0, 0.0, 0, ADDRESS, shadows=decisions)
        return Taken(True, b"", *levels[0], more=levels[1:], shadows=decisions)

    def refused_network(self, network: str, spend: bool, now_us: int) -> Taken | None:
        """The refusal of a network's bucket without tokens; otherwise None, and a token is taken if `spend`."""
        if not self.limits_networks or not network:
            return None
        limits = self.address(network)
        refused = self._refused_shared(b"", 1, limits, now_us)
        if refused is None and spend:
            self._shared.take(limits, 1, now_us)
        return refused

    def address(self, network: str) -> tuple[SharedBucket, ...]:
        """The bucket of a network."""
        return (address_bucket(self._address_rule, network),)

    def levels(self, buckets: Sequence[SharedBucket], now_us: int) -> list[int]:
        """Their levels now; changes nothing."""
        levels = []
        for shared in buckets:
            if shared.key == GLOBAL and self._global_bucket is not None:
                levels.append(self._global_bucket.level_at(now_us))
            else:
                levels.append(self._shared.level_of(shared, now_us))
        return levels

    def forget_full(self, now_us: int) -> None:
        """Drop buckets that are full, including those of limits that were removed."""
        self._shared.forget_full(now_us)

    def settle_shared(self, tokens: int, limits: tuple[SharedBucket, ...], now_us: int) -> None:
        """A request cost `tokens` more than was taken."""
        self._shared.settle(limits, tokens, now_us)

    def settle_global(self, tokens: int, now_us: int) -> None:
        """The same for the global bucket."""
        if self._global_bucket is not None:
            self._global_bucket.settle(tokens, now_us)

    def _refused_shared(
        self, name: bytes, cost: int, limits: tuple[SharedBucket, ...], now_us: int
    ) -> Taken | None:
        """The first refusal of shared buckets; changes nothing."""
        refusing = self._shared.refusing(limits, cost, now_us)
        if refusing is None:
            return None
        (rule, *_), level = refusing
        return Taken(False, name, rule.capacity, rule.rate_per_sec, level, rule.name)
