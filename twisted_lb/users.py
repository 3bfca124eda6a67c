"""Users and their keys, as stores keep them and operators see them.

A user has a bucket and one or more keys.  A key is stored as its digest only; its `key_id`, which is derived from the
digest, names it everywhere else, and is not a secret.  The digest of a user's first key also names the user's record in
the stores, whatever becomes of that key.

Times are in microseconds since 1970, by the clock of the store; None where the time is not known, such as for users
created by an earlier version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from twisted_lb.quotas import Quota

# The states of a key.
ACTIVE: Final = "active"
DISABLED: Final = "disabled"  # until it is enabled
REVOKED: Final = "revoked"  # for good

# Why a key that exists is refused: the `reason` of a 403 response.
KEY_DISABLED: Final = "key_disabled"
KEY_EXPIRED: Final = "key_expired"
USER_DISABLED: Final = "user_disabled"
REFUSALS: Final = (USER_DISABLED, KEY_DISABLED, KEY_EXPIRED)

MAX_KEYS: Final = 100  # of a user; for a new one beyond that, the oldest revoked or expired one is removed
MAX_LABEL_CHARACTERS: Final = 200
MAX_METADATA_BYTES: Final = 4096  # of its JSON
MAX_TIME_US: Final = 2**53 - 1

KEY_ID_PREFIX: Final = "key_"
KEY_ID_DIGITS: Final = 16  # of the digest: enough for each key to have another one, and no help to find the key


def key_id_of(digest: str) -> str:
    """The public name of the key with this digest."""
    return KEY_ID_PREFIX + digest[:KEY_ID_DIGITS]


def is_key_id(text: str) -> bool:
    """Whether this has the form of a key_id."""
    digits = text.removeprefix(KEY_ID_PREFIX)
    return len(text) == len(KEY_ID_PREFIX) + KEY_ID_DIGITS == len(KEY_ID_PREFIX) + len(digits) and all(
        digit in "0123456789abcdef" for digit in digits
    )


class KeyBucket(NamedTuple):
    """A bucket of a key's own, within that of its user: a request takes its tokens from both, or from none."""

    capacity: int  # tokens, at least 1
    rate_per_sec: float  # tokens per second, 0 or more
    level: int | None = None  # microtokens; None for a new one: full


class Shadow(NamedTuple):
    """The shadow policy of a user: a bucket that refuses nothing, but of which is counted what it would refuse."""

    capacity: int  # tokens, at least 1
    rate_per_sec: float  # tokens per second, 0 or more
    level: int | None = None  # microtokens; None for a new one: full


class Key(NamedTuple):
    """One key of a user."""

    digest: str  # SHA-256 in lower-case hexadecimal; not shown, except in an export
    state: str = ACTIVE
    expires_at: int | None = None  # None: it does not expire
    label: str = ""
    created_at: int | None = None
    last_used: int | None = None  # to the minute
    bucket: KeyBucket | None = None

    @property
    def key_id(self) -> str:
        """The public name."""
        return key_id_of(self.digest)

    @property
    def bounded(self) -> bool:
        """Whether it has bounds that its user has not: by itself, it must not get around them."""
        return self.expires_at is not None or self.bucket is not None


class User(NamedTuple):
    """A user with all keys, the first of which names the record."""

    name: str
    capacity: int  # tokens, at least 1
    rate_per_sec: float  # tokens per second, 0 or more
    level: int | None = None  # microtokens; may be negative; None for a new one: full
    disabled: bool = False
    metadata: Mapping[str, Any] = {}  # anything that is JSON, for operators
    created_at: int | None = None
    keys: tuple[Key, ...] = ()  # in the order of their creation; at least one
    shadow: Shadow | None = None
    quota: Quota | None = None  # as it is now, by the clock of the store

    def key(self, key_id: str) -> Key | None:
        """The key with this key_id, if it is the user's."""
        return next((key for key in self.keys if key.key_id == key_id), None)


