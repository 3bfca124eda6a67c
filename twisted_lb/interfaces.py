"""The verbs by which the parts of twisted_lb meet.

Edges (stores, proxy) and doors (api) never import each other: they know these interfaces, and
`service` hands each part the others.  A docstring here is the whole contract: what the caller may
expect, and what it must do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from zope.interface import Attribute, Interface

from twisted_lb.backend import Backend

# One token, as stored: levels are whole millionths of a token, so that a rate of r tokens a second
# refills exactly r of them each microsecond.
MICROTOKENS = 1_000_000


class Account(NamedTuple):
    """A user's name and bucket policy."""

    name: str
    capacity: int  # tokens, at least 1
    rate_per_sec: float  # tokens per second, 0 or more


class Profile(NamedTuple):
    """An account and the level of its bucket now."""

    account: Account
    level: int  # microtokens


class Taken(NamedTuple):
    """What a bucket answered.  Everything that the rate-limit headers say follows from it."""

    admitted: bool
    name: bytes  # the user's name in UTF-8, as it goes into X-Consumer-Username
    capacity: int  # tokens
    rate_per_sec: float  # tokens per second
    level: int  # microtokens, after the taking; when refused, what there is


class NameTaken(Exception):
    """There is an account of this name already."""


class StoreUnavailable(Exception):
    """The store did not answer; the text says what a person can do about it."""


class IAsker(Interface):
    """Who waits for a bucket's answer.  Exactly one of these is called, exactly once, and it does not raise."""

    def bucket_answered(taken: Taken | None) -> None:
        """The bucket's answer; None when no account has this key."""

    def bucket_unavailable(reason: str) -> None:
        """The store cannot tell; nothing was taken as far as anybody knows."""


class IBucketStore(Interface):
    """The buckets, by the key's digest (SHA-256 in lower-case hexadecimal)."""

    def take(digest: str, asker: IAsker) -> None:
        """Take one token and tell `asker`: within this call when the answer is at hand, else later.

        A refusal takes nothing and writes nothing.  In any time t a bucket admits at most
        capacity + rate * t.
        """

    def give_back(digest: str) -> None:
        """Put one token back, up to the capacity, for a request that no server answered.  Never fails the caller."""


class IAccountStore(Interface):
    """The accounts.  Each call returns a Deferred, and fails with StoreUnavailable when the store does not answer."""

    def create(digest: str, account: Account) -> Deferred[None]:
        """Store `account` under the key's digest with a full bucket.  Fails with NameTaken."""

    def profile(digest: str) -> Deferred[Profile | None]:
        """None where no account has this key.  Takes nothing."""

    def change(digest: str, capacity: int | None, rate_per_sec: float | None) -> Deferred[Profile | None]:
        """Set what is not None.  The level so far is kept, and cut to a smaller capacity.  None: no such account."""


class IRequest(Interface):
    """What a balancer may know of the request it chooses a server for."""

    method = Attribute("bytes, such as b'GET'")
    target = Attribute("bytes, the request target as received")
    consumer = Attribute("bytes, the user's name, UTF-8")
    client_address = Attribute("str, the client's IP address")

    def header(name: bytes) -> bytes | None:
        """The value of the first field of this name (any case), or None."""


class IBalancer(Interface):
    """Chooses the server of a request.  A class that provides this takes its options as keyword arguments."""

    def backends_changed(backends: list[Backend]) -> None:
        """From now on choose among these: all are up and have a weight of at least 1.

        Called once before the first `choices`, and again whenever servers come, go, or change
        their state or weight.  The list is the balancer's own.
        """

    def choices(request: IRequest) -> Iterator[Backend]:
        """An iterator over the backends, best first, each at most once.

        The first one is asked; the next only when the one before could not be used, so most calls
        draw one item.  Must not block, and must not raise for any request.
        """


class IResponseFields(Interface):
    """What a balancer also provides when it has something to say to the client, such as a cookie."""

    def response_fields(request: IRequest, backend: Backend) -> bytes:
        """Header lines for the response to `request` that `backend` has given: b"" for none.

        Each line begins with CRLF and has no other line break.  Called once for each response of a server, after
        `choices` and with the same request.  Must not block, and must not raise.
        """


class IReply(Interface):
    """The client of one request that a door serves."""

    def write(data: bytes) -> None:
        """Bytes of the response, head and all, in order."""

    def finished(close: bool) -> None:
        """The response is whole.  `close`: the connection cannot carry another request.  Called once."""


class IServing(Interface):
    """A request that a door is serving."""

    def abandon() -> None:
        """The client has left: no call to its IReply from now on."""


class IDoor(Interface):
    """Serves some requests of the public listener itself, in place of a server."""

    max_body_bytes = Attribute("int; a longer request body is answered 413 and never reaches the door")

    def owns(path: bytes) -> bool:
        """Whether requests for this path (the target up to '?') are the door's, whatever their method."""

    def serve(head: bytes, body: bytes, peer: IAddress, reply: IReply) -> IServing:
        """Serve one request.

        `head` is a strictly checked HTTP/1 head up to and with the empty line, whose only framing
        field is `Content-Length: <len(body)>`; `peer` is the client's IAddress.
        """
