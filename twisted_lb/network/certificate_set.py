"""The certificates in use, and what happens to them when their files change.

1. A certificate that cannot be used changes nothing: the one that was read from the same file before stays in use.
   During a renewal the key does not match until both files are written (certbot writes the certificate first).
2. An expired certificate, or one that is not valid yet, does not replace a valid one.  It is used if there is no
   other: clients that verify it then report the reason, which is more helpful than a failed handshake without one.
3. When a file is removed from the directory, its certificate is dropped, unless it is the last one.  A directory that
   cannot be read changes nothing.
4. A certificate that could not be used is tried again at each call, even if its file is unchanged: it may have become
   valid or readable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twisted_lb.network.certificate import AuthorityOnly, Certificate, CertificateError
from twisted_lb.network.certificate_files import CertificatePaths, Source
from twisted_lb.steps import Steps

# Certificates whose files are examined in one step, which takes some hundred microseconds.
LOOKS = 25


class Changes(NamedTuple):
    """What a call of `read_in_steps` has changed."""

    new: tuple[Certificate, ...] = ()
    renewed: tuple[Certificate, ...] = ()
    removed: tuple[Certificate, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()  # the new ones: the file, and a text that also names it
    mended: tuple[str, ...] = ()  # files and directories whose earlier problem is gone

    @property
    def certificates(self) -> bool:
        """Whether the certificates in use have changed."""
        return bool(self.new or self.renewed or self.removed)


class CertificateSet:
    """The certificates by file, the default first, and the problems of those that cannot be used."""

    def __init__(self, paths: CertificatePaths, try_out: Callable[[Certificate], None]) -> None:
        """`try_out` raises CertificateError for a certificate that cannot be used."""
        self.in_use: dict[str, Certificate] = {}
        self.problems: dict[str, str] = {}
        self.passed_over: tuple[str, ...] = ()  # files without anything to serve
        self._paths = paths
        self._try_out = try_out
        self._looks: dict[str, object] = {}

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates in use, the default first."""
        return tuple(self.in_use.values())

    def look_in_steps(self) -> Steps[object]:
        """A value that differs whenever a file was changed, added or removed; LOOKS certificates per step."""
        try:
            sources = self._paths.sources()
        except CertificateError as error:
            return str(error)
        looks = []
        for number, source in enumerate(sources, 1):
            looks.append((source.file, source.look()))
            if not number % LOOKS:
                yield
        return looks

    def read_in_steps(self, now: float) -> Steps[Changes]:
        """Read what has changed, one certificate per step.  `now` is in seconds since 1970."""
        before, problems_before = self.in_use, self.problems
        found: dict[str, Certificate] = {}
        problems: dict[str, str] = {}
        passed_over = []
        try:
            for number, source in enumerate(self._paths.sources(), 1):
                old = before.get(source.file)
                if not number % LOOKS:
                    yield
                if old is not None and self._looks.get(source.file) == source.look():
                    found[source.file] = old
                    continue
                yield
                try:
                    found[source.file] = self._read(source, old, now)
                except CertificateError as error:
                    # A file that had a key before may be half-written.
                    if isinstance(error, AuthorityOnly) and old is None:
                        passed_over.append(source.file)
                    else:
                        problems[source.file] = str(error)
                if old is not None and source.file in problems:
                    found[source.file] = old
        except CertificateError as error:
            problems[self._paths.directory] = str(error)
            found = {**found, **before}
        if before and not found:
            place = self._paths.directory
            problems.setdefault(place, f"TLS_CERT_DIR: {place}: there is no certificate in it any more")
            found = before
        self.in_use, self.problems, self.passed_over = found, problems, tuple(passed_over)
        return Changes(
            tuple(one for file, one in found.items() if file not in before),
            tuple(one for file, one in found.items() if file in before and before[file].pem != one.pem),
            tuple(one for file, one in before.items() if file not in found),
            tuple((file, text) for file, text in problems.items() if problems_before.get(file) != text),
            tuple(file for file in problems_before if file not in problems),
        )

    def _read(self, source: Source, old: Certificate | None, now: float) -> Certificate:
        look = source.look()
        certificate = source.read()
        self._try_out(certificate)
        if old is not None and old.valid_at(now) and not certificate.valid_at(now):
            when = "has expired" if certificate.not_after < now else "is not valid yet"
            reason = f"the certificate {when}, and the one in use is valid"
            raise CertificateError(f"{source.setting}: {source.file}: {reason}")
        self._looks[source.file] = look
        return certificate
