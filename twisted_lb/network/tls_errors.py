"""The errors of TLS."""

from __future__ import annotations

import re
import ssl

from twisted.internet.error import ConnectError, ConnectionLost

_PLACE = re.compile(r" \(_ssl\.c:[0-9]+\)$")


class TlsError(ConnectionLost):
    """The connection cannot continue; the text is OpenSSL's, or says what the other side has done."""


class Truncated(TlsError):
    """The other side has ended the connection without close_notify: more may have followed (RFC 8446 section 6.1)."""

    def __init__(self) -> None:
        super().__init__("the other side has ended the connection without close_notify")


class HandshakeFailed(ConnectError):
    """The handshake has failed; the text is OpenSSL's, or says what the other side has done."""

    def __init__(self, text: str) -> None:
        super().__init__(None, text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class CertificateNotVerified(HandshakeFailed):
    """The certificate of the other side is not accepted; the text is OpenSSL's, such as "certificate has expired"."""


def words_of(error: ssl.SSLError | ValueError) -> str:
    """OpenSSL's text for an error, without the place in its source; that of another error as it is."""
    reason = getattr(error, "reason", None)
    if reason:
        return str(reason).lower().replace("_", " ")
    return _PLACE.sub("", getattr(error, "strerror", None) or str(error))
