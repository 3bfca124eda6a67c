"""A request that is answered at once with a problem document: neither its key nor its content is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from twisted_lb.request_record import COMPLETE, RequestRecord


class RefusedClient(Protocol):
    """The part of the client's stream that a refusal uses.  See IClientStream."""

    record: RequestRecord | None

    def reject(self, status: int, detail: str, fields: bytes = b"", members: Mapping[str, object] = {}) -> None:
        """Answer."""


class RefusedRequest:
    """One request, used like an Exchange by the client's connection."""

    __slots__ = ("_client", "_status", "_detail", "_fields", "_reason")

    free = True  # it costs its client no tokens
    waits = False  # for tokens or a server
    expecting = False  # no server has to send 100 (Continue) first

    def __init__(
        self, client: RefusedClient, status: int, detail: str, fields: bytes = b"", reason: str = COMPLETE
    ) -> None:
        """`fields` are lines to add, each with a CRLF before it; `reason` is that of the record."""
        self._client = client
        self._status = status
        self._detail = detail
        self._fields = fields
        self._reason = reason

    def start(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Answer, whether or not the content is there."""
        record = self._client.record
        if record is not None:
            record.reason = self._reason
        self._client.reject(self._status, self._detail, self._fields)

    def content_received(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """The content is not needed."""

    def abandon(self) -> None:
        """The answer was given at once."""
