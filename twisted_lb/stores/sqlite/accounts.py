"""The accounts of the embedded store: creation, profile, change of the policy, and pages of them."""

from __future__ import annotations

from collections.abc import Callable
from heapq import nsmallest
from operator import attrgetter
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from twisted_lb.interfaces import MICROTOKENS, Account, AccountPage, NameTaken, Profile, StoreUnavailable
from twisted_lb.limits.bucket import NEVER_USED_US, check_change, check_policy
from twisted_lb.stores.sqlite.database import AccountDatabase
from twisted_lb.stores.sqlite.held import HeldKey, HeldUser, HeldUsers
from twisted_lb.stores.sqlite.schema import Row
from twisted_lb.stores.sqlite.writer import DatabaseWriter
from twisted_lb.user_names import normalized
from twisted_lb.users import KeyRefused

MAX_PAGE: Final = 200  # accounts


class Disk(NamedTuple):
    """The open database."""

    database: AccountDatabase
    writer: DatabaseWriter


def not_running() -> StoreUnavailable:
    """The failure of a call that needs the disk while the store is not running."""
    return StoreUnavailable("the embedded store is not running")


class EmbeddedAccounts:
    """The methods of IAccountStore."""

    def __init__(self, held: HeldUsers, dirty: set[HeldUser], now_us: Callable[[], int]) -> None:
        """`held` has the users in memory; those with changes that are not on disk yet are added to `dirty`."""
        self.disk: Disk | None = None  # None: the store is not running
        self._held = held
        self._dirty = dirty
        self._now_us = now_us

    def create(self, digest: str, account: Account) -> Deferred[None]:
        """See IAccountStore.  Fails with ValueError for an invalid policy, or a digest in use."""
        name, capacity, rate_per_sec = account
        name = normalized(name)
        try:
            check_policy(capacity, rate_per_sec)
            if b"\0" in name.encode():
                raise ValueError("name: expected text without NUL")
        except ValueError:
            return fail(Failure())
        held = self._held
        if name in held.names:
            return fail(NameTaken(name))
        if held.key(digest) is not None:
            return fail(ValueError("an account has this key already"))
        disk = self.disk
        if disk is None:
            return fail(not_running())
        created_us = self._now_us()
        row = Row(
            digest,
            name,
            capacity,
            float(rate_per_sec),
            capacity * MICROTOKENS,
            NEVER_USED_US,
            created_us=created_us,
        )
        # The name is taken from now on, so that only one of two concurrent creations gets it.
        held.names[name] = None
        stored = disk.writer.write(disk.database.insert, row)
        stored.addCallbacks(self._created, self._not_created, callbackArgs=(row,), errbackArgs=(name,))
        return disk.writer.answer(stored)

    def _created(self, _: object, row: Row) -> None:
        self._held.add(row, (), self._now_us())

    def _not_created(self, failure: Failure, name: str) -> Failure:
        self._held.names.pop(name, None)
        return failure

    def profile(self, digest: str) -> Deferred[Profile | None]:
        """See IAccountStore."""
        now_us = self._now_us()
        key = self._held.known(digest)
        if key is None:
            return succeed(None)
        return _refused(key, now_us) or succeed(key.user.profile(now_us))

    def in_use(self, digest: str) -> Deferred[bool]:
        """See IAccountStore."""
        key = self._held.known(digest)
        return succeed(key is not None and key.user.in_use(self._now_us()))

    def change(self, digest: str, capacity: Any, rate_per_sec: Any) -> Deferred[Profile | None]:
        """See IAccountStore, also for the types.  Fails with ValueError for an invalid policy."""
        try:
            check_change(capacity, rate_per_sec)
        except ValueError:
            return fail(Failure())
        key = self._held.known(digest)
        if key is None:
            return succeed(None)
        now_us = self._now_us()
        refused: Deferred[Profile | None] | None = _refused(key, now_us)
        if refused is not None:
            return refused
        disk = self.disk
        if disk is None:
            return fail(not_running())
        user = key.user
        # From now on every level of this bucket, stored or in memory, has a time stamp no earlier than the
        # change: however the process ends, the time before it is never refilled under the new policy.
        user.refill(now_us)
        stored = disk.writer.write(
            disk.database.change, user.digest, capacity, rate_per_sec, user.level, user.stamp_us
        )
        return disk.writer.answer(stored.addCallback(self._changed, user, capacity, rate_per_sec))

    def _changed(self, _: object, user: HeldUser, capacity: int | None, rate_per_sec: float | None) -> Profile:
        now_us = self._now_us()
        # Values for None are read here, not when the change was requested: another change may have come first.
        user.change(
            user.capacity if capacity is None else capacity,
            user.rate_per_sec if rate_per_sec is None else float(rate_per_sec),
            now_us,
        )
        self._dirty.add(user)
        return user.profile(now_us)._replace(owner="", shadow=None)

    def page(self, after: str, count: int) -> Deferred[AccountPage]:
        """See IAccountStore.  Fails with ValueError for a count that is not from 1 to 200, or an invalid name."""
        found = self.users(after, count)
        return found.addCallback(self._page)

    def users(self, after: str, count: int) -> Deferred[tuple[list[HeldUser], str | None]]:
        """The first `count` users after a name, and the name after which there are more.  Fails as `page` does."""
        try:
            if not 1 <= count <= MAX_PAGE:
                raise ValueError(f"count: expected a whole number from 1 to {MAX_PAGE}, not {count!r}")
            after.encode()
        except ValueError:
            return fail(Failure())
        disk = self.disk
        if disk is None:
            return fail(not_running())
        found = disk.writer.run(disk.database.names, after, count + 1)
        found.addErrback(self._names_in_memory, after.encode(), count + 1)
        return found.addCallback(self._users, count)

    def _names_in_memory(self, failure: Failure, after: bytes, count: int) -> list[tuple[str, str]]:
        """The page without the index of the database, in time proportional to the number of all accounts."""
        failure.trap(StoreUnavailable)
        later = (user for user in self._held.users.values() if user.name_bytes > after)
        return [(user.name, user.digest) for user in nsmallest(count, later, key=attrgetter("name_bytes"))]

    def _users(self, names: list[tuple[str, str]], count: int) -> tuple[list[HeldUser], str | None]:
        users = self._held.users
        # A user who was stored a moment ago may not be in memory yet.
        found = [users[digest] for _, digest in names[:count] if digest in users]
        return found, names[count - 1][0] if len(names) > count else None

    def _page(self, found: tuple[list[HeldUser], str | None]) -> AccountPage:
        now_us = self._now_us()
        users, more_after = found
        return AccountPage([user.profile(now_us)._replace(quota=None) for user in users], more_after)


def _refused(key: HeldKey, now_us: int) -> Deferred[Any] | None:
    reason = key.refusal(now_us)
    return fail(KeyRefused(reason)) if reason else None
