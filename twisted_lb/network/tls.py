"""Transports with TLS: like those of `transport`, with a `TlsLayer` between the socket and the protocol.

The socket, its buffer, back-pressure and the flush at the end of an iteration are those of the plain transports, for
ciphertext.  In particular:

1. Each read decrypts all that it has received and passes it to the protocol in one piece.  Nothing that could be read
   is left where the kernel cannot report it, except the end (see 3).
2. What is written in an iteration is encrypted at its end, in records of up to 16 KiB.
3. The other side's close_notify is the end of its direction, as a FIN is without TLS; the protocol is notified when it
   reads.  A FIN without close_notify is a lost connection, for the reason `Truncated`, as something may be missing.
4. Our close_notify is sent after all that was written, before the connection, or our direction of it, is closed
   normally.  It is not sent when the connection is aborted, so the other side can distinguish the two.
5. The transport of a client's connection is a plain one until `secure` is called: what is read and written before that
   is not encrypted.  A connection to a server (`tls_connector`) is reported to its protocol after the handshake.
"""

from __future__ import annotations

from socket import AddressFamily
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

from twisted_lb.network.tls_errors import TlsError, Truncated
from twisted_lb.network.tls_layer import FEED_BYTES, TlsLayer
from twisted_lb.network.transport import MAX_READ_BYTES, OneCall, ServerTransport, UnixServerTransport
from twisted_lb.network.transport_io import MAX_UNSENT_BYTES, READ_BYTES
from twisted_lb.network.twisted_private import EndingConnection

# Each record has a fixed cost, so a read of many tiny ones takes long.  After a read whose records were smaller than
# this on average, reads are smaller; they become larger again step by step.
SMALL_RECORD_BYTES: Final = 256
MIN_READ_BYTES: Final = 4 * 1024
FIRST_READ_BYTES: Final = 16 * 1024

# Holds what was read until it is decrypted, which happens at once.
CIPHERTEXT = memoryview(bytearray(MAX_READ_BYTES))


class TlsTransport(OneCall, EndingConnection):
    """Mix in before another `OneCall`."""

    tls: TlsLayer | None = None  # None: there is no TLS yet
    _unencrypted = b""  # written in this iteration
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
            count = self.socket.recv_into(CIPHERTEXT, size)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if tls.ended:
            # Data after its close_notify is dropped.
            self._end_waits = False
            return CONNECTION_DONE
        if not count:
            return Truncated()
        reason = self._received(tls, CIPHERTEXT[:count])
        if count == size:
            self._limit_reads(size, tls.records)
        elif size > READ_BYTES:
            self.adapt(count)
            self._read_limit = READ_BYTES
        return reason

    def _limit_reads(self, size: int, records: int) -> None:
        """A read has taken as many bytes as it may, `size`, in this many records."""
        if records * SMALL_RECORD_BYTES > size:
            self._read_limit = max(size // 2, MIN_READ_BYTES)
        elif size < self.bufferSize:
            self._read_limit = 2 * size
        elif size < self.max_read_bytes:
            self.adapt(size)
            self._read_limit = self.bufferSize

    def _received(self, tls: TlsLayer, data: bytes | memoryview) -> Any:
        """Decrypt and deliver; return why the connection, or the other side's direction, ends after it, or None."""
        try:
            plain = tls.decrypt(data)
            if tls.answers:
                self._send(tls.answer(self.must_wait()))
        except TlsError as error:
            # The alert for the other side.
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
        elif self._unencrypted:
            self._unencrypted += data
            if len(self._unencrypted) > MAX_UNSENT_BYTES:
                self.flush()
        elif data and self.connected and not self.aborting():
            self._unencrypted = data
            self.reactor.flush_later(self)

    def flush(self) -> None:
        """Encrypt and send what was written in this iteration."""
        tls = self.tls
        if tls is None:
            super().flush()
            return
        data, self._unencrypted = self._unencrypted, b""
        if not data or not self.connected or tls.closed:
            return
        try:
            records = tls.encrypt(data)
        except TlsError:
            self.abortConnection()
            return
        self._send(records)

    def _send(self, records: bytes) -> None:
        """Send ciphertext, after what waits already.  What was written in this iteration comes after it."""
        if records and self.connected and self.may_send(records):
            self.io.send(records)

    def delivered(self) -> bool:
        """See OneCall."""
        return not self._unencrypted and super().delivered()

    def abortConnection(self) -> None:
        self._unencrypted = b""
        super().abortConnection()

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
        """The handshake is complete: from now on the transport uses TLS and belongs to `protocol`.

        Calls its `makeConnection`, and delivers the data that has arrived with the end of the handshake.
        """
        # Send the end of the handshake.
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
