"""The decisions for which take_tokens.lua has another outcome than that of the bucket of a user with one key."""

from __future__ import annotations

from typing import Any, Final

from twisted_lb.interfaces import ADDRESS, GLOBAL, IN_FLIGHT, OWN, Limits, Taken
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.accounts import REFUSAL_OF, special_key

# The outcomes: 0 and 1 are the bucket of the user, 6 to 8 those of REFUSAL_OF.
OF_IN_FLIGHT: Final = 2
OF_GLOBAL: Final = 3
OF_ADDRESS: Final = 4
DAMAGED: Final = 5
OF_OWN: Final = 9
SPECIAL: Final = 10  # is added for a special key (see `recent_keys`)


class Outcomes:
    """Makes decisions of outcomes, and tells the fallback what it has to know."""

    def __init__(self, fallback: Fallback, limits: Limits) -> None:
        self._fallback = fallback
        self._limits = limits

    def taken(self, digest: str, name: Any, capacity: int, rate: bytes, outcome: int, level: int) -> Taken:
        """The decision about a key that exists, from the reply of the script."""
        if outcome >= SPECIAL:
            return self._special(digest, name, capacity, float(rate), outcome - SPECIAL, level)
        if outcome in REFUSAL_OF:
            self._fallback.forget(digest)
            return Taken(False, name, 0, 0.0, 0, REFUSAL_OF[outcome])
        return self._refused(outcome, name, level)

    def _special(
        self, digest: str, found: list[Any], capacity: int, rate_per_sec: float, outcome: int, level: int
    ) -> Taken:
        name, special = special_key(found, self._fallback.now())
        if outcome < OF_IN_FLIGHT:
            taken = Taken(outcome == 1, name, capacity, rate_per_sec, level)
            self._fallback.seen_special(digest, special, taken)
            return taken
        if outcome == OF_OWN:
            return Taken(False, name, special.own.capacity, special.own.rate_per_sec, level, OWN)
        return self._refused(outcome, name, level)

    def _refused(self, outcome: int, name: bytes, level: int) -> Taken:
        """A refusal by a limit that belongs to no key."""
        if outcome == OF_IN_FLIGHT:
            return Taken(False, name, self._limits.in_flight, 0.0, level, IN_FLIGHT)
        limits = self._limits
        limit, policy = (GLOBAL, limits.global_bucket) if outcome == OF_GLOBAL else (ADDRESS, limits.address)
        return Taken(False, name, policy.capacity, policy.rate_per_sec, level, limit)
