"""Loads all users and keys from the database into memory, before clients are served."""

from __future__ import annotations

import gc

from twisted_lb.interfaces import StoreUnavailable
from twisted_lb.stores.sqlite.database import AccountDatabase
from twisted_lb.stores.sqlite.held import HeldUsers
from twisted_lb.stores.sqlite.schema import KeyRow


def load_users(database: AccountDatabase, held: HeldUsers, now_us: int) -> None:
    """Load them.  Raises StoreUnavailable with the path."""
    # All objects that are created here are kept: the garbage collector would examine them again and again, which takes
    # a third of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        _load(database, held, now_us)
    finally:
        if collecting:
            gc.enable()


def _load(database: AccountDatabase, held: HeldUsers, now_us: int) -> None:
    keys: dict[str, list[KeyRow]] = {}  # by the digests of their users' first keys
    for key in database.key_rows():
        keys.setdefault(key.owner, []).append(key)
    for row in database.rows():
        held.add(row, keys.pop(row.digest, ()), now_us)
    if keys:
        raise StoreUnavailable(f"the database {database.path} is damaged: it has a key of no user")
