"""Accounts in Redis, one call each: creation, profile, change of the policy, and pages of them.

The names are one sorted set, `tokenlb:names`, whose members are the name, a NUL and the key's digest.
All scores are 0, so the set is in the order of the names as bytes; finding a name, or a page of names,
takes about as long with a million accounts as with a hundred.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from twisted_lb.interfaces import MICROTOKENS, Account, AccountPage, NameTaken, Policy, Profile, StoreUnavailable
from twisted_lb.limits.bucket import check_change, check_policy
from twisted_lb.limits.client_networks import IN_USE_SECONDS
from twisted_lb.limits.recent_keys import SpecialKey
from twisted_lb.quotas import Quota, QuotaLevel, quota_at, quota_from_text
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.keys import NAMES_KEY, account_key
from twisted_lb.stores.redis.rates import rate_text
from twisted_lb.stores.redis.scripts import RedisScript
from twisted_lb.user_names import equal_forms
from twisted_lb.users import KEY_DISABLED, KEY_EXPIRED, USER_DISABLED, KeyRefused, Shadow

MAX_PAGE = 200  # accounts
_CHANGED: Final = 6  # elements of a reply of change_account.lua before the quota, if there is one
# Why a key is refused, by the numbers of `refusal` in bucket.lua.
REFUSAL_OF: Final = {90: USER_DISABLED, 91: KEY_DISABLED, 92: KEY_EXPIRED}


class FoundKey(NamedTuple):
    """A key as Redis has it."""

    profile: Profile  # of its user
    refused: str  # why it must not be used: one of REFUSALS, or ""
    special: list[Any] | None  # for `special_key`, if something is special about it


class RedisAccounts:
    """The methods of IAccountStore on one connection."""

    def __init__(self, connection: RedisConnection) -> None:
        self._create = RedisScript("create_account", connection)
        self._change = RedisScript("change_account", connection)
        self._read = RedisScript("read_account", connection)
        self._page = RedisScript("page_accounts", connection)
        self.scripts = self._create, self._change, self._read, self._page

    def create(self, digest: str, account: Account) -> Deferred[None]:
        """See IAccountStore.  Fails with ValueError on a policy that no bucket can have, a NUL in the name, or a
        digest in use.

        After a StoreUnavailable the account may exist: the reply may have been lost.
        """
        name, capacity, rate_per_sec = account
        try:
            check_policy(capacity, rate_per_sec)
            if "\0" in name:
                raise ValueError("name: a NUL character cannot be part of it")
            # The first is the name that is stored; an older instance may have stored another form of it.
            forms = [form.encode() for form in equal_forms(name)]
        except ValueError:
            return fail(Failure())
        created = self._create.call(
            account_key(digest),
            NAMES_KEY,
            b"%d" % capacity,
            rate_text(rate_per_sec),
            b"%d" % (capacity * MICROTOKENS),
            digest.encode(),
            *forms,
            keys=2,
        )
        return created.addCallback(_check_created, name)

    def profile(self, digest: str) -> Deferred[Profile | None]:
        """See IAccountStore."""
        return self._read.call(account_key(digest)).addCallback(_profile, digest)

    def look_up(self, digest: str) -> Deferred[FoundKey | None]:
        """What Redis holds about a key, for decisions outside Redis; None for a revoked or unknown one."""
        return self._read.call(account_key(digest)).addCallback(_found_key, digest)

    def in_use(self, digest: str) -> Deferred[bool]:
        """See IAccountStore."""
        return self._read.call(account_key(digest)).addCallback(_in_use)

    def change(self, digest: str, capacity: int | None, rate_per_sec: float | None) -> Deferred[Profile | None]:
        """See IAccountStore.  Fails with ValueError on a policy that no bucket can have."""
        try:
            check_change(capacity, rate_per_sec)
        except ValueError:
            return fail(Failure())
        return self._change.call(
            account_key(digest),
            b"" if capacity is None else b"%d" % capacity,
            b"" if rate_per_sec is None else rate_text(rate_per_sec),
        ).addCallback(_profile, digest, _CHANGED)

    def page(self, after: str, count: int) -> Deferred[AccountPage]:
        """See IAccountStore.  Fails with ValueError on a count that is not from 1 to 200, or an invalid name."""
        try:
            if not 1 <= count <= MAX_PAGE:
                raise ValueError(f"count: expected a whole number from 1 to {MAX_PAGE}, not {count!r}")
            encoded = after.encode()
        except ValueError:
            return fail(Failure())
        return self._page.call(NAMES_KEY, encoded, b"%d" % count).addCallback(_account_page)


def _check_created(outcome: int, name: str) -> None:
    if outcome == 1:
        raise NameTaken(name)
    if outcome == 2:
        raise ValueError("an account has this key already")


def _profile(reply: list[Any] | None, digest: str, at: int = 14) -> Profile | None:
    """The profile in a reply in which the quota, if there is one, begins at the index `at`."""
    if reply is None:
        return None
    if not reply:
        raise StoreUnavailable(f"what Redis holds at {account_key(digest).decode()} is not an account")
    if reply[5]:
        raise KeyRefused(REFUSAL_OF[reply[5]])
    profile = _new_profile(*reply[:4])._replace(quota=quota_of(reply[at:]))
    capacity, rate, level = reply[11:14] if at > _CHANGED else (0, "0", 0)
    if not capacity:
        return profile
    return profile._replace(owner=reply[6].decode(), shadow=Shadow(capacity, float(rate), level))


def _found_key(reply: list[Any] | None, digest: str) -> FoundKey | None:
    if reply is None:
        return None
    if not reply:
        raise StoreUnavailable(f"what Redis holds at {account_key(digest).decode()} is not an account")
    name, capacity, rate, level, _, reason, *special = reply
    owner, left, own_capacity, own_rate, own_level, *shadow = special[:8]
    quota, has_shadow = special[8:], shadow[0] > 0
    plain = owner.decode() == digest and not left and not own_capacity and not has_shadow and not quota
    # As in a reply of take_tokens.lua.
    special = [owner, left, own_capacity, own_rate, own_level, *quota, *((*shadow, 0) if has_shadow else ())]
    return FoundKey(
        _new_profile(name, capacity, rate, level), REFUSAL_OF.get(reason, ""), None if plain else [name, *special]
    )


def special_key(found: list[Any], now: float) -> tuple[bytes, SpecialKey]:
    """The user's name, and the key, of a special key as take_tokens.lua replies it; `now` is the fallback's clock."""
    name, owner, left, capacity, rate, level = found[:6]
    shadow = found[6 + len(_quota_in(found)) :]
    expires = now + left / 1_000_000 if left else inf
    of_user = Policy(shadow[0], float(shadow[1])) if shadow else Policy()
    return name, SpecialKey(owner.decode(), expires, Policy(capacity, float(rate)), level, now, of_user)


def quota_of(found: list[Any]) -> Quota | None:
    """The present quota, from the elements that `add_quota` in bucket.lua adds; None if there is none."""
    if not found or not found[0]:
        return None
    text, used, starts_us, ends_us, now_us = found[:5]
    return quota_at(quota_from_text(text.decode(), used, starts_us, ends_us), now_us)


def _quota_in(found: list[Any]) -> list[Any]:
    """The elements of `add_quota` in the argument of `special_key`; with a shadow policy, four more come after them."""
    return found[6:11] if len(found) in (11, 15) else []


def quota_level(found: list[Any]) -> QuotaLevel | None:
    """The same as a part of a decision; `found` is the argument of `special_key`."""
    quota = _quota_in(found)
    if not quota or not quota[0]:
        return None
    text, used, starts_us, ends_us, now_us = quota
    amount, unit, per, time_zone = text.decode().split(" ")
    return QuotaLevel(int(amount), unit, per, time_zone, int(amount) - used, starts_us, ends_us, now_us)


def _in_use(reply: list[Any] | None) -> bool:
    return bool(reply and reply[4] <= IN_USE_SECONDS * 1_000_000)


def _new_profile(name: bytes, capacity: bytes, rate: bytes, level: int) -> Profile:
    return Profile(Account(name.decode(), int(capacity), float(rate)), level)


def _account_page(reply: list[Any]) -> AccountPage:
    element = iter(reply)
    more_after = next(element)
    profiles = [_new_profile(*four) for four in zip(element, element, element, element)]
    return AccountPage(profiles, None if more_after is None else more_after.decode())
