"""The form of the keys that are issued: UUIDs, or keys with a prefix and a checksum.

A key with a prefix is the prefix, 32 random characters of base62 (190 bits), and 6 characters with the CRC-32 of all
before them, also in base62; the form of GitHub's tokens.  A scanner for secrets can recognize such a key by itself, and
a typing error is found without a look-up: a text with the prefix and a wrong checksum is not a key.

Keys of other forms (UUIDs, or of former prefixes) remain valid: only the digest of a key is stored.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable
from typing import Final
from uuid import UUID, uuid4
from zlib import crc32

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
RANDOM_CHARACTERS: Final = 32
CHECKSUM_CHARACTERS: Final = 6  # 62 ** 6 is above 2 ** 32
MAX_PREFIX_CHARACTERS: Final = 32
# A prefix that ends with "_" can be told from what follows it, and a double click selects the whole key.
PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,30}_")

_AFTER_PREFIX: Final = re.compile(rb"[0-9A-Za-z]{38}")


class KeyFormat:
    """Makes new keys, and recognizes texts that are not keys."""

    __slots__ = ("_prefix", "_choice", "_pattern")

    def __init__(self, prefix: str = "", choice: Callable[[str], str] = secrets.choice) -> None:
        """`prefix` matches PREFIX, or is empty: keys are UUIDs.  `choice` draws a random character."""
        self._prefix = prefix.encode()
        self._choice = choice
        self._pattern = re.compile(re.escape(self._prefix) + _AFTER_PREFIX.pattern)

    def new_key(self) -> str:
        """A new key."""
        if not self._prefix:
            return str(uuid4())
        choice = self._choice
        text = self._prefix.decode() + "".join([choice(ALPHABET) for _ in range(RANDOM_CHARACTERS)])
        return text + checksum(text.encode())

    def derived_key(self, secret: bytes, about: bytes) -> str:
        """The one key that results from these: a request that is repeated creates the same key.

        Nobody finds it without the secret.
        """
        derived = hmac.digest(secret, about, "sha512")
        if not self._prefix:
            return str(UUID(bytes=derived[:16], version=4))
        number = int.from_bytes(derived, "big")
        characters = []
        for _ in range(RANDOM_CHARACTERS):
            number, digit = divmod(number, len(ALPHABET))
            characters.append(ALPHABET[digit])
        text = self._prefix.decode() + "".join(characters)
        return text + checksum(text.encode())

    def is_issued(self, text: bytes) -> bool:
        """Whether this has the prefix and the right checksum."""
        prefix = self._prefix
        return bool(prefix) and text.startswith(prefix) and not self.is_mistyped(text)

    def within(self, text: bytes) -> list[bytes]:
        """Texts of this form in a longer one."""
        if not self._prefix or self._prefix not in text:
            return []
        return [found for found in self._pattern.findall(text) if self.is_issued(found)]

    def masked(self, text: bytes, mask: bytes) -> bytes:
        """The text with `mask` in place of what looks like such a key, mistyped or not."""
        if not self._prefix or self._prefix not in text:
            return text
        return self._pattern.sub(mask, text)

    def is_mistyped(self, key: bytes) -> bool:
        """Whether this has the prefix, and is not a key: no look-up is necessary."""
        prefix = self._prefix
        if not prefix or not key.startswith(prefix):
            return False
        if _AFTER_PREFIX.fullmatch(key, len(prefix)) is None:
            return True
        return checksum(key[:-CHECKSUM_CHARACTERS]).encode() != key[-CHECKSUM_CHARACTERS:]


def checksum(text: bytes) -> str:
    """The CRC-32 of a text in base62."""
    number = crc32(text)
    characters = []
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[digit])
    return "".join(reversed(characters))
