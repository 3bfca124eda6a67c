"""TLS to Redis: the certificates to trust, the client certificate, and messages for failures.

The files are read and checked when the program starts; an error names the setting and the file.  Messages use the names
that the operator knows, so that they can be acted on.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure

from twisted_lb.stores.redis.url import RedisSecurity

CA_FILE = "REDIS_TLS_CA_FILE"
CERT_FILE = "REDIS_TLS_CERT_FILE"
KEY_FILE = "REDIS_TLS_KEY_FILE"

# The end of the reason that OpenSSL gives, and what the operator can do about it.
_TROUBLES = (
    (
        "certificate verify failed",
        "its certificate cannot be verified: it has expired, or is not signed by an authority that is trusted"
        f" ({CA_FILE}, or the system's where that is empty)",
    ),
    ("wrong version number", "what listens there does not speak TLS; redis:// is for that"),
    ("packet length too long", "what listens there does not speak TLS; redis:// is for that"),
    ("record layer failure", "what listens there does not speak TLS; redis:// is for that"),
    ("certificate required", f"it wants a certificate of ours: {CERT_FILE} and {KEY_FILE}"),
    ("alert unknown ca", f"it does not trust the authority that signed our certificate ({CERT_FILE})"),
    ("alert bad certificate", f"it does not accept our certificate ({CERT_FILE})"),
    ("alert certificate expired", f"our certificate ({CERT_FILE}) has expired"),
)


class RedisTls:
    """The contents of the files of a RedisSecurity.  Raises ValueError, with setting and file, for an invalid one."""

    def __init__(self, security: RedisSecurity) -> None:
        self._trust: Any = platformTrust()
        if security.ca_file:
            self._trust = trustRootFromCertificates(
                [Certificate(one) for one in _certificates(CA_FILE, security.ca_file)]
            )
        self._own: dict[str, Any] = {}
        if bool(security.cert_file) != bool(security.key_file):
            set_one, other = (CERT_FILE, KEY_FILE) if security.cert_file else (KEY_FILE, CERT_FILE)
            raise ValueError(f"{other}: it is empty, but {set_one} is set; one does not go without the other")
        if security.cert_file:
            first, *chain = _certificates(CERT_FILE, security.cert_file)
            key = _private_key(security.key_file)
            if first.to_cryptography().public_key() != key.public_key():
                raise ValueError(
                    f"{KEY_FILE}: {security.key_file!r} does not belong to the first certificate in {CERT_FILE}"
                )
            self._own = {
                "certificate": first,
                "extraCertChain": chain,
                "privateKey": crypto.PKey.from_cryptography_key(key),
            }
            try:
                # OpenSSL has checks of its own, for example for keys that are too short.
                CertificateOptions(**self._own).getContext()
            except SSL.Error as error:
                raise ValueError(f"{CERT_FILE}: {security.cert_file!r}: {', '.join(_reasons(error))}") from None

    def options(self, host: str) -> IOpenSSLClientConnectionCreator:
        """The options for a connection to `host`, a name or an IP address, which its certificate must be for."""
        return optionsForClientTLS(host, trustRoot=self._trust, extraCertificateOptions=dict(self._own))


def tls_trouble(failure: Failure) -> str:
    """Why a connection failed, if TLS has failed, in a text that the operator can act on; otherwise ""."""
    error = failure.value
    if isinstance(error, VerificationError):
        return "its certificate is not for the host that REDIS_URL (or a sentinel) names"
    if not isinstance(error, SSL.Error):
        return ""
    reasons = _reasons(error)
    for reason in reasons:
        for known, words in _TROUBLES:
            if reason.endswith(known):
                return words
    return "TLS failed: " + ", ".join(reasons)


def _reasons(error: SSL.Error) -> list[str]:
    # The argument is a list of (library, function, reason); some errors have none.
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return [str(entry[-1]) for entry in entries] or [type(error).__name__]


def _certificates(setting: str, path: str) -> list[crypto.X509]:
    data = _read(setting, path)
    try:
        return [crypto.X509.from_cryptography(one) for one in x509.load_pem_x509_certificates(data)]
    except ValueError:
        raise ValueError(f"{setting}: there is no certificate in PEM in {path!r}, or one that is damaged") from None


def _private_key(path: str) -> Any:
    data = _read(KEY_FILE, path)
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        raise ValueError(f"{KEY_FILE}: {path!r} is encrypted; a key without a passphrase is needed") from None
    except Exception:
        raise ValueError(f"{KEY_FILE}: there is no private key in PEM in {path!r}, or one that is damaged") from None


def _read(setting: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{setting}: cannot read {path!r}: {reason}") from None
