"""The user API: create a user, read its bucket, change its policy.

Each endpoint makes one call to the account store.  The request is validated before that call, so that an invalid one
changes nothing.  Requests without a valid key, that is, new users and unknown keys, are limited by the gate
(`address_limit`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast
from uuid import uuid4

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import Request
from werkzeug.http import parse_options_header

from twisted_lb.api.address_limit import Gate
from twisted_lb.api.bodies import BadBody, NewUser, PolicyChange, read_new_user, read_policy_change
from twisted_lb.api.representations import shown_account, shown_profile
from twisted_lb.api.responses import Refusal, failure_answer, json_answer, store_away
from twisted_lb.credentials import AmbiguousKey, KeyPlaces, digest
from twisted_lb.interfaces import Account, IAccountStore, NameTaken, NotStored, Profile, StoreUnavailable

CREATE = "/user/create"
PROFILE = "/user/tokens/profile"
CHANGE = "/user/tokens/change"
# The paths of this API, with any method.
PATHS = frozenset(path.encode() for path in (CREATE, PROFILE, CHANGE))

MAX_BODY_BYTES = 64 * 1024  # the largest sensible body is below 1 KiB

_Body = TypeVar("_Body", NewUser, PolicyChange)
_Result = TypeVar("_Result")


def _random_key() -> str:
    return str(uuid4())


class UserApi:
    """The user API on an IAccountStore."""

    _app = Klein()

    def __init__(
        self,
        accounts: IAccountStore,
        default_capacity: int,
        default_rate_per_sec: float,
        new_key: Callable[[], str] = _random_key,
        gate: Gate = Gate(),
        keys: KeyPlaces = KeyPlaces(),
    ) -> None:
        """The defaults, in tokens and tokens per second, are for users created without a policy.

        `new_key` creates keys, `keys` are the fields in which requests carry them.
        """
        self._accounts = accounts
        self._default_capacity = default_capacity
        self._default_rate_per_sec = default_rate_per_sec
        self._new_key = new_key
        self._gate = gate
        self._keys = keys

    def resource(self) -> IResource:
        """The resource, for ApiDoor, or for a twisted.web Site whose requests are ApiRequests."""
        return cast(IResource, self._app.resource())

    @_app.route(CREATE, methods=["POST"])
    async def _create(self, request: Request) -> bytes:
        await self._gate.pay(request)
        wanted = _body(request, read_new_user)
        account = Account(
            wanted.name,
            self._default_capacity if wanted.capacity is None else wanted.capacity,
            self._default_rate_per_sec if wanted.rate_per_sec is None else wanted.rate_per_sec,
        )
        key = self._new_key()
        try:
            await _undisturbed(self._accounts.create(digest(key.encode()), account))
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
        return self._profile_answer(request, await _undisturbed(asked))

    @_app.route(CHANGE, methods=["POST"])
    async def _change(self, request: Request) -> bytes:
        key_digest = await self._key_digest(request)
        wanted = _body(request, read_policy_change)
        settle = await self._gate.pay_to_ask(request, key_digest)
        asked = self._accounts.change(key_digest, wanted.capacity, wanted.rate_per_sec)
        settle(asked)
        return self._profile_answer(request, await _undisturbed(asked))

    @_app.handle_errors(Exception)
    def _failed(self, request: IRequest, failure: Failure) -> bytes:
        return failure_answer(request, failure)

    async def _key_digest(self, request: Request) -> str:
        """The digest of the key.  Raises Refusal if there is no key, or more than one."""
        fields = {name: list(request.requestHeaders.getRawHeaders(name, [])) for name in self._keys.fields}
        try:
            key = self._keys.take({name: values for name, values in fields.items() if values})
        except AmbiguousKey as error:
            raise Refusal(400, str(error)) from None
        if key is None:
            await self._gate.pay_for_no_key(request)
            raise self._unauthorized(f"There is no API key in the request; send it as {self._keys.example}.")
        return digest(key)

    def _profile_answer(self, request: Request, profile: Profile | None) -> bytes:
        """The response for an account.  Raises Refusal if there is none."""
        if profile is None:
            raise self._unauthorized("No user has this API key.")
        return json_answer(request, shown_profile(profile))

    def _unauthorized(self, detail: str) -> Refusal:
        return Refusal(401, detail, {"WWW-Authenticate": self._keys.challenge.decode()})


def _undisturbed(work: Deferred[_Result]) -> Deferred[_Result]:
    """The result of `work`, which continues when a client that disconnects cancels the returned Deferred.

    If it were cancelled, a call of several steps could be left incomplete in the store.
    """
    waiting: Deferred[_Result] = Deferred()
    work.chainDeferred(waiting)
    return waiting


def _body(request: Request, read: Callable[[bytes], _Body]) -> _Body:
    """The body, parsed by `read`.  Raises Refusal."""
    content: bytes = request.content.read(MAX_BODY_BYTES + 1) if request.content else b""
    if len(content) > MAX_BODY_BYTES:
        raise Refusal(413, f"The body is longer than {MAX_BODY_BYTES} bytes.")
    _check_content_type(request)
    try:
        return read(content)
    except BadBody as error:
        raise Refusal(400, str(error)) from None


def _check_content_type(request: Request) -> None:
    """A body is JSON in UTF-8 (RFC 8259 section 8.1); without a Content-Type this is assumed."""
    codings = request.requestHeaders.getRawHeaders(b"content-encoding", [])
    if any(coding.strip().lower() not in (b"", b"identity") for coding in codings):
        raise Refusal(415, "The body has a Content-Encoding; send it plain.", {"Accept-Encoding": "identity"})
    values = request.requestHeaders.getRawHeaders(b"content-type")
    if values is None:
        return
    media_type, parameters = parse_options_header(b",".join(values).decode("latin-1"))
    main, _, sub = media_type.lower().partition("/")
    if main != "application" or not (sub == "json" or sub.endswith("+json")):
        raise Refusal(415, "The body must be JSON; with curl, add -H 'Content-Type: application/json'.")
    if parameters.get("charset", "utf-8").lower() != "utf-8":
        raise Refusal(415, "JSON is UTF-8; with curl, add -H 'Content-Type: application/json'.")
