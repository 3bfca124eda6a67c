"""The client's side of TLS to servers: contexts, shared by servers with equal settings, and the session of each server.

A session is that of an earlier connection to the same server with the same context.  With it both sides save the
certificates and the signatures of a handshake (RFC 8446 section 2.2, RFC 5077).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from twisted.internet.protocol import ClientFactory

from twisted_lb.config.pool import ServerTls, TlsFiles
from twisted_lb.config.server_tls import client_context
from twisted_lb.network.tls_connector import TlsConnector, connect_tls
from twisted_lb.network.tls_errors import TlsError
from twisted_lb.network.tls_layer import TlsLayer

TLS_1_3: Final = "TLSv1.3"
# A TLS port answers data that is not TLS with an alert (RFC 8446 section 6): its type and version.
_ALERT: Final = b"\x15\x03"
SPEAKS_TLS: Final = "it speaks TLS; expected https:// in its url"
# OpenSSL's texts for the alerts by which a server refuses our side of a handshake.
_REFUSAL: Final = re.compile(
    r"alert (?:(?:no |bad |unsupported )?certificate|unknown ca|access denied|handshake failure|decrypt error"
    r"|insufficient security)"
)


def is_tls_alert(data: bytes) -> bool:
    """Whether the first bytes of a server are those of an alert, and not of a response."""
    return data != b"" and _ALERT.startswith(data[:2])


def tls_text(reason: BaseException | None) -> str:
    """OpenSSL's text for the loss of a connection, or ""."""
    # `str` would put a sentence of Twisted's before it.
    return str(reason.args[0]) if isinstance(reason, TlsError) and reason.args else ""


def refused_by_alert(reason: BaseException | None) -> bool:
    """Whether a server has refused the handshake, from the reason for which a connection was lost.

    With TLS 1.3 the client's side of a handshake is complete before the server has seen the client's certificate, and a
    request may have been sent already: the server has not read it.
    """
    return _REFUSAL.search(tls_text(reason)) is not None


class TlsClient:
    """What the connections to one server have in common."""

    __slots__ = ("settings", "context", "server_name", "session")

    def __init__(self, settings: ServerTls, context: ssl.SSLContext) -> None:
        self.settings = settings
        self.context = context
        # OpenSSL sends no server name for an IP address (RFC 6066 section 3), but verifies the certificate against it,
        # unless the context verifies nothing.
        self.server_name = settings.server_name
        self.session: ssl.SSLSession | None = None  # the one that the next connection resumes

    def keep_session(self, layer: TlsLayer | None) -> None:
        """The next connections resume the session of this one, if it has one that can be resumed.

        With TLS 1.3 a server sends what is needed for that after the handshake, usually before its first data.
        """
        if layer is not None:
            session = layer.session
            if session is not None and (session.has_ticket or (session.id and layer.version != TLS_1_3)):
                self.session = session


def open_tls(
    reactor: Any,
    host: str,
    port: int,
    factory: ClientFactory,
    timeout: float,
    client: TlsClient,
    tcp_connected: Callable[[], None],
    preface: bytes,
) -> TlsConnector:
    """Begin to connect to an IP address with TLS: see `connect_tls`."""
    name, session = client.server_name, client.session
    return connect_tls(reactor, host, port, factory, timeout, client.context, name, session, tcp_connected, preface)


class TlsContexts:
    """The contexts in use."""

    def __init__(self) -> None:
        self._contexts: WeakValueDictionary[TlsFiles, ssl.SSLContext] = WeakValueDictionary()

    @property
    def in_use(self) -> list[ssl.SSLContext]:
        """The contexts that a TlsClient has."""
        return list(self._contexts.values())

    def client(self, settings: ServerTls) -> TlsClient:
        """A new TlsClient, with the context of others that have the same settings."""
        context = self._contexts.get(settings.files)
        if context is None:
            # This reads the authorities of the system.
            context = self._contexts[settings.files] = client_context(settings.files)
        return TlsClient(settings, context)
