"""The subject of a client's certificate as the value of a field."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from twisted_lb.network.client_certificate import subject_of

_KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(*parts: tuple[x509.ObjectIdentifier, str]) -> bytes:
    """A certificate in DER whose subject has these parts, the most general first."""
    name = x509.Name([x509.NameAttribute(kind, text) for kind, text in parts])
    now = datetime.datetime(2030, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(_KEY.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return builder.sign(_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


class SubjectTests(SynchronousTestCase):
    def test_order(self) -> None:
        """The most specific part comes first, as RFC 4514 section 2.1 says."""
        der = certificate(
            (NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Example"), (NameOID.COMMON_NAME, "ann")
        )
        self.assertEqual(subject_of(der), b"CN=ann,O=Example,C=DE")

    def test_escapes(self) -> None:
        """Nothing in a certificate can end the field, add one, or look like another part."""
        for text, value in [
            ("a,O=b", b"a\\,O=b"),
            ('"a"\\b', b'\\"a\\"\\\\b'),
            ("a\r\nX-Admin: 1", b"a\\0D\\0AX-Admin: 1"),
            ("Z\u00fcrich \u2603", b"Z\\C3\\BCrich \\E2\\98\\83"),
            ("a\x7f\x01\x85", b"a\\7F\\01\\C2\\85"),
            (" a ", b"\\ a\\20"),
            ("#a", b"\\#a"),
        ]:
            found = subject_of(certificate((NameOID.COMMON_NAME, text)))
            self.assertEqual(found, b"CN=" + value)

    def test_none(self) -> None:
        """An empty subject is empty, and so is that of what cannot be read."""
        self.assertEqual(subject_of(certificate()), b"")
        self.assertEqual(subject_of(b"\x30\x00"), b"")
