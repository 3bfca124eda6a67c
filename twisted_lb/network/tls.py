"""Transports with TLS: like those of `transport`, with a `TlsLayer` between the socket and the protocol.

The socket, its buffer, back-pressure and the end of the iteration are those of the plain transports, and hold
ciphertext.  In particular:

1. Each read decrypts all that it has taken and hands it to the protocol in one piece.  Nothing that could be read waits
   where the kernel cannot report it, except the end (see 3).
2. What is written in an iteration is encrypted at its end, in records of up to 16 KiB.
3. The other side's close_notify is the end of its direction, as a FIN is without TLS; the protocol hears of it when it
   reads.  A FIN without close_notify is a lost connection, for the reason `Truncated`, as something may be missing.
4. Our close_notify is sent after all that was written, before the connection, or our direction of it, is closed in
   order.  An aborted connection has none, so the other side can tell.
5. A server's transport is a plain one until `secure` is called: whoever reads and answers until then, does so in clear.
   A client's connection is open, for the protocol, after the handshake.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from socket import MSG_PEEK, AddressFamily
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from twisted_lb.network.tls_errors import HandshakeFailed, TlsError, Truncated
from twisted_lb.network.tls_layer import FEED_BYTES, TlsLayer
from twisted_lb.network.transport import (
    MAX_READ_BYTES,
    MAX_UNSENT_BYTES,
    READ_BYTES,
    ClientTransport,
    Connector,
    OneCall,
    ServerTransport,
    UnixServerTransport,
)
from twisted_lb.network.twisted_private import EndingConnection, HandshakingClient

# A record has a fixed price, so a read of many tiny ones takes long: reads are smaller after one whose records were
# smaller than this on average, and after that larger again step by step.
SMALL_RECORD_BYTES: Final = 256
MIN_READ_BYTES: Final = 4 * 1024
FIRST_READ_BYTES: Final = 16 * 1024

# What was read, until it is decrypted, which is at once.
_ciphertext = memoryview(bytearray(MAX_READ_BYTES))


class TlsTransport(OneCall, EndingConnection):
    """Mix in before another `OneCall`."""

    tls: TlsLayer | None = None  # None: not yet
    _read_limit = FIRST_READ_BYTES
    _paused = False
    _end_waits = False  # the other side has ended its direction while the protocol did not read

    # Reading

    def doRead(self) -> Any:
        """See IReadDescriptor."""
        tls = self.tls
        if tls is None:
            return super().doRead()
        size = self._read_limit
        try:
            count = self.socket.recv_into(_ciphertext, size)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if tls.ended:
            # It may have sent more than its end, which is dropped.
            self._end_waits = False
            return CONNECTION_DONE
        if not count:
            return Truncated()
        reason = self._received(tls, _ciphertext[:count])
        if count == size:
            self._limit_reads(size, tls.records)
        elif size > READ_BYTES:
            self.adapt(count)
            self._read_limit = READ_BYTES
        return reason

    def _limit_reads(self, size: int, records: int) -> None:
        """A read has taken as many bytes as it may, which were so many records."""
        if records * SMALL_RECORD_BYTES > size:
            self._read_limit = max(size // 2, MIN_READ_BYTES)
        elif size < self.bufferSize:
            self._read_limit = 2 * size
        elif size < self.max_read_bytes:
            self.adapt(size)
            self._read_limit = self.bufferSize

    def _received(self, tls: TlsLayer, data: bytes | memoryview) -> Any:
        """Decrypt and deliver; why the connection, or the other side's direction, ends with it, or None."""
        try:
            plain = tls.decrypt(data)
            if tls.answers:
                self._send(tls.answer(self.must_wait()))
        except TlsError as error:
            # The other side is told by an alert.
            self._send(tls.output())
            return error
        if plain:
            self.protocol.dataReceived(plain)
        if tls.failure is None and not tls.ended:
            return None
        if not self.connected or self.disconnecting or self.aborting():
            return None
        if tls.failure is not None:
            return tls.failure
        if self._paused:
            self._end_waits = True
            return None
        return CONNECTION_DONE

    def pauseProducing(self) -> None:
        """Stop reading for now."""
        self._paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Read again."""
        self._paused = False
        super().resumeProducing()
        if self._end_waits:
            # The kernel may have nothing more to report.
            self.reactor.callLater(0, self._report_end)

    def _report_end(self) -> None:
        if self._end_waits and not self._paused and self.connected and not self.disconnecting:
            self._end_waits = False
            self._end(CONNECTION_DONE)

    def _end(self, reason: BaseException) -> None:
        """Do what the reactor does with what `doRead` returns."""
        self.reactor.removeReader(self)
        if isinstance(reason, ConnectionDone):
            self.readConnectionLost(Failure(reason))
        else:
            self.reactor.removeWriter(self)
            self.connectionLost(Failure(reason))

    # Writing

    def write(self, data: bytes) -> None:
        """Encrypt and send at the end of the iteration."""
        if self.tls is None:
            super().write(data)
        elif self._unsent:
            self._unsent += data
            if len(self._unsent) > MAX_UNSENT_BYTES:
                self.flush()
        elif data and self.connected and not self.aborting():
            self._unsent = data
            self.reactor.flush_later(self)

    def flush(self) -> None:
        """Encrypt and send what was written in this iteration."""
        tls = self.tls
        if tls is None:
            super().flush()
            return
        data, self._unsent = self._unsent, b""
        if not data or not self.connected or tls.closed:
            return
        try:
            records = tls.encrypt(data)
        except TlsError:
            self.abortConnection()
            return
        if self.must_wait():
            self._send(records)
        else:
            # Not encrypted again: the plain transport sends it.
            self._unsent = records
            super().flush()

    def _send(self, records: bytes) -> None:
        """Send ciphertext, after what waits already."""
        if not records or not self.connected:
            return
        # What was written in this iteration is not encrypted yet, and comes after these records, which are not
        # encrypted again.
        data, self._unsent = self._unsent, b""
        if not self.must_wait():
            self._unsent = records
            super().flush()
        elif not self.aborting():
            super().write(records)
        self._unsent = data

    # The end

    def last_bytes(self) -> bytes:
        """See EndingConnection: our close_notify."""
        return self.tls.close() if self.tls is not None else b""

    def connectionLost(self, reason: Failure) -> None:
        """See Twisted's own."""
        if self.tls is not None and self.connected and reason.check(ConnectionDone) and self.delivered():
            self.send_last()
        super().connectionLost(reason)


