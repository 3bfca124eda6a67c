"""The two sides of an exchange, as it sees them: a stream to the client, and one to the server.

An exchange does not depend on the protocol.  It sends through a stream, which writes the protocol that it also reads:
framing, hop-by-hop fields, and whether the connection is kept are decided by the stream.  `ClientConnection` and
`ServerConnection` are the streams of HTTP/1.1; `twisted_lb.web` has one over a request of twisted.web.

    client --start, content_received--> Exchange --begin, send--> server        (IServerStream)
    client <--respond, write, finish--- Exchange <--IResponseReceiver--- server  (IClientStream)

When the server switches to another protocol, both streams give their connections to a `Tunnel`.
"""

from __future__ import annotations

from collections.abc import Mapping

from zope.interface import Attribute, Interface

from twisted_lb.proxy.tunnel import TunnelEnd
from twisted_lb.wire.head import ResponseHead

NO_TRAILERS: list[bytes] = []


class ServerFailure(Exception):
    """A server did not answer as it should."""

    def __init__(
        self,
        status: int,
        detail: str,
        silent: bool = False,
        unsent: bool = False,
        closed: bool = False,
        client_slow: bool = False,
        unreached: bool = False,
    ) -> None:
        """`status` is for the client, and so is `detail` unless the server is `unreached`.

        `unreached`: the server has not accepted the connection, for example its TLS handshake, so it has read nothing
        of the request, and no byte of a response came.  The others are as in `retry_policy.Attempt`.
        """
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.silent = silent
        self.unsent = unsent
        self.closed = closed
        self.client_slow = client_slow
        self.unreached = unreached


class IClientStream(Interface):
    """The client's side of one request at a time.

    For each request the exchange calls `interim` any number of times, and then either `respond`, `write` any number of
    times and `finish`; or `reject`; or `switch_protocols`; or, at any time, `reset` or `failed`.  With `finish`,
    `reject`, `switch_protocols`, `reset` and `failed` the request is over: neither side calls the other about it again.
    None of these raises.

    The stream calls `start` of the exchange once, `content_received` until the request is whole, and `abandon` when the
    client leaves before the request is over.

    When the request is over, the stream passes its record to `RequestRecords.request_finished`, once.
    """

    peer = Attribute("PeerInfo; the client of the request")
    record = Attribute("RequestRecord of the request, which the exchange completes; None if no records are made")
    request_id = Attribute("bytes; the id of the request, empty if requests get none")
    half_closed = Attribute("bool; the client sends no more, and may be gone")
    forwarded = Attribute("ForwardedFields; the fields that describe the client to servers")
    tap = Attribute("Tap of the request's content, closed while the server takes none")
    throttle = Attribute("Throttle, which knows whether the client takes what is written")
    content_sink = Attribute(
        "the transport to which the content of the response that has begun may be written as it is, or None"
    )

    def interim(head: ResponseHead) -> None:
        """Pass on a 1xx response (RFC 9110 section 15.2), unless the client's protocol version has none."""

    def respond(head: ResponseHead, framing: int, fields: bytes, content: bytes) -> None:
        """Begin the response.

        `head` is the server's; `framing` the length of the content in bytes, or CHUNKED or UNTIL_CLOSE if it is not
        known; `fields` are field lines to add, each with a CRLF before it; `content` is what has arrived already.
        """

    def write(content: bytes) -> None:
        """Continue the response's content."""

    def finish(trailers: list[bytes]) -> None:
        """The response is whole; `trailers` are field lines without line ends, usually none."""

    def switch_protocols(head: ResponseHead, protocols: bytes, fields: bytes) -> TunnelEnd:
        """Pass on a response with the status 101, and give the connection to a tunnel, with what was read ahead.

        `protocols` are those that the server has switched to, and `fields` field lines to add, each with a CRLF before
        it.  The stream is not used for this request again, except by the tunnel (`tunnel.TunnelStream`).

        It is called only if the head of the request asks for a switch (`RequestHead.upgrade`).  A stream that cannot
        switch sets that to b"", and its requests are sent to servers without Upgrade.
        """

    def reject(status: int, detail: str, fields: bytes = b"", members: Mapping[str, object] = {}) -> None:
        """Answer with a problem document (RFC 9457) that is made here; nothing of a response has begun.

        `detail` is for a person; `fields` are field lines to add, each with a CRLF before it; `members` are extension
        members of the document.
        """

    def reset() -> None:
        """The response that has begun cannot be completed: end it so that the client notices."""

    def failed(exchange: object) -> None:
        """Something raised in this exchange: answer 500, or abort the connection if a response has begun."""

    def proxy_header(version: int) -> bytes:
        """The header of the PROXY protocol that describes the request's client to a server."""

    def request_resumed() -> None:
        """The request does not wait any more; from now on the client is expected to continue sending it."""


class IServerStream(Interface):
    """One server's side of one exchange at a time.  See IResponseReceiver for what comes back."""

    address = Attribute("str; the IP address")
    used = Attribute("bool; it has carried an exchange before the present one")
    expecting = Attribute("bool; the client waits for 100 (Continue) before it sends the content")
    timeout = Attribute("float; seconds to the first byte of a response, and between bytes; may be set before `begin`")
    tap = Attribute("Tap of the response, closed while the client takes none")
    throttle = Attribute("Throttle, which knows whether the server takes what is sent")

    def begin(
        receiver: IResponseReceiver,
        method: bytes,
        head: bytes,
        framing: int,
        content: bytes,
        whole: bool,
        trailers: list[bytes],
        expects: bool,
    ) -> None:
        """Send a request, or as much of it as has been received.

        `framing` is the length of the content in bytes, or CHUNKED; `content` is what there is so far; `whole` says
        that this is all of it, and `trailers` are those of a whole one.  `expects`: the client sends the content when
        the server asks for it (Expect: 100-continue, RFC 9110 section 10.1.1).
        """

    def send(content: bytes, whole: bool, trailers: list[bytes]) -> None:
        """Continue the request's content."""

    def drop() -> None:
        """End the exchange and the connection; the receiver is not called any more."""

    def switch_protocols(early: bytes) -> TunnelEnd:
        """Give the connection to a tunnel; called within `protocols_switched`, with the content that came with it."""

    def rest() -> None:
        """The connection is not needed after all: no request was sent."""


class IResponseReceiver(Interface):
    """An exchange, as a server's stream sees it.  None of the calls raises."""

    response_sink = Attribute("the client's `content_sink`")

    def interim_received(head: ResponseHead) -> None:
        """A 1xx response; the final one follows."""

    def protocols_switched(head: ResponseHead, content: bytes) -> bool:
        """The server has switched to another protocol: a response with the status 101, and the bytes after it.

        Called only when the request was sent to its end.  False: no switch was requested.  Otherwise the receiver has
        taken the connection over (`switch_protocols`), or has ended.
        """

    def response_started(head: ResponseHead, framing: int, content: bytes, done: bool, trailers: list[bytes]) -> None:
        """The final response's head and the content that came with it.  When `done`, the stream is free again."""

    def response_content_received(content: bytes, done: bool, trailers: list[bytes]) -> None:
        """More content.  When `done`, the stream is free again."""

    def response_content_spliced(count: int) -> None:
        """The kernel has moved `count` bytes of the content to `response_sink`; see `network.splice`."""

    def response_failed(failure: ServerFailure) -> None:
        """There will be no (further) response, for the reason in the ServerFailure; the stream has ended."""
