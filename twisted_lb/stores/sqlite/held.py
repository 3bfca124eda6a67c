"""The users and keys of the embedded store, in memory.

A key is *plain* if it may be used, does not expire and has no bucket of its own, and its user has neither a quota nor a
shadow policy.  A request with a plain key needs only the bucket of its user, which `usable` has by the digest of the
key: this is one look-up.  All other keys are found by their key_id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

from twisted_lb.interfaces import MICROTOKENS, Account, Profile
from twisted_lb.limits.bucket import NEVER_USED_US, Bucket
from twisted_lb.limits.client_networks import IN_USE_SECONDS
from twisted_lb.limits.quota_count import QuotaCount, count_from_text
from twisted_lb.quotas import Quota, quota_at
from twisted_lb.stores.sqlite.schema import KeyRow, Row, read_shadow, shadow_text
from twisted_lb.user_names import normalized
from twisted_lb.users import (
    ACTIVE,
    DISABLED,
    KEY_DISABLED,
    KEY_EXPIRED,
    REVOKED,
    USER_DISABLED,
    Key,
    KeyBucket,
    Shadow,
    User,
    key_id_of,
)

MINUTE_US: Final = 60_000_000


class HeldUser(Bucket):
    """A user's bucket, with the user."""

    __slots__ = ("digest", "name", "name_bytes", "disabled", "metadata", "created_us", "keys", "shadow", "quota")

    def __init__(self, row: Row, now_us: int) -> None:
        # A time stamp in the future is from before the clock was set back: the bucket must not pause until then.
        super().__init__(row.capacity, row.rate_per_sec, row.level, min(row.stamp_us, now_us))
        self.digest = row.digest
        self.name = row.name
        self.name_bytes = row.name.encode()
        self.disabled = bool(row.disabled)
        self.metadata = row.metadata
        self.created_us = row.created_us
        self.keys: list[HeldKey] = []  # the first one first
        self.shadow: Bucket | None = None
        stored = read_shadow(row.shadow)
        if stored is not None:
            capacity, rate_per_sec, level, stamp_us = stored
            self.shadow = Bucket(capacity, rate_per_sec, level, min(stamp_us, now_us))
        self.quota: QuotaCount | None = count_from_text(row.quota) if row.quota else None

    def profile(self, now_us: int) -> Profile:
        account = Account(self.name, self.capacity, self.rate_per_sec)
        if self.shadow is None:
            return Profile(account, self.level_at(now_us), quota=self._shown_quota(now_us))
        shadow, quota = self._shown_shadow(now_us), self._shown_quota(now_us)
        return Profile(account, self.level_at(now_us), self.digest, shadow, quota)

    def set_shadow(self, shadow: Shadow, now_us: int) -> None:
        """Give it this shadow policy, or none; the level is kept unless there is one in `shadow`."""
        self.shadow = _changed_bucket(self.shadow, shadow.capacity, shadow.rate_per_sec, shadow.level, now_us)

    def in_use(self, now_us: int) -> bool:
        """Whether tokens were taken recently; see IAccountStore.in_use."""
        return self.stamp_us > NEVER_USED_US and now_us - self.stamp_us <= IN_USE_SECONDS * 1_000_000

    def row(self) -> Row:
        """The row that is stored."""
        return Row(
            self.digest,
            self.name,
            self.capacity,
            self.rate_per_sec,
            self.level,
            self.stamp_us,
            int(self.disabled),
            self.metadata,
            self.created_us,
            self.shadow_text(),
            self.quota.text() if self.quota is not None else "",
        )

    def shadow_text(self) -> str:
        """The shadow as it is stored."""
        shadow = self.shadow
        if shadow is None:
            return ""
        return shadow_text(shadow.capacity, shadow.rate_per_sec, shadow.level, shadow.stamp_us)

    def _shown_shadow(self, now_us: int) -> Shadow | None:
        shadow = self.shadow
        if shadow is None:
            return None
        return Shadow(shadow.capacity, shadow.rate_per_sec, shadow.level_at(now_us))

    def _shown_quota(self, now_us: int) -> Quota | None:
        return quota_at(self.quota.quota(), now_us) if self.quota is not None else None

    def key_rows(self) -> list[KeyRow]:
        """The rows of the keys; a first key with default values has none."""
        plain = KeyRow(self.digest, self.digest, created_us=self.created_us)
        return [row for row in [key.row() for key in self.keys] if row != plain]

    def shown(self, now_us: int) -> User:
        """As operators see it."""
        return User(
            self.name,
            self.capacity,
            self.rate_per_sec,
            self.level_at(now_us),
            self.disabled,
            json.loads(self.metadata) if self.metadata else {},
            self.created_us or None,
            tuple([key.shown(now_us) for key in self.keys]),
            self._shown_shadow(now_us),
            self._shown_quota(now_us),
        )


