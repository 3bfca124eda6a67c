"""Users and keys on the admin listener: list, create, change and remove them.

A key is shown once, in the response that creates it.  Paths name a key by its `key_id`; the name of a user in a path is
percent-encoded, so that it is one segment whatever it contains.
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.server import Request

from twisted_lb.api.audit import Attempt
from twisted_lb.api.bodies import BadBody, read_model, read_new_key, read_nothing, read_rotation
from twisted_lb.api.named_in_path import key_of, name_in, stored_key, unknown_key, unknown_user
from twisted_lb.api.operator_token import OperatorTokens, given_token
from twisted_lb.api.recorded_change import Make, Outcome, RecordedChanges, differences
from twisted_lb.api.representations import shown_key, shown_user
from twisted_lb.api.responses import JSON_TYPE, Refusal, answer, failure_answer, json_answer
from twisted_lb.api.shadow import shadow_with_counts
from twisted_lb.api.usage import usage_of_key, usage_of_user
from twisted_lb.api.user_bodies import Level, QuotaUsed, UserToCreate, read_key_patch, read_user_patch, shadow_of
from twisted_lb.api.user_query import page_asked_for
from twisted_lb.api.users_page import users_page
from twisted_lb.config.admin_tokens import KEYS
from twisted_lb.credentials import digest
from twisted_lb.interfaces import MICROTOKENS, IUsageReport, IUserStore, NameTaken
from twisted_lb.key_format import KeyFormat
from twisted_lb.limits.bucket import MAX_CAPACITY
from twisted_lb.users import (
    ACTIVE,
    DISABLED,
    REVOKED,
    Changed,
    Key,
    KeyBucket,
    KeyChange,
    NoShadow,
    User,
    UserChange,
    is_key_id,
    key_id_of,
)

# The first segments of the paths that are served here.
PATHS: Final = (b"users", b"keys")
FULL: Final = MAX_CAPACITY * MICROTOKENS  # a level that stores reduce to the user's capacity
MAX_IDEMPOTENCY_CHARACTERS: Final = 255
NO_SHADOW: Final = "The user {name} has no shadow policy."

_Body = TypeVar("_Body")
_Key = "/users/<name>/keys/<key_id>"


class UserAdministration(NamedTuple):
    """What this API needs."""

    store: IUserStore
    form: KeyFormat  # of new keys
    default_capacity: int  # of users created without a policy
    default_rate_per_sec: float
    now_us: Callable[[], int]  # microseconds since 1970
    usage: IUsageReport


class UsersApi:
    """See the module."""

    app = Klein()

    def __init__(self, users: UserAdministration, tokens: OperatorTokens, changes: RecordedChanges) -> None:
        self._users = users
        self._store = users.store
        self._tokens = tokens
        self._changes = changes

    # Reading

    @app.route("/users", methods=["GET"])
    async def _list(self, request: Request) -> bytes:
        self._tokens.check_reader(request)
        after, count, filter = page_asked_for(request.args)
        body = await users_page(self._store, after, count, filter, self._users.now_us())
        return answer(request, 200, JSON_TYPE, body)

    @app.route("/users/<name>", methods=["GET"])
    async def _user(self, request: Request, name: str) -> bytes:
        self._tokens.check_reader(request)
        return self._user_answer(request, await self._found(name_in(name)))

    @app.route("/users/<name>/keys", methods=["GET"])
    async def _keys(self, request: Request, name: str) -> bytes:
        self._tokens.check_reader(request)
        user = await self._found(name_in(name))
        now_us = self._users.now_us()
        return json_answer(request, {"name": user.name, "keys": [shown_key(key, now_us) for key in user.keys]})

    @app.route(_Key, methods=["GET"])
    async def _key(self, request: Request, name: str, key_id: str) -> bytes:
        self._tokens.check_reader(request)
        return self._key_answer(request, await self._found(name_in(name)), key_id)

    @app.route("/keys/<key_id>", methods=["GET"])
    async def _find_key(self, request: Request, key_id: str) -> bytes:
        self._tokens.check_reader(request)
        return self._key_answer(request, await self._owner_of(key_id), key_id)

    @app.route("/users/<name>/usage", methods=["GET"])
    async def _usage(self, request: Request, name: str) -> bytes:
        self._tokens.check_reader(request)
        return json_answer(request, await usage_of_user(self._users.usage, await self._found(name_in(name))))

    @app.route(f"{_Key}/usage", methods=["GET"])
    async def _usage_of_key(self, request: Request, name: str, key_id: str) -> bytes:
        self._tokens.check_reader(request)
        return await self._usage_answer(request, await self._found(name_in(name)), key_id)

    @app.route("/keys/<key_id>/usage", methods=["GET"])
    async def _usage_of_found_key(self, request: Request, key_id: str) -> bytes:
        self._tokens.check_reader(request)
        return await self._usage_answer(request, await self._owner_of(key_id), key_id)

    @app.route("/users/<name>/shadow", methods=["GET"])
    async def _shadow(self, request: Request, name: str) -> bytes:
        self._tokens.check_reader(request)
        user = await self._found(name_in(name))
        if user.shadow is None:
            raise Refusal(404, NO_SHADOW.format(name=user.name))
        shown = await shadow_with_counts(self._users.usage, user.keys[0].digest, user.shadow)
        return json_answer(request, {"name": user.name, **shown})

    # Users

    @app.route("/users", methods=["POST"])
    def _create(self, request: Request) -> Deferred[bytes]:
        async def make(body: bytes, attempt: Attempt) -> Outcome:
            wanted = _read(lambda content: read_model(UserToCreate, content), body)
            attempt.about(user=wanted.name)
            key = self._users.form.new_key()
            user = User(
                wanted.name,
                self._users.default_capacity if wanted.capacity is None else wanted.capacity,
                self._users.default_rate_per_sec if wanted.rate_per_sec is None else wanted.rate_per_sec,
                metadata=wanted.metadata,
                keys=(Key(digest(key.encode()), label=wanted.label, expires_at=wanted.expires_at),),
                shadow=shadow_of(wanted.shadow),
                quota=wanted.new_quota,
            )
            try:
                await self._store.create_user(user)
            except NameTaken:
                raise Refusal(409, f"The name {user.name} is taken.") from None
            shown = self._shown(await self._found(user.name))
            return Outcome({}, shown, {**shown, "api_key": key})

        def show(shown: Any) -> bytes:
            request.responseHeaders.setRawHeaders("Location", [f"/users/{quote(shown['name'], safe='')}"])
            return json_answer(request, shown, 201)

        return self._changes.make(request, KEYS, "create_user", {"user": None}, make).addCallback(show)

    @app.route("/users/<name>", methods=["PATCH"])
    def _change(self, request: Request, name: str) -> Deferred[bytes]:
        return self._change_user(request, "change_user", name, read_user_patch)

    @app.route("/users/<name>/<any(disable,enable):order>", methods=["POST"])
    def _order(self, request: Request, name: str, order: str) -> Deferred[bytes]:
        def read(body: bytes) -> UserChange:
            read_nothing(body)
            return UserChange(disabled=order == "disable")

        return self._change_user(request, f"{order}_user", name, read)

    @app.route("/users/<name>/level", methods=["PUT"])
    def _set_level(self, request: Request, name: str) -> Deferred[bytes]:
        def read(body: bytes) -> UserChange:
            level = read_model(Level, body).current_capacity * MICROTOKENS if body else FULL
            return UserChange(level=level)

        return self._change_user(request, "set_level", name, read)

    @app.route("/users/<name>/quota", methods=["PUT"])
    def _set_used(self, request: Request, name: str) -> Deferred[bytes]:
        def read(body: bytes) -> UserChange:
            return UserChange(quota_used=read_model(QuotaUsed, body).used if body else 0)

        return self._change_user(request, "set_quota_used", name, read)

    @app.route("/users/<name>", methods=["DELETE"])
    def _delete(self, request: Request, name: str) -> Deferred[bytes]:
        name = name_in(name)

        async def make(body: bytes, attempt: Attempt) -> Outcome:
            _read(read_nothing, body)
            user = await self._store.delete_user(name)
            if user is None:
                unknown_user(name)
            return Outcome(self._shown(user), {}, b"")

        return self._changes.make(request, KEYS, "delete_user", {"user": name}, make).addCallback(
            lambda _: _no_content(request)
        )

    @app.route("/users/<name>/shadow/promote", methods=["POST"])
    def _promote_shadow(self, request: Request, name: str) -> Deferred[bytes]:
        name = name_in(name)

        async def promoted(body: bytes) -> Changed | None:
            _read(read_nothing, body)
            try:
                return await self._store.promote_shadow(name)
            except NoShadow:
                raise Refusal(409, NO_SHADOW.format(name=name)) from None

        return self._user_changed(request, "promote_shadow", name, promoted)

    def _change_user(
        self, request: Request, action: str, name: str, read: Callable[[bytes], UserChange]
    ) -> Deferred[bytes]:
        name = name_in(name)

        async def changed(body: bytes) -> Changed | None:
            wanted = _read(read, body)
            changed = await self._store.change_user(name, wanted)
            if changed is not None and wanted.quota_used is not None and changed.after.quota is None:
                raise Refusal(409, f"The user {name} has no quota.")
            return changed

        return self._user_changed(request, action, name, changed)

    def _user_changed(
        self, request: Request, action: str, name: str, change: Callable[[bytes], Awaitable[Changed | None]]
    ) -> Deferred[bytes]:
        async def make(body: bytes, attempt: Attempt) -> Outcome:
            changed = await change(body)
            if changed is None:
                unknown_user(name)
            return self._outcome(changed)

        return self._changes.make(request, KEYS, action, {"user": name}, make).addCallback(
            lambda user: self._user_answer(request, user)
        )

    # Keys

    @app.route("/users/<name>/keys", methods=["POST"])
    def _create_key(self, request: Request, name: str) -> Deferred[bytes]:
        name = name_in(name)

        async def make(body: bytes, attempt: Attempt) -> Outcome:
            wanted = _read(lambda content: read_new_key(content or b"{}"), body)
            user = await self._found(name)
            key = self._new_key(request, "create", user.keys[0].digest)
            bucket = None
            if wanted.capacity is not None and wanted.rate_per_sec is not None:
                bucket = KeyBucket(wanted.capacity, wanted.rate_per_sec)
            new = Key(digest(key.encode()), label=wanted.label, expires_at=wanted.expires_at, bucket=bucket)
            attempt.about(key_id=new.key_id)
            changed = await stored_key(self._store.create_key(name, new), name, new.key_id)
            return self._with_key(changed, new.key_id, {"api_key": key})

        return self._change_keys(request, "create_key", name, None, make, 201)

    @app.route(f"{_Key}/rotate", methods=["POST"])
    def _rotate_key(self, request: Request, name: str, key_id: str) -> Deferred[bytes]:
        name = name_in(name)

        async def make(body: bytes, attempt: Attempt) -> Outcome:
            wanted = _read(read_rotation, body)
            old = (await self._found(name)).key(key_id)
            if old is None:
                unknown_key(name, key_id)
            key = self._new_key(request, "rotate", old.digest)
            new_digest = digest(key.encode())
            attempt.about(new_key_id=key_id_of(new_digest))
            rotated = self._store.rotate_key(name, key_id, wanted.grace, new_digest)
            changed = await stored_key(rotated, name, key_id)
            return self._with_key(changed, key_id_of(new_digest), {"replaces": key_id, "api_key": key})

        return self._change_keys(request, "rotate_key", name, key_id, make, 201)

    @app.route(_Key, methods=["PATCH"])
    def _change_one_key(self, request: Request, name: str, key_id: str) -> Deferred[bytes]:
        return self._change_key(request, "change_key", name, key_id, read_key_patch)

    @app.route(f"{_Key}/<any(disable,enable,expire,revoke):order>", methods=["POST"])
    def _order_key(self, request: Request, name: str, key_id: str, order: str) -> Deferred[bytes]:
        def read(body: bytes) -> KeyChange:
            read_nothing(body)
            if order == "expire":
                return KeyChange(expires_at=self._users.now_us())
            return KeyChange({"disable": DISABLED, "enable": ACTIVE, "revoke": REVOKED}[order])

        return self._change_key(request, f"{order}_key", name, key_id, read)

    @app.route(_Key, methods=["DELETE"])
    def _delete_key(self, request: Request, name: str, key_id: str) -> Deferred[bytes]:
        def read(body: bytes) -> KeyChange:
            read_nothing(body)
            return KeyChange(REVOKED)

        return self._change_key(request, "revoke_key", name, key_id, read, 204)

    def _change_key(
        self,
        request: Request,
        action: str,
        name: str,
        key_id: str,
        read: Callable[[bytes], KeyChange],
        status: int = 200,
    ) -> Deferred[bytes]:
        name = name_in(name)

        async def make(body: bytes, attempt: Attempt) -> Outcome:
            change = _read(read, body)
            if not is_key_id(key_id):
                unknown_key(name, key_id)
            return self._with_key(await stored_key(self._store.change_key(name, key_id, change), name, key_id), key_id)

        return self._change_keys(request, action, name, key_id, make, status)

    def _change_keys(
        self, request: Request, action: str, name: str, key_id: str | None, make: Make, status: int
    ) -> Deferred[bytes]:
        def show(shown: Any) -> bytes:
            if status == 204:
                return _no_content(request)
            if status == 201:
                path = f"/users/{quote(shown['user'], safe='')}/keys/{shown['key_id']}"
                request.responseHeaders.setRawHeaders("Location", [path])
            return json_answer(request, shown, status)

        about = {"user": name, "key_id": key_id}
        return self._changes.make(request, KEYS, action, about, make).addCallback(show)

    def _new_key(self, request: Request, *about: str) -> str:
        """A new key; a request that is repeated with the same Idempotency-Key and token gets the same one.

        `about` includes the digest of another key, which is never shown: so the key cannot be computed from the token
        and the Idempotency-Key alone.
        """
        values = request.requestHeaders.getRawHeaders(b"idempotency-key", [])
        if not values:
            return self._users.form.new_key()
        text = values[0].decode("latin-1")
        if len(values) > 1 or not 1 <= len(text) <= MAX_IDEMPOTENCY_CHARACTERS or not text.isascii():
            expected = f"one text of 1 to {MAX_IDEMPOTENCY_CHARACTERS} ASCII characters"
            raise Refusal(400, f"Idempotency-Key is not valid; expected {expected}.")
        return self._users.form.derived_key(given_token(request) or b"", "\0".join((*about, text)).encode())

    @app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)

    # What is shown

    async def _found(self, name: str) -> User:
        user = await self._store.user(name)
        if user is None:
            unknown_user(name)
        return user

    async def _owner_of(self, key_id: str) -> User:
        user = await self._store.find_key(key_id) if is_key_id(key_id) else None
        if user is None:
            raise Refusal(404, f"There is no key {key_id!r}.")
        return user

    def _shown(self, user: User) -> dict[str, object]:
        return shown_user(user, self._users.now_us())

    def _user_answer(self, request: Request, user: User) -> bytes:
        return json_answer(request, self._shown(user))

    def _key_answer(self, request: Request, user: User, key_id: str) -> bytes:
        return json_answer(request, self._shown_key(user, key_id))

    async def _usage_answer(self, request: Request, user: User, key_id: str) -> bytes:
        shown = await usage_of_key(self._users.usage, key_of(user, key_id))
        return json_answer(request, {**shown, "user": user.name})

    def _shown_key(self, user: User, key_id: str) -> dict[str, object]:
        return {**shown_key(key_of(user, key_id), self._users.now_us()), "user": user.name}

    def _outcome(self, changed: Changed) -> Outcome:
        return Outcome(*differences(self._shown(changed.before), self._shown(changed.after)), changed.after)

    def _with_key(self, changed: Changed, key_id: str, more: Mapping[str, object] = {}) -> Outcome:
        """The outcome, with the key as its result."""
        return self._outcome(changed)._replace(result={**self._shown_key(changed.after, key_id), **more})


def _read(read: Callable[[bytes], _Body], body: bytes) -> _Body:
    try:
        return read(body)
    except BadBody as error:
        raise Refusal(400, str(error)) from None


def _no_content(request: Request) -> bytes:
    request.setResponseCode(204, b"No Content")
    return b""