class _Accepted(TlsTransport):
    bufferSize = FEED_BYTES

    def secure(self, layer: TlsLayer, protocol: IProtocol) -> None:
        """The handshake is complete: from now on there is TLS, and the transport belongs to `protocol`.

        Calls its `makeConnection`, and delivers what has come with the end of the handshake.
        """
        # The end of the handshake.
        self.flush()
        self.bufferSize = READ_BYTES
        self.tls = layer
        self.protocol = protocol
        protocol.makeConnection(self)
        if self.connected and not self.disconnecting:
            reason = self._received(layer, b"")
            if reason is not None:
                self._end(reason)


class TlsServerTransport(_Accepted, ServerTransport):
    """A client's connection over TCP."""


class TlsUnixServerTransport(_Accepted, UnixServerTransport):
    """A client's connection over a Unix socket."""


def accepted_tls_transport(reactor: Any, *args: Any) -> TlsServerTransport | TlsUnixServerTransport:
    """The transport of a connection that a port has accepted; see `transport.accepted_transport`."""
    sock, protocol, client, server, session, _ = args
    transport = TlsUnixServerTransport if sock.family == AddressFamily.AF_UNIX else TlsServerTransport
    return transport(sock, protocol, client, server, session, reactor)


class TlsClientTransport(TlsTransport, ClientTransport, HandshakingClient):
    """A connection to a server."""

    connector: TlsConnector
    _layer: TlsLayer  # during the handshake
    _flight = b""  # of the handshake, that the kernel has not taken

    def begin_handshake(self) -> None:
        """The connection of TCP is open."""
        connector = self.connector
        if connector.tcp_connected is not None:
            connector.tcp_connected()
        self._flight = connector.preface
        try:
            self._layer = TlsLayer(connector.context, False, connector.server_name, connector.session)
        # Of a name that cannot be one, or of a session of another context.
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
            # The server is told by an alert, if it can be sent at once.
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
        # A reactor may remember the methods.
        self.stopReading()
        self.handshake_done()
        if self.connected and not self.disconnecting:
            reason = self._received(layer, b"")
            if reason is not None:
                self._end(reason)

    def silent(self) -> bool:
        """Whether the server has neither sent anything nor closed; what concerns TLS only, such as tickets, is read."""
        tls = self.tls
        if tls is None or tls.ended:
            return False
        return super().silent() or self._no_data(tls)

    def _no_data(self, tls: TlsLayer) -> bool:
        """Read what waits: whether it was nothing for the protocol.  What was is lost; the connection is useless."""
        try:
            count = self.socket.recv_into(_ciphertext, READ_BYTES)
            if not count or tls.decrypt(_ciphertext[:count]) or tls.ended:
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
    """Begin to connect to an IP address, and then TLS; `reactor` is an IDataPathReactor.

    `timeout` is for both, in seconds.  The factory builds its protocol after the handshake, or gets a
    `clientConnectionFailed` with what an attempt without TLS fails with, HandshakeFailed or CertificateNotVerified.
    `server_name` (a name, or an IP address) is what the certificate must have, and is sent if it is a name (SNI);
    `session` is to be resumed.  `tcp_connected` is called, and `preface` is sent in clear,
    before the handshake.
    """
    connector = TlsConnector(
        host, port, factory, timeout, reactor, context, server_name, session, tcp_connected, preface
    )
    connector.connect()
    return connector
