"""API keys as they arrive: where a request may carry one, and the digest that stands for it.

The proxy and the user API ask the same two questions, so that a key means the same to both.  The
key itself goes no further than the process: stores and logs see the digest or nothing, and servers nothing,
also where a client has put the key into credentials of another scheme, see `holds_key`.
"""

from __future__ import annotations

import re
from base64 import b64decode
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

# RFC 4648 sections 4 and 5; shorter ones hold no key.
_BASE64 = re.compile(rb"[+/0-9A-Za-z]{32,}+")
# RFC 9562 section 5.4: what `/user/create` issues.
_ISSUED = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_LOWER_CASE = bytes(range(256)).lower()
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
    wanted = _letters(key)
    return any(wanted in _letters(text) for text in _readings(credentials))


def issued_within(credentials: bytes, most: int) -> list[bytes]:
    """What looks like a key that was issued, in credentials or, if these are Basic, in what they encode."""
    texts = [credentials]
    if credentials[:6].lower() == b"basic ":
        texts += _readings(credentials)
    # Each once, in order.
    return list(dict.fromkeys(key for text in texts for key in _ISSUED.findall(text.lower())))[:most]


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


def _readings(credentials: bytes) -> Iterator[bytes]:
    yield credentials
    if b"%" in credentials:
        yield unquote_to_bytes(credentials)
    for found in _BASE64.findall(credentials.replace(b"-", b"+").replace(b"_", b"/")):
        # What stands before may be no part of it: one of the four beginnings is right.
        for start in range(4):
            text = found[start:]
            yield b64decode(text[: len(text) // 4 * 4] + _padded(text[len(text) // 4 * 4 :]))


def _padded(rest: bytes) -> bytes:
    """The last group of base64, which may have lost its padding; one letter alone says nothing."""
    return rest.ljust(4, b"=") if len(rest) > 1 else b""


def _letters(text: bytes) -> bytes:
    """The letters and digits of a text, in lower case."""
    return text.translate(_LOWER_CASE, _NO_LETTERS)


def _key_among_words(authorization: bytes) -> bytes:
    token = bearer_token(authorization)
    if token is not None:
        return token
    # Two words are the credentials of another scheme, such as Basic, and not ours to read.
    return b"" if b" " in authorization else authorization
