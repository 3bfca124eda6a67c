"""What a route asks of a request."""

from __future__ import annotations

from typing import NamedTuple


class Match(NamedTuple):
    """What a route asks of a request."""

    host: str = ""
    path: str = ""
    methods: frozenset[bytes] = frozenset()
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
