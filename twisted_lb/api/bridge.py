"""The bridge from the proxy's connection to twisted.web: bytes in, bytes out, no socket.

Each request gets its own HTTPChannel, whose transport is the reply of that request.  The channel receives one complete
request, and ends in one of three ways:

1) the response is complete        -> finished, once
2) twisted.web drops the "connection" (an incomplete response) -> finished with close, once
3) the client disconnects          -> nothing more is written, and the processing of the request is cancelled
"""

# twisted.web is only partly typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import IO, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, ITransport
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Site
from zope.interface import implementer

from twisted_lb.api.requests import MAX_BODY_BYTES
from twisted_lb.api.responses import ApiRequest
from twisted_lb.api.user_paths import is_user_path
from twisted_lb.interfaces import IDoor, IReply, IServing

# The proxy has enforced the configured limits; this only has to be larger than any of them.
_ANY_HEAD_BYTES = 1 << 30
# A placeholder where Twisted requires an address: this side of the connection belongs to the proxy.
_HERE = IPv4Address("TCP", "127.0.0.1", 0)


@implementer(IDoor)
class ApiDoor:
    """Serves a twisted.web resource on the connections of the public listener."""

    max_body_bytes = MAX_BODY_BYTES

    def __init__(self, resource: IResource, owns: Callable[[bytes], bool] = is_user_path) -> None:
        """`owns` returns whether the resource serves a path."""
        self._site = _SiteInMemory(resource, requestFactory=ApiRequest, parsePOSTFormSubmission=False)
        self.owns = owns  # see IDoor

    def serve(self, head: bytes, body: bytes, peer: object, reply: IReply) -> IServing:
        """See IDoor.  The reply may be finished before this returns."""
        channel = _OneRequestChannel(self._site)
        channel.makeConnection(_ReplyTransport(channel, cast(IAddress, peer), reply))
        channel.dataReceived(head + body)
        return channel


class _SiteInMemory(Site):
    def getContentFile(self, length: int | None) -> IO[bytes]:
        """The whole body is in memory already: it is never written to a temporary file."""
        return BytesIO()


class _ServedRequest(ApiRequest):
    def connectionLost(self, reason: Failure) -> None:
        """Keep the channel, which discards further data: the client may disconnect during a write."""
        channel = self.channel
        super().connectionLost(reason)
        self.channel = channel


@implementer(IServing)
class _OneRequestChannel(HTTPChannel):
    requestFactory = _ServedRequest
    timeOut = None  # the proxy enforces timeouts
    totalHeadersSize = maxHeaders = MAX_LENGTH = _ANY_HEAD_BYTES
    transport: _ReplyTransport

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self._response_head = b""

    def abandon(self) -> None:
        """See IServing."""
        if self.transport.hang_up():
            self.connectionLost(Failure(ConnectionLost()))

    def checkPersistence(self, request: HTTPRequest, version: bytes) -> bool:
        """RFC 9112 section 9.3, with Connection parsed as a list; HTTP/1.0 is always closed."""
        values = request.requestHeaders.getRawHeaders(b"Connection", [])
        options = {option.strip(b" \t").lower() for option in b",".join(values).split(b",")}
        if version == b"HTTP/1.1" and b"close" not in options:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Hold the head until the first bytes of the body, so that a short response is one write.

        RFC 9110 section 6.2: a response has the version of the server, not that of the client.
        """
        fields = [name + b": " + value for name, values in headers.getAllRawHeaders() for value in values]
        self._response_head = b"\r\n".join([b"HTTP/1.1 " + code + b" " + reason, *fields, b"", b""])

    def write(self, data: bytes) -> None:
        head, self._response_head = self._response_head, b""
        self.transport.write(head + data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def requestDone(self, request: HTTPRequest) -> None:
        self.requests.remove(request)
        if self._response_head:
            self.write(b"")
        self.transport.finish(close=not self.persistent)

    def _send100Continue(self) -> None:
        """Not needed: the body was received already (RFC 9110 section 10.1.1)."""


@implementer(ITransport)
class _ReplyTransport:
    """The transport of one request: passes on what is written until the reply is finished or abandoned."""

    disconnecting = False

    def __init__(self, channel: _OneRequestChannel, peer: IAddress, reply: IReply) -> None:
        self._channel = channel
        self._peer = peer
        self._reply: IReply | None = reply

    @property
    def request_id(self) -> bytes:
        """The id of the request; see IReply."""
        return self._reply.request_id if self._reply is not None else b""

    def write(self, data: bytes) -> None:
        if self._reply is not None:
            self._reply.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Called by twisted.web to close this connection: notify the request that is being processed."""
        if self.finish(close=True):
            self._channel.connectionLost(Failure(ConnectionDone()))

    def finish(self, close: bool) -> bool:
        """End the reply, once; return whether this call has ended it."""
        reply = self._reply
        if reply is None or not self.hang_up():
            return False
        reply.finished(close)
        return True

    def hang_up(self) -> bool:
        """Discard further data; return whether this call has changed that."""
        if self.disconnecting:
            return False
        self.disconnecting = True
        # twisted.web leaves reference cycles; the client's connection must not be part of them.
        self._reply = None
        return True

    def getPeer(self) -> IAddress:
        return self._peer

    def getHost(self) -> IAddress:
        return _HERE
