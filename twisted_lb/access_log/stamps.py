"""Time stamps for times of the reactor's clock.  The last second is cached, since most lines share it."""

from __future__ import annotations

from collections.abc import Callable
from time import gmtime
from typing import Final

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MILLISECONDS: Final = tuple(b".%03dZ" % number for number in range(1000))


class Stamps:
    """Time stamps in UTC."""

    __slots__ = ("_seconds", "_wall_clock", "_offset", "_second", "_rfc3339", "_common", "_millisecond", "_bytes")

    def __init__(self, seconds: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        """`seconds` is the reactor's clock, by which times are measured; `wall_clock` returns seconds since 1970."""
        self._seconds = seconds
        self._wall_clock = wall_clock
        self._offset = 0.0
        self._second = -1
        self._rfc3339 = b""
        self._common = ""
        self._millisecond = -1
        self._bytes = b""
        self.set_clock()

    def set_clock(self) -> None:
        """Compare the clocks again: the wall clock may have been set."""
        self._offset = self._wall_clock() - self._seconds()

    def rfc3339(self, at: float) -> str:
        """RFC 3339 with milliseconds, such as 2026-11-27T14:16:51.042Z."""
        return self.rfc3339_bytes(at).decode("ascii")

    def rfc3339_bytes(self, at: float) -> bytes:
        """The same as bytes.  The last one is cached: under load, most are in the same millisecond."""
        wall = at + self._offset
        second = int(wall)
        if second != self._second:
            self._read(second)
        millisecond = int((wall - second) * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            self._bytes = self._rfc3339 + _MILLISECONDS[millisecond]
        return self._bytes

    def common(self, at: float) -> str:
        """As in the Common Log Format: 27/Nov/2026:14:16:51 +0000."""
        second = int(at + self._offset)
        if second != self._second:
            self._read(second)
        return self._common

    def _read(self, second: int) -> None:
        self._second = second
        self._millisecond = -1
        year, month, day, hour, minute, whole, _, _, _ = gmtime(second)
        clock = f"{hour:02d}:{minute:02d}:{whole:02d}"
        self._rfc3339 = f"{year:04d}-{month:02d}-{day:02d}T{clock}".encode("ascii")
        self._common = f"{day:02d}/{_MONTHS[month - 1]}/{year:04d}:{clock} +0000"
