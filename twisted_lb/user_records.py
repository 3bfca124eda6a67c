"""Users with all that stores keep of them, as JSON: for exports and imports, and between processes.

Times are in microseconds since 1970 and levels in microtokens, so that nothing is lost.  Keys are digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted_lb.users import ACTIVE, Key, KeyBucket, Shadow, User

_USER: Final = frozenset(
    ("name", "capacity", "rate_per_sec", "level", "disabled", "metadata", "created_at", "keys", "shadow")
)
_KEY: Final = frozenset(("digest", "state", "expires_at", "label", "created_at", "last_used", "bucket"))
_BUCKET: Final = frozenset(("capacity", "rate_per_sec", "level"))


def user_record(user: User) -> dict[str, Any]:
    """A user as JSON; `shadow` only if there is one, so that earlier versions can read the others."""
    record = {**user._asdict(), "metadata": dict(user.metadata), "keys": [key_record(key) for key in user.keys]}
    del record["shadow"]
    return record if user.shadow is None else {**record, "shadow": user.shadow._asdict()}


def key_record(key: Key) -> dict[str, Any]:
    """A key as JSON."""
    return {**key._asdict(), "bucket": None if key.bucket is None else key.bucket._asdict()}


def user_from(record: object) -> User:
    """The user of a record.  Raises ValueError for what is not one; stores check the values."""
    members = _members("the user", record, _USER, ("name", "capacity", "rate_per_sec", "keys"))
    keys, shadow = members["keys"], members.get("shadow")
    if not isinstance(keys, list):
        raise ValueError("keys: expected an array of keys")
    return User(
        _value("name", members, _is_text),
        _value("capacity", members, _is_whole),
        float(_value("rate_per_sec", members, _is_number)),
        _value("level", members, _is_whole, None),
        _value("disabled", members, _is_bool, False),
        _value("metadata", members, _is_object, {}),
        _value("created_at", members, _is_whole, None),
        tuple(key_from(key) for key in keys),
        None if shadow is None else Shadow(*_bucket_from("shadow", shadow)),
    )


def key_from(record: object) -> Key:
    """The key of a record.  Raises ValueError."""
    members = _members("the key", record, _KEY, ("digest",))
    bucket = members.get("bucket")
    return Key(
        _value("digest", members, _is_text),
        _value("state", members, _is_text, ACTIVE),
        _value("expires_at", members, _is_whole, None),
        _value("label", members, _is_text, ""),
        _value("created_at", members, _is_whole, None),
        _value("last_used", members, _is_whole, None),
        None if bucket is None else KeyBucket(*_bucket_from("bucket", bucket)),
    )


def _bucket_from(what: str, record: object) -> tuple[int, float, int | None]:
    members = _members(what, record, _BUCKET, ("capacity", "rate_per_sec"))
    return (
        _value("capacity", members, _is_whole),
        float(_value("rate_per_sec", members, _is_number)),
        _value("level", members, _is_whole, None),
    )


_REQUIRED: Final = object()


def _members(what: str, record: object, known: frozenset[str], required: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"{what}: expected an object")
    missing = [name for name in required if name not in record]
    if missing:
        raise ValueError(f"{what}: {missing[0]} is missing")
    unknown = [name for name in record if name not in known]
    if unknown:
        raise ValueError(f"{what}: unknown member {unknown[0]!r}; expected {', '.join(sorted(known))}")
    return record


def _value(
    name: str, members: Mapping[str, Any], is_valid: Callable[[object], bool], default: object = _REQUIRED
) -> Any:
    """A member; null, and none, stand for the default."""
    value = members.get(name)
    if value is None and default is not _REQUIRED:
        return default
    if not is_valid(value):
        raise ValueError(f"{name}: expected {is_valid.__doc__}")
    return value


def _is_text(value: object) -> bool:
    """a string"""
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    """a whole number"""
    return type(value) is int


def _is_number(value: object) -> bool:
    """a number"""
    return type(value) in (int, float)


def _is_bool(value: object) -> bool:
    """true or false"""
    return type(value) is bool


def _is_object(value: object) -> bool:
    """an object"""
    return isinstance(value, dict)
