"""The user API in OpenAPI: its paths on the public listener."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from twisted_lb.api.openapi_answers import KEY_ID
from twisted_lb.api.openapi_parts import Part, answer, body, operation, parameter, ref
from twisted_lb.api.user_paths import CHANGE, CREATE, KEYS, PROFILE

TAG: Final = "user API"
# The schemes in which a request may carry the API key; the configuration may add others.
KEY_SCHEMES: Final[Mapping[str, Part]] = {
    "KeyAsBearer": {"type": "http", "scheme": "bearer", "description": "The API key as a bearer token."},
    "KeyInAuthorization": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "The API key by itself.",
    },
    "KeyInXApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The API key."},
    "KeyInApikey": {"type": "apiKey", "in": "header", "name": "apikey", "description": "The API key."},
}
_WITH_KEY: Final[list[Mapping[str, Sequence[str]]]] = [{name: []} for name in KEY_SCHEMES]
_ONE_KEY: Final = (parameter("key_id", "path", "The public name of the key.", KEY_ID),)
_ASKED: Final = (400, 401, 403, 429, 503)
_CHANGED: Final = (400, 401, 403, 413, 415, 429, 503)


def _new(model: str) -> Part:
    return body(ref(model))


PATHS: Final[Mapping[str, Part]] = {
    CREATE: {
        "post": operation(
            "createOwnUser",
            TAG,
            "Create a user, and show the API key once.",
            {200: answer("The new user.", ref("CreatedUser"))},
            (400, 401, 403, 409, 413, 415, 429, 503),
            # With SELF_SERVICE_CREATE=token.
            [{}, {"AdminToken": []}],
            request=_new("NewUser"),
        )
    },
    PROFILE: {
        "get": operation(
            "showProfile",
            TAG,
            "Show the user of the key and the bucket; this takes no tokens.",
            {200: answer("The user.", ref("Profile"))},
            _ASKED,
            _WITH_KEY,
        )
    },
    CHANGE: {
        "post": operation(
            "changePolicy",
            TAG,
            "Change the policy of the user's bucket.",
            {200: answer("The user after the change.", ref("Profile"))},
            _CHANGED,
            _WITH_KEY,
            request=_new("PolicyChange"),
        )
    },
    KEYS: {
        "get": operation(
            "listOwnKeys",
            TAG,
            "List all keys of the user.",
            {200: answer("The keys.", ref("Keys"))},
            _ASKED,
            _WITH_KEY,
        ),
        "post": operation(
            "createOwnKey",
            TAG,
            "Create another key, and show it once.",
            {200: answer("The new key.", ref("NewOwnKey"))},
            (*_CHANGED, 409),
            _WITH_KEY,
            request=_new("NewKey"),
        ),
    },
    f"{KEYS}/{{key_id}}": {
        "patch": operation(
            "labelOwnKey",
            TAG,
            "Change the label of a key.",
            {200: answer("The key.", ref("Key"))},
            (*_CHANGED, 404, 409),
            _WITH_KEY,
            _ONE_KEY,
            _new("KeyLabel"),
        ),
        "delete": operation(
            "revokeOwnKey",
            TAG,
            "Revoke a key permanently.",
            {200: answer("The revoked key.", ref("Key"))},
            (*_ASKED, 404),
            _WITH_KEY,
            _ONE_KEY,
        ),
    },
    f"{KEYS}/{{key_id}}/usage": {
        "get": operation(
            "showOwnKeyUsage",
            TAG,
            "Count the requests and tokens of a key in the last hour and day.",
            {200: answer("The usage.", ref("OwnKeyUsage"))},
            (*_ASKED, 404),
            _WITH_KEY,
            _ONE_KEY,
        )
    },
    f"{KEYS}/{{key_id}}/rotate": {
        "post": operation(
            "rotateOwnKey",
            TAG,
            "Create a key in place of another one, which works until the end of the grace period.",
            {200: answer("The new key.", ref("NewOwnKey"))},
            (*_CHANGED, 404, 409),
            _WITH_KEY,
            _ONE_KEY,
            _new("Rotation"),
        )
    },
}
