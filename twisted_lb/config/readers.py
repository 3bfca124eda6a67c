"""How values are read from text, in .env and elsewhere: numbers, times, sizes and choices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

LONGEST_SECONDS = 24 * 3600.0
SECONDS_IN = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
BYTES_IN = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

# number = 1*DIGIT [ "." 1*DIGIT ]
_NUMBER_AND_UNIT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)")
_WHOLE = re.compile(r"[0-9]{1,18}")


class Reader(NamedTuple):
    """How one setting is read: `read` raises ValueError for a text that is not `expected`."""

    expected: str
    read: Callable[[str], object]


def duration(lowest: float = 0.001) -> Reader:
    """Seconds as a float, from a number with or without a unit."""

    def read(text: str) -> float:
        match = _NUMBER_AND_UNIT.fullmatch(text.lower())
        if match is None or match[2] not in SECONDS_IN:
            raise ValueError
        seconds = float(match[1]) * SECONDS_IN[match[2]]
        if not lowest <= seconds <= LONGEST_SECONDS:
            raise ValueError
        return seconds

    return Reader(f"a time from {lowest:g}s to 24h, in seconds or with a unit, such as 5, 500ms, 10s or 1m", read)


def size(lowest: int, highest: int) -> Reader:
    """Bytes as an int, from a number with or without a unit (1k is 1024 bytes)."""

    def read(text: str) -> int:
        match = _NUMBER_AND_UNIT.fullmatch(text.lower())
        if match is None or match[2] not in BYTES_IN:
            raise ValueError
        octets = float(match[1]) * BYTES_IN[match[2]]
        if not octets.is_integer() or not lowest <= octets <= highest:
            raise ValueError
        return int(octets)

    return Reader(f"a size from {lowest} to {highest}, in bytes or with a unit, such as 65536, 64k or 10m", read)


def whole(lowest: int, highest: int) -> Reader:
    """An int within these bounds."""

    def read(text: str) -> int:
        if _WHOLE.fullmatch(text) is None or not lowest <= int(text) <= highest:
            raise ValueError
        return int(text)

    return Reader(f"a whole number from {lowest} to {highest}", read)


def number(lowest: float, highest: float) -> Reader:
    """A finite float within these bounds."""

    def read(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not lowest <= value <= highest:
            raise ValueError
        return value

    return Reader(f"a number from {lowest} to {highest}", read)


def one_of(*words: str) -> Reader:
    """One of these words, case-insensitive."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError
        return text.lower()

    return Reader(f"{', '.join(words[:-1])} or {words[-1]}", read)


def on_or_off() -> Reader:
    """A bool."""

    def read(text: str) -> bool:
        if text.lower() not in ("on", "off"):
            raise ValueError
        return text.lower() == "on"

    return Reader("on or off", read)
