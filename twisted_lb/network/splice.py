"""Bytes from one socket to another within the kernel (splice(2)), for the middle of a large body.

With read and write, each byte is copied out of the kernel and back.  A splice moves pages from the receive queue of the
source into a pipe, and from there into the send queue of the sink.  It moves a known number of bytes, and leaves the
last ones to the transports, so that the end of a body, and what follows it, is handled by the usual code.

While it lasts, its methods replace `doRead` of the source and `doWrite` of the sink.  Back-pressure is that of
Twisted's transports: when the sink takes no more, its producer is paused; it is resumed when the pipe is empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from fcntl import fcntl
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Any, Final

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

from twisted_lb.network.transport import ClientTransport, ServerTransport, UnixServerTransport

AVAILABLE: Final = hasattr(os, "splice")

# Fewer bytes are not worth a pipe.
MIN_BYTES: Final = 256 * 1024
# Left to the transports at the end.
TAIL_BYTES: Final = 16 * 1024
# An event of the source moves at most this many bytes, like one read of a transport.
EVENT_BYTES: Final = 512 * 1024
# The larger the pipe, the fewer calls; a packet takes at least one page of it.  The kernel may allow less.
PIPE_BYTES: Final = 512 * 1024
# Each takes two open files, which connections must not lack: there may be one splice for each FILES_FOR_ONE files that
# the process may open.
MAX_SPLICES: Final = 128
FILES_FOR_ONE: Final = 64
MAX_SPARE_PIPES: Final = 16

_F_SETPIPE_SZ: Final = 1031  # fcntl(2)
_FLAGS: Final = 0x01 | 0x02  # SPLICE_F_MOVE, SPLICE_F_NONBLOCK

# Empty pipes, for the next splices.
_spare: list[tuple[int, int]] = []
_open: set[Splice] = set()


def most_at_a_time(files: int) -> int:
    """How many there may be in a process that may open this many files (RLIM_INFINITY: any number)."""
    return MAX_SPLICES if files == RLIM_INFINITY else min(files // FILES_FOR_ONE, MAX_SPLICES)


def splice(source: Any, sink: Any, count: int, moved: Callable[[int], None]) -> Splice | None:
    """Move some of the next `count` bytes that `source` receives to `sink`; None: read and write them instead.

    Both are transports.  `moved` is called with the number of bytes that were taken from the source, after each event.
    It ends by itself, TAIL_BYTES before all `count` bytes are moved, or when it is closed.
    """
    if (
        count < MIN_BYTES
        or not AVAILABLE
        or type(source) is not ClientTransport
        or (type(sink) is not ServerTransport and type(sink) is not UnixServerTransport)
        or len(_open) >= most_at_a_time(getrlimit(RLIMIT_NOFILE)[0])
    ):
        return None
    sink.flush()
    if not source.connected or sink.disconnecting or sink.must_wait() or sink.producer is None:
        return None
    pipe = _new_pipe()
    return Splice(source, sink, count - TAIL_BYTES, moved, pipe) if pipe is not None else None


def _new_pipe() -> tuple[int, int] | None:
    if _spare:
        return _spare.pop()
    try:
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        # No more files may be open.
        return None
    with suppress(OSError):
        fcntl(pipe[1], _F_SETPIPE_SZ, PIPE_BYTES)
    return pipe


class Splice:
    """Bytes on their way from one transport to another."""

    __slots__ = ("_source", "_sink", "_left", "_moved", "_pipe", "_in_pipe", "_waiting", "_closed")

    def __init__(self, source: Any, sink: Any, count: int, moved: Callable[[int], None], pipe: tuple[int, int]) -> None:
        """See `splice`; `count` is the number of bytes to move."""
        self._source = source
        self._sink = sink
        self._left = count
        self._moved = moved
        self._pipe = pipe
        self._in_pipe = 0
        self._waiting = False  # for the sink to be writable
        self._closed = False
        _open.add(self)
        source.doRead = self._read

    def _read(self) -> Any:
        """Replaces `doRead` of the source."""
        before = self._left
        why = self._fill()
        moved = before - self._left
        if moved:
            self._moved(moved)
        if not self._left and not self._in_pipe:
            self.close()
        return why

    def _fill(self) -> Any:
        source = self._source.fileno()
        writer = self._pipe[1]
        stop = max(self._left - EVENT_BYTES, 0)
        while self._left > stop and not self._in_pipe:
            try:
                taken = os.splice(source, writer, self._left, flags=_FLAGS)
            except BlockingIOError:
                return None
            except OSError:
                return CONNECTION_LOST
            if not taken:
                return CONNECTION_DONE
            self._left -= taken
            self._in_pipe = taken
            try:
                self._drain()
            except BlockingIOError:
                self._wait()
            except OSError:
                # Its own transport closes it.
                self._sink.abortConnection()
                return None
        return None

    def _drain(self) -> None:
        sink = self._sink
        reader = self._pipe[0]
        while self._in_pipe:
            sent = os.splice(reader, sink.fileno(), self._in_pipe, flags=_FLAGS)
            self._in_pipe -= sent
            sink.sent += sent

    def _wait(self) -> None:
        """The sink takes no more for now."""
        self._waiting = True
        sink = self._sink
        sink.doWrite = self._write
        sink.startWriting()
        sink.producer.pauseProducing()

    def _write(self) -> Any:
        """Replaces `doWrite` of the sink."""
        try:
            self._drain()
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        self._go_on()
        if not self._left:
            self.close()
        return None

    def _go_on(self) -> None:
        """The sink does not have to wait any more."""
        if self._waiting:
            self._waiting = False
            sink = self._sink
            vars(sink).pop("doWrite", None)
            sink.stopWriting()
            if sink.producer is not None:
                sink.producer.resumeProducing()

    def close(self) -> None:
        """End it: from now on the transports read and write.  Bytes that are still in the pipe are lost."""
        if self._closed:
            return
        self._closed = True
        _open.discard(self)
        # An aborted transport has a `doRead` and a `doWrite` of its own already, which do nothing.
        if not self._source.aborting():
            self._source.doRead = self._source.io.read
        if not self._sink.aborting():
            self._go_on()
        if self._in_pipe or len(_spare) >= MAX_SPARE_PIPES:
            for end in self._pipe:
                os.close(end)
        else:
            _spare.append(self._pipe)
