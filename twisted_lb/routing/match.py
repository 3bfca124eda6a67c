"""The conditions of a route."""

from __future__ import annotations

from typing import Final

from twisted_lb.wire.field_value import field_value
from twisted_lb.wire.head import RequestHead

ANY_METHOD: Final[frozenset[bytes]] = frozenset()


class Match:
    """The conditions of a route, all of which a request has to meet."""

    __slots__ = ("host", "path", "methods", "headers")

    def __init__(
        self,
        host: bytes = b"",
        path: bytes = b"",
        methods: frozenset[bytes] = ANY_METHOD,
        headers: tuple[tuple[bytes, bytes | None], ...] = (),
    ) -> None:
        """`host` is in lower case and without a port: a name, `*.` and a name for its subdomains, or empty for any.

        `path` is empty for any; it is one exact path, or, if it ends in a slash, all paths below it.  `methods` are
        empty for any.  `headers` are names in lower case and values, None for any value.
        """
        self.host = host
        self.path = path
        self.methods = methods
        self.headers = headers

    @property
    def is_any(self) -> bool:
        """Whether it matches every request."""
        return not self.host and self.path in (b"", b"/") and not self.methods and not self.headers

    def method_and_headers_fit(self, head: RequestHead) -> bool:
        """Whether the method and the header fields of the request match."""
        if self.methods and head.method not in self.methods:
            return False
        for name, expected in self.headers:
            value = field_value(head, name)
            if value is None or (expected is not None and value != expected):
                return False
        return True

    def includes(self, other: Match) -> bool:
        """Whether this matches every request that `other`, with the same host and path, matches."""
        if self.methods and not (other.methods and other.methods <= self.methods):
            return False
        theirs = dict(other.headers)
        return all(name in theirs and (value is None or theirs[name] == value) for name, value in self.headers)
