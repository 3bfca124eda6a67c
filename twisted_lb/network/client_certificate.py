"""The subject of a client's certificate, as it is sent to servers.

It is the string of RFC 4514: the most specific part first, `CN=ann,O=Example`.  Everything in it comes from the
certificate, and it becomes the value of a header field.  So everything but printable ASCII is escaped, each byte of its
UTF-8 (`\\C3\\A9`), which RFC 4514 section 2.4 allows for any character.
"""

from __future__ import annotations

import re

from cryptography import x509

_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")


def subject_of(der: bytes) -> bytes:
    """The subject of a certificate in DER; b"" for an empty one, and for one that cannot be read."""
    try:
        text = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    except ValueError:
        # OpenSSL accepts more than this parser.
        return b""
    # A space at the end would not be part of the field's value.
    if text.endswith("\\ "):
        text = text[:-1] + "20"
    return _NOT_PRINTABLE.sub(_escaped, text).encode("ascii")


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
