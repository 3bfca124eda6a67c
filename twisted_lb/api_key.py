"""API keys as they arrive: where a request may carry one, and the digest that stands for it.

The proxy and the user API ask the same two questions, so that a key means the same to both.  The
key itself goes no further than here: stores, logs and servers see the digest or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

# Lower-case names of the fields that may carry a key.
AUTHORIZATION = b"authorization"
KEY_FIELDS = (AUTHORIZATION, b"x-api-key", b"apikey")


class AmbiguousKey(ValueError):
    """The request carries more than one key; the text says where."""


def key_from_fields(fields: Mapping[bytes, Sequence[bytes]]) -> bytes | None:
    """The key of a request, or None where there is none or an empty one.

    `fields` holds the values of each field by its lower-case name; others than KEY_FIELDS are not
    looked at.  One key in two fields is one key.  Raises AmbiguousKey for a repeated field, and
    for two keys that differ: whoever is to pay must not depend on who reads the request.
    """
    key = None
    for name in KEY_FIELDS:
        if name not in fields:
            continue
        values = fields[name]
        if len(values) > 1:
            raise AmbiguousKey(f"The field {name.decode()} appears more than once; send one API key.")
        found = values[0].strip(b" \t")
        # A value of one word, and not just the name of the scheme, is the key; most are.
        if name is AUTHORIZATION and (b" " in found or len(found) == len(b"Bearer")):
            found = _key_among_words(found)
        if not found:
            continue
        if key is None:
            key = found
        elif key != found:
            raise AmbiguousKey("The request carries two different API keys; send one.")
    return key


def bearer_token(authorization: bytes) -> bytes | None:
    """The token of `Bearer <token>`, empty where it is missing; None for any other value.

    RFC 9110 section 11.1: the scheme is case-insensitive.  RFC 6750 section 2.1.
    """
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    return token.strip(b" \t")


def digest(key: bytes) -> str:
    """What stands for a key everywhere else: its SHA-256 in lower-case hexadecimal."""
    return sha256(key).hexdigest()


def _key_among_words(authorization: bytes) -> bytes:
    token = bearer_token(authorization)
    if token is not None:
        return token
    # Two words are the credentials of another scheme, such as Basic, and not ours to read.
    return b"" if b" " in authorization else authorization
