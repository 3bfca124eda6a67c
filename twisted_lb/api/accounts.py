"""Accounts as JSON shows them, to their users and to operators."""

from __future__ import annotations

from twisted_lb.interfaces import MICROTOKENS, Account, AccountPage, Profile


def shown_account(account: Account) -> dict[str, object]:
    """The name and the policy; a rate that is whole is shown whole."""
    rate = account.rate_per_sec
    return {
        "name": account.name,
        "capacity": int(account.capacity),
        "rate_per_sec": int(rate) if rate == int(rate) else rate,
    }


def shown_profile(profile: Profile) -> dict[str, object]:
    """The account and its whole tokens.

    Rounded down, also below zero: half a token is none, and half a token of debt is shown as -1, so that
    whoever owes sees it.
    """
    return shown_account(profile.account) | {"current_capacity": profile.level // MICROTOKENS}


def shown_page(page: AccountPage) -> dict[str, object]:
    """A page of accounts, and the name after which the next one begins."""
    users = [shown_profile(profile) for profile in page.profiles]
    return {"users": users, "next": page.more_after}
