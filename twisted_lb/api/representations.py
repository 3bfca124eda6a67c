"""Accounts in JSON, for their users and for operators."""

from __future__ import annotations

from twisted_lb.interfaces import MICROTOKENS, Account, AccountPage, Profile


def shown_account(account: Account) -> dict[str, object]:
    """The name and the policy; an integral rate is shown as an integer."""
    rate = account.rate_per_sec
    return {
        "name": account.name,
        "capacity": int(account.capacity),
        "rate_per_sec": int(rate) if rate == int(rate) else rate,
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
