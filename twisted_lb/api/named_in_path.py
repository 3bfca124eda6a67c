"""Users and keys as the paths of the admin listener name them, or a refusal with 404."""

from __future__ import annotations

from typing import NoReturn
from urllib.parse import unquote

from twisted_lb.api.responses import Refusal
from twisted_lb.users import Key, User


def name_in(segment: str) -> str:
    """The name in a segment of the path.  Raises Refusal."""
    name = unquote(segment)
    if "\0" in name:
        unknown_user(name)
    return name


def key_of(user: User, key_id: str) -> Key:
    """The key of a user.  Raises Refusal."""
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