class HeldKey:
    """A key."""

    __slots__ = ("digest", "user", "state", "expires_us", "label", "created_us", "used_us", "own")

    def __init__(self, row: KeyRow, user: HeldUser, now_us: int) -> None:
        self.digest = row.digest
        self.user = user
        self.used_us = row.used_us
        self.created_us = row.created_us
        self.state = row.state
        self.expires_us = row.expires_us
        self.label = row.label
        self.own: Bucket | None = None
        if row.capacity:
            self.own = Bucket(row.capacity, row.rate_per_sec, row.level, min(row.stamp_us, now_us))

    def set_bucket(self, bucket: KeyBucket, now_us: int) -> None:
        """Give it this bucket of its own, or none; the level is kept unless there is one in `bucket`."""
        self.own = _changed_bucket(self.own, bucket.capacity, bucket.rate_per_sec, bucket.level, now_us)

    def refusal(self, now_us: int) -> str:
        """Why it must not be used, or ""; a revoked key is unknown."""
        if self.user.disabled:
            return USER_DISABLED
        if self.state == DISABLED:
            return KEY_DISABLED
        return KEY_EXPIRED if self.expires_us and self.expires_us <= now_us else ""

    @property
    def plain(self) -> bool:
        """Whether a request needs nothing but the user's bucket."""
        user = self.user
        of_user = not user.disabled and user.shadow is None and user.quota is None
        return of_user and self.state == ACTIVE and not self.expires_us and self.own is None

    def row(self) -> KeyRow:
        """The row that is stored."""
        own = self.own
        return KeyRow(
            self.digest,
            self.user.digest,
            self.state,
            self.expires_us,
            self.label,
            self.created_us,
            self.used_us,
            own.capacity if own is not None else 0,
            own.rate_per_sec if own is not None else 0.0,
            own.level if own is not None else 0,
            own.stamp_us if own is not None else 0,
        )

    def shown(self, now_us: int) -> Key:
        """As operators see it."""
        own = self.own
        return Key(
            self.digest,
            self.state,
            self.expires_us or None,
            self.label,
            self.created_us or None,
            self.used_us or None,
            KeyBucket(own.capacity, own.rate_per_sec, own.level_at(now_us)) if own is not None else None,
        )


