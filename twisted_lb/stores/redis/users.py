"""Users and their keys in Redis: each call of IUserStore is one script call, which takes effect completely or not.

Keys are found by their key_id in two sorted sets, `tokenlb:first_keys` and `tokenlb:further_keys`.  A store of an
earlier version has none; its keys are entered when a key_id is not found and the index is incomplete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from twisted_lb.interfaces import NameTaken, StoreUnavailable
from twisted_lb.limits.quota_count import QuotaCount
from twisted_lb.quotas import NO_QUOTA, Quota, quota_text
from twisted_lb.stores.filtered_page import filtered_page
from twisted_lb.stores.redis.accounts import REFUSAL_OF, quota_of
from twisted_lb.stores.redis.connection import RedisConnection
from twisted_lb.stores.redis.keys import account_key
from twisted_lb.stores.redis.rates import rate_text
from twisted_lb.stores.redis.scripts import RedisScript
from twisted_lb.stores.user_checks import (
    check_digest,
    check_grace,
    check_key,
    check_key_change,
    check_key_id,
    check_name,
    check_page,
    check_user,
    check_user_change,
)
from twisted_lb.user_names import equal_forms
from twisted_lb.users import (
    KEY_ID_PREFIX,
    MAX_KEYS,
    Changed,
    Key,
    KeyBucket,
    KeyChange,
    KeyRefused,
    KeyRevoked,
    KeyTaken,
    NoShadow,
    Shadow,
    TooManyKeys,
    User,
    UserChange,
    UserFilter,
    UserPage,
    metadata_text,
)

_REVOKED: Final = -1  # as `refusal` in bucket.lua

INDEXED: Final = 1000  # users, in one call
MAX_ASKED: Final = 1000  # keys, in one call

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _failing(call: Callable[_Arguments, Deferred[_Result]]) -> Callable[_Arguments, Deferred[_Result]]:
    """A ValueError that the call raises becomes the failure of its Deferred."""

    @wraps(call)
    def called(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> Deferred[_Result]:
        try:
            return call(*arguments, **named)
        except ValueError:
            return fail(Failure())

    return called


class RedisUsers:
    """The methods of IUserStore on one connection."""

    def __init__(self, connection: RedisConnection) -> None:
        def script(name: str) -> RedisScript:
            # These calls are rare: Redis gets each script when it is first called.
            return RedisScript(name, connection, "users")

        self._page = script("page_users")
        self._read = script("read_user")
        self._read_of_key = script("read_user_of_key")
        self._find = script("find_key")
        self._index = script("index_keys")
        self._create = script("create_user")
        self._change = script("change_user")
        self._promote = script("promote_shadow")
        self._delete = script("delete_user")
        self._create_key = script("create_key")
        self._change_key = script("change_key")
        self._rotate_key = script("rotate_key")
        self._refused = script("refused_keys")

    @_failing
    def user_page(self, after: str, count: int, filter: UserFilter) -> Deferred[UserPage]:
        """See IUserStore."""
        check_page(after, count)
        return Deferred.fromCoroutine(filtered_page(self._users, after, count, filter))

    def _users(self, after: str, count: int) -> Deferred[UserPage]:
        return self._page.call(after.encode(), b"%d" % count, keys=0).addCallback(_user_page)

    @_failing
    def user(self, name: str) -> Deferred[User | None]:
        """See IUserStore."""
        return self._read.call(*_forms(name), keys=0).addCallback(_user_or_none)

    @_failing
    def user_of_key(self, digest: str) -> Deferred[User | None]:
        """See IUserStore."""
        check_digest(digest)
        return self._read_of_key.call(account_key(digest), digest.encode()).addCallback(_user_of_key)

    @_failing
    def find_key(self, key_id: str) -> Deferred[User | None]:
        """See IUserStore."""
        check_key_id(key_id)
        return Deferred.fromCoroutine(self._find_key(_digits(key_id)))

    async def _find_key(self, digits: bytes) -> User | None:
        reply = await self._find.call(digits, keys=0)
        if reply == 1:
            after: bytes | None = b""
            while after is not None:
                after = await self._index.call(after, b"%d" % INDEXED, keys=0)
            reply = await self._find.call(digits, keys=0)
        return None if reply == 1 else _user_or_none(reply)

    @_failing
    def create_user(self, user: User) -> Deferred[None]:
        """See IUserStore.  After a StoreUnavailable the user may exist: the reply may have been lost."""
        check_user(user, MAX_KEYS)
        arguments = [
            b"%d" % user.capacity,
            rate_text(user.rate_per_sec),
            _number(user.level),
            _user_state(user.disabled),
            metadata_text(user.metadata).encode() if user.metadata else b"",
            _number(user.created_at),
            *((b"0", b"0", b"") if user.shadow is None else _bucket_arguments(user.shadow)),
            *_new_quota(user.quota),
        ]
        for key in user.keys:
            arguments += _key_arguments(key)
        return self._create.call(*_forms(user.name), *arguments, keys=0).addCallback(_check_created, user.name)

    @_failing
    def change_user(self, name: str, change: UserChange) -> Deferred[Changed | None]:
        """See IUserStore."""
        check_user_change(change)
        return self._change.call(
            *_forms(name),
            _number(change.capacity),
            b"" if change.rate_per_sec is None else rate_text(change.rate_per_sec),
            _number(change.level),
            b"" if change.disabled is None else _user_state(change.disabled),
            b"" if change.metadata is None else metadata_text(change.metadata).encode(),
            *((b"", b"", b"") if change.shadow is None else _bucket_arguments(change.shadow)),
            _quota(change.quota),
            _number(change.quota_used),
            keys=0,
        ).addCallback(_changed)

    @_failing
    def promote_shadow(self, name: str) -> Deferred[Changed | None]:
        """See IUserStore."""
        return self._promote.call(*_forms(name), keys=0).addCallback(_changed)

    @_failing
    def delete_user(self, name: str) -> Deferred[User | None]:
        """See IUserStore."""
        return self._delete.call(*_forms(name), keys=0).addCallback(_user_or_none)

    @_failing
    def create_key(self, name: str, key: Key) -> Deferred[Changed | None]:
        """See IUserStore."""
        check_key(key)
        return self._create_key.call(*_forms(name), b"%d" % MAX_KEYS, *_key_arguments(key), keys=0).addCallback(
            _changed
        )

    @_failing
    def change_key(self, name: str, key_id: str, change: KeyChange) -> Deferred[Changed | None]:
        """See IUserStore."""
        check_key_id(key_id)
        check_key_change(change)
        bucket = change.bucket
        return self._change_key.call(
            *_forms(name),
            _digits(key_id),
            (change.state or "").encode(),
            _number(change.expires_at),
            b"" if change.label is None else b"1" + change.label.encode(),
            *((b"", b"", b"") if bucket is None else _bucket_arguments(bucket)),
            keys=0,
        ).addCallback(_changed)

    @_failing
    def rotate_key(
        self, name: str, key_id: str, grace_us: int, digest: str, keep_expiry: bool = False
    ) -> Deferred[Changed | None]:
        """See IUserStore."""
        check_key_id(key_id)
        check_grace(grace_us)
        check_digest(digest)
        return self._rotate_key.call(
            *_forms(name),
            b"%d" % MAX_KEYS,
            _digits(key_id),
            b"%d" % grace_us,
            digest.encode(),
            b"%d" % keep_expiry,
            keys=0,
        ).addCallback(_changed)

    def refused_keys(self, digests: Sequence[str]) -> Deferred[list[str]]:
        """See IUserStore."""
        return Deferred.fromCoroutine(self._refused_keys(digests))

    async def _refused_keys(self, digests: Sequence[str]) -> list[str]:
        refused = []
        for first in range(0, len(digests), MAX_ASKED):
            asked = digests[first : first + MAX_ASKED]
            positions = await self._refused.call(*map(account_key, asked), keys=len(asked))
            refused += [asked[position - 1] for position in positions]
        return refused


# Arguments


def _forms(name: str) -> list[bytes]:
    check_name(name)
    forms = [form.encode() for form in equal_forms(name)]
    return [b"%d" % len(forms), *forms]


def _number(number: int | None) -> bytes:
    return b"" if number is None else b"%d" % number


def _user_state(disabled: bool) -> bytes:
    return b"disabled" if disabled else b"active"


def _quota(quota: Quota | None) -> bytes:
    """The argument for a change of the quota."""
    return b"" if quota is None else b"-" if quota == NO_QUOTA else quota_text(quota).encode()


def _new_quota(quota: Quota | None) -> list[bytes]:
    if quota is None:
        return [b""] * 5
    numbers = (quota.used, quota.starts_us, quota.ends_us, QuotaCount(quota).told)
    return [quota_text(quota).encode(), *[b"%d" % number for number in numbers]]


def _digits(key_id: str) -> bytes:
    return key_id.removeprefix(KEY_ID_PREFIX).encode()


def _key_arguments(key: Key) -> list[bytes]:
    """In the order of `key_argument` in users.lua."""
    return [
        key.digest.encode(),
        key.state.encode(),
        b"%d" % (key.expires_at or 0),
        key.label.encode(),
        _number(key.created_at),
        b"%d" % (key.last_used or 0),
        *((b"0", b"0", b"") if key.bucket is None else _bucket_arguments(key.bucket)),
    ]


def _bucket_arguments(bucket: KeyBucket | Shadow) -> tuple[bytes, bytes, bytes]:
    return b"%d" % bucket.capacity, rate_text(bucket.rate_per_sec), _number(bucket.level)


# Replies


def _check_created(outcome: int, name: str) -> None:
    if outcome == 1:
        raise NameTaken(name)
    if outcome == 2:
        raise KeyTaken


def _changed(reply: Any) -> Changed | None:
    if reply == 2:
        raise KeyTaken
    if reply == 3:
        raise TooManyKeys
    if reply == 4:
        raise KeyRevoked
    if reply == 5:
        raise NoShadow
    if reply is None:
        return None
    before, after = reply or (reply, reply)
    return Changed(_user(before), _user(after))


def _user_or_none(reply: list[Any] | None) -> User | None:
    return None if reply is None else _user(reply)


def _user_of_key(reply: list[Any] | None) -> User | None:
    if reply is None:
        return None
    reason, user = reply or (0, reply)
    if reason == _REVOKED:
        return None
    if reason:
        raise KeyRefused(REFUSAL_OF[reason])
    return _user(user)


def _user(reply: list[Any]) -> User:
    """See `user_at` in users.lua."""
    if not reply:
        raise StoreUnavailable("what Redis holds for this user is not a user")
    _, name, capacity, rate, level, state, described, (created, quota), first, *further = reply
    metadata, shadow_capacity, shadow_rate, shadow_level = described
    keys = list(map(_key, further))
    if len(keys) > 1:
        keys.sort(key=lambda key: (key.created_at or 0, key.digest))
    return User(
        name.decode(),
        int(capacity),
        float(rate),
        level,
        state == b"disabled",
        _metadata(metadata),
        created or None,
        (_key(first), *keys),
        Shadow(shadow_capacity, float(shadow_rate), shadow_level) if shadow_capacity else None,
        quota_of(quota),
    )


def _key(reply: list[Any]) -> Key:
    """See `key_from` in users.lua."""
    digest, state, expires, label, created, used, capacity, rate, level = reply
    bucket = KeyBucket(capacity, float(rate), level) if capacity else None
    return Key(digest.decode(), state.decode(), expires or None, label.decode(), created or None, used or None, bucket)


def _metadata(text: bytes) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _user_page(reply: list[Any]) -> UserPage:
    more_after, *users = reply
    return UserPage([_user(user) for user in users], None if more_after is None else more_after.decode())
