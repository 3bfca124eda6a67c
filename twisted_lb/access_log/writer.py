"""The thread that writes the lines.

1. Lines come in batches, in order, and are written in as few pieces as there are.
2. A destination that takes nothing, or fails, is tried again every RETRY_SECONDS, with the lines that it has not taken.
   Meanwhile at most MAX_WAITING_BYTES wait; further batches are dropped and counted.
3. Once a second the destination is told to look whether its file was renamed or removed.
4. At the end everything that waits is written, for at most STOP_SECONDS; what is left then is counted as dropped.

The event loop reads the counters, each of which only one of the threads changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Final, Protocol

MAX_WAITING_BYTES: Final = 16 * 1024**2  # about 40,000 lines
PIECE_BYTES: Final = 128 * 1024  # fewer are written together with those that follow
RETRY_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 1.0
STOP_SECONDS: Final = 3.0
NOT_TAKEN: Final = "nothing is taken; the reader of the pipe does not read"


class Destination(Protocol):
    """Where lines go.  Used by one thread at a time."""

    lost: int  # lines that it has dropped by itself

    def open(self) -> None:
        """Raises OSError."""

    def write(self, data: bytes) -> int:
        """Write whole lines, or the rest of one; return how many bytes were taken.  Raises OSError.

        Returns 0 if nothing could be written for a while.
        """

    def look(self) -> None:
        """Open it again if its path leads to another file now.  Raises OSError; the old one then remains in use."""

    def reopen(self) -> None:
        """Open it again.  Raises OSError; the old one then remains in use."""

    def close(self) -> None:
        """Close it; nothing more is written."""


class Writer:
    """Writes batches of lines to a destination."""

    def __init__(
        self,
        destination: Destination,
        now: Callable[[], float] = time.monotonic,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """`now` is a monotonic clock in seconds, for the thread."""
        self.problem = ""  # why nothing can be written at present
        self._destination = destination
        self._now = now
        self._max_waiting_bytes = max_waiting_bytes
        self._batches: SimpleQueue[tuple[bytes, int] | None] = SimpleQueue()
        self._put_bytes = self._taken_bytes = 0  # by the event loop, and by the thread
        self._refused = 0  # lines that were not put
        self._lost = 0  # lines that were put, and not written
        self.written = 0  # lines
        self._reopen = Event()
        self._stopping = Event()
        self._stop_at = 0.0
        self._next_look = 0.0
        self._thread = Thread(target=self.run, name="access log", daemon=True)

    # In the event loop

    def start(self) -> None:
        """Open the destination, and begin.  Raises OSError."""
        self._destination.open()
        self._thread.start()

    def put(self, lines: bytes, count: int) -> bool:
        """Write these lines, unless too much waits already; return whether they will be."""
        if self._put_bytes - self._taken_bytes + len(lines) > self._max_waiting_bytes:
            self._refused += count
            return False
        self._put_bytes += len(lines)
        self._batches.put((lines, count))
        return True

    @property
    def dropped(self) -> int:
        """Lines that were not written, and will not be."""
        return self._refused + self._lost + self._destination.lost

    def reopen(self) -> None:
        """Open the destination again."""
        self._reopen.set()
        self._batches.put((b"", 0))

    def stop(self) -> None:
        """Write what waits, and end; `ended` tells when that is done."""
        self._stop_at = self._now() + STOP_SECONDS
        self._stopping.set()
        self._batches.put(None)

    @property
    def ended(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    # In the thread

    def run(self) -> None:
        """Write until `stop`."""
        while True:
            try:
                batch = self._batches.get(timeout=LOOK_SECONDS)
            except Empty:
                self._look()
                continue
            if batch is None:
                break
            self._look()
            lines, count = batch
            if not lines:
                continue
            # Everything that waits, up to a size that is worth one call.
            parts = [lines]
            size = len(lines)
            last = False
            while size < PIECE_BYTES:
                try:
                    more = self._batches.get_nowait()
                except Empty:
                    break
                if more is None:
                    last = True
                    break
                parts.append(more[0])
                count += more[1]
                size += len(more[0])
            self._write(b"".join(parts), count)
            if last:
                break
        try:
            self._destination.close()
        except OSError as error:
            self.problem = described(error)

    def _write(self, data: bytes, count: int) -> None:
        destination = self._destination
        size = len(data)
        lost_before = destination.lost
        while data:
            try:
                taken = destination.write(data)
            except OSError as error:
                self.problem = described(error)
                taken = 0
                self._stopping.wait(RETRY_SECONDS)
            else:
                self.problem = "" if taken else NOT_TAKEN
            data = data[taken:]
            if data and not taken:
                if self._stopping.is_set():
                    if self._now() >= self._stop_at:
                        break
                    time.sleep(RETRY_SECONDS / 10)
                self._look()
        left = data.count(b"\n")
        self._lost += left
        self.written += count - left - (destination.lost - lost_before)
        self._taken_bytes += size

    def _look(self) -> None:
        """Open the destination again if necessary."""
        try:
            if self._reopen.is_set():
                self._reopen.clear()
                self._destination.reopen()
            elif self._now() >= self._next_look:
                self._next_look = self._now() + LOOK_SECONDS
                self._destination.look()
        except OSError as error:
            self.problem = described(error)


def described(error: OSError) -> str:
    """The error in words."""
    return error.strerror or str(error)
