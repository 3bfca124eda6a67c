"""Certificate files: which ones there are, which one is the default, and how one is read.

    TLS_CERT_FILE and TLS_KEY_FILE    one certificate; the key may be in the same file
    TLS_CERT_DIR                      each NAME.pem and NAME.crt in it, with the key in the same file or in NAME.key

1. In a directory, names that begin with a dot are ignored, and so are subdirectories: Kubernetes keeps the
   files of a secret in `..data`, and the names in the directory are symbolic links into it.
2. The default is TLS_CERT_FILE; without that, default.pem or default.crt of the directory; without these, the first
   file by name.
3. Only regular files of at most MAX_BYTES are read.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from twisted_lb.files import Look, look_at, read_regular_file
from twisted_lb.network.certificate import AuthorityOnly, Certificate, CertificateError, has_key, read_certificate

FILE_SETTING, KEY_SETTING, DIRECTORY_SETTING = "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CERT_DIR"
SUFFIXES = (".pem", ".crt")
KEY_SUFFIX = ".key"
DEFAULT_NAMES = ("default.pem", "default.crt")
MAX_BYTES = 1024**2  # a chain with its key usually has 4 to 10 KiB


class Source(NamedTuple):
    """Where one certificate comes from."""

    setting: str
    file: str
    key_file: str  # TLS_KEY_FILE, or NAME.key, which is read if `file` contains no key; "" if none exists

    def look(self) -> tuple[Look, Look]:
        """A value that changes whenever one of the files does."""
        return look_at(self.file), look_at(self.key_file) if self.key_file else None

    def read(self) -> Certificate:
        """The certificate.  Raises CertificateError, which names setting and file; AuthorityOnly: none to serve."""
        try:
            chain = _content(self.file)
            if self.key_file and (self.setting == FILE_SETTING or not has_key(chain)):
                return read_certificate(self.file, chain, _content(self.key_file), self.key_file)
            if self.setting == FILE_SETTING and not has_key(chain):
                raise CertificateError(f"{self.file}: there is no private key in PEM in it, and {KEY_SETTING} is empty")
            return read_certificate(self.file, chain, chain)
        except CertificateError as error:
            in_key_file = self.setting == FILE_SETTING and self.key_file and str(error).startswith(self.key_file + ":")
            # If there is a file for the key, the missing key is an error.
            nothing = isinstance(error, AuthorityOnly) and self.setting == DIRECTORY_SETTING and not self.key_file
            kind = AuthorityOnly if nothing else CertificateError
            raise kind(f"{KEY_SETTING if in_key_file else self.setting}: {error}") from None


class CertificatePaths(NamedTuple):
    """The settings that say where certificates are, as absolute paths; any of them may be empty."""

    file: str = ""
    key_file: str = ""
    directory: str = ""

    def sources(self) -> list[Source]:
        """Those that exist now by name, the default first.  Raises CertificateError if the directory is unreadable."""
        found = [Source(FILE_SETTING, self.file, self.key_file)] if self.file else []
        if not self.directory:
            return found
        try:
            with os.scandir(self.directory) as entries:
                # Symbolic links are followed.
                is_file = {entry.name: not entry.name.endswith(SUFFIXES) or not entry.is_dir() for entry in entries}
        except OSError as error:
            reason = error.strerror or str(error)
            raise CertificateError(f"{DIRECTORY_SETTING}: {self.directory}: cannot be read: {reason}") from None
        names = [name for name in sorted(is_file) if name.endswith(SUFFIXES) and not name.startswith(".")]
        names.sort(key=lambda name: DEFAULT_NAMES.index(name) if name in DEFAULT_NAMES else len(DEFAULT_NAMES))
        for name in names:
            path = os.path.join(self.directory, name)
            key_name = os.path.splitext(name)[0] + KEY_SUFFIX
            key_file = os.path.join(self.directory, key_name) if key_name in is_file else ""
            if path != self.file and is_file[name]:
                found.append(Source(DIRECTORY_SETTING, path, key_file))
        return found


def _content(path: str) -> bytes:
    try:
        return read_regular_file(path, MAX_BYTES)
    except OSError as error:
        raise CertificateError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise CertificateError(f"{path}: {error}") from None
