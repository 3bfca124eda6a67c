"""The limits of a route or a pool in servers.yaml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LimitSpec:
    """A token bucket, or several: one for each key or client network."""

    name: str  # in responses; unique among those of a route and its pools
    per: str  # "key", "network", and for one bucket "route" or "pool"
    capacity: int  # tokens
    rate_per_sec: float
