"""Accounts in JSON, for their users and for operators."""

from __future__ import annotations

from twisted_lb.interfaces import MICROTOKENS, Account, AccountPage, Profile
from twisted_lb.timestamps import rfc3339
from twisted_lb.users import ACTIVE, Key

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
    """The account and its whole tokens.

    Rounded down, also below zero: half a token is shown as 0, and a debt of half a token as -1, so that a debt is
    always visible.
    """
    return shown_account(profile.account) | {"current_capacity": profile.level // MICROTOKENS}


def shown_page(page: AccountPage) -> dict[str, object]:
    """A page of accounts, and the `after` of the next page."""
    users = [shown_profile(profile) for profile in page.profiles]
    return {"users": users, "next": page.more_after}


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


def shown_time(time_us: int | None) -> str | None:
    """A time, or None where there is none."""
    return None if time_us is None else rfc3339(time_us)