class HeldUsers:
    """All users and keys."""

    __slots__ = ("usable", "users", "names", "on_key_removed", "_keys")

    def __init__(self) -> None:
        self.usable: dict[str, HeldUser] = {}  # by the digests of plain keys
        self.users: dict[str, HeldUser] = {}  # by the digests of their first keys
        # By their normalized names; None: a name that is taken by a user who is being stored.
        self.names: dict[str, HeldUser | None] = {}
        self._keys: dict[str, HeldKey] = {}  # by their key_id
        self.on_key_removed: Callable[[str], None] | None = None  # called with its digest

    def add(self, row: Row, keys: Sequence[KeyRow], now_us: int) -> None:
        """Add a user; a first key with default values need not be among the keys."""
        user = HeldUser(row, now_us)
        self.users[user.digest] = user
        # An earlier version may not have normalized it.
        self.names[normalized(user.name)] = user
        first = [key for key in keys if key.digest == row.digest]
        further = [key for key in keys if key.digest != row.digest]
        for key in (*(first or [KeyRow(row.digest, row.digest, created_us=row.created_us)]), *further):
            self.add_key(user, key, now_us)

    def add_key(self, user: HeldUser, row: KeyRow, now_us: int) -> None:
        """Add a key to a user."""
        key = HeldKey(row, user, now_us)
        user.keys.append(key)
        if len(user.keys) > 2:
            user.keys[1:] = sorted(user.keys[1:], key=_order)
        self._keys[key_id_of(key.digest)] = key
        self.key_changed(key)

    def key_changed(self, key: HeldKey) -> None:
        """Its state, or that of its user, may have changed."""
        if key.plain:
            self.usable[key.digest] = key.user
        else:
            self.usable.pop(key.digest, None)

    def remove_key(self, key: HeldKey) -> None:
        """Remove a key."""
        key.user.keys.remove(key)
        self.usable.pop(key.digest, None)
        del self._keys[key_id_of(key.digest)]
        if self.on_key_removed is not None:
            self.on_key_removed(key.digest)

    def remove(self, user: HeldUser) -> None:
        """Remove a user with all keys."""
        for key in list(user.keys):
            self.remove_key(key)
        del self.users[user.digest]
        del self.names[normalized(user.name)]

    def key(self, digest: str) -> HeldKey | None:
        """The key with this digest, whatever its state."""
        key = self._keys.get(key_id_of(digest))
        return key if key is not None and key.digest == digest else None

    def known(self, digest: str) -> HeldKey | None:
        """The same, unless it is revoked."""
        key = self.key(digest)
        return key if key is not None and key.state != REVOKED else None

    def key_of_id(self, key_id: str) -> HeldKey | None:
        """The key with this key_id."""
        return self._keys.get(key_id)

    def named(self, name: str) -> HeldUser | None:
        """The user of this name."""
        return self.names.get(normalized(name))

    def clear(self) -> None:
        """Forget all."""
        self.usable.clear()
        self.users.clear()
        self.names.clear()
        self._keys.clear()


def _order(key: HeldKey) -> tuple[int, str]:
    return key.created_us, key.digest


def _changed_bucket(
    bucket: Bucket | None, capacity: int, rate_per_sec: float, level: int | None, now_us: int
) -> Bucket | None:
    """The bucket with another policy, and this level if there is one; a new bucket if there was none.

    None for a capacity of 0.
    """
    if not capacity:
        return None
    if bucket is None:
        return Bucket(capacity, rate_per_sec, new_level(capacity, level), now_us)
    bucket.change(capacity, rate_per_sec, now_us)
    if level is not None:
        bucket.level = new_level(capacity, level)
    return bucket


def new_level(capacity: int, level: int | None) -> int:
    """The level of a new bucket, in microtokens: full, unless another one is given."""
    full = capacity * MICROTOKENS
    return full if level is None else min(level, full)


def row_of_key(key: Key, owner: str, now_us: int) -> KeyRow:
    """A new key, as it is stored."""
    row = KeyRow(
        key.digest,
        owner,
        key.state,
        key.expires_at or 0,
        key.label,
        now_us if key.created_at is None else key.created_at,
        key.last_used or 0,
    )
    if key.bucket is None:
        return row
    capacity, rate_per_sec, level = key.bucket
    return row._replace(
        capacity=capacity, rate_per_sec=float(rate_per_sec), level=new_level(capacity, level), stamp_us=now_us
    )


def stored_shadow(shadow: Shadow, now_us: int, before: Bucket | None = None) -> str:
    """A shadow as it is stored; the level is that of the one `before`, unless one is given."""
    level = shadow.level
    if level is None and before is not None:
        level = before.level_at(now_us)
    return shadow_text(shadow.capacity, shadow.rate_per_sec, new_level(shadow.capacity, level), now_us)
