"""Checks of users and keys before a store stores anything.  All raise ValueError."""

from __future__ import annotations

import re
from typing import Final

from twisted_lb.limits.bucket import LOWEST_LEVEL, check_change, check_policy
from twisted_lb.quotas import NO_QUOTA, check_quota, check_used
from twisted_lb.users import (
    ACTIVE,
    DISABLED,
    NO_BUCKET,
    NO_SHADOW,
    REVOKED,
    Key,
    KeyBucket,
    KeyChange,
    Shadow,
    User,
    UserChange,
    check_label,
    check_time,
    is_key_id,
    metadata_text,
)

MAX_PAGE: Final = 200  # users
STATES: Final = (ACTIVE, DISABLED, REVOKED)

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def check_digest(digest: object) -> None:
    """Check that it is a SHA-256 in lower-case hexadecimal."""
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise ValueError(f"digest: expected 64 hexadecimal digits in lower case, not {digest!r}")


def check_key_id(key_id: object) -> None:
    """Check that it has the form of a key_id."""
    if not isinstance(key_id, str) or not is_key_id(key_id):
        raise ValueError(f"key_id: expected 'key_' and 16 hexadecimal digits, not {key_id!r}")


def check_name(name: str) -> None:
    """Check that it is text without NUL."""
    if "\0" in name:
        raise ValueError("name: a NUL character cannot be part of it")
    name.encode()


def check_level(level: object) -> None:
    """Check that it is None, or microtokens that a bucket can have."""
    if level is not None and (type(level) is not int or not LOWEST_LEVEL <= level <= -LOWEST_LEVEL):
        raise ValueError(f"level: expected microtokens from {LOWEST_LEVEL} to {-LOWEST_LEVEL}, not {level!r}")


def check_key(key: Key) -> None:
    """Check that it can be stored."""
    check_digest(key.digest)
    check_state(key.state)
    check_time("expires_at", key.expires_at)
    check_label(key.label)
    check_time("created_at", key.created_at)
    check_time("last_used", key.last_used)
    if key.bucket is not None:
        check_bucket(key.bucket)


def check_state(state: object) -> None:
    """Check that it is one of the states of a key."""
    if state not in STATES:
        raise ValueError(f"state: expected one of {', '.join(STATES)}, not {state!r}")


def check_bucket(bucket: KeyBucket | Shadow) -> None:
    """Check that it can be a key's own bucket, or a user's shadow."""
    check_policy(bucket.capacity, bucket.rate_per_sec)
    check_level(bucket.level)


def check_user(user: User, most_keys: int) -> None:
    """Check that it can be stored."""
    check_name(user.name)
    check_policy(user.capacity, user.rate_per_sec)
    check_level(user.level)
    metadata_text(user.metadata)
    check_time("created_at", user.created_at)
    if user.quota is not None:
        check_quota(user.quota)
    if not 1 <= len(user.keys) <= most_keys:
        raise ValueError(f"keys: expected from 1 to {most_keys}, not {len(user.keys)}")
    if len({key.key_id for key in user.keys}) < len(user.keys):
        raise ValueError("keys: two of them have the same key_id")
    for key in user.keys:
        check_key(key)
    if user.shadow is not None:
        check_bucket(user.shadow)


def check_user_change(change: UserChange) -> None:
    """Check that it can be applied to a user."""
    check_change(change.capacity, change.rate_per_sec)
    check_level(change.level)
    if change.metadata is not None:
        metadata_text(change.metadata)
    if change.shadow is not None and change.shadow != NO_SHADOW:
        check_bucket(change.shadow)
    if change.quota is not None and change.quota != NO_QUOTA:
        check_quota(change.quota)
    if change.quota_used is not None:
        check_used(change.quota_used)


def check_key_change(change: KeyChange) -> None:
    """Check that it can be applied to a key."""
    if change.state is not None:
        check_state(change.state)
    check_time("expires_at", change.expires_at)
    if change.label is not None:
        check_label(change.label)
    if change.bucket is not None and change.bucket != NO_BUCKET:
        check_bucket(change.bucket)


def check_page(after: str, count: int) -> None:
    """Check that such a page can be requested."""
    if not 1 <= count <= MAX_PAGE:
        raise ValueError(f"count: expected a whole number from 1 to {MAX_PAGE}, not {count!r}")
    after.encode()


def check_grace(grace_us: object) -> None:
    """Check that it is a duration in microseconds."""
    if type(grace_us) is not int or not 0 <= grace_us <= 10**15:
        raise ValueError(f"grace: expected microseconds from 0 to {10**15}, not {grace_us!r}")
