"""Users and keys of the admin listener in OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from twisted_lb.api.openapi_answers import KEY_ID, TIME
from twisted_lb.api.openapi_parts import (
    LINES,
    LOCATION,
    Part,
    answer,
    body,
    field,
    flag,
    operation,
    parameter,
    ref,
    text,
    whole,
)
from twisted_lb.api.user_query import LARGEST_PAGE, USUAL_PAGE
from twisted_lb.api.users import MAX_IDEMPOTENCY_CHARACTERS
from twisted_lb.config.admin_tokens import KEYS, READ
from twisted_lb.user_names import MAX_NAME_CHARACTERS
from twisted_lb.users import ACTIVE, DISABLED, KEY_ID_DIGITS, MAX_LABEL_CHARACTERS, REVOKED

TAG: Final = "users and keys"

# If no tokens are configured, everybody who connects to the listener by a local name may read.
_READER: Final[list[Mapping[str, list[str]]]] = [{"AdminToken": [READ]}, {}]
_CHANGER: Final[list[Mapping[str, list[str]]]] = [{"AdminToken": [KEYS]}]
_READ: Final = (400, 401, 403, 503)
_ONE: Final = (*_READ, 404)
_CHANGED: Final = (400, 401, 403, 404, 413, 503)

_USER: Final = (
    parameter(
        "name", "path", "The name of the user, percent-encoded as one segment.", text(minLength=1, maxLength=512)
    ),
)
_ONE_KEY: Final = parameter("key_id", "path", "The public name of the key.", KEY_ID)
_KEY: Final = (*_USER, _ONE_KEY)
_REPEATED: Final = parameter(
    "Idempotency-Key",
    "header",
    "Any text. A request that is repeated with the same text and the same token gets the same key.",
    text(minLength=1, maxLength=MAX_IDEMPOTENCY_CHARACTERS, pattern="^[!-~]+$"),
)
_ID: Final = field("The id of the change in the audit log.")


def _query(name: str, description: str, schema: Part) -> Part:
    return parameter(name, "query", description, schema)


_FILTERS: Final = (
    _query("after", "The `next` of the previous page.", text(maxLength=MAX_NAME_CHARACTERS)),
    _query("limit", "The size of the page.", whole(minimum=1, maximum=LARGEST_PAGE, default=USUAL_PAGE)),
    _query("name", "Users whose name contains this.", text(maxLength=MAX_NAME_CHARACTERS)),
    _query("disabled", "Users that are disabled (true) or enabled (false).", flag()),
    _query(
        "key_id",
        "Users with a key whose key_id begins with this.",
        text(pattern=f"^(k|ke|key|key_[0-9a-f]{{0,{KEY_ID_DIGITS}}})?$"),
    ),
    _query("label", "Users with a key whose label contains this.", text(maxLength=MAX_LABEL_CHARACTERS)),
    _query("state", "Users with a key in this state.", text(enum=[ACTIVE, DISABLED, REVOKED])),
    _query("used_since", "Users with a key that was used since this time.", TIME),
    _query("unused_since", "Users with a key that was not used since this time.", TIME),
)


def _user(name: str, summary: str, request: Part | None = None) -> Part:
    """A change whose response is the user."""
    answers = {200: answer("The user after the change.", ref("User"), X_Request_ID=_ID)}
    return operation(name, TAG, summary, answers, _CHANGED, _CHANGER, _USER, request)


def _key(name: str, summary: str, request: Part | None = None) -> Part:
    """A change whose response is the key."""
    answers = {200: answer("The key after the change.", ref("UserKey"), X_Request_ID=_ID)}
    return operation(name, TAG, summary, answers, (*_CHANGED, 409), _CHANGER, _KEY, request)


def _usage(name: str, parameters: tuple[Part, ...]) -> Part:
    summary = "Count the requests and tokens of a key in the last hour and day."
    answers = {200: answer("The usage.", ref("KeyUsage"))}
    return operation(name, TAG, summary, answers, _ONE, _READER, parameters)


def _created(what: str, schema: str) -> dict[int, Part]:
    return {201: answer(what, ref(schema), X_Request_ID=_ID, Location=LOCATION)}


_GONE: Final = {204: answer("It is done.", X_Request_ID=_ID)}

PATHS: Final[Mapping[str, Part]] = {
    "/users": {
        "get": operation(
            "listUsers",
            TAG,
            "List users in the order of their names, in pages.",
            {200: answer("A page, which may be short while `next` is not null.", ref("Users"))},
            _READ,
            _READER,
            _FILTERS,
        ),
        "post": operation(
            "createUser",
            TAG,
            "Create a user with a key, which is shown once.",
            _created("The new user.", "NewUserWithKey"),
            (400, 401, 403, 409, 413, 503),
            _CHANGER,
            request=body(ref("UserToCreate")),
        ),
    },
    "/users/{name}": {
        "get": operation(
            "showUser",
            TAG,
            "Show a user with all keys.",
            {200: answer("The user.", ref("User"))},
            _ONE,
            _READER,
            _USER,
        ),
        "patch": _user("changeUser", "Change a user.", body(ref("UserPatch"))),
        "delete": operation(
            "deleteUser", TAG, "Delete a user with all keys.", _GONE, _CHANGED, _CHANGER, _USER
        ),
    },
    "/users/{name}/usage": {
        "get": operation(
            "showUserUsage",
            TAG,
            "Count the requests and tokens of a user in the last hour and day.",
            {200: answer("The usage.", ref("UserUsage"))},
            _ONE,
            _READER,
            _USER,
        )
    },
    "/users/{name}/shadow": {
        "get": operation(
            "showShadow",
            TAG,
            "Show the shadow policy of a user, and what it would have refused.",
            {200: answer("The shadow policy.", ref("UserShadow"))},
            _ONE,
            _READER,
            _USER,
        )
    },
    "/users/{name}/shadow/promote": {
        "post": operation(
            "promoteShadow",
            TAG,
            "Replace the policy of a user by the shadow policy.",
            {200: answer("The user after the change.", ref("User"), X_Request_ID=_ID)},
            (*_CHANGED, 409),
            _CHANGER,
            _USER,
        )
    },
    "/users/{name}/disable": {"post": _user("disableUser", "Refuse all keys of a user until it is enabled.")},
    "/users/{name}/enable": {"post": _user("enableUser", "Accept the keys of a disabled user again.")},
    "/users/{name}/level": {
        "put": _user("setLevel", "Fill the bucket, or set its level.", body(ref("Level"), required=False))
    },
    "/users/{name}/quota": {
        "put": operation(
            "setQuotaUsed",
            TAG,
            "Set how much of a quota was used in its present period; without a body, nothing.",
            {200: answer("The user after the change.", ref("User"), X_Request_ID=_ID)},
            (*_CHANGED, 409),
            _CHANGER,
            _USER,
            body(ref("QuotaUsed"), required=False),
        )
    },
    "/users/{name}/keys": {
        "get": operation(
            "listKeys",
            TAG,
            "List the keys of a user.",
            {200: answer("The keys.", ref("Keys"))},
            _ONE,
            _READER,
            _USER,
        ),
        "post": operation(
            "createKey",
            TAG,
            "Create a key for a user, and show it once.",
            _created("The new key.", "NewKeyOfUser"),
            (*_CHANGED, 409),
            _CHANGER,
            (*_USER, _REPEATED),
            body(ref("NewKey"), required=False),
        ),
    },
    "/users/{name}/keys/{key_id}": {
        "get": operation(
            "showKey", TAG, "Show a key.", {200: answer("The key.", ref("UserKey"))}, _ONE, _READER, _KEY
        ),
        "patch": _key("changeKey", "Change a key.", body(ref("KeyPatch"))),
        "delete": operation(
            "deleteKey", TAG, "Revoke a key permanently.", _GONE, (*_CHANGED, 409), _CHANGER, _KEY
        ),
    },
    "/users/{name}/keys/{key_id}/usage": {"get": _usage("showKeyUsage", _KEY)},
    "/users/{name}/keys/{key_id}/disable": {"post": _key("disableKey", "Refuse a key until it is enabled.")},
    "/users/{name}/keys/{key_id}/enable": {"post": _key("enableKey", "Accept a disabled key again.")},
    "/users/{name}/keys/{key_id}/expire": {"post": _key("expireKey", "Make a key expire now.")},
    "/users/{name}/keys/{key_id}/revoke": {"post": _key("revokeKey", "Revoke a key permanently, and show it.")},
    "/users/{name}/keys/{key_id}/rotate": {
        "post": operation(
            "rotateKey",
            TAG,
            "Create a key in place of another one, which works until the end of the grace period.",
            _created("The new key.", "RotatedKey"),
            (*_CHANGED, 409),
            _CHANGER,
            (*_KEY, _REPEATED),
            body(ref("Rotation")),
        )
    },
    "/keys/{key_id}": {
        "get": operation(
            "findKey",
            TAG,
            "Find a key of any user.",
            {200: answer("The key.", ref("UserKey"))},
            _ONE,
            _READER,
            (_ONE_KEY,),
        )
    },
    "/keys/{key_id}/usage": {"get": _usage("findKeyUsage", (_ONE_KEY,))},
    "/export/users": {
        "get": operation(
            "exportUsers",
            TAG,
            "Export all users with the digests of their keys.",
            {200: answer("One UserRecord per line.", text(), LINES)},
            (401, 403, 503),
            _CHANGER,
        )
    },
    "/import/users": {
        "post": operation(
            "importUsers",
            TAG,
            "Import users; this may be repeated.",
            {200: answer("One ImportedLine for each line that is not blank.", text(), LINES, X_Request_ID=_ID)},
            (400, 401, 403, 413, 503),
            _CHANGER,
            request=body(text(), required=False, media_type=LINES, description="One UserRecord per line."),
        )
    },
}
