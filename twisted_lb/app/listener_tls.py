"""The certificates of the TLS listeners: read when the program starts, and used in each process that serves clients."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock

from twisted_lb.app.certificate_watch import shown_expiry, shown_names
from twisted_lb.config.settings import Misconfigured, Settings
from twisted_lb.files import Look, look_at, read_regular_file
from twisted_lb.network.certificate import Certificate, read_certificate
from twisted_lb.network.certificate_files import CertificatePaths
from twisted_lb.network.certificate_set import CertificateSet
from twisted_lb.network.certificates import Certificates
from twisted_lb.network.ticket_keys import TicketKeys, new_secret
from twisted_lb.network.tls_context import server_context
from twisted_lb.steps import Steps, finish, run_in_turns

# One certificate for another process: its file, and its text, None if that process has it already.
Words = dict[str, str | None]


# The maximum size of a file of authorities.
MAX_AUTHORITIES_BYTES = 1024 * 1024
NO_SETTINGS = Settings()


class ClientAuthorities:
    """TLS_CLIENT_CA_FILE: the authorities that certificates of clients are verified with."""

    def __init__(self, settings: Settings = NO_SETTINGS) -> None:
        self.file = settings.tls_client_ca_file
        self.text = ""  # the one in use
        self.problem = ""  # why the file could not be used when it was last read
        self._settings = settings

    def look(self) -> Look:
        """A value that changes whenever the file does."""
        return look_at(self.file) if self.file else None

    def read(self) -> bool:
        """Read the file; return whether other authorities are in use now.  An invalid file changes nothing."""
        if not self.file:
            return False
        before = self.text
        try:
            self.text = self._content()
            self.problem = ""
        except Misconfigured as error:
            (self.problem,) = error.problems
        return self.text != before

    def _content(self) -> str:
        file = self.file
        try:
            text = read_regular_file(file, MAX_AUTHORITIES_BYTES).decode("ascii")
            new_contexts(self._settings, text)()
        except OSError as error:
            # OpenSSL's errors are OSErrors too.
            reason = "there is no certificate in PEM in it, or a damaged one"
            if not isinstance(error, ssl.SSLError):
                reason = f"it cannot be read: {error.strerror}"
            raise Misconfigured([f"TLS_CLIENT_CA_FILE: {file}: {reason}"]) from None
        except UnicodeDecodeError:
            raise Misconfigured([f"TLS_CLIENT_CA_FILE: {file}: it is not PEM, which is ASCII text"]) from None
        except ValueError as error:
            raise Misconfigured([f"TLS_CLIENT_CA_FILE: {file}: {error}"]) from None
        if not text.strip():
            # Without authorities, no certificates would be requested.
            raise Misconfigured([f"TLS_CLIENT_CA_FILE: {file}: it is empty"])
        return text


class ListenerTls(NamedTuple):
    """The certificates in the files, and the contexts that serve them."""

    files: CertificateSet
    certificates: Certificates
    client_authorities: ClientAuthorities = ClientAuthorities()


def new_contexts(settings: Settings, client_authorities: str) -> Callable[[], ssl.SSLContext]:
    """Makes contexts for listeners, without a certificate; `client_authorities` is the text of TLS_CLIENT_CA_FILE."""
    return partial(
        server_context,
        settings.tls_min_version,
        settings.tls_ciphers,
        client_authorities,
        settings.tls_client_auth,
    )


def _authorities(settings: Settings) -> ClientAuthorities:
    """The authorities in TLS_CLIENT_CA_FILE.  Raises Misconfigured, also for TLS_CIPHERS."""
    try:
        new_contexts(settings, "")()
    except ssl.SSLError:
        expected = "expected a list such as ECDHE+AESGCM:ECDHE+CHACHA20, as `openssl ciphers` takes it"
        raise Misconfigured([f"TLS_CIPHERS: OpenSSL knows no cipher in {settings.tls_ciphers!r}; {expected}"]) from None
    authorities = ClientAuthorities(settings)
    authorities.read()
    if authorities.problem:
        raise Misconfigured([authorities.problem])
    return authorities


def read_listener_tls(settings: Settings, now: float) -> ListenerTls | None:
    """Read the certificates; None if the settings name none.  `now` is in seconds since 1970.

    Raises Misconfigured with each file that cannot be used.
    """
    paths = CertificatePaths(settings.tls_cert_file, settings.tls_key_file, settings.tls_cert_dir)
    if not paths.file and paths.key_file:
        raise Misconfigured(["TLS_KEY_FILE: it is set, but TLS_CERT_FILE is empty; one does not go without the other"])
    if not paths.file and not paths.directory:
        if settings.tls_listen:
            raise Misconfigured(["TLS_LISTEN: it needs a certificate: set TLS_CERT_FILE or TLS_CERT_DIR"])
        return None
    authorities = _authorities(settings)
    certificates = Certificates(new_contexts(settings, authorities.text), TicketKeys([new_secret()]))
    files = CertificateSet(paths, certificates.try_out)
    finish(files.read_in_steps(now))
    if files.problems:
        raise Misconfigured(list(files.problems.values()))
    if not files.in_use:
        raise Misconfigured([f"TLS_CERT_DIR: {paths.directory}: there is no certificate in it"])
    certificates.use(files.certificates, now)
    return ListenerTls(files, certificates, authorities)


def certificate_lines(files: CertificateSet, now: float) -> list[str]:
    """The certificates for people, the default first; see also `certificate_notices`."""
    return [
        f"{one.file}: {shown_names(one)}; {shown_expiry(one, now)}{'' if number else '; the default'}"
        for number, one in enumerate(files.certificates)
    ]


def certificate_notices(files: CertificateSet, now: float) -> list[str]:
    """Notices of probable mistakes."""
    notices = []
    for number, one in enumerate(files.certificates):
        if not one.valid_at(now):
            notices.append(f"{one.file}: the certificate {shown_expiry(one, now)}")
        if number and not one.names:
            notices.append(f"{one.file}: no client gets the certificate: it serves {shown_names(one)}")
    for file in files.passed_over:
        notices.append(f"{file}: it is not used: it has certificates of authorities, and no key")
    return notices


class CertificatesOfWorker:
    """The certificates of a worker, which its parent reads, so that all workers have the same."""

    def __init__(
        self,
        reactor: Any,
        new_context: Callable[[], ssl.SSLContext],
        ticket_secrets: Sequence[str] = (),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`new_context` makes a context for listeners, without a certificate; `ticket_secrets` as in `use_secrets`."""
        self.certificates = Certificates(new_context, TicketKeys(map(bytes.fromhex, ticket_secrets)))
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._held: dict[str, Certificate] = {}
        self._lock = DeferredLock()

    def use(self, words: Sequence[Words]) -> None:
        """Serve these, before any client connects."""
        finish(self._use_in_steps(words))

    def use_in_turns(self, words: Sequence[Words]) -> Deferred[None]:
        """Serve these from now on; clients are served meanwhile."""
        return self._lock.run(run_in_turns, self._reactor, self._use_in_steps(words))

    def use_contexts_in_turns(self, new_context: Callable[[], ssl.SSLContext]) -> Deferred[None]:
        """Serve the certificates in other contexts from now on; see `Certificates`."""
        return self._lock.run(lambda: run_in_turns(self._reactor, self.certificates.use_contexts_in_steps(new_context)))

    def use_secrets(self, secrets: Sequence[str]) -> None:
        """The secrets of the keys of tickets, in hexadecimal; see `TicketKeys.use`."""
        self.certificates.ticket_keys.use([bytes.fromhex(one) for one in secrets])

    def _use_in_steps(self, words: Sequence[Words]) -> Steps[None]:
        held: dict[str, Certificate] = {}
        for one in words:
            file, text = one["file"], one["pem"]
            assert file is not None
            if text is None:
                held[file] = self._held[file]
            else:
                pem = text.encode()
                held[file] = read_certificate(file, pem, pem)
                yield
        yield from self.certificates.use_in_steps(tuple(held.values()), self._wall_clock())
        self._held = held


def words_for_worker(certificates: Sequence[Certificate], held: Sequence[Certificate] = ()) -> list[Words]:
    """The argument of `CertificatesOfWorker.use`; `held` are the certificates that the worker has."""
    known = {one.file: one.pem for one in held}
    return [
        {"file": one.file, "pem": None if known.get(one.file) == one.pem else one.pem.decode()} for one in certificates
    ]
