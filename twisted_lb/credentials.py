"""API keys in requests: where a request may carry one, and its digest.

The proxy and the user API both use this module, so that they find the same key.  The key itself does not leave the
process: stores receive its digest, logs and servers neither, even if a client has put the key into credentials of
another scheme, see `holds_key`.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, MutableMapping
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_to_bytes

from twisted_lb.config.settings import KeySettings
from twisted_lb.key_format import KeyFormat
from twisted_lb.own_fields import KEY_FIELDS

Fields = MutableMapping[bytes, list[bytes]]

AUTHORIZATION: Final = b"authorization"
# The key of the query parameter's values among the fields of a request.  It is not a valid field name.
PARAMETER: Final = b"?"

TWO_KEYS: Final = "The request carries two different API keys; send one."
# Replaces a key that would otherwise be visible to a server.
REDACTED: Final = b"REDACTED"

# RFC 9562 section 5.4: what `/user/create` issues.
_ISSUED: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_ISSUED_LENGTH: Final = 36
_ISSUED_IN_ANY_CASE: Final = re.compile(_ISSUED.pattern, re.IGNORECASE)
# In which clients send keys, whether or not they are configured: OWASP's examples, RFC 6750 section 2.3.
_USUAL_PARAMETERS: Final = (b"access-token", b"api-key", b"apikey", b"key", b"token", b"x-api-key")
# As numbers: `in` takes bytes for a number at first, which costs an exception.
_SPACE: Final = 0x20
_PERCENT_SIGN: Final = 0x25
_EQUALS_SIGN: Final = 0x3D
_LOWER_CASE: Final = bytes(range(256)).lower()
_NOT_BASE64: Final = bytes(byte for byte in range(256) if not (bytes([byte]).isalnum() or byte in b"+/"))
_NO_LETTERS: Final = bytes(byte for byte in range(256) if not bytes([byte]).isalnum())


# The separator, name and value of a pair in a query, where the name has percent-encoded characters.
_ENCODED_NAME: Final = re.compile(rb"([?&;])([^?=&;%\s]*+%[^?=&;\s]*+)=[^&;\s]+")


class AmbiguousKey(ValueError):
    """The request carries more than one key; the text says where."""


class KeyPlaces:
    """Where a request may carry a key: in some fields, and in a query parameter if there is one."""

    __slots__ = (
        "form",
        "fields",
        "parameter",
        "example",
        "challenge",
        "_authorization",
        "_others",
        "_names",
        "_stems",
        "_names_in_query",
    )

    def __init__(
        self, fields: Iterable[bytes] = KEY_FIELDS, parameter: bytes = b"", form: KeyFormat | None = None
    ) -> None:
        """`fields` are lower-case names, at least one; `parameter` may be empty.

        `form` is that of new keys; by default UUIDs.
        """
        self.form = form if form is not None else KeyFormat()
        self.fields = tuple(fields)
        self.parameter = parameter
        self._authorization = AUTHORIZATION in self.fields
        others = [name for name in self.fields if name != AUTHORIZATION]
        self._others = (*others, PARAMETER) if parameter else tuple(others)
        self._names = names = {*self.fields, *_USUAL_PARAMETERS} | ({parameter.lower()} if parameter else set())
        # Of each name a part that all its spellings have: most targets have none of them, and the pattern takes longer.
        self._stems: list[bytes] = []
        for name in sorted(names - {AUTHORIZATION}, key=len):
            if not any(stem in name for stem in self._stems):
                self._stems.append(max(name.split(b"-"), key=len))
        spellings = (re.escape(name).replace(rb"\-", rb"[-_]") for name in sorted(names - {AUTHORIZATION}))
        self._names_in_query = re.compile(rb"([?&;](?:" + rb"|".join(spellings) + rb")=)[^&;\s]+", re.IGNORECASE)
        # For a person, and for a program (RFC 9110 section 11.6.1).
        self.example = f"{self.fields[0].decode().title()}: <key>"
        self.challenge = b'%b realm="twisted_lb"' % (b"Bearer" if self._authorization else b"Key")

    def none_in(self, fields: Fields) -> bool:
        """Whether a request has none of these fields."""
        return not any(name in fields for name in self.fields)

    def remove(self, fields: Fields) -> None:
        """Take out all of these fields: something else has found the key of the request."""
        for name in self.fields:
            fields.pop(name, None)
        fields.pop(PARAMETER, None)

    def take(self, fields: Fields) -> bytes | None:
        """The key of a request, or None where there is none or an empty one; the fields that carry it are taken out.

        `fields` has the values of each field by its lower-case name, and those of the parameter by PARAMETER.  What
        remains in Authorization is for a server: credentials of another scheme, and, in addition to a key that has the
        form of an issued key, any token of another form.  The same key in two places is one key.  Raises AmbiguousKey
        for a repeated field, and for two different keys: the user to charge must not depend on the parser.
        """
        token = b""
        ours = False  # what is in Authorization
        if self._authorization and AUTHORIZATION in fields:
            values = fields[AUTHORIZATION]
            if len(values) > 1:
                raise _repeated(AUTHORIZATION)
            token = values[0].strip(b" \t")
            ours = True
            # A value of one word, other than the name of the scheme, is the key; this is the usual case.
            if _SPACE in token or len(token) == 6:  # as many as "Bearer" has
                token, ours = _key_among_words(token)
        for name in self._others:
            if name in fields:
                return self._beside(token, ours, fields)
        if ours:
            del fields[AUTHORIZATION]
        return token or None

    def masked(self, text: bytes, anonymous: bool) -> bytes:
        """A target, or a text that may hold one, as a log may have it; REDACTED takes the place of what may be a key.

        That is the value of a query parameter with the name of a place for keys, configured or usual; and, where it is
        not known whose the request is (`anonymous`), all that has the form of an issued key, which the client may have
        sent in the wrong place.  A known key of the request is the caller's to mask.
        """
        if _EQUALS_SIGN in text:
            lower = text.lower()
            for stem in self._stems:
                if lower.find(stem) >= 0:
                    text = self._names_in_query.sub(rb"\1" + REDACTED, text)
                    break
            if _PERCENT_SIGN in text:
                text = _ENCODED_NAME.sub(self._masked_pair, text)
        if anonymous and b"-4" in text:
            text = _ISSUED_IN_ANY_CASE.sub(REDACTED, text)
        return self.form.masked(text, REDACTED) if anonymous else text

    def is_issued(self, text: bytes) -> bool:
        """Whether this has the form of a key that was issued."""
        return is_issued(text) or self.form.is_issued(text)

    def issued_within(self, credentials: bytes, most: int) -> list[bytes]:
        """Texts of the form of an issued key, in credentials or, with Basic, in the decoded credentials."""
        text = _decoded(credentials)
        return [*self.form.within(text), *_uuids_within(text)][:most]

    def _masked_pair(self, pair: re.Match[bytes]) -> bytes:
        """A pair of a query whose name is percent-encoded in part."""
        name = unquote_to_bytes(pair[2]).lower().replace(b"_", b"-")
        return pair[1] + pair[2] + b"=" + REDACTED if name in self._names else pair[0]

    def _beside(self, token: bytes, ours: bool, fields: Fields) -> bytes | None:
        """The key when other places than Authorization are present; `token` is that of Authorization, if `ours`."""
        key = b""
        for name in self._others:
            values = fields.pop(name, ())
            if len(values) > 1 and name != PARAMETER:
                raise _repeated(name)
            for value in values:
                found = value.strip(b" \t")
                if key and found and key != found:
                    raise AmbiguousKey(TWO_KEYS)
                key = key or found
        if key and token and key != token:
            if self.is_issued(token) or not self.is_issued(key):
                raise AmbiguousKey(TWO_KEYS)
            return key
        if ours:
            del fields[AUTHORIZATION]
        return key or token or None


def key_places(settings: KeySettings) -> KeyPlaces:
    """The configured places."""
    fields = [name.encode() for name in settings.key_fields]
    return KeyPlaces(fields, settings.key_query_parameter.encode(), KeyFormat(settings.key_prefix))


def is_issued(text: bytes) -> bool:
    """Whether this is a UUID as it is issued."""
    return len(text) == _ISSUED_LENGTH and _ISSUED.fullmatch(text.lower()) is not None


def _repeated(name: bytes) -> AmbiguousKey:
    return AmbiguousKey(f"The field {name.decode()} appears more than once; send one API key.")


def holds_key(credentials: bytes, key: bytes) -> bool:
    """Whether a server could read this key in credentials of any scheme.

    That is: verbatim, in upper or lower case, with any punctuation or quoting, percent-encoded, or in base64 together
    with other bytes.
    """
    plain = _letters(key)
    if plain in _letters(credentials):
        return True
    if b"%" in credentials and plain in _letters(unquote_to_bytes(credentials)):
        return True
    text = credentials.replace(b"-", b"+").replace(b"_", b"/")
    forms = (key, key.upper(), plain, plain.upper())
    return any(encoded in text for form in forms for encoded in _in_base64(form))


def _decoded(credentials: bytes) -> bytes:
    text = credentials
    scheme, _, encoded = credentials.partition(b" ")
    if scheme.lower() == b"basic":
        letters = encoded.replace(b"-", b"+").replace(b"_", b"/").translate(None, _NOT_BASE64)
        # A single last character encodes nothing, and is an error.
        text += b" " + b64decode(letters[: len(letters) - (len(letters) % 4 == 1)] + b"===")
    return text


def _uuids_within(text: bytes) -> list[bytes]:
    if b"-4" not in text:
        # Most tokens of other issuers are long, and contain none.
        return []
    # Each once, in order.
    return list(dict.fromkeys(_ISSUED.findall(text.lower())))


def bearer_token(authorization: bytes) -> bytes | None:
    """The token of `Bearer <token>`, empty where it is missing; None for any other value.

    RFC 9110 section 11.1: the scheme is case-insensitive.  RFC 6750 section 2.1.
    """
    scheme, _, token = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    return token.strip(b" \t")


def digest(key: bytes) -> str:
    """The SHA-256 of a key in lower-case hexadecimal, which is used everywhere else."""
    return sha256(key).hexdigest()


def _in_base64(text: bytes) -> Iterator[bytes]:
    """The three possible base64 encodings of `text` within a longer text, by its offset (RFC 4648 section 4)."""
    for before in range(3):
        encoded = b2a_base64(bytes(before) + text, newline=False)
        # The characters at the ends also depend on the adjacent bytes.
        yield encoded[(before * 8 + 5) // 6 : (before + len(text)) * 8 // 6]


def _letters(text: bytes) -> bytes:
    """The letters and digits of a text, in lower case."""
    return text.translate(_LOWER_CASE, _NO_LETTERS)


def _key_among_words(authorization: bytes) -> tuple[bytes, bool]:
    """The key, which may be missing, and whether the value can contain a key at all."""
    token = bearer_token(authorization)
    if token is not None:
        return token, True
    # Two words are the credentials of another scheme, such as Basic.
    return (b"", False) if b" " in authorization else (authorization, True)
