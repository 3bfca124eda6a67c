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
    level: int  # microtokens; below zero while a request that cost more than there was is being paid off


class Policy(NamedTuple):
    """What a bucket that belongs to no account admits."""

    capacity: int = 0  # tokens; 0: there is no such bucket
    rate_per_sec: float = 0.0  # tokens per second


class Limits(NamedTuple):
    """The limits beside the key's own bucket."""

    everyone: Policy = Policy()  # one bucket for the whole balancer, all instances together
    address: Policy = Policy()  # one for each client address, for what comes without a valid key
    in_flight: int = 0  # requests of one key at a time, all instances together; 0: any number


# The limits by name, as answers and header fields tell them.
KEY = "default"
GLOBAL = "global"
ADDRESS = "address"
IN_FLIGHT = "in-flight"


class Taken(NamedTuple):
    """What the limits answered.  Everything that the rate-limit headers say follows from it."""

    admitted: bool
    name: bytes  # the user's name in UTF-8; b"" when no account is concerned
    capacity: int  # tokens; of IN_FLIGHT: requests at a time
    rate_per_sec: float  # tokens per second; of IN_FLIGHT: 0
    level: int  # microtokens, after the taking; when refused, what there is; may be below zero
    limit: str = KEY  # whose numbers these are: KEY when admitted (ADDRESS by take_address), else the one that refused


class StoreState(NamedTuple):
    """Whether a store answers, for operators: it may name hosts, which clients need not know."""

    up: bool
    reason: str  # why it is not up, and what happens to requests meanwhile


class NameTaken(Exception):
    """There is an account of this name already."""


class StoreUnavailable(Exception):
    """The store did not answer; the text says what a person can do about it."""


class NotStored(StoreUnavailable):
    """The store cannot write, and nothing of what was asked is stored: it can be asked again."""


class IAsker(Interface):
    """Who waits for a bucket's answer.  Exactly one of these is called, exactly once, and it does not raise."""

    def bucket_answered(taken: Taken | None) -> None:
        """The answer; None when no account has this key."""

    def bucket_unavailable(reason: str) -> None:
        """The store cannot tell; nothing was taken as far as anybody knows.  `reason` is not for clients."""


class IBucketStore(Interface):
    """The buckets, by the key's digest (SHA-256 in lower-case hexadecimal).

    In any time t a bucket admits at most capacity + rate * t.  All limits that concern a request are asked
    in one step: it passes all of them, or it is refused by one and spends nothing in any.
    """

    counts_in_flight = Attribute("bool; whether every admitted request must be released, see `release`")

    def take(digest: str, asker: IAsker, cost: int = 1, network: str = "") -> None:
        """Ask for a request that costs `cost` tokens, 0 or more, and tell `asker`: within this call, or later.

        It is asked of the key's bucket, of the requests in flight of the key, and of the bucket of everyone, in
        this order; the first that refuses is the one that is told.  A refusal takes nothing and writes nothing.

        `network` is given for a key that was not seen from this client's network before.  Then a key that no
        account has costs one token of the network's bucket, and while there is none, any key is refused unless
        it is in use (see IAccountStore.in_use).
        """

    def release(digest: str, tokens: int) -> None:
        """An admitted request is over; to be called at most once for each.  Never fails the caller.

        Its place in flight is free again.  `tokens` more are taken from the key's bucket and that of everyone,
        even if that leaves them below zero; what is negative is given back, up to the capacity.  Where `tokens`
        is 0 and nothing `counts_in_flight`, the call may be left out.
        """

    def take_address(network: str, asker: IAsker) -> None:
        """Take one token from the bucket of a client's network, for what comes without a valid key.

        Admitted without asking where there is no such limit.
        """

    def give_back_address(network: str) -> None:
        """Put that token back: the key was valid after all.  Never fails the caller."""


class IStoreReport(Interface):
    """How a store does, for operators."""

    def state() -> StoreState:
        """Now."""

    def counts() -> dict[str, float]:
        """Numbers since the start, by the names of the metrics.

        See `limits.standby.COUNTS` and `stores.embedded_store.COUNTS`.
        """


class AccountPage(NamedTuple):
    """Some accounts in the order of their names (as UTF-8 bytes)."""

    profiles: list[Profile]
    more_after: str | None  # the name after which the next page begins; None: there is none


class IAccountStore(Interface):
    """The accounts.  Each call returns a Deferred, and fails with StoreUnavailable when the store does not answer;
    with NotStored when that is sure to have changed nothing."""

    def create(digest: str, account: Account) -> Deferred[None]:
        """Store `account` under the key's digest with a full bucket.  Fails with NameTaken.

        The name is stored in NFC, and is taken by an account whose name is the same in NFC.
        """

    def profile(digest: str) -> Deferred[Profile | None]:
        """None where no account has this key.  Takes nothing."""

    def in_use(digest: str) -> Deferred[bool]:
        """Whether an account has this key, and tokens were taken from it in the last month.

        Such a key is not a guess, wherever it comes from (`limits.addresses`).
        """

    def change(digest: str, capacity: int | None, rate_per_sec: float | None) -> Deferred[Profile | None]:
        """Set what is not None.  The level so far is kept, and cut to a smaller capacity.  None: no such account."""

    def page(after: str, count: int) -> Deferred[AccountPage]:
        """The first `count` (1 to 200) accounts whose names come after `after`; "" is before all names.

        Takes the time of the page, however many accounts there are.
        """


class IRequest(Interface):
    """What a balancer may know of the request it chooses a server for."""

    method = Attribute("bytes, such as b'GET'")
    target = Attribute("bytes, the request target as received")
    consumer = Attribute("bytes, the user's name, UTF-8")
    client_address = Attribute("str, the client's IP address")
    content_length = Attribute("int, the length of the content; -1 when it is sent chunked, and not known")

    def header(name: bytes) -> bytes | None:
        """The value of the first field of this name (any case), or None."""


class IResponse(Interface):
    """What a pricing class may know of a server's response."""

    status = Attribute("int, such as 200")
    body_bytes = Attribute("int, the length of the content so far: all of it, unless it was cut short")
    token_cost = Attribute("int or None: what the server says the request cost, in X-Token-Cost")

    def header(name: bytes) -> bytes | None:
        """The value of the first field of this name (any case), or None."""


class IPricing(Interface):
    """Says what requests cost, in tokens.  A class that provides this takes its options as keyword arguments.

    Either method may be left out.  Costs are whole numbers from 0 to 1,000,000,000; anything else, and an
    exception, is logged: in `cost` the request is answered 500, in `settle` it counts as None.
    Neither may block.
    """

    def cost(request: IRequest) -> int:
        """What has to be there before the request is sent to a server; left out: 1."""

    def settle(request: IRequest, response: IResponse) -> int | None:
        """What the request has cost in all, now that its response is over: the difference is taken or given back.

        None: what the server says in X-Token-Cost, or else what `cost` said.
        """


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
        """Bytes of the response, head and all, in order; the head in one piece."""

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
