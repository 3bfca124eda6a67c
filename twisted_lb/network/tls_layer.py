"""TLS of one connection, on bytes: OpenSSL between two memory buffers (`ssl.MemoryBIO`), without a socket.

What comes from the other side is ciphertext and is given to `handshake`, later to `decrypt`; what is to be sent comes
from `encrypt`, and from `output` for everything that OpenSSL sends by itself: the handshake, tickets, alerts, answers
to KeyUpdate.  Nothing is held here except an incomplete record: plaintext is returned as soon as it can be decrypted.

Measured against a non-blocking `ssl.SSLSocket` (64 KiB up, and requests of 300 bytes), the CPU time is the same:
OpenSSL reads a socket with two system calls for each record, and here one `recv` takes all that has arrived.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from twisted_lb.network.tls_errors import CertificateNotVerified, HandshakeFailed, TlsError, words_of

# A record has at most this many bytes of plaintext (RFC 8446 section 5.1), and OpenSSL makes one for each write.
RECORD_BYTES: Final = 16 * 1024
# OpenSSL is given this many bytes of ciphertext at a time, since its buffer never shrinks: one record, with its header
# and padding (RFC 8446 section 5.2).
FEED_BYTES: Final = RECORD_BYTES + 256 + 5
# Each KeyUpdate is answered (RFC 8446 section 4.6.3).  A peer that causes more bytes of answers than this and reads
# none of them is trying to use up memory.
MAX_WAITING_BYTES: Final = 16 * 1024


class TlsLayer:
    """TLS of one connection."""

    __slots__ = (
        "established",
        "ended",
        "closed",
        "failure",
        "records",
        "answers",
        "_waiting",
        "_tls",
        "_incoming",
        "_outgoing",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        server_side: bool,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """For a client, `server_name` is the name or address that the certificate must have, if `context` verifies it.

        `session` is one of an earlier connection to the same server with the same context.
        """
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name, session)
        self.established = False  # the handshake is complete
        self.ended = False  # the other side has sent close_notify
        self.closed = False  # we have sent close_notify
        self.failure: TlsError | None = None  # why nothing more can be decrypted
        self.records = 0  # that the last `decrypt` has decrypted
        self.answers = False  # whether there was `output` after it
        self._waiting = 0  # bytes of answers since one was last sent without waiting

    def handshake(self, data: bytes) -> bool:
        """Continue the handshake; return whether it is complete.  There may be `output` even after an error.

        When it is complete, `decrypt(b"")` returns the data that was received with its end.

        Raises HandshakeFailed, and CertificateNotVerified.
        """
        if data:
            self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise CertificateNotVerified(error.verify_message or words_of(error)) from None
        except ssl.SSLError as error:
            raise HandshakeFailed(words_of(error)) from None
        except ValueError as error:
            # The name of the server is not valid.
            raise HandshakeFailed(str(error)) from None
        self.established = True
        return True

    def output(self) -> bytes:
        """What is to be sent, in addition to what `encrypt` and `close` have returned."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def decrypt(self, data: bytes | memoryview) -> bytes:
        """The plaintext of all records complete with `data`; sets `ended`, `failure`, `records` and `answers`.

        Raises TlsError if there is a failure and no plaintext before it.
        """
        if len(data) <= FEED_BYTES:
            self.records = 0
            plain = self._decrypt(data)
        else:
            plain = self._decrypt_pieces(data)
        self.answers = self._outgoing.pending != 0
        if self.failure is not None and not plain:
            raise self.failure
        return plain

    def _decrypt_pieces(self, data: bytes | memoryview) -> bytes:
        records = 0
        pieces: list[bytes] = []
        with memoryview(data) as view:
            for start in range(0, len(view), FEED_BYTES):
                self.records = 0
                pieces.append(self._decrypt(view[start : start + FEED_BYTES]))
                records += self.records
                if self.ended or self.failure is not None:
                    break
        self.records = records
        return b"".join(pieces)

    def _decrypt(self, data: bytes | memoryview) -> bytes:
        incoming = self._incoming
        tls = self._tls
        if data:
            incoming.write(data)
        plain = b""
        pieces: list[bytes] = []
        try:
            # A read takes a whole record, so OpenSSL has no plaintext between two.
            while incoming.pending:
                piece = tls.read(RECORD_BYTES)
                if not piece:
                    self.ended = True
                    break
                self.records += 1
                if not plain:
                    plain = piece
                else:
                    pieces.append(piece)
        except ssl.SSLWantReadError:
            # A record is incomplete, or it had no application data.
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self.failure = TlsError(words_of(error))
        return plain + b"".join(pieces) if pieces else plain

    def answer(self, waits: bool) -> bytes:
        """The `output` after `decrypt`; `waits`: it will be sent after what the other side has not taken yet.

        Raises TlsError when too many such bytes wait: back-pressure does not apply to them.
        """
        records = self.output()
        self._waiting = self._waiting + len(records) if waits else 0
        if self._waiting > MAX_WAITING_BYTES:
            raise TlsError("the other side asks for answers that it does not read")
        return records

    def encrypt(self, data: bytes) -> bytes:
        """The records with `data`.  Raises TlsError."""
        outgoing = self._outgoing
        write = self._tls.write
        try:
            if len(data) <= RECORD_BYTES:
                write(data)
                return outgoing.read()
            pieces: list[bytes] = []
            with memoryview(data) as view:
                done = 0
                while done < len(view):
                    done += write(view[done : done + RECORD_BYTES])
                    pieces.append(outgoing.read())
            return b"".join(pieces)
        except ssl.SSLError as error:
            raise TlsError(words_of(error)) from None

    def close(self) -> bytes:
        """The close_notify that ends what we send, once; nothing can be encrypted after it (RFC 8446 section 6.1)."""
        if self.closed:
            return b""
        self.closed = True
        if self.established:
            try:
                self._tls.unwrap()
            # The other side's close_notify may not have arrived yet; and after a fatal alert there is none.
            except ssl.SSLError:
                pass
        return self.output()

    # What was negotiated

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a client can resume; with TLS 1.3 it is available after the first data from the server, or later."""
        return self._tls.session

    @property
    def resumed(self) -> bool:
        """Whether an earlier session was resumed."""
        return bool(self._tls.session_reused)

    @property
    def version(self) -> str:
        """Such as "TLSv1.3"."""
        return self._tls.version() or ""

    @property
    def cipher(self) -> str:
        """OpenSSL's name of the cipher suite, such as "TLS_AES_256_GCM_SHA384"."""
        cipher = self._tls.cipher()
        return cipher[0] if cipher else ""

    @property
    def protocol(self) -> str:
        """The protocol of the application, "" without ALPN (RFC 7301)."""
        return self._tls.selected_alpn_protocol() or ""

    @property
    def unserved_name(self) -> str:
        """The name that the client has asked for, where there is no certificate for it; see `Certificates`."""
        name: str = getattr(self._tls, "unserved_name", "")
        return name

    @property
    def certificate(self) -> bytes | None:
        """The certificate of the other side in DER, if it has sent one and the context verifies it."""
        found: Any = self._tls.getpeercert(True)
        return found if isinstance(found, bytes) else None
