"""What became of one request: made for those who want to know, such as the access log, and told to them once.

There is one record for each request that a client has sent, whoever answered it: a server, the user API, or this
gateway (refusals, malformed requests, preflights, redirects); and one for each connection that was answered without
having sent a request, because there was no room for it.  Without a subscriber no record is made.

    stream (`IClientStream`)   makes the record when it has read a head; status, bytes, end
    exchange                   user, tokens, limit, wait, server, attempts, times, reason
    RequestRecords             `request_finished(record)`, once, by the stream

Nothing in a record helps to find a key: it is masked in the target and the fields, see `KeyPlaces.masked`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import Taken
from twisted_lb.network.peer import PeerInfo
from twisted_lb.wire.grammar import METHOD

# Why a request has ended.
COMPLETE: Final = "complete"  # the response was whole, whoever made it
BAD_REQUEST: Final = "bad_request"  # it was malformed, or is not supported
NO_ROUTE: Final = "no_route"
FORBIDDEN: Final = "forbidden"  # to clients with this address
MAINTENANCE: Final = "maintenance"  # of the route or its pool
UNAUTHORIZED: Final = "unauthorized"  # no key, or one that no user has
KEY_REFUSED: Final = "key_refused"  # the key, or its user, is disabled, or it has expired; see `limit`
LIMITED: Final = "limited"  # see `limit`
STORE_UNAVAILABLE: Final = "store_unavailable"
NO_SERVER: Final = "no_server"  # none is available
SERVERS_FULL: Final = "servers_full"  # all that are available have `maxconn` requests
SERVER_UNREACHABLE: Final = "server_unreachable"
SERVER_CLOSED: Final = "server_closed"  # before its response was whole
SERVER_TIMEOUT: Final = "server_timeout"
SERVER_MALFORMED: Final = "server_malformed"  # its response was not valid
CLIENT_LEFT: Final = "client_left"
CLIENT_TIMEOUT: Final = "client_timeout"  # in sending the request, or in reading the response
NO_ROOM: Final = "no_room"  # too many connections, or preflights under way
SHUTDOWN: Final = "shutdown"  # it was not over after DRAIN_SECONDS
TUNNEL_IDLE: Final = "tunnel_idle"  # no byte for TUNNEL_TIMEOUT after a switch of protocols
TUNNEL_CUT: Final = "tunnel_cut"  # after a switch of protocols: at the shutdown, or with the key
HOOK_TIMEOUT: Final = "hook_timeout"
INTERNAL_ERROR: Final = "internal_error"

REASONS: Final = (
    COMPLETE,
    BAD_REQUEST,
    NO_ROUTE,
    FORBIDDEN,
    MAINTENANCE,
    UNAUTHORIZED,
    KEY_REFUSED,
    LIMITED,
    STORE_UNAVAILABLE,
    NO_SERVER,
    SERVERS_FULL,
    SERVER_UNREACHABLE,
    SERVER_CLOSED,
    SERVER_TIMEOUT,
    SERVER_MALFORMED,
    CLIENT_LEFT,
    CLIENT_TIMEOUT,
    NO_ROOM,
    SHUTDOWN,
    TUNNEL_IDLE,
    TUNNEL_CUT,
    HOOK_TIMEOUT,
    INTERNAL_ERROR,
)

# A time that is none; the clock is never negative.
NEVER: Final = -1.0

# The status of a request whose client has left before its response began (as in nginx).
CLIENT_CLOSED_REQUEST: Final = 499

# Of a malformed request.
MAX_FIRST_LINE_BYTES: Final = 2048
# A method, and a target of one of the forms of RFC 9112 section 3.2: other text may be a body, which is not logged.
_FIRST_LINE: Final = re.compile(
    rb"(?>(?:\r\n)*)(" + METHOD + rb") ((?:/|\*|https?://)(?>[!-~]*))(?> HTTP/[0-9]\.([0-9])\r?\n|)"
)

_log = BoundedLog(Logger(__name__))


class RequestRecord:
    """One request.  Times are seconds on the reactor's clock, and NEVER where there was no such moment.

    What does not apply has its default.  The stream and the exchange set the attributes; subscribers read them.
    """

    # No slots, but defaults in the class: most attributes of most records keep them, and setting each one would cost
    # as much as all the rest.  Compiled, the class has slots.

    # The client
    peer: PeerInfo
    started_at: float  # when its head was complete
    ended_at: float = NEVER  # when the last byte of the response was on its way to the kernel, or the request was over
    request_id: bytes = b""
    trace_id: bytes = b""  # of its trace context (W3C), 32 hexadecimal digits
    # The request.  Empty where it was too malformed to tell.
    method: bytes = b""
    target: bytes = b""  # as received, but with keys masked
    host: bytes = b""
    minor: int = 1  # of HTTP/1.x
    fields: bytes = b""  # the field lines that are passed on, with keys masked; only if a subscriber wants them
    bytes_in: int = 0  # head and content, as far as they were received; without the framing of chunks
    # The response
    status: int = 0  # 0: there was none; CLIENT_CLOSED_REQUEST: none, and the client has left
    bytes_out: int = 0  # written, with the head
    content_out: int = 0  # content of these, without the framing of chunks
    detail: str = ""  # what the problem document said, or what the server did
    reason: str = COMPLETE
    # The limits
    user: bytes = b""  # the name in UTF-8; empty without a valid key, and for the user API
    key_id: str = ""  # of a valid key, which it does not help to find
    taken: Taken | None = None  # the decision of the limits
    limit: str = ""  # the name of the limit that refused it, or why the key was refused
    cost: int = 0  # tokens that it has cost in the end
    level: int = 0  # microtokens that were left then; may be negative
    wait: float = 0.0  # seconds, for tokens and for room at a server
    waits_since: float = NEVER  # while it waits
    route: str = ""  # empty when there is one route for all requests, or none for this one
    # The server: that of the last attempt
    pool: str = ""  # empty when no server was wanted
    server: str = ""
    attempts: int = 0  # how often it was sent, or could not be
    connect_since: float = NEVER  # while a connection is opened
    connect_seconds: float = NEVER  # for a new connection; NEVER when one was reused
    sent_at: float = NEVER
    first_byte_at: float = NEVER  # when the head of the response was complete
    # The hooks of the route
    state: object = None  # what they keep with the request
    finished: Callable[[RequestRecord], object] | None = None  # called as subscribers are

    def __init__(self, peer: PeerInfo, started_at: float) -> None:
        self.peer = peer
        self.started_at = started_at

    def sent(self, server: str, now: float) -> None:
        """It was sent to this server."""
        self.server = server
        self.attempts += 1
        self.sent_at = now
        since = self.connect_since
        if since >= 0:
            self.connect_seconds = now - since
            self.connect_since = NEVER
        else:
            self.connect_seconds = NEVER

    def not_sent(self, server: str) -> None:
        """This server could not be reached."""
        self.server = server
        self.attempts += 1
        self.connect_since = NEVER

    def responded(self, data: bytes) -> None:
        """So many bytes of a response that is made here were written, beginning with its head."""
        self.bytes_out += len(data)
        self.content_out = len(data) - data.find(b"\r\n\r\n") - 4

    def waited(self, now: float) -> None:
        """It waits no longer, if it did."""
        if self.waits_since >= 0:
            self.wait += now - self.waits_since
            self.waits_since = NEVER

    def __repr__(self) -> str:
        what = f"{self.method.decode('latin-1')} {self.target.decode('latin-1')}"
        return f"<RequestRecord {what} {self.status} {self.reason}>"


def record_of_malformed(peer: PeerInfo, now: float, data: bytes) -> RequestRecord:
    """The record of input that is not a valid request, as far as its first line can be read."""
    record = RequestRecord(peer, now)
    record.bytes_in = len(data)
    line = _FIRST_LINE.match(data, 0, MAX_FIRST_LINE_BYTES)
    if line is not None:
        record.method = line[1]
        record.target = line[2]
        record.minor = 0 if line[3] == b"0" else 1
    return record


Subscriber = Callable[[RequestRecord], object]


class RequestRecords:
    """Those who want the record of each request."""

    __slots__ = ("wants_fields", "_subscribers")

    def __init__(self) -> None:
        self.wants_fields = False  # whether somebody reads `RequestRecord.fields`
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber, wants_fields: bool = False) -> None:
        """Call `subscriber` with each record from now on, in the event loop; it must return soon."""
        self._subscribers.append(subscriber)
        self.wants_fields = self.wants_fields or wants_fields

    @property
    def subscribed(self) -> bool:
        """Whether there is a subscriber."""
        return bool(self._subscribers)

    def request_finished(self, record: RequestRecord) -> None:
        """The request is over, and its record is complete.  What a subscriber raises is logged."""
        finished = record.finished
        if finished is not None:
            record.finished = None
            finished(record)
        for subscriber in self._subscribers:
            try:
                subscriber(record)
            except BaseException:
                _log.failure("subscriber", "A request's record could not be used")
