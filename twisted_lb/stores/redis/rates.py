"""Rates, as they are written in Redis."""

from __future__ import annotations


def rate_text(rate_per_sec: float) -> bytes:
    """The shortest text that reads back as the same double, in Python and in Lua; never -0.0."""
    return repr(float(rate_per_sec) + 0.0).encode()
