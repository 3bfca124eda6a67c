"""Users and their keys in the embedded store: each call of IUserStore is one transaction.

Calls that change something are made one after another, since what they store depends on what is in memory, where a
change takes effect when it is on disk.  Only users that are created share transactions: see `user_creations`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from twisted_lb.limits.quota_count import QuotaCount
from twisted_lb.quotas import NO_QUOTA, changed_quota
from twisted_lb.stores.filtered_page import filtered_page
from twisted_lb.stores.sqlite.accounts import Disk, EmbeddedAccounts, not_running
from twisted_lb.stores.sqlite.held import HeldKey, HeldUser, HeldUsers, new_level, row_of_key, stored_shadow
from twisted_lb.stores.sqlite.notices import EmbeddedNotices
from twisted_lb.stores.sqlite.schema import KeyRow
from twisted_lb.stores.sqlite.sequential import SequentialCalls
from twisted_lb.stores.sqlite.user_creations import UserCreations
from twisted_lb.stores.user_checks import (
    check_digest,
    check_grace,
    check_key,
    check_key_change,
    check_key_id,
    check_name,
    check_page,
    check_user_change,
)
from twisted_lb.users import (
    ACTIVE,
    MAX_KEYS,
    NO_SHADOW,
    REVOKED,
    Changed,
    Key,
    KeyBucket,
    KeyChange,
    KeyRefused,
    KeyRevoked,
    KeyTaken,
    NoShadow,
    TooManyKeys,
    User,
    UserChange,
    UserFilter,
    UserPage,
    key_id_of,
    metadata_text,
)

_Result = TypeVar("_Result")


class EmbeddedUsers:
    """The methods of IUserStore."""

    def __init__(
        self,
        held: HeldUsers,
        dirty: set[HeldUser],
        dirty_keys: set[HeldKey],
        now_us: Callable[[], int],
        accounts: EmbeddedAccounts,
        notices: EmbeddedNotices,
    ) -> None:
        """As EmbeddedAccounts; `accounts` has the disk."""
        self._held = held
        self._dirty = dirty
        self._dirty_keys = dirty_keys
        self._now_us = now_us
        self._accounts = accounts
        self._notices = notices
        self._calls = SequentialCalls()
        self._creations = UserCreations(held, now_us, accounts, self._calls)

    # Reading

    def user_page(self, after: str, count: int, filter: UserFilter) -> Deferred[UserPage]:
        """See IUserStore."""
        try:
            check_page(after, count)
        except ValueError:
            return fail(Failure())
        return Deferred.fromCoroutine(filtered_page(self._page, after, count, filter))

    def _page(self, after: str, count: int) -> Deferred[UserPage]:
        def page(found: tuple[list[HeldUser], str | None]) -> UserPage:
            users, more_after = found
            now_us = self._now_us()
            return UserPage([user.shown(now_us) for user in users], more_after)

        return self._accounts.users(after, count).addCallback(page)

    def user(self, name: str) -> Deferred[User | None]:
        """See IUserStore."""
        return succeed(self._shown(self._held.named(name)))

    def user_of_key(self, digest: str) -> Deferred[User | None]:
        """See IUserStore."""
        key = self._held.known(digest)
        reason = key.refusal(self._now_us()) if key is not None else ""
        if reason:
            return fail(KeyRefused(reason))
        return succeed(self._shown(key.user if key is not None else None))

    def find_key(self, key_id: str) -> Deferred[User | None]:
        """See IUserStore."""
        try:
            check_key_id(key_id)
        except ValueError:
            return fail(Failure())
        key = self._held.key_of_id(key_id)
        return succeed(self._shown(key.user if key is not None else None))

    def refused_keys(self, digests: Sequence[str]) -> Deferred[list[str]]:
        """See IUserStore."""
        now_us = self._now_us()
        known = [(digest, self._held.known(digest)) for digest in digests]
        return succeed([digest for digest, key in known if key is None or key.refusal(now_us)])

    def _shown(self, user: HeldUser | None) -> User | None:
        return None if user is None else user.shown(self._now_us())

    # Users

    def create_user(self, user: User) -> Deferred[None]:
        """See IUserStore."""
        if self._accounts.disk is None:
            return fail(not_running())
        return self._disk.writer.answer(self._creations.create(user))

    def change_user(self, name: str, change: UserChange) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._in_turn(partial(self._change_user, name, change))

    def _change_user(self, name: str, change: UserChange) -> Deferred[Changed | None]:
        check_user_change(change)
        user = self._named(name)
        if user is None:
            return succeed(None)
        now_us = self._now_us()
        before = user.shown(now_us)
        capacity, rate_per_sec, level, disabled, _, shadow = change[:6]
        metadata = None if change.metadata is None else metadata_text(change.metadata) if change.metadata else ""
        of_bucket = not (capacity is None and rate_per_sec is None and level is None)
        if of_bucket:
            # As in EmbeddedAccounts.change.
            user.refill(now_us)
        of_quota = change.quota is not None or (change.quota_used is not None and user.quota is not None)
        quota = _changed_count(user.quota, change, now_us) if of_quota else None
        notices = self._notices.rows_of([user.digest]) if of_quota else []
        stored_level = user.level if level is None else new_level(capacity or user.capacity, level)
        stored = self._write(
            user,
            self._disk.database.change,
            user.digest,
            capacity,
            rate_per_sec,
            stored_level,
            user.stamp_us,
            disabled,
            metadata,
            None if shadow is None else stored_shadow(shadow, now_us, user.shadow),
            (quota.text() if quota is not None else "") if of_quota else None,
            notices,
        )

        def changed(_: object) -> Changed:
            now_us = self._now_us()
            self._notices.written(notices)
            if of_quota:
                # Something may have been used meanwhile.
                user.quota = _changed_count(user.quota, change, now_us)
                self._dirty.add(user)
                for key in user.keys:
                    self._held.key_changed(key)
            if of_bucket:
                user.change(
                    user.capacity if capacity is None else capacity,
                    user.rate_per_sec if rate_per_sec is None else float(rate_per_sec),
                    now_us,
                )
                if level is not None:
                    user.level = new_level(user.capacity, level)
                self._dirty.add(user)
            if metadata is not None:
                user.metadata = metadata
            if disabled is not None:
                user.disabled = disabled
            if shadow is not None:
                user.set_shadow(shadow, now_us)
                self._dirty.add(user)
            if disabled is not None or shadow is not None:
                for key in user.keys:
                    self._held.key_changed(key)
            return Changed(before, user.shown(now_us))

        return stored.addCallback(changed)

    def promote_shadow(self, name: str) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._in_turn(partial(self._promote_shadow, name))

    def _promote_shadow(self, name: str) -> Deferred[Changed | None]:
        user = self._named(name)
        if user is None:
            return succeed(None)
        shadow = user.shadow
        if shadow is None:
            raise NoShadow
        change = UserChange(shadow.capacity, shadow.rate_per_sec, shadow=NO_SHADOW)
        return self._change_user(name, change)

    def delete_user(self, name: str) -> Deferred[User | None]:
        """See IUserStore."""
        return self._in_turn(partial(self._delete_user, name))

    def _delete_user(self, name: str) -> Deferred[User | None]:
        user = self._named(name)
        if user is None:
            return succeed(None)
        stored = self._write(user, self._disk.database.delete, user.digest, [key.digest for key in user.keys])

        def deleted(_: object) -> User:
            before = user.shown(self._now_us())
            self._held.remove(user)
            self._notices.forget(user.digest, user.name)
            return before

        return stored.addCallback(deleted)

    # Keys

    def create_key(self, name: str, key: Key) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._in_turn(partial(self._create_key, name, key))

    def _create_key(self, name: str, key: Key) -> Deferred[Changed | None]:
        check_key(key)
        user = self._named(name)
        if user is None:
            return succeed(None)
        if self._is_repeated(user, key.digest):
            return succeed(self._unchanged(user))
        return self._add_key(user, [], row_of_key(key, user.digest, self._now_us()))

    def change_key(self, name: str, key_id: str, change: KeyChange) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._in_turn(partial(self._change_key, name, key_id, change))

    def _change_key(self, name: str, key_id: str, change: KeyChange) -> Deferred[Changed | None]:
        check_key_change(change)
        key = self._key_of(name, key_id)
        if key is None:
            return succeed(None)
        if key.state == REVOKED and change.state not in (None, REVOKED):
            raise KeyRevoked
        now_us = self._now_us()
        row = key.row()
        if change.state is not None:
            row = row._replace(state=change.state)
        if change.expires_at is not None:
            row = row._replace(expires_us=change.expires_at)
        if change.label is not None:
            row = row._replace(label=change.label)
        if change.bucket is not None:
            capacity, rate_per_sec, level = change.bucket
            if level is None and key.own is not None:
                level = key.own.level_at(now_us)
            row = row._replace(
                capacity=capacity,
                rate_per_sec=float(rate_per_sec),
                level=new_level(capacity, level),
                stamp_us=now_us,
            )
        return self._write_keys(key.user, [row], bucket=change.bucket)

    def rotate_key(
        self, name: str, key_id: str, grace_us: int, digest: str, keep_expiry: bool = False
    ) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._in_turn(partial(self._rotate_key, name, key_id, grace_us, digest, keep_expiry))

    def _rotate_key(
        self, name: str, key_id: str, grace_us: int, digest: str, keep_expiry: bool
    ) -> Deferred[Changed | None]:
        check_grace(grace_us)
        check_digest(digest)
        key = self._key_of(name, key_id)
        if key is None:
            return succeed(None)
        user = key.user
        if self._is_repeated(user, digest):
            return succeed(self._unchanged(user))
        if key.state == REVOKED:
            raise KeyRevoked
        now_us = self._now_us()
        before = key.row()
        old = before._replace(state=REVOKED)
        if grace_us:
            ends = now_us + grace_us
            old = before._replace(expires_us=min(before.expires_us, ends) if before.expires_us else ends)
        expires_us = before.expires_us if keep_expiry else 0
        new = before._replace(digest=digest, state=ACTIVE, expires_us=expires_us, created_us=now_us, used_us=0)
        if key.own is not None:
            new = new._replace(level=key.own.level_at(now_us), stamp_us=now_us)
        return self._add_key(user, [old], new)

    def _add_key(self, user: HeldUser, changed: list[KeyRow], new: KeyRow) -> Deferred[Changed | None]:
        """Store changed keys and a new one, in place of an old one if there are too many."""
        if self._held.key_of_id(key_id_of(new.digest)) is not None:
            raise KeyTaken
        removed: HeldKey | None = None
        if len(user.keys) >= MAX_KEYS:
            now_us = self._now_us()
            ended = [
                key
                for key in user.keys[1:]
                if key.state == REVOKED or (key.expires_us and key.expires_us <= now_us)
            ]
            if not ended:
                raise TooManyKeys
            removed = min(ended, key=lambda key: key.created_us)
        return self._write_keys(user, [*changed, new], removed)

    def _write_keys(
        self,
        user: HeldUser,
        rows: list[KeyRow],
        removed: HeldKey | None = None,
        bucket: KeyBucket | None = None,
    ) -> Deferred[Changed | None]:
        """Store changed and new keys; `bucket` is the new one of a changed key."""
        before = user.shown(self._now_us())
        removed_keys = [removed.digest] if removed is not None else []
        stored = self._write(user, self._disk.database.write_keys, rows, removed_keys)

        def changed(_: object) -> Changed:
            held, now_us = self._held, self._now_us()
            if removed is not None:
                held.remove_key(removed)
            for row in rows:
                key = held.key(row.digest)
                if key is None:
                    held.add_key(user, row, now_us)
                else:
                    key.state, key.expires_us, key.label = row.state, row.expires_us, row.label
                    if bucket is not None:
                        # Tokens may have been taken meanwhile.
                        key.set_bucket(bucket, now_us)
                    held.key_changed(key)
                    self._dirty_keys.add(key)
            return Changed(before, user.shown(now_us))

        return stored.addCallback(changed)

    # For all

    @property
    def _disk(self) -> Disk:
        if self._accounts.disk is None:
            raise not_running()
        return self._accounts.disk

    def _in_turn(self, call: Callable[[], Deferred[_Result]]) -> Deferred[_Result]:
        if self._accounts.disk is None:
            return fail(not_running())
        self._creations.another_call()
        return self._disk.writer.answer(self._calls.run(call))

    def _write(self, user: HeldUser, call: Callable[..., None], *arguments: object) -> Deferred[object]:
        """A write about this user; levels are not written meanwhile."""
        writer = self._disk.writer
        writer.busy = user

        def written(result: object) -> object:
            writer.busy = None
            return result

        return writer.write(call, *arguments).addBoth(written)

    def _named(self, name: str) -> HeldUser | None:
        check_name(name)
        return self._held.named(name)

    def _key_of(self, name: str, key_id: str) -> HeldKey | None:
        check_key_id(key_id)
        user, key = self._named(name), self._held.key_of_id(key_id)
        return key if key is not None and key.user is user else None

    def _is_repeated(self, user: HeldUser, digest: str) -> bool:
        key = self._held.key(digest)
        return key is not None and key.user is user

    def _unchanged(self, user: HeldUser) -> Changed:
        shown = user.shown(self._now_us())
        return Changed(shown, shown)


def _changed_count(count: QuotaCount | None, change: UserChange, now_us: int) -> QuotaCount | None:
    """A user's quota after a change of it."""
    before = None if count is None else count.quota()
    quota, told = before, 0 if count is None else count.told
    if change.quota == NO_QUOTA:
        quota = None
    elif change.quota is not None:
        quota = changed_quota(before, change.quota, now_us)
    if quota is None:
        return None
    if before is None or (before.unit, before.per) != (quota.unit, quota.per) or 0 < before.ends_us <= now_us:
        told = 0
    if change.quota_used is not None:
        # The period is determined again, so that this also helps after the clock was wrong.
        quota = quota._replace(used=change.quota_used, starts_us=0, ends_us=0)
    return QuotaCount(quota, told)
