"""Transports with TLS to servers: the handshake, before the protocol is built; after it see `tls.TlsTransport`."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from socket import MSG_PEEK
from typing import Any

from twisted.internet.protocol import ClientFactory

from twisted_lb.network.tls import CIPHERTEXT, TlsTransport
from twisted_lb.network.tls_errors import HandshakeFailed, TlsError
from twisted_lb.network.tls_layer import FEED_BYTES, TlsLayer
from twisted_lb.network.transport import ClientTransport, Connector
from twisted_lb.network.transport_io import READ_BYTES
from twisted_lb.network.twisted_private import HandshakingClient


class TlsClientTransport(TlsTransport, ClientTransport, HandshakingClient):
    """A connection to a server."""

    connector: TlsConnector
    _layer: TlsLayer  # during the handshake
    _flight = b""  # bytes of the handshake that the kernel has not taken

    def begin_handshake(self) -> None:
        """The TCP connection is open."""
        connector = self.connector
        if connector.tcp_connected is not None:
            connector.tcp_connected()
        self._flight = connector.preface
        try:
            self._layer = TlsLayer(connector.context, False, connector.server_name, connector.session)
        # For a name that is not valid, or a session of another context.
        except (ValueError, ssl.SSLError) as error:
            self._fail(HandshakeFailed(str(error)))
            return
        self.doRead = self._read_handshake  # type: ignore[method-assign]
        self.doWrite = self._write_handshake  # type: ignore[method-assign]
        self.startReading()
        self._advance(b"")

    def _read_handshake(self) -> None:
        try:
            data = self.socket.recv(FEED_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(HandshakeFailed(f"during the handshake of TLS: {error.strerror}"))
            return
        if data:
            self._advance(data)
        else:
            self._fail(HandshakeFailed("the server has ended the connection during the handshake of TLS"))

    def _advance(self, data: bytes) -> None:
        layer = self._layer
        try:
            layer.handshake(data)
        except HandshakeFailed as error:
            # The alert for the server, if it can be sent at once.
            self._flight += layer.output()
            try:
                self.socket.send(self._flight)
            except OSError:
                pass
            self._fail(error)
            return
        self._flight += layer.output()
        self._write_handshake()

    def _write_handshake(self) -> None:
        if self._flight:
            try:
                sent = self.socket.send(self._flight)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._fail(HandshakeFailed(f"during the handshake of TLS: {error.strerror}"))
                return
            self._flight = self._flight[sent:]
        if self._flight:
            self.startWriting()
            return
        self.stopWriting()
        if self._layer.established:
            self._established()

    def _fail(self, error: HandshakeFailed) -> None:
        # A transport that refers to itself would wait for the garbage collector.
        for name in ("doRead", "doWrite", "_layer"):
            vars(self).pop(name, None)
        self._flight = b""
        self.handshake_failed(error)

    def _established(self) -> None:
        self.tls = layer = self._layer
        del self.doRead, self.doWrite, self._layer
        # A reactor may have kept references to the methods.
        self.stopReading()
        self.handshake_done()
        if self.connected and not self.disconnecting:
            reason = self._received(layer, b"")
            if reason is not None:
                self._end(reason)

    def silent(self) -> bool:
        """Whether the server has neither sent data nor closed; messages of TLS itself, such as tickets, are read."""
        tls = self.tls
        if tls is None or tls.ended:
            return False
        return super().silent() or self._no_data(tls)

    def _no_data(self, tls: TlsLayer) -> bool:
        """Read what is waiting; return whether none of it was for the protocol.  If some was, it is lost."""
        try:
            count = self.socket.recv_into(CIPHERTEXT, READ_BYTES)
            if not count or tls.decrypt(CIPHERTEXT[:count]) or tls.ended:
                return False
            self._send(tls.answer(self.must_wait()))
            return not self.socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return True
        except (OSError, TlsError):
            return False


class TlsConnector(Connector):
    """Opens `TlsClientTransport`s."""

    transport_class = TlsClientTransport

    def __init__(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float,
        reactor: Any,
        context: ssl.SSLContext,
        server_name: str | None,
        session: ssl.SSLSession | None,
        tcp_connected: Callable[[], None] | None = None,
        preface: bytes = b"",
    ) -> None:
        super().__init__(host, port, factory, timeout, None, reactor)
        self.context = context
        self.server_name = server_name
        self.session = session
        self.tcp_connected = tcp_connected
        self.preface = preface


def connect_tls(
    reactor: Any,
    host: str,
    port: int,
    factory: ClientFactory,
    timeout: float,
    context: ssl.SSLContext,
    server_name: str | None,
    session: ssl.SSLSession | None = None,
    tcp_connected: Callable[[], None] | None = None,
    preface: bytes = b"",
) -> TlsConnector:
    """Begin to connect to an IP address with TLS; `reactor` is an IDataPathReactor.

    `timeout` is for TCP and the handshake together, in seconds.  The factory builds its protocol after the handshake;
    if it fails, `clientConnectionFailed` is called with HandshakeFailed, CertificateNotVerified, or one of the errors
    of an attempt without TLS.  The certificate must be for `server_name` (a name, or an IP address), which is sent if
    it is a name (SNI); `session` is resumed, if the server agrees.  `tcp_connected` is called, and `preface` is sent
    unencrypted, before the handshake.
    """
    connector = TlsConnector(
        host, port, factory, timeout, reactor, context, server_name, session, tcp_connected, preface
    )
    connector.connect()
    return connector
