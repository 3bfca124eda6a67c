"""Decisions about keys that depend on more than the bucket of their user, from the outcomes of take_tokens.lua."""

from __future__ import annotations

from typing import Final

from twisted_lb.interfaces import (
    KEY,
    MICROTOKENS,
    OWN,
    QUOTA,
    LimitLevel,
    ShadowDecision,
    Taken,
    shadow_bucket,
)
from twisted_lb.limits.fallback import Fallback
from twisted_lb.stores.redis.accounts import REFUSAL_OF, SpecialReply, quota_level, special_key

OF_OWN: Final = 93  # the key's own bucket refuses
OF_QUOTA: Final = 94  # the user's quota refuses
PERIOD_OVER: Final = 95  # the period of the quota has to be renewed first
SPECIAL: Final = 100  # is added for a special key (see `recent_keys`)


def refused_key(digest: str, name: bytes, outcome: int, fallback: Fallback) -> Taken:
    """The decision about a key that must not be used."""
    fallback.forget(digest)
    return Taken(False, name, 0, 0.0, 0, REFUSAL_OF[outcome])


def special_taken(
    digest: str,
    found: SpecialReply,
    answer: tuple[int, float, int, int],
    more: tuple[LimitLevel, ...],
    decisions: tuple[ShadowDecision, ...],
    fallback: Fallback,
) -> Taken | None:
    """The decision of the buckets of a special key and its user; None: another limit refuses.

    `answer` is the capacity, the rate, the outcome without SPECIAL, and the level; `more` are the shared buckets, and
    `decisions` those of shadows among them.
    """
    capacity, rate_per_sec, outcome, level = answer
    name, special = found.name, special_key(found, fallback.now())
    own, quota = special.own, quota_level(found.quota)
    if found.shadow is not None:
        _, _, level_of_shadow, would_refuse = found.shadow
        shared = shadow_bucket(special.owner, *special.shadow)
        fallback.seen_shared(shared, level_of_shadow)
        decisions = (*decisions, ShadowDecision(shared, would_refuse == 1))
    if quota is not None and outcome not in (0, 1):
        fallback.seen_quota(special.owner, quota)
    if outcome == OF_QUOTA and quota is not None:
        return Taken(False, name, quota.amount, 0.0, quota.left * MICROTOKENS, QUOTA, quota=quota)
    if outcome == OF_OWN:
        return Taken(False, name, own.capacity, own.rate_per_sec, level, OWN, quota=quota)
    if outcome not in (0, 1):
        return None
    described = Taken(outcome == 1, name, capacity, rate_per_sec, level, KEY, quota=quota)
    fallback.seen_special(digest, special, described)
    if not outcome:
        return described
    if own.capacity:
        more = (LimitLevel(own.capacity, own.rate_per_sec, special.level, OWN), *more)
    return Taken(True, name, capacity, rate_per_sec, level, KEY, more, decisions, quota)
