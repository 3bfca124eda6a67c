"""Users and keys that are named in paths of the admin listener; unknown ones are refused with 404."""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import unquote

from twisted.internet.defer import Deferred

from twisted_lb.api.responses import Refusal
from twisted_lb.users import MAX_KEYS, Changed, Key, KeyRevoked, KeyTaken, TooManyKeys, User


def name_in(segment: str) -> str:
    """The name of a user in a segment of the path.  Raises Refusal if no user can have it."""
    name = unquote(segment)
    if "\0" in name:
        unknown_user(name)
    return name


def key_of(user: User, key_id: str) -> Key:
    """The key of this user.  Raises Refusal if there is no such key."""
    key = user.key(key_id)
    if key is None:
        unknown_key(user.name, key_id)
    return key


def unknown_user(name: str) -> NoReturn:
    """Raise the Refusal."""
    raise Refusal(404, f"There is no user {name!r}.")


def unknown_key(name: str, key_id: str) -> NoReturn:
    """Raise the Refusal."""
    raise Refusal(404, f"The user {name} has no key {key_id!r}.")


async def stored_key(changed: Deferred[Changed | None], name: str, key_id: str) -> Changed:
    """The change of a key, once it is stored.  Raises Refusal if it is not possible."""
    try:
        found = await changed
    except KeyRevoked:
        raise Refusal(409, f"The key {key_id} is revoked, which cannot be undone.") from None
    except TooManyKeys:
        raise Refusal(409, f"{name} has {MAX_KEYS} keys already; revoke one of them first.") from None
    except KeyTaken:
        raise Refusal(409, "This key exists already.") from None
    if found is None:
        raise Refusal(404, f"There is no user {name!r}, or the user has no key {key_id!r}.")
    return found
