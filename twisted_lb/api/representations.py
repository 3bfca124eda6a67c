"""Accounts, users and keys in JSON, for users and for operators."""

from __future__ import annotations

from twisted_lb.interfaces import MICROTOKENS, Account, Profile
from twisted_lb.quotas import Quota
from twisted_lb.timestamps import rfc3339
from twisted_lb.users import ACTIVE, Key, Shadow, User

EXPIRED = "expired"


def shown_account(account: Account) -> dict[str, object]:
    """The name and the policy; an integral rate is shown as an integer."""
    return {"name": account.name, **shown_policy(account.capacity, account.rate_per_sec)}


def shown_policy(capacity: int, rate_per_sec: float) -> dict[str, object]:
    """The policy of a bucket."""
    return {
        "capacity": int(capacity),
        "rate_per_sec": int(rate_per_sec) if rate_per_sec == int(rate_per_sec) else rate_per_sec,
    }


def shown_profile(profile: Profile) -> dict[str, object]:
    """The account with its whole tokens, and its quota if it has one.

    Tokens are rounded down, also below zero: half a token is shown as 0, and a debt of half a token as -1, so that a
    debt is always visible.
    """
    shown = shown_account(profile.account) | {"current_capacity": profile.level // MICROTOKENS}
    return shown if profile.quota is None else shown | {"quota": shown_quota(profile.quota)}


def shown_quota(quota: Quota) -> dict[str, object]:
    """A quota, and how much of it was used in its present period."""
    return {
        quota.unit: quota.amount,
        "per": quota.per,
        "time_zone": quota.time_zone,
        "used": quota.used,
        "left": max(quota.left, 0),
        "resets_at": shown_time(quota.ends_us or None),
    }


def shown_key(key: Key, now_us: int) -> dict[str, object]:
    """A key, without its digest; the members of its own bucket only if there is one."""
    ended = key.expires_at is not None and key.expires_at <= now_us
    shown: dict[str, object] = {
        "key_id": key.key_id,
        "label": key.label,
        "state": EXPIRED if ended and key.state == ACTIVE else key.state,
        "created_at": shown_time(key.created_at),
        "expires_at": shown_time(key.expires_at),
        "last_used": shown_time(key.last_used),
    }
    if key.bucket is not None:
        capacity, rate_per_sec, level = key.bucket
        shown |= shown_policy(capacity, rate_per_sec)
        shown["current_capacity"] = (level or 0) // MICROTOKENS
    return shown


def shown_shadow(shadow: Shadow) -> dict[str, object]:
    """The shadow policy of a user."""
    level = (shadow.level or 0) // MICROTOKENS
    return {**shown_policy(shadow.capacity, shadow.rate_per_sec), "current_capacity": level}


def shown_user(user: User, now_us: int) -> dict[str, object]:
    """A user with all keys, for operators; `quota` and `shadow` only if there are any."""
    quota = {} if user.quota is None else {"quota": shown_quota(user.quota)}
    shadow = {} if user.shadow is None else {"shadow": shown_shadow(user.shadow)}
    return {
        "name": user.name,
        **shown_policy(user.capacity, user.rate_per_sec),
        "current_capacity": (user.level or 0) // MICROTOKENS,
        "disabled": user.disabled,
        "metadata": dict(user.metadata),
        "created_at": shown_time(user.created_at),
        **quota,
        "keys": [shown_key(key, now_us) for key in user.keys],
        **shadow,
    }


def shown_time(time_us: int | None) -> str | None:
    """A time in microseconds since 1970 as text (RFC 3339), or None."""
    return None if time_us is None else rfc3339(time_us)
