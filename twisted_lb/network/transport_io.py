"""Reads from a transport, and writes to it, one message with one system call.

What is written in one iteration is sent at its end.  This is an object of its own, beside the transport, because it is
used for each message: a transport has a base class of Twisted, and cannot be compiled.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

# Of one read, if the last one was not full.
READ_BYTES: Final = 64 * 1024
# More than this in one iteration is sent at once, so that back-pressure takes effect within the iteration.
MAX_UNSENT_BYTES: Final = 128 * 1024


class TransportIO:
    """The reads and writes of one transport."""

    __slots__ = ("transport", "unsent", "sent", "direct", "_reactor")

    def __init__(self, transport: Any, reactor: Any) -> None:
        """`transport` is a `transport.OneCall`, and `reactor` its IDataPathReactor."""
        self.transport = transport  # None: the connection has ended
        self.unsent = b""  # written in this iteration
        self.sent = 0  # bytes that the kernel has taken
        # Whether the transport need not be asked before something is sent.  It is the transport that knows: it sets
        # this to False before something waits in its buffer, and when its connection ends.
        self.direct = False
        self._reactor = reactor

    def read(self) -> Any:
        """See IReadDescriptor.doRead: Twisted's own without its two inner calls."""
        transport = self.transport
        size: int = transport.bufferSize
        try:
            data: bytes = transport.socket.recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        if len(data) == size or size > READ_BYTES:
            transport.adapt(len(data))
        transport.protocol.dataReceived(data)
        return None

    def write(self, data: bytes) -> None:
        """Send at the end of the iteration; what the kernel does not take is put into the transport's buffer."""
        if self.unsent:
            self.unsent += data
            if len(self.unsent) > MAX_UNSENT_BYTES:
                self.flush()
        elif data and (self.direct or (self.transport is not None and self.transport.may_send(data))):
            self.unsent = data
            self._reactor.flush_later(self)

    def flush(self) -> None:
        """Send what was written in this iteration."""
        data = self.unsent
        if data:
            self.unsent = b""
            self.send(data)

    def send(self, data: bytes) -> None:
        """Send at once.  Nothing must wait in the transport's buffer."""
        transport = self.transport
        if transport is None:
            return
        try:
            sent: int = transport.socket.send(data)
        except OSError:
            # The buffer is full, or the connection is broken: then doWrite gets the same error, outside of our caller's
            # stack, and disconnects as always.
            sent = 0
        self.sent += sent
        if sent < len(data):
            transport.buffer(data[sent:] if sent else data)

    def drop(self) -> None:
        """Forget what was written; the connection is being aborted."""
        self.unsent = b""
        self.direct = False

    def end(self) -> None:
        """The connection has ended: what is written from now on is dropped."""
        self.drop()
        self.transport = None
