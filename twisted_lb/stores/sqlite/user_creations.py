"""Users that are created in the embedded store, many at once.

Users whose creation is requested while another call is under way, with no other change between them, are stored in one
transaction: otherwise an import would wait for the disk for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from twisted_lb.interfaces import NameTaken
from twisted_lb.limits.bucket import NEVER_USED_US
from twisted_lb.limits.quota_count import QuotaCount
from twisted_lb.stores.sqlite.accounts import EmbeddedAccounts, not_running
from twisted_lb.stores.sqlite.held import HeldUsers, new_level, row_of_key, stored_shadow
from twisted_lb.stores.sqlite.schema import KeyRow, Row
from twisted_lb.stores.sqlite.sequential import SequentialCalls
from twisted_lb.stores.user_checks import check_user
from twisted_lb.user_names import normalized
from twisted_lb.users import MAX_KEYS, KeyTaken, User, metadata_text

MAX_TOGETHER: Final = 50  # users in one transaction, all of which the event loop then adds to memory at once


class NewUser(NamedTuple):
    """A user to be created."""

    user: User
    created: Deferred[None]


class NewRows(NamedTuple):
    """What is stored for a new user."""

    row: Row
    keys: list[KeyRow]
    created: Deferred[None]


class UserCreations:
    """Creates users; the other calls that change something go through the same `calls`."""

    def __init__(
        self, held: HeldUsers, now_us: Callable[[], int], accounts: EmbeddedAccounts, calls: SequentialCalls
    ) -> None:
        """As EmbeddedUsers."""
        self._held = held
        self._now_us = now_us
        self._accounts = accounts
        self._calls = calls
        # What the last waiting call will create, if it is a creation.
        self._joined: list[NewUser] | None = None

    def create(self, user: User) -> Deferred[None]:
        """Store a user.  Fails as IUserStore.create_user does."""
        created: Deferred[None] = Deferred()
        if self._joined is not None and len(self._joined) < MAX_TOGETHER:
            self._joined.append(NewUser(user, created))
        else:
            joined = self._joined = [NewUser(user, created)]
            self._calls.run(partial(self._create_users, joined))
        return created

    def another_call(self) -> None:
        """Another call is about to wait: users that are created after it must not be created before it."""
        self._joined = None

    def _create_users(self, joined: list[NewUser]) -> Deferred[None]:
        """Create users.  Each gets its own outcome."""
        if self._joined is joined:
            self._joined = None
        new: list[NewRows] = []
        later: list[NewUser] = []
        names: set[str] = set()
        key_ids: set[str] = set()
        for one in joined:
            try:
                name, ids = normalized(one.user.name), {key.key_id for key in one.user.keys}
                if name in names or ids & key_ids:
                    # Whether they are taken is known only when the others are stored.
                    later.append(one)
                    continue
                new.append(NewRows(*self._rows_of(one.user), one.created))
            except Exception:
                one.created.errback()
            else:
                names.add(name)
                key_ids |= ids
        stored = self._store(new)
        return stored.addCallback(lambda _: self._create_users(later)) if later else stored

    def _store(self, new: list[NewRows]) -> Deferred[None]:
        disk = self._accounts.disk
        if not new:
            return succeed(None)
        if disk is None:
            return self._not_created(Failure(not_running()), new)
        keys_of_all = [key for one in new for key in one.keys]
        stored = disk.writer.write(disk.database.insert_all, [one.row for one in new], keys_of_all)
        return stored.addCallbacks(self._created, self._not_created, callbackArgs=(new,), errbackArgs=(new,))

    def _created(self, _: object, new: list[NewRows]) -> None:
        now_us = self._now_us()
        for row, keys, _created in new:
            self._held.add(row, keys, now_us)
        for one in new:
            one.created.callback(None)

    def _not_created(self, failure: Failure, new: list[NewRows]) -> Deferred[None]:
        for one in new:
            self._held.names.pop(one.row.name, None)
        for one in new:
            one.created.errback(failure)
        return succeed(None)

    def _rows_of(self, user: User) -> tuple[Row, list[KeyRow]]:
        """What to store for a new user, whose name is taken from now on."""
        check_user(user, MAX_KEYS)
        held, now_us = self._held, self._now_us()
        name = normalized(user.name)
        if name in held.names:
            raise NameTaken(name)
        if any(held.key_of_id(key.key_id) is not None for key in user.keys):
            raise KeyTaken
        first = user.keys[0].digest
        level = new_level(user.capacity, user.level)
        created_us = now_us if user.created_at is None else user.created_at
        row = Row(
            first,
            name,
            user.capacity,
            float(user.rate_per_sec),
            level,
            NEVER_USED_US if level == new_level(user.capacity, None) else now_us,
            int(user.disabled),
            metadata_text(user.metadata) if user.metadata else "",
            created_us,
            stored_shadow(user.shadow, now_us) if user.shadow is not None else "",
            QuotaCount(user.quota).text() if user.quota is not None else "",
        )
        keys = [row_of_key(key, first, now_us) for key in user.keys]
        keys[0] = keys[0]._replace(created_us=created_us)
        held.names[name] = None
        return row, keys
