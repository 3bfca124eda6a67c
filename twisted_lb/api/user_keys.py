"""Users manage their keys: list, create, label, rotate and revoke them, and show their usage, with any of the keys.

A key that expires or has its own bucket can change only itself, and no key without these bounds can be got with it.  A
key is shown once, in the response that creates it.  Elsewhere it is named by its `key_id`.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from twisted_lb.api.bodies import read_key_label, read_new_key, read_rotation
from twisted_lb.api.representations import shown_key
from twisted_lb.api.requests import body_of, undisturbed
from twisted_lb.api.responses import Refusal, json_answer
from twisted_lb.api.self_service import SelfService
from twisted_lb.api.usage import usage_of_key
from twisted_lb.credentials import digest
from twisted_lb.interfaces import IUsageReport, IUserStore
from twisted_lb.key_format import KeyFormat
from twisted_lb.users import (
    DISABLED,
    MAX_KEYS,
    REVOKED,
    Changed,
    Key,
    KeyBucket,
    KeyChange,
    KeyRevoked,
    TooManyKeys,
    User,
    is_key_id,
    key_id_of,
)


class UserKeys:
    """The endpoints below /user/keys; `user` has sent the request, which carries the key `asking`."""

    def __init__(
        self,
        users: IUserStore,
        form: KeyFormat,
        now_us: Callable[[], int],
        self_service: SelfService,
        usage: IUsageReport | None,
    ) -> None:
        """`now_us` returns microseconds since 1970."""
        self._users = users
        self._usage = usage
        self._form = form
        self._now_us = now_us
        self._self_service = self_service

    def list(self, request: Request, user: User) -> bytes:
        """List all keys, including revoked ones."""
        now_us = self._now_us()
        return json_answer(request, {"name": user.name, "keys": [shown_key(key, now_us) for key in user.keys]})

    async def create(self, request: Request, user: User, asking: Key) -> bytes:
        """Create another key."""
        wanted = body_of(request, read_new_key)
        check_unbounded(asking)
        self._self_service.check_change()
        bucket = None
        if wanted.capacity is not None and wanted.rate_per_sec is not None:
            bucket = KeyBucket(wanted.capacity, wanted.rate_per_sec)
        key = self._form.new_key()
        new = Key(digest(key.encode()), label=wanted.label, expires_at=wanted.expires_at, bucket=bucket)
        return self._new_key(request, key, await _stored(self._users.create_key(user.name, new)))

    async def label(self, request: Request, user: User, asking: Key, key_id: str) -> bytes:
        """Change the label of a key."""
        wanted = body_of(request, read_key_label)
        return await self._change(request, user, asking, key_id, KeyChange(label=wanted.label))

    async def revoke(self, request: Request, user: User, asking: Key, key_id: str) -> bytes:
        """Revoke a key: no request is admitted with it from now on."""
        return await self._change(request, user, asking, key_id, KeyChange(state=REVOKED))

    async def rotate(self, request: Request, user: User, asking: Key, key_id: str) -> bytes:
        """Create a key in place of another; both work during the grace period.

        If a key that expires rotates itself, the new key expires at the same time.
        """
        wanted = body_of(request, read_rotation)
        old = _key_of(user, asking, key_id)
        itself = old.digest == asking.digest
        if itself and old.bucket is not None and wanted.grace:
            # During the grace there would be two buckets, and with every rotation one more.
            raise Refusal(
                403, "This API key has a bucket of its own: to rotate it with itself, grace must be 0."
            )
        if old.state == DISABLED:
            # The new key would not be disabled.
            raise Refusal(409, "This key is disabled, and only an operator can enable it.")
        if old.expires_at is not None and not itself:
            # The new key does not expire: this needs the same permission as adding a key.
            self._self_service.check_change()
        key = self._form.new_key()
        rotated = self._users.rotate_key(user.name, key_id, wanted.grace, digest(key.encode()), itself)
        return self._new_key(request, key, await _stored(rotated))

    async def usage(self, request: Request, user: User, key_id: str) -> bytes:
        """Show the usage of a key."""
        key = _key_of(user, None, key_id)
        if self._usage is None:
            raise Refusal(404, "There is nothing here.")
        return json_answer(request, await usage_of_key(self._usage, key))

    async def _change(self, request: Request, user: User, asking: Key, key_id: str, change: KeyChange) -> bytes:
        _key_of(user, asking, key_id)
        changed = await _stored(self._users.change_key(user.name, key_id, change))
        key = changed.after.key(key_id)
        if key is None:
            _unknown()
        return json_answer(request, shown_key(key, self._now_us()))

    def _new_key(self, request: Request, key: str, changed: Changed) -> bytes:
        new = changed.after.key(key_id_of(digest(key.encode())))
        if new is None:
            _unknown()
        return json_answer(request, shown_key(new, self._now_us()) | {"api_key": key})


def check_unbounded(asking: Key) -> None:
    """Raises Refusal if this key has bounds, so that it may change only itself."""
    if asking.bounded:
        expires, limited = asking.expires_at is not None, asking.bucket is not None
        bounds = "expires" * expires + " and " * (expires and limited) + "has a bucket of its own" * limited
        raise Refusal(
            403,
            f"This API key {bounds}, so it manages only itself. Use a key without an expiry and a bucket "
            "of its own, or ask an operator.",
        )


def _key_of(user: User, asking: Key | None, key_id: str) -> Key:
    """The user's key.  Raises Refusal if there is none, or if `asking` must not change it (None: it is only read)."""
    key = user.key(key_id) if is_key_id(key_id) else None
    if key is None:
        _unknown()
    if asking is not None and key.digest != asking.digest:
        check_unbounded(asking)
    return key


async def _stored(stored: Deferred[Changed | None]) -> Changed:
    try:
        changed = await undisturbed(stored)
    except KeyRevoked:
        raise Refusal(409, "This key is revoked, which cannot be undone.") from None
    except TooManyKeys:
        raise Refusal(409, f"There are {MAX_KEYS} keys already; revoke one of them first.") from None
    if changed is None:
        _unknown()
    return changed


def _unknown() -> NoReturn:
    raise Refusal(404, "You have no key with this key_id.")
