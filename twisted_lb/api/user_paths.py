"""The paths of the user API."""

from __future__ import annotations

from typing import Final

CREATE: Final = "/user/create"
PROFILE: Final = "/user/tokens/profile"
CHANGE: Final = "/user/tokens/change"
KEYS: Final = "/user/keys"
_PATHS: Final = frozenset(path.encode() for path in (CREATE, PROFILE, CHANGE, KEYS))
_BELOW_KEYS: Final = f"{KEYS}/".encode()


def is_user_path(path: bytes) -> bool:
    """Whether this is a path of the user API, with any method.  It is asked for each request."""
    return path.startswith(b"/user/") and (path in _PATHS or path.startswith(_BELOW_KEYS))
