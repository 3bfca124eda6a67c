"""Where the lines go: a file, standard output, or syslog.

A regular file is written in append mode, in one call for all lines that wait, so that several processes can write to
one file: the kernel does not mix such writes.  In a pipe (standard output under a supervisor, a FIFO) writes of up to
PIPE_BUF bytes are not mixed (pipe(7)).  So each write to a pipe has whole lines of up to this size, and is made when
poll(2) reports that there is room; only a longer line can be mixed with another process's.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable
from time import gmtime, strftime
from typing import Final

from twisted_lb.access_log.writer import Destination

STANDARD_OUTPUT: Final = 1
PIPE_BYTES: Final = select.PIPE_BUF
POLL_MILLISECONDS: Final = 500
FILE_MODE: Final = 0o640  # less the umask: the log contains names and addresses of clients

SYSLOG: Final = "syslog:"
LOCAL_SYSLOG: Final = "/dev/log"
SYSLOG_PORT: Final = 514  # RFC 5426 section 3.3
# RFC 5424 section 6.1: receivers should take 2048 bytes; rsyslog and syslog-ng take 8 KiB by default.
MAX_SYSLOG_BYTES: Final = 8192
SYSLOG_SECONDS: Final = 0.2  # for one message
PRIORITY: Final = 23 * 8 + 6  # local7.info, as in nginx


class StreamDestination:
    """A file descriptor that is open already."""

    def __init__(self, descriptor: int = STANDARD_OUTPUT) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._whole = False  # whether it takes any number of bytes at once
        self._poll = select.poll()

    def open(self) -> None:
        """See Destination."""
        self._opened(self._descriptor)

    def _opened(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._whole = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, data: bytes) -> int:
        """See Destination."""
        if self._whole:
            return os.write(self._descriptor, data)
        if not self._poll.poll(POLL_MILLISECONDS):
            return 0
        end = len(data)
        if end > PIPE_BYTES:
            end = data.rfind(b"\n", 0, PIPE_BYTES) + 1 or PIPE_BYTES
        try:
            return os.write(self._descriptor, data[:end])
        except BlockingIOError:
            return 0

    def look(self) -> None:
        """See Destination.  There is nothing to open again."""

    def reopen(self) -> None:
        """See Destination.  There is nothing to open again."""

    def close(self) -> None:
        """See Destination.  It is not ours to close."""


class FileDestination(StreamDestination):
    """A file, or a FIFO, by its path."""

    def __init__(self, path: str) -> None:
        super().__init__(-1)
        self._path = path

    def open(self) -> None:
        """See Destination."""
        self._opened(open_to_append(self._path))

    def look(self) -> None:
        """See Destination."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            self.reopen()
            return
        mine = os.fstat(self._descriptor)
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            self.reopen()

    def reopen(self) -> None:
        """See Destination."""
        former = self._descriptor
        self._opened(open_to_append(self._path))
        os.close(former)

    def close(self) -> None:
        """See Destination."""
        os.close(self._descriptor)


def open_to_append(path: str, create: bool = True) -> int:
    """A descriptor of the file, which is created, or of the FIFO, whether or not it has a reader.  Raises OSError."""
    try:
        fifo = stat.S_ISFIFO(os.stat(path).st_mode)
    except FileNotFoundError:
        fifo = False
    if fifo:
        # Linux: for reading as well, so that it needs no reader, and loses nothing when one is replaced (fifo(7)).
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | (os.O_CREAT if create else 0)
    return os.open(path, flags, FILE_MODE)


class SyslogDestination:
    """A syslog daemon, which gets messages of RFC 5424, one per datagram (RFC 5426).

    A message that cannot be sent is lost; nothing waits until the daemon is there again.
    """

    def __init__(self, host: str = "", port: int = 0, wall_clock_stamp: Callable[[], str] | None = None) -> None:
        """Without a host: the daemon of this machine."""
        self.lost = 0
        self._host = host
        self._port = port
        self._stamp = wall_clock_stamp or (lambda: strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()))
        self._socket: socket.socket | None = None
        # RFC 5424 section 6.2.4: printable ASCII, at most 255.
        name = "".join(one for one in socket.gethostname() if "!" <= one <= "~")[:255]
        self._middle = f"{name or '-'} tokenlb {os.getpid()} access - "

    def open(self) -> None:
        """See Destination."""
        if not self._host:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            address: object = LOCAL_SYSLOG
        else:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
            family, _, _, _, address = found[0]
            made = socket.socket(family, socket.SOCK_DGRAM)
        try:
            made.settimeout(SYSLOG_SECONDS)
            made.connect(address)  # type: ignore[arg-type]
        except OSError:
            made.close()
            raise
        former, self._socket = self._socket, made
        if former is not None:
            former.close()

    def write(self, data: bytes) -> int:
        """See Destination."""
        head = f"<{PRIORITY}>1 {self._stamp()} {self._middle}".encode()
        lines = data.split(b"\n")[:-1]
        for number, line in enumerate(lines):
            try:
                self._send((head + line)[:MAX_SYSLOG_BYTES])
            except OSError:
                # The next ones would fail as well, each after its timeout.
                self.lost += len(lines) - number
                break
        return len(data)

    def _send(self, message: bytes) -> None:
        """Send it, if necessary on a new socket: the daemon may have been restarted."""
        if self._socket is not None:
            try:
                self._socket.send(message)
                return
            except TimeoutError:
                raise
            except OSError:
                pass
        self.open()
        assert self._socket is not None
        self._socket.send(message)

    def look(self) -> None:
        """See Destination."""

    def reopen(self) -> None:
        """See Destination."""
        self.open()

    def close(self) -> None:
        """See Destination."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def read_destination(text: str, standard_output: int = STANDARD_OUTPUT) -> Destination:
    """The destination that a setting names; nothing is opened yet.  Raises ValueError with what was expected."""
    if text == "-":
        return StreamDestination(standard_output)
    if not text.startswith(SYSLOG):
        return FileDestination(text)
    place = text.removeprefix(SYSLOG)
    if not place:
        return SyslogDestination()
    host, port = place, ""
    if place.startswith("["):
        host, bracket, port = place[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("expected syslog:[ADDRESS]:PORT")
        port = port[1:]
    elif place.count(":") == 1:
        host, _, port = place.partition(":")
    elif ":" in place:
        raise ValueError("an IPv6 address stands in brackets: syslog:[ADDRESS]:PORT")
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise ValueError("expected syslog:HOST:PORT, or syslog: for the daemon of this machine")
    return SyslogDestination(host, int(port) if port else SYSLOG_PORT)


def is_file(text: str) -> bool:
    """Whether a setting names a path."""
    return bool(text) and text != "-" and not text.startswith(SYSLOG)


def problem_of(text: str) -> str:
    """Why the destination cannot be opened, or an empty text.  No file is created."""
    try:
        destination = read_destination(text)
    except ValueError as error:
        return str(error)
    try:
        if is_file(text):
            _try_file(text)
        elif text != "-":
            destination.open()
            destination.close()
    except OSError as error:
        return f"it cannot be opened: {error.strerror or error}"
    return ""


def _try_file(path: str) -> None:
    """Raise OSError if the file cannot be opened, or created."""
    try:
        os.close(open_to_append(path, create=False))
    except FileNotFoundError:
        directory = os.path.dirname(path) or "."
        os.stat(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13), directory) from None
