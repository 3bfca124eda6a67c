"""A request that is served by a door (`IDoor`) instead of a server: the user API, on connections of proxied traffic.

The body is collected first, up to a limit, so the door gets a whole request and never waits for a slow client.  Then
the request is posted (see `posted`): a door takes ten times as long as proxying, and costs the client no token.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.internet.interfaces import IAddress
from zope.interface import implementer

from twisted_lb.cors import CorsPolicy
from twisted_lb.credentials import PARAMETER, AmbiguousKey, KeyPlaces
from twisted_lb.interfaces import IDoor, IReply, IServing
from twisted_lb.network.posted import PostedWork
from twisted_lb.request_record import RequestRecord
from twisted_lb.wire.forwarding import own_head
from twisted_lb.wire.head import RequestHead

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@implementer(IDoor, IServing)
class MaxForwardsAnswer:
    """Answers an OPTIONS request that may be forwarded no further (RFC 9110 sections 7.6.2 and 9.3.7)."""

    max_body_bytes = 0

    def owns(self, path: bytes) -> bool:
        return False

    def serve(self, head: bytes, body: bytes, peer: object, reply: IReply) -> IServing:
        close = b"\r\nConnection: close\r\n" in head
        minor = 0 if b" HTTP/1.0\r\n" in head else 1
        reply.write(own_head(200, b"OK", b"", 0, close, minor))
        reply.finished(close)
        return self

    def abandon(self) -> None:
        """The answer was given at once."""


class LocalClient(Protocol):
    """The client's connection, as an exchange uses it."""

    transport: Any
    # See IClientStream.
    record: RequestRecord | None
    request_id: bytes

    def client_address(self) -> IAddress:
        """The address of the request's client."""

    def answered(self, status: int) -> bool:
        """A response with this status begins; return whether the connection ends, after too many refusals."""

    def reject(self, status: int, detail: str) -> None:
        """Answer with a problem document; the exchange is over."""

    def exchange_done(self, close: bool) -> None:
        """The response is written; the exchange is over."""

    def closing(self) -> bool:
        """Whether this connection ends after the present response."""


@implementer(IReply)
class LocalExchange:
    """One request and its response; the client's connection uses it like an Exchange."""

    __slots__ = (
        "_door",
        "_client",
        "_posted",
        "_head",
        "_keys",
        "_cors",
        "_fields",
        "_content",
        "_size",
        "_serving",
        "_begun",
        "_close",
        "_over",
        "_abandoned",
    )

    free = True  # it costs its client no tokens
    waits = False  # for tokens or a server
    expecting = False  # no server has to send 100 (Continue) first

    def __init__(
        self,
        door: IDoor,
        client: LocalClient,
        posted: PostedWork,
        head: RequestHead,
        keys: KeyPlaces,
        cors: CorsPolicy | None,
        fields: bytes,
    ) -> None:
        """`cors` adds its lines to the response; None: no lines are added.

        `fields` are lines to add, each with a CRLF before it.
        """
        self._door = door
        self._client = client
        self._posted = posted
        self._head = head
        self._keys = keys
        self._cors = cors
        self._fields = fields
        self._content: list[bytes] = []
        self._size = 0
        self._serving: IServing | None = None
        self._begun = False  # the response's head has gone out
        self._close = False  # and it announces the end of the connection
        self._over = False
        self._abandoned = False

    def start(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Begin, with the content that came with the head."""
        # RFC 9110 section 10.1.1: in HTTP/1.0 an expectation is ignored.
        if not whole and self._head.minor and b"expect" in self._head.notable:
            self._client.transport.write(CONTINUE)
        self.content_received(content, whole, trailers)

    def content_received(self, content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """More content of the request, or its end."""
        self._size += len(content)
        if self._size > self._door.max_body_bytes:
            self._over = True
            self._client.reject(413, f"A body for this path has at most {self._door.max_body_bytes} bytes.")
            return
        self._content.append(content)
        if whole:
            self._posted.post(self)

    # Work

    def resume(self) -> None:
        """Serve the request now, unless the client has left."""
        if not self._over:
            self._serve()

    def give_up(self) -> None:
        """End the connection."""
        self._client.transport.abortConnection()

    def _serve(self) -> None:
        head = self._head
        body = b"".join(self._content)
        first = b"%b %b HTTP/1.%d\r\nHost: %b%b" % (head.method, head.target, head.minor, head.host, head.fields)
        lines = [first]
        if PARAMETER in head.notable:
            # A door reads keys from fields only.
            try:
                key = self._keys.take(head.notable)
            except AmbiguousKey as error:
                self._over = True
                self._client.reject(400, str(error))
                return
            if key is not None:
                head.notable[self._keys.fields[0]] = [key]
        for name in (*self._keys.fields, b"content-type"):
            lines += [b"%b: %b" % (name, value) for value in head.notable.get(name, ())]
        if self._client.closing():
            lines.append(b"Connection: close")
        elif not head.minor:
            lines.append(b"Connection: keep-alive")
        lines.append(b"Content-Length: %d\r\n\r\n" % len(body))
        serving = self._door.serve(b"\r\n".join(lines), body, self._client.client_address(), self)
        # The reply may be finished by now, or the client may have left.
        if not self._over:
            self._serving = serving
        elif self._abandoned:
            serving.abandon()

    # IReply

    @property
    def request_id(self) -> bytes:
        """See IReply."""
        return self._client.request_id

    def write(self, data: bytes) -> None:
        if self._over:
            return
        record = self._client.record
        if not self._begun:
            self._begun = True
            # "HTTP/1.1 200": a door writes a head in one piece.
            self._close = self._client.answered(int(data[9:12]))
            if self._close and b"\r\nConnection: close\r\n" not in data:
                data = data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            if self._client.request_id:
                data = data.replace(b"\r\n", b"\r\nX-Request-ID: %b\r\n" % self._client.request_id, 1)
            if self._cors is not None:
                data = data.replace(b"\r\n", self._cors.fields(self._head.fields) + b"\r\n", 1)
            if self._fields:
                data = data.replace(b"\r\n", self._fields + b"\r\n", 1)
            if record is not None:
                record.status = int(data[9:12])
                record.responded(data)
        elif record is not None:
            record.bytes_out += len(data)
            record.content_out += len(data)
        self._client.transport.write(data)

    def finished(self, close: bool) -> None:
        if self._over:
            return
        self._over = True
        self._serving = None
        self._client.exchange_done(close or self._close or self._client.closing())

    def abandon(self) -> None:
        """The client has left."""
        self._over = True
        self._abandoned = True
        if self._serving is not None:
            self._serving.abandon()
            self._serving = None
