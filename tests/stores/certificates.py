"""Authorities and certificates that a test makes for itself."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates, as files in a directory."""

    def __init__(self, directory: str | Path, name: str = "authority") -> None:
        self._directory = Path(directory)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        signed = self._signed(self._name, self._key.public_key(), 2, x509.BasicConstraints(ca=True, path_length=None))
        self.pem = signed.public_bytes(Encoding.PEM)
        self.key_pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.ca_file = self._write(f"{name}.pem", self.pem)

    def sign(
        self, name: str, *hosts: str, days: int = 2, lifetime: int = 5, passphrase: bytes = b""
    ) -> tuple[str, str]:
        """The files of a new certificate for these host names and IP addresses, and of its key.

        It expires in `days`, and was made `lifetime` days before that; `days` below zero: it has expired so long ago.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([_name(host) for host in hosts or (name,)])
        certificate = self._signed(subject, key.public_key(), days, names, lifetime)
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return (
            self._write(f"{name}.pem", certificate.public_bytes(Encoding.PEM)),
            self._write(f"{name}.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)),
        )

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        days: int,
        extension: x509.ExtensionType,
        lifetime: int = 5,
    ) -> x509.Certificate:
        until = datetime.datetime.now(datetime.timezone.utc) + days * DAY
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(until - lifetime * DAY).not_valid_after(until)
        return builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())

    def _write(self, name: str, data: bytes) -> str:
        path = self._directory / name
        path.write_bytes(data)
        return str(path)


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
