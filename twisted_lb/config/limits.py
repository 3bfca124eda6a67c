"""The limits in servers.yaml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LimitSpec:
    """A token bucket, or several: one for each key or client network."""

    name: str  # in responses; unique among those of a route and its pools, and those of all routes
    per: str  # "key", "network", and for one bucket "route", "pool" or "all"
    capacity: int  # tokens
    rate_per_sec: float
    shadow: bool = False  # it is counted what it would refuse, and nothing is refused
