"""A user's own keys: list, create, label, rotate and revoke them, and what was counted, with any of them.

A key is shown once, in the response that has created it.  All else is about `key_id`.
"""

# twisted.web is typed in parts only.
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
    """The endpoints below /user/keys; `user` is who has sent the request."""

    def __init__(
        self,
        users: IUserStore,
        form: KeyFormat,
        now_us: Callable[[], int],
        self_service: SelfService,
        usage: IUsageReport | None,
    ) -> None:
        """`now_us` gives microseconds since 1970."""
        self._users = users
        self._usage = usage
        self._form = form
        self._now_us = now_us
        self._self_service = self_service

    def list(self, request: Request, user: User) -> bytes:
        """All keys, revoked ones too."""
        now_us = self._now_us()
        return json_answer(request, {"name": user.name, "keys": [shown_key(key, now_us) for key in user.keys]})

    async def create(self, request: Request, user: User) -> bytes:
        """One more key."""
        wanted = body_of(request, read_new_key)
        self._self_service.check_change()
        bucket = None
        if wanted.capacity is not None and wanted.rate_per_sec is not None:
            bucket = KeyBucket(wanted.capacity, wanted.rate_per_sec)
        key = self._form.new_key()
        new = Key(digest(key.encode()), label=wanted.label, expires_at=wanted.expires_at, bucket=bucket)
        return self._new_key(request, key, await _stored(self._users.create_key(user.name, new)))

    async def label(self, request: Request, user: User, key_id: str) -> bytes:
        """Another label."""
        wanted = body_of(request, read_key_label)
        return self._changed(request, key_id, await self._change(user, key_id, KeyChange(label=wanted.label)))

    async def revoke(self, request: Request, user: User, key_id: str) -> bytes:
        """No request is admitted with it from now on."""
        return self._changed(request, key_id, await self._change(user, key_id, KeyChange(state=REVOKED)))

    async def rotate(self, request: Request, user: User, key_id: str) -> bytes:
        """A new key in its place; both work during the grace."""
        wanted = body_of(request, read_rotation)
        old = _key_of(user, key_id)
        if old.state == DISABLED:
            # The new key would not be.
            raise Refusal(409, "This key is disabled, and only an operator can enable it.")
        if old.expires_at is not None:
            # The new key does not expire, as if it were added.
            self._self_service.check_change()
        key = self._form.new_key()
        rotated = self._users.rotate_key(user.name, key_id, wanted.grace, digest(key.encode()))
        return self._new_key(request, key, await _stored(rotated))

    async def usage(self, request: Request, user: User, key_id: str) -> bytes:
        """What was counted of it."""
        key = _key_of(user, key_id)
        if self._usage is None:
            raise Refusal(404, "There is nothing here.")
        return json_answer(request, await usage_of_key(self._usage, key))

    async def _change(self, user: User, key_id: str, change: KeyChange) -> Changed:
        _key_of(user, key_id)
        return await _stored(self._users.change_key(user.name, key_id, change))

    def _changed(self, request: Request, key_id: str, changed: Changed) -> bytes:
        key = changed.after.key(key_id)
        if key is None:
            _unknown()
        return json_answer(request, shown_key(key, self._now_us()))

    def _new_key(self, request: Request, key: str, changed: Changed) -> bytes:
        new = changed.after.key(key_id_of(digest(key.encode())))
        if new is None:
            _unknown()
        return json_answer(request, shown_key(new, self._now_us()) | {"api_key": key})


def _key_of(user: User, key_id: str) -> Key:
    """The user's key.  Raises Refusal."""
    key = user.key(key_id) if is_key_id(key_id) else None
    if key is None:
        _unknown()
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
