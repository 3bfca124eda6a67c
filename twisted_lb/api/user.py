"""The user API: create a user, read its bucket, change its policy, and manage its keys.

A request is validated before the call of the store that makes the change, so that an invalid one changes nothing.
Requests without a valid key, that is, new users and unknown keys, are limited by the gate (`address_limit`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from klein import Klein
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import Request

from twisted_lb.api.address_limit import Gate
from twisted_lb.api.bodies import read_new_user, read_policy_change
from twisted_lb.api.representations import shown_account, shown_profile, shown_shadow
from twisted_lb.api.requests import body_of, undisturbed
from twisted_lb.api.responses import Refusal, failure_answer, json_answer, store_away
from twisted_lb.api.self_service import SelfService
from twisted_lb.api.shadow import shadow_with_counts
from twisted_lb.api.user_keys import UserKeys, check_unbounded
from twisted_lb.api.user_paths import CHANGE, CREATE, KEYS, PROFILE
from twisted_lb.credentials import AmbiguousKey, KeyPlaces, digest
from twisted_lb.interfaces import (
    Account,
    IAccountStore,
    IUsageReport,
    IUserStore,
    NameTaken,
    NotStored,
    Profile,
    StoreUnavailable,
)
from twisted_lb.limits.rejection import MISTYPED
from twisted_lb.users import Key, User, key_id_of


def _now_us() -> int:
    return time.time_ns() // 1000


class UserApi:
    """The user API on an IAccountStore."""

    _app = Klein()

    def __init__(
        self,
        accounts: IAccountStore,
        default_capacity: int,
        default_rate_per_sec: float,
        new_key: Callable[[], str] | None = None,
        gate: Gate = Gate(),
        keys: KeyPlaces = KeyPlaces(),
        users: IUserStore | None = None,
        self_service: SelfService = SelfService(),
        now_us: Callable[[], int] = _now_us,
        usage: IUsageReport | None = None,
    ) -> None:
        """The defaults, in tokens and tokens per second, are for users created without a policy.

        `keys` are the fields in which requests carry keys, and the format of keys; `new_key`, if given, creates them
        instead.  `users` is needed for the endpoints below /user/keys, and `usage` for the usage of keys; `now_us`
        returns microseconds since 1970.
        """
        self._accounts = accounts
        self._default_capacity = default_capacity
        self._default_rate_per_sec = default_rate_per_sec
        self._new_key = new_key if new_key is not None else keys.form.new_key
        self._users = users
        self._self_service = self_service
        self._usage = usage
        self._user_keys = UserKeys(users, keys.form, now_us, self_service, usage) if users is not None else None
        self._gate = gate
        self._keys = keys

    def resource(self) -> IResource:
        """The resource, for ApiDoor, or for a twisted.web Site whose requests are ApiRequests."""
        return cast(IResource, self._app.resource())

    @_app.route(CREATE, methods=["POST"])
    async def _create(self, request: Request) -> bytes:
        await self._gate.pay(request)
        wanted = body_of(request, read_new_user)
        account = Account(
            wanted.name,
            self._default_capacity if wanted.capacity is None else wanted.capacity,
            self._default_rate_per_sec if wanted.rate_per_sec is None else wanted.rate_per_sec,
        )
        self._self_service.check_create(request, account.capacity, account.rate_per_sec)
        key = self._new_key()
        try:
            await undisturbed(self._accounts.create(digest(key.encode()), account))
        except NameTaken:
            raise Refusal(409, f"The name {account.name} is taken; choose another one.") from None
        except NotStored:
            raise
        except StoreUnavailable:
            # Possibly only the reply was lost.
            raise store_away("Try again in a moment; if the name is taken then, choose another one.") from None
        return json_answer(request, shown_account(account) | {"api_key": key})

    @_app.route(PROFILE, methods=["GET"])
    async def _profile(self, request: Request) -> bytes:
        key_digest = await self._key_digest(request)
        settle = await self._gate.pay_to_ask(request, key_digest)
        asked = self._accounts.profile(key_digest)
        settle(asked)
        profile = await undisturbed(asked)
        shadow = None if profile is None else profile.shadow
        if profile is None or shadow is None:
            return self._profile_answer(request, profile)
        shown = shown_shadow(shadow)
        if self._usage is not None:
            shown = await shadow_with_counts(self._usage, profile.owner, shadow)
        return json_answer(request, {**shown_profile(profile), "shadow": shown})

    @_app.route(CHANGE, methods=["POST"])
    async def _change(self, request: Request) -> bytes:
        key_digest = await self._key_digest(request)
        wanted = body_of(request, read_policy_change)
        self._self_service.check_change(wanted.capacity, wanted.rate_per_sec)
        if self._users is not None:
            check_unbounded((await self._sender(self._users, request, key_digest))[1])
            changed = self._accounts.change(key_digest, wanted.capacity, wanted.rate_per_sec)
        else:
            settle = await self._gate.pay_to_ask(request, key_digest)
            changed = self._accounts.change(key_digest, wanted.capacity, wanted.rate_per_sec)
            settle(changed)
        return self._profile_answer(request, await undisturbed(changed))

    @_app.route(KEYS, methods=["GET"])
    async def _list_keys(self, request: Request) -> bytes:
        keys, user, _ = await self._owner(request)
        return keys.list(request, user)

    @_app.route(KEYS, methods=["POST"])
    async def _create_key(self, request: Request) -> bytes:
        keys, user, asking = await self._owner(request)
        return await keys.create(request, user, asking)

    @_app.route(f"{KEYS}/<key_id>", methods=["PATCH"])
    async def _label_key(self, request: Request, key_id: str) -> bytes:
        keys, user, asking = await self._owner(request)
        return await keys.label(request, user, asking, key_id)

    @_app.route(f"{KEYS}/<key_id>", methods=["DELETE"])
    async def _revoke_key(self, request: Request, key_id: str) -> bytes:
        keys, user, asking = await self._owner(request)
        return await keys.revoke(request, user, asking, key_id)

    @_app.route(f"{KEYS}/<key_id>/rotate", methods=["POST"])
    async def _rotate_key(self, request: Request, key_id: str) -> bytes:
        keys, user, asking = await self._owner(request)
        return await keys.rotate(request, user, asking, key_id)

    @_app.route(f"{KEYS}/<key_id>/usage", methods=["GET"])
    async def _usage_of_key(self, request: Request, key_id: str) -> bytes:
        keys, user, _ = await self._owner(request)
        return await keys.usage(request, user, key_id)

    @_app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)

    async def _key_digest(self, request: Request) -> str:
        """The digest of the request's key.  Raises Refusal if there is none, more than one, or a mistyped one."""
        fields = {name: list(request.requestHeaders.getRawHeaders(name, [])) for name in self._keys.fields}
        try:
            key = self._keys.take({name: values for name, values in fields.items() if values})
        except AmbiguousKey as error:
            raise Refusal(400, str(error)) from None
        if key is None:
            await self._gate.pay_for_no_key(request)
            raise self._unauthorized(f"There is no API key in the request; send it as {self._keys.example}.")
        if self._keys.form.is_mistyped(key):
            await self._gate.pay_for_no_key(request)
            raise self._unauthorized(MISTYPED)
        return digest(key)

    async def _owner(self, request: Request) -> tuple[UserKeys, User, Key]:
        """The endpoints for keys, the user who has the key of the request, and that key.  Raises Refusal."""
        if self._users is None or self._user_keys is None:
            raise Refusal(404, "There is nothing here.")
        user, key = await self._sender(self._users, request, await self._key_digest(request))
        return self._user_keys, user, key

    async def _sender(self, users: IUserStore, request: Request, key_digest: str) -> tuple[User, Key]:
        """The user with this key, and the key.  Raises Refusal."""
        settle = await self._gate.pay_to_ask(request, key_digest)
        asked = users.user_of_key(key_digest)
        settle(asked)
        user = await undisturbed(asked)
        key = None if user is None else user.key(key_id_of(key_digest))
        if user is None or key is None:
            raise self._unauthorized("No user has this API key.")
        return user, key

    def _profile_answer(self, request: Request, profile: Profile | None) -> bytes:
        """The response for an account.  Raises Refusal if there is none."""
        if profile is None:
            raise self._unauthorized("No user has this API key.")
        return json_answer(request, shown_profile(profile))

    def _unauthorized(self, detail: str) -> Refusal:
        return Refusal(401, detail, {"WWW-Authenticate": self._keys.challenge.decode()})
