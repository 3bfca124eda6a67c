"""The schema of `limits` in servers.yaml as pydantic models; see `servers_schema`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from twisted_lb.config.limits import LimitSpec
from twisted_lb.config.sections import NAME, NAME_FORM, Section
from twisted_lb.config.server_url import shortened
from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, KEY, OWN, QUOTA, SHADOW
from twisted_lb.limits.bucket import MAX_CAPACITY, MAX_RATE_PER_SEC

MAX_LIMITS = 8  # of a route, a pool, or all routes
# The names of other limits in responses.
RESERVED = (KEY, OWN, QUOTA, IN_FLIGHT, GLOBAL, ADDRESS, SHADOW)
_LIMITS = f"a list of up to {MAX_LIMITS} limits, each as {{name: ..., per: ..., capacity: ..., rate_per_sec: ...}}"


def _free_name(name: object) -> object:
    if name in RESERVED:
        raise ValueError(f"expected a name other than {', '.join(RESERVED)}, not {shortened.repr(name)}")
    return name


class LimitModel(Section):
    """One limit."""

    name: Annotated[str, BeforeValidator(_free_name)] = Field(pattern=NAME, description=f"{NAME_FORM}, such as burst")
    per: str
    capacity: int = Field(ge=1, le=MAX_CAPACITY, description=f"a whole number from 1 to {MAX_CAPACITY}")
    rate_per_sec: float = Field(
        ge=0, le=MAX_RATE_PER_SEC, allow_inf_nan=False, description=f"a number from 0 to {MAX_RATE_PER_SEC}"
    )
    shadow: bool = Field(default=LimitSpec.shadow, description="true or false")


class RouteLimitModel(LimitModel):
    """limits: of a route."""

    per: Literal["key", "network", "route"] = Field(description="key, network or route")


class PoolLimitModel(LimitModel):
    """limits: of a pool."""

    per: Literal["key", "network", "pool"] = Field(description="key, network or pool")


class GlobalLimitModel(LimitModel):
    """global_limits: of all routes that lead to pools."""

    per: Literal["key", "network", "all"] = Field(description="key, network or all")


def limits_field() -> Any:
    """The key of a section."""
    return Field(default=(), max_length=MAX_LIMITS, description=_LIMITS)
