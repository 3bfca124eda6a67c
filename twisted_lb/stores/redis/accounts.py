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
from twisted_lb.quotas import Quota, QuotaLevel, quota_at
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.keys import NAMES_KEY, account_key
from twisted_lb.stores.redis.rates import rate_text
from twisted_lb.stores.redis.scripts import RedisScript
from twisted_lb.user_names import equal_forms
from twisted_lb.users import KEY_DISABLED, KEY_EXPIRED, USER_DISABLED, KeyRefused, Shadow

MAX_PAGE = 200  # accounts
# Why a key is refused, by the numbers of `refusal` in bucket.lua.
REFUSAL_OF: Final = {90: USER_DISABLED, 91: KEY_DISABLED, 92: KEY_EXPIRED}


class SpecialReply(NamedTuple):
    """What take_tokens.lua replies about a special key, element by element."""

    name: bytes  # of the user
    owner: bytes  # the digest of the user's first key
    left: int  # microseconds until the key expires; 0: it does not
    own_capacity: int  # of its own bucket; 0: it has none
    own_rate: bytes
    own_level: int  # microtokens
    quota: list[Any] | None  # for `quota_level`
    # Of the user's shadow policy: capacity, rate, level, and 1 if it would have refused what was admitted.
    shadow: list[Any] | None


class FoundKey(NamedTuple):
    """A key as Redis has it."""

    profile: Profile  # of its user
    refused: str  # why it must not be used: one of REFUSALS, or ""
    special: SpecialReply | None  # if something is special about it


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
        ).addCallback(_changed_profile, digest)

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


def _check_account(reply: list[Any], digest: str) -> None:
    if not reply:
        raise StoreUnavailable(f"what Redis holds at {account_key(digest).decode()} is not an account")


def _profile(reply: list[Any] | None, digest: str) -> Profile | None:
    """See read_account.lua."""
    if reply is None:
        return None
    _check_account(reply, digest)
    name, capacity, rate, level, _, reason, *special = reply
    if reason:
        raise KeyRefused(REFUSAL_OF[reason])
    found = SpecialReply(name, *special)
    profile = _new_profile(name, capacity, rate, level)._replace(quota=quota_of(found.quota))
    if found.shadow is None:
        return profile
    shadow_capacity, shadow_rate, shadow_level, _ = found.shadow
    shadow = Shadow(shadow_capacity, float(shadow_rate), shadow_level)
    return profile._replace(owner=found.owner.decode(), shadow=shadow)


def _changed_profile(reply: list[Any] | None, digest: str) -> Profile | None:
    """See change_account.lua."""
    if reply is None:
        return None
    _check_account(reply, digest)
    name, capacity, rate, level, _, reason, quota = reply
    if reason:
        raise KeyRefused(REFUSAL_OF[reason])
    return _new_profile(name, capacity, rate, level)._replace(quota=quota_of(quota))


def _found_key(reply: list[Any] | None, digest: str) -> FoundKey | None:
    """See read_account.lua."""
    if reply is None:
        return None
    _check_account(reply, digest)
    name, capacity, rate, level, _, reason, *special = reply
    found = SpecialReply(name, *special)
    something = found.left or found.own_capacity or found.quota is not None or found.shadow is not None
    return FoundKey(
        _new_profile(name, capacity, rate, level),
        REFUSAL_OF.get(reason, ""),
        found if something or found.owner.decode() != digest else None,
    )


def special_key(found: SpecialReply, now: float) -> SpecialKey:
    """What the fallback knows of a special key from then on; `now` is its clock."""
    _, owner, left, capacity, rate, level, _, shadow = found
    expires = now + left / 1_000_000 if left else inf
    of_user = Policy() if shadow is None else Policy(shadow[0], float(shadow[1]))
    return SpecialKey(owner.decode(), expires, Policy(capacity, float(rate)), level, now, of_user)


def quota_of(found: list[Any] | None) -> Quota | None:
    """The quota in a reply (see `quota_list` in bucket.lua), as it is now."""
    level = quota_level(found)
    if level is None:
        return None
    amount, unit, per, time_zone, left, starts_us, ends_us, now_us = level
    return quota_at(Quota(amount, unit, per, time_zone, amount - left, starts_us, ends_us), now_us)


def quota_level(found: list[Any] | None) -> QuotaLevel | None:
    """The same as it is stored, as a part of a decision."""
    if found is None:
        return None
    text, used, starts_us, ends_us, now_us = found
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
