"""API keys as they arrive: where a request may carry one, and the digest that stands for it.

The proxy and the user API ask the same two questions, so that a key means the same to both.  The
key itself goes no further than the process: stores and logs see the digest or nothing, and servers nothing,
also where a client has put the key into credentials of another scheme, see `holds_key`.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from urllib.parse import unquote_to_bytes

# Lower-case names of the fields that may carry a key.
AUTHORIZATION = b"authorization"
X_API_KEY = b"x-api-key"
APIKEY = b"apikey"
KEY_FIELDS = (AUTHORIZATION, X_API_KEY, APIKEY)

TWO_KEYS = "The request carries two different API keys; send one."
# In the place of a key that a client has put where its server would see it.
REDACTED = b"REDACTED"

# RFC 9562 section 5.4: what `/user/create` issues.
_ISSUED = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_LOWER_CASE = bytes(range(256)).lower()
_NOT_BASE64 = bytes(byte for byte in range(256) if not (bytes([byte]).isalnum() or byte in b"+/"))
_NO_LETTERS = bytes(byte for byte in range(256) if not bytes([byte]).isalnum())


class AmbiguousKey(ValueError):
    """The request carries more than one key; the text says where."""


def key_from_fields(fields: Mapping[bytes, Sequence[bytes]]) -> bytes | None:
    """The key of a request, or None where there is none or an empty one.

    `fields` holds the values of each field by its lower-case name; others than KEY_FIELDS are not
    looked at.  One key in two fields is one key.  Raises AmbiguousKey for a repeated field, and
    for two keys that differ: whoever is to pay must not depend on who reads the request.
    """
    key = b""
    if AUTHORIZATION in fields:
        values = fields[AUTHORIZATION]
        if len(values) > 1:
            raise _repeated(AUTHORIZATION)
        key = values[0].strip(b" \t")
        # A value of one word, and not just the name of the scheme, is the key; most are.
        if b" " in key or len(key) == 6:  # as many as "Bearer" has
            key = _key_among_words(key)
    if X_API_KEY in fields or APIKEY in fields:
        for name in (X_API_KEY, APIKEY):
            values = fields.get(name, ())
            if len(values) > 1:
                raise _repeated(name)
            found = values[0].strip(b" \t") if values else b""
            if key and found and key != found:
                raise AmbiguousKey(TWO_KEYS)
            key = key or found
    return key or None


def _repeated(name: bytes) -> AmbiguousKey:
    return AmbiguousKey(f"The field {name.decode()} appears more than once; send one API key.")


def other_credentials(fields: Mapping[bytes, Sequence[bytes]]) -> bytes:
    """The value of Authorization where it carries no key of ours, but credentials of another scheme; else empty."""
    value = fields[AUTHORIZATION][0].strip(b" \t") if AUTHORIZATION in fields else b""
    return value if b" " in value and bearer_token(value) is None else b""


def holds_key(credentials: bytes, key: bytes) -> bool:
    """Whether a server could read this key in credentials of whatever scheme.

    As it is, in any case and however it is punctuated or quoted, percent-encoded, or in base64 with whatever
    stands around it.
    """
    plain = _letters(key)
    if plain in _letters(credentials):
        return True
    if b"%" in credentials and plain in _letters(unquote_to_bytes(credentials)):
        return True
    text = credentials.replace(b"-", b"+").replace(b"_", b"/")
    forms = (key, key.upper(), plain, plain.upper())
    return any(encoded in text for form in forms for encoded in _in_base64(form))


def issued_within(credentials: bytes, most: int) -> list[bytes]:
    """What looks like a key that was issued, in credentials or, if these are Basic, in what they encode."""
    text = credentials
    scheme, _, encoded = credentials.partition(b" ")
    if scheme.lower() == b"basic":
        letters = encoded.replace(b"-", b"+").replace(b"_", b"/").translate(None, _NOT_BASE64)
        # A last letter alone says nothing, and is an error.
        text += b" " + b64decode(letters[: len(letters) - (len(letters) % 4 == 1)] + b"===")
    # Each once, in order.
    return list(dict.fromkeys(_ISSUED.findall(text.lower())))[:most]


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


def _in_base64(text: bytes) -> Iterator[bytes]:
    """What is in any base64 that holds `text`: one of three, by what stands before it (RFC 4648 section 4)."""
    for before in range(3):
        encoded = b64encode(bytes(before) + text)
        # The letters at the ends are made of the neighbours too.
        yield encoded[(before * 8 + 5) // 6 : (before + len(text)) * 8 // 6]


def _letters(text: bytes) -> bytes:
    """The letters and digits of a text, in lower case."""
    return text.translate(_LOWER_CASE, _NO_LETTERS)


def _key_among_words(authorization: bytes) -> bytes:
    token = bearer_token(authorization)
    if token is not None:
        return token
    # Two words are the credentials of another scheme, such as Basic, and not ours to read.
    return b"" if b" " in authorization else authorization
