"""The keys of session tickets (RFC 8446 section 4.6.1, RFC 5077), so that several processes can share them.

OpenSSL makes keys of its own for each context, and Python's ssl has no call to set others.  OpenSSL has one
(SSL_CTX_set_tlsext_ticket_key_evp_cb), which is called here through ctypes, in the library that Python's ssl itself has
loaded.  It needs the address of OpenSSL's context, which CPython stores at the beginning of its own object.  If any of
this is not as expected, `available` returns False, and each context has keys of its own.

1. A ticket contains the name of its key, and is encrypted with AES-256-CBC and authenticated with HMAC-SHA-256, as
   OpenSSL's own are.  The name and both keys are derived from a secret, which is random and kept in memory only.
2. New tickets are made with the first secret; tickets made with the others are still accepted, and renewed.
3. The authorities that verify client certificates are part of the derivation: a session under other authorities is not
   resumed, since its certificate would not be verified again.
"""

from __future__ import annotations

import ctypes
import hmac
import ssl
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from os import urandom
from typing import Any, Final, NamedTuple

SECRET_BYTES: Final = 32
NAME_BYTES: Final = 16
IV_BYTES: Final = 16
KEY_BYTES: Final = 32

# Versions of CPython where the first member of the object for a context is OpenSSL's context (Modules/_ssl.c).
CHECKED_VERSIONS: Final = ((3, 11), (3, 12), (3, 13))

# Results of the callback.
FAILED: Final = -1
NO_TICKET: Final = 0  # a full handshake follows
ACCEPTED: Final = 1
ACCEPTED_AND_RENEWED: Final = 2

# core.h of OpenSSL
_UTF8_STRING: Final = 4
_OCTET_STRING: Final = 5
_UNMODIFIED: Final = ctypes.c_size_t(-1).value

_CALLBACK: Final = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
)

# Callbacks that OpenSSL may call, kept for ever: there is one for each change of authorities.
_callbacks: Final[list[object]] = []


class _Parameter(ctypes.Structure):
    """OSSL_PARAM(3)."""

    _fields_ = [
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_char_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    ]


class _Key(NamedTuple):
    """What tickets are made with."""

    name: bytes
    cipher_key: bytes
    mac_parameters: Any


class _OpenSsl:
    """The functions of OpenSSL.  Raises AttributeError or OSError if one is missing."""

    def __init__(self) -> None:
        import _ssl

        # It also finds the functions of the libraries that this one is linked with.
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        pointer = ctypes.c_void_p
        self.options = library.SSL_CTX_get_options
        self.options.restype, self.options.argtypes = ctypes.c_uint64, [pointer]
        self.set_callback = library.SSL_CTX_set_tlsext_ticket_key_evp_cb
        self.set_callback.restype, self.set_callback.argtypes = ctypes.c_int, [pointer, _CALLBACK]
        self.encrypt, self.decrypt = library.EVP_EncryptInit_ex, library.EVP_DecryptInit_ex
        self.encrypt.argtypes = [pointer, pointer, pointer, ctypes.c_char_p, pointer]
        self.decrypt.argtypes = [pointer, pointer, pointer, ctypes.c_char_p, pointer]
        self.set_mac = library.EVP_MAC_CTX_set_params
        self.set_mac.argtypes = [pointer, pointer]
        library.EVP_aes_256_cbc.restype = pointer
        self.cipher = library.EVP_aes_256_cbc()

    def context(self, context: ssl.SSLContext) -> int:
        """The address of OpenSSL's context."""
        address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value or 0
        if self.options(address) != context.options & 0xFFFFFFFFFFFFFFFF:
            raise OSError("it is not a context of OpenSSL")
        return address


