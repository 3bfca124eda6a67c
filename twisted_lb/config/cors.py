"""The `cors` of servers.yaml."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cors:
    """What pages of other origins may do (Fetch standard, CORS protocol)."""

    allowed_origins: tuple[str, ...]  # in lower case; "*": any; "https://*.a.test" and "http://a.test:*" are patterns
    allowed_methods: tuple[str, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # "*": any
    allowed_headers: tuple[str, ...] = ("*",)  # that a page may send; "*": any
    exposed_headers: tuple[str, ...] = ()  # that a page may read, in addition to those of this gateway
    allow_credentials: bool = False
    max_age: float = 600.0  # for which browsers may cache the answer to a preflight
