"""One certificate with its key, from PEM: its names and its period of validity.

1. The chain and the key are in PEM, the server's own certificate first (RFC 8446 section 4.4.2).  The key has no
   passphrase: a server that starts unattended cannot ask for one.
2. The names are those in the subjectAltName; the common name is not used (RFC 9110 section 4.3.4, RFC 6125
   section 6.4.4).
3. OpenSSL makes the final check, for example for keys that are too short: `load`.

No file is read here, so the certificate that is parsed and the one that is served come from the same bytes, even if the
file changes meanwhile.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from twisted_lb.network.tls_errors import words_of

# Part of the first line of every kind of private key in PEM (RFC 7468 sections 10 and 11, and the older kinds of
# OpenSSL).
_KEY_MARK = b"PRIVATE KEY-----"
_CERTIFICATE_MARK = b"-----BEGIN CERTIFICATE-----"  # RFC 7468 section 5


class CertificateError(ValueError):
    """A certificate or key that cannot be used; the text begins with its location, and says what is wrong with it."""


class AuthorityOnly(CertificateError):
    """Only CA certificates, without a key: there is nothing to serve.  In a directory this is not an error."""


@dataclass(frozen=True)
class Certificate:
    """A certificate with its chain and its key.  Its representation does not contain the key."""

    file: str  # the file that it was read from
    names: tuple[str, ...]  # DNS names and IP addresses, in lower case; a name may begin with "*."
    not_before: float  # seconds since 1970
    not_after: float
    pem: bytes = field(repr=False)  # the chain, and then the key

    def valid_at(self, now: float) -> bool:
        """Whether `now`, in seconds since 1970, is within the period of validity."""
        return self.not_before <= now <= self.not_after


def has_key(pem: bytes) -> bool:
    """Whether the text of a file contains a private key."""
    return _KEY_MARK in pem


def read_certificate(file: str, chain: bytes, key: bytes, key_file: str = "") -> Certificate:
    """The certificate in `chain`, the text of `file`, with the key in `key`, the text of `key_file`.

    An empty `key_file` means `file`.  Raises CertificateError; AuthorityOnly for CA certificates without a key.
    """
    key_file = key_file or file
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:
        raise CertificateError(f"{file}: there is no certificate in PEM in it, or one that is damaged") from None
    if chain.count(_CERTIFICATE_MARK) != len(certificates):
        raise CertificateError(f"{file}: a certificate in it is damaged")
    first = certificates[0]
    if not has_key(key):
        kind = AuthorityOnly if all(map(_is_authority, certificates)) else CertificateError
        raise kind(f"{key_file}: there is no private key in PEM in it")
    private = _private_key(key, key_file)
    own = _public_bytes(private.public_key())
    fits = [_fits(one, own) for one in certificates]
    if not fits[0]:
        if any(fits):
            raise CertificateError(f"{file}: the certificate of the key must be the first one in it")
        place = f"the key in {key_file}" if key_file != file else "the key in it"
        raise CertificateError(f"{file}: {place} does not belong to the certificate")
    pem = [one.public_bytes(Encoding.PEM) for one in certificates]
    pem.append(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        names = _names(first)
    except ValueError:
        raise CertificateError(f"{file}: the extensions of the certificate cannot be read") from None
    not_before, not_after = first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()
    return Certificate(file, names, not_before, not_after, b"".join(pem))


def load(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Load the certificate into the context.  Raises CertificateError if OpenSSL does not accept it."""
    try:
        with _as_file(certificate.pem) as path:
            # A password keeps OpenSSL from asking for one at the terminal.
            context.load_cert_chain(path, password=b"")
    except ssl.SSLError as error:
        text = f"{certificate.file}: OpenSSL does not take the certificate: {words_of(error)}"
        raise CertificateError(text) from None


def _private_key(pem: bytes, file: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, None)
    except TypeError:
        raise CertificateError(
            f"{file}: the key is encrypted; a key without a passphrase is needed (openssl pkey -in KEY -out NEW)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(f"{file}: the private key in it is damaged, or of a kind that is not known") from None


def _public_bytes(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _fits(certificate: x509.Certificate, own: bytes) -> bool:
    try:
        return _public_bytes(certificate.public_key()) == own
    except (ValueError, UnsupportedAlgorithm):
        return False


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    dns = [name.lower() for name in found.get_values_for_type(x509.DNSName)]
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return tuple(dict.fromkeys([*dns, *addresses]))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except (x509.ExtensionNotFound, ValueError):
        return False


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path at which the content can be read, since OpenSSL takes certificates from files only.

    It is in memory where the system supports that, and otherwise a temporary file that only its owner can read.
    """
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        with open(os.memfd_create("certificate"), "wb", buffering=0) as memory:
            memory.write(content)
            yield f"/proc/self/fd/{memory.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        yield file.name