class UserPage(NamedTuple):
    """Some users, sorted by name (as UTF-8 bytes)."""

    users: list[User]
    more_after: str | None  # the `after` of the next page; None: this is the last one


class UserFilter(NamedTuple):
    """Which users a page has: those to whom all applies.  What is said of keys must apply to one key together."""

    name: str = ""  # is part of the name
    disabled: bool | None = None
    key_id: str = ""  # is how the key_id begins
    label: str = ""  # is part of the label
    state: str = ""  # one of ACTIVE, DISABLED, REVOKED
    used_since: int | None = None  # the last use was at this time, or later
    unused_since: int | None = None  # there was no use at this time, or later

    def admits(self, user: User) -> bool:
        """Whether it applies to this user."""
        if self.name not in user.name or (self.disabled is not None and self.disabled != user.disabled):
            return False
        return any(self._admits_key(key) for key in user.keys)

    def _admits_key(self, key: Key) -> bool:
        used = -1 if key.last_used is None else key.last_used
        return (
            key.key_id.startswith(self.key_id)
            and self.label in key.label
            and self.state in ("", key.state)
            and (self.used_since is None or used >= self.used_since)
            and (self.unused_since is None or used < self.unused_since)
        )


class UserChange(NamedTuple):
    """What to set of a user: what is not None."""

    capacity: int | None = None
    rate_per_sec: float | None = None
    level: int | None = None  # microtokens, reduced to the capacity
    disabled: bool | None = None
    metadata: Mapping[str, Any] | None = None
    shadow: Shadow | None = None  # or NO_SHADOW; its level is kept, unless one is given
    quota: Quota | None = None  # or NO_QUOTA; what was used stays if unit and period do
    quota_used: int | None = None  # what was used of the quota, if there is one


NO_SHADOW: Final = Shadow(0, 0.0)  # as `shadow` of a change: the user has none any more
NEVER: Final = 0  # as `expires_at` of a change: the key does not expire any more
NO_BUCKET: Final = KeyBucket(0, 0.0)  # as `bucket` of a change: the key has none of its own any more


class KeyChange(NamedTuple):
    """What to set of a key: what is not None.  REVOKED is final: no other state follows it."""

    state: str | None = None
    expires_at: int | None = None  # or NEVER
    label: str | None = None
    bucket: KeyBucket | None = None  # or NO_BUCKET; its level is kept, unless one is given


class Changed(NamedTuple):
    """A user before and after a change."""

    before: User
    after: User


class KeyTaken(Exception):
    """Another user has a key with this digest, or with its key_id."""


class KeyRevoked(Exception):
    """The key is revoked, which cannot be undone."""


class NoShadow(Exception):
    """The user has no shadow policy that could be promoted."""


class TooManyKeys(Exception):
    """The user has MAX_KEYS keys, none of which is revoked or expired."""


class KeyRefused(Exception):
    """The key exists, and must not be used; `reason` is one of REFUSALS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as stores keep it.  Raises ValueError for what is not JSON, or is too long."""
    try:
        text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata: expected a JSON object: {error}") from None
    if not isinstance(metadata, Mapping) or size > MAX_METADATA_BYTES:
        raise ValueError(f"metadata: expected a JSON object of at most {MAX_METADATA_BYTES} bytes")
    return text


def check_label(label: object) -> None:
    """Raise ValueError unless this can be a label: one line of text."""
    if isinstance(label, str) and len(label) <= MAX_LABEL_CHARACTERS and (label.isprintable() or not label):
        try:
            label.encode()
            return
        except UnicodeEncodeError:
            """A surrogate."""
    raise ValueError(f"label: expected one line of at most {MAX_LABEL_CHARACTERS} characters, not {label!r}")


def check_time(name: str, time_us: object) -> None:
    """Raise ValueError unless this is None or a time."""
    if time_us is not None and (type(time_us) is not int or not 0 <= time_us <= MAX_TIME_US):
        raise ValueError(f"{name}: expected a time in microseconds, not {time_us!r}")