@cache
def _openssl() -> _OpenSsl | None:
    """None where it cannot be used."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in CHECKED_VERSIONS:
        return None
    if ssl.OPENSSL_VERSION_INFO[0] != 3:
        return None
    try:
        found = _OpenSsl()
        for options in (ssl.OP_NO_TICKET, ssl.OP_NO_COMPRESSION):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.options |= options
            found.context(context)
    except (AttributeError, OSError):
        return None
    return found


def available() -> bool:
    """Whether contexts can be given keys here."""
    return _openssl() is not None


def new_secret() -> bytes:
    """A new random secret."""
    return urandom(SECRET_BYTES)


class TicketKeys:
    """The keys of all listeners of a process."""

    def __init__(self, secrets: Iterable[bytes] = ()) -> None:
        """Without secrets each context has keys of its own."""
        self.secrets: tuple[bytes, ...] = tuple(secrets)

    def use(self, secrets: Sequence[bytes]) -> None:
        """Make tickets with the first of these from now on, and accept those of the others."""
        self.secrets = tuple(secrets)

    def serve(self, context: ssl.SSLContext, authorities: str) -> None:
        """Have a context use them, if there are any; `authorities` is the text of those that verify its clients."""
        openssl = _openssl()
        if openssl is None or not self.secrets:
            return
        tickets = _Tickets(self, openssl, sha256(authorities.encode()).digest())
        callback = _CALLBACK(tickets.prepare)
        # A connection that now has another context (see `Certificates`) may need it after Python has freed this one.
        _callbacks.append(callback)
        openssl.set_callback(openssl.context(context), callback)


class _Tickets:
    """The ticket keys of one context."""

    def __init__(self, keys: TicketKeys, openssl: _OpenSsl, authorities: bytes) -> None:
        self._keys = keys
        self._openssl = openssl
        self._authorities = authorities
        self._secrets: tuple[bytes, ...] = ()
        self._derived: dict[bytes, _Key] = {}  # by name, the current one first

    def prepare(self, connection: int, name: int, iv: int, cipher: int, mac: int, encrypts: int) -> int:
        """See SSL_CTX_set_tlsext_ticket_key_evp_cb(3); the arguments are addresses."""
        try:
            return self._prepare(name, iv, cipher, mac, bool(encrypts))
        except Exception:
            return FAILED

    def _prepare(self, name: int, iv: int, cipher: int, mac: int, encrypts: bool) -> int:
        openssl = self._openssl
        if self._secrets is not self._keys.secrets:
            self._secrets = self._keys.secrets
            self._derived = {key.name: key for key in (_derived(one, self._authorities) for one in self._secrets)}
        present = next(iter(self._derived.values()))
        if encrypts:
            key = present
            random = urandom(IV_BYTES)
            ctypes.memmove(name, key.name, NAME_BYTES)
            ctypes.memmove(iv, random, IV_BYTES)
            done = openssl.encrypt(cipher, openssl.cipher, None, key.cipher_key, iv)
        else:
            found = self._derived.get(ctypes.string_at(name, NAME_BYTES))
            if found is None:
                return NO_TICKET
            key = found
            done = openssl.decrypt(cipher, openssl.cipher, None, key.cipher_key, iv)
        if done != 1 or openssl.set_mac(mac, ctypes.addressof(key.mac_parameters)) != 1:
            return FAILED
        return ACCEPTED if key is present else ACCEPTED_AND_RENEWED


def _derived(secret: bytes, authorities: bytes) -> _Key:
    """The key of a secret, as in RFC 5869 section 2.3."""

    def part(info: bytes) -> bytes:
        return hmac.digest(secret, authorities + info + b"\x01", "sha256")

    parameters = (_Parameter * 3)(
        _Parameter(b"key", _OCTET_STRING, part(b"mac"), KEY_BYTES, _UNMODIFIED),
        _Parameter(b"digest", _UTF8_STRING, b"sha256", 6, _UNMODIFIED),
        _Parameter(),
    )
    return _Key(part(b"name")[:NAME_BYTES], part(b"cipher"), parameters)
