"""The certificates of the TLS listeners, chosen by the name that the client asks for (SNI, RFC 6066 section 3).

1. A certificate with exactly this name is preferred; then one with a wildcard for it, which stands for one label (RFC
   6125 section 6.4.3); then the default, which also serves clients that send no name.
2. Of several certificates for one name, those that are valid now are preferred; of these the one that expires last; of
   these the first.
3. All listeners share one context, `context`, which has no certificate: each handshake switches to the context of its
   certificate.  So new certificates affect later handshakes only, and no open connection.  Tickets
   (RFC 8446 section 4.6.1, RFC 5077) are made with the keys of `context`, so sessions can be resumed after a renewal.
   See `ticket_keys`.
4. When the authorities that verify client certificates change, `context` is replaced, so that no earlier session is
   resumed: its certificate would not be verified again.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence

from twisted_lb.network.certificate import Certificate, load
from twisted_lb.network.ticket_keys import TicketKeys
from twisted_lb.network.tls_context import ListenerContext
from twisted_lb.steps import Steps, finish


class NoCertificate(Exception):
    """A handshake began before there was any certificate."""


class ServerSide(ssl.SSLObject):
    """The server's side of a handshake."""

    unserved_name = ""  # the name that the client asked for, if no certificate has it


class Certificates:
    """The certificates in use, and the context for listeners."""

    def __init__(self, new_context: Callable[[], ssl.SSLContext], ticket_keys: TicketKeys | None = None) -> None:
        """`new_context` makes a context for servers without a certificate: versions, ciphers, ALPN, clients' CA.

        All contexts must have the same settings: some are taken from `context`, others from the certificate's.
        """
        self._new_context = new_context
        self.ticket_keys = TicketKeys() if ticket_keys is None else ticket_keys
        self.context = self._for_listeners(new_context)
        self._certificates: tuple[Certificate, ...] = ()
        self._contexts: dict[bytes, ssl.SSLContext] = {}  # by the PEM of the certificate
        self._tried: dict[bytes, ssl.SSLContext] = {}  # the same, for those that are not in use yet
        self._exact: dict[str, Certificate] = {}
        self._wildcards: dict[str, Certificate] = {}  # without "*"
        self._default: Certificate | None = None

    def try_out(self, certificate: Certificate) -> None:
        """Raise CertificateError if the certificate cannot be used."""
        if certificate.pem not in self._contexts:
            # It will probably be used next.
            self._tried[certificate.pem] = _made(self._new_context, certificate)

    def use(self, certificates: Sequence[Certificate], now: float) -> None:
        """Serve these from now on, the first as the default; `now` is in seconds since 1970.

        Raises CertificateError, and then nothing has changed.
        """
        finish(self.use_in_steps(certificates, now))

    def use_in_steps(self, certificates: Sequence[Certificate], now: float) -> Steps[None]:
        """The same, one new certificate per step; the change takes effect at the end."""
        contexts: dict[bytes, ssl.SSLContext] = {}
        for certificate in certificates:
            context = self._contexts.get(certificate.pem) or self._tried.get(certificate.pem)
            if context is None:
                context = _made(self._new_context, certificate)
                yield
            contexts[certificate.pem] = context
        names: dict[str, Certificate] = {}
        for certificate in _by_preference(certificates, now):
            for name in certificate.names:
                names.setdefault(name, certificate)
        self._certificates = tuple(certificates)
        self._contexts = contexts
        self._tried.clear()
        self._exact = {name: one for name, one in names.items() if not name.startswith("*.")}
        self._wildcards = {name[1:]: one for name, one in names.items() if name.startswith("*.")}
        self._default = certificates[0] if certificates else None

    def use_contexts_in_steps(self, new_context: Callable[[], ssl.SSLContext]) -> Steps[None]:
        """Serve the same certificates in other contexts from now on, and resume no earlier session.

        `new_context` is as in `__init__`.  One certificate per step; the change takes effect at the end.
        """
        contexts = {}
        for certificate in self._certificates:
            contexts[certificate.pem] = _made(new_context, certificate)
            yield
        self.context = self._for_listeners(new_context)
        self._new_context = new_context
        self._contexts = contexts
        self._tried.clear()

    def present_context(self) -> ssl.SSLContext:
        """The context of handshakes that begin now."""
        return self.context

    def certificate_for(self, name: str | None) -> Certificate:
        """The certificate for a client that asks for this name, or for none.  Raises NoCertificate."""
        found = (self._named(name) if name else None) or self._default
        if found is None:
            raise NoCertificate
        return found

    def _named(self, name: str) -> Certificate | None:
        """The certificate that has this name, or its wildcard."""
        name = name.lower()
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        label = name.partition(".")[0]
        return self._wildcards.get(name[len(label) :]) if label else None

    def _for_listeners(self, new_context: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        context = new_context()
        context.sslobject_class = ServerSide
        context.sni_callback = self._choose
        if isinstance(context, ListenerContext):
            self.ticket_keys.serve(context, context.client_authorities)
        return context

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        """See ssl.SSLContext.sni_callback."""
        certificate = self._named(name) if name else None
        if certificate is None:
            certificate = self._default
            if isinstance(connection, ServerSide) and name:
                connection.unserved_name = name
        if certificate is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._contexts[certificate.pem]
        return None


def _made(new_context: Callable[[], ssl.SSLContext], certificate: Certificate) -> ssl.SSLContext:
    context = new_context()
    load(context, certificate)
    return context


def _by_preference(certificates: Iterable[Certificate], now: float) -> list[Certificate]:
    return sorted(certificates, key=lambda one: (not one.valid_at(now), -one.not_after))
