"""The interfaces between the parts of twisted_lb.

Edges (stores, proxy) and doors (api) never import each other: they know these interfaces, and `app` passes them the
implementations.  The docstrings here are the contracts: what the caller may expect, and what it must do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from zope.interface import Attribute, Interface

from twisted_lb.backend import Backend
from twisted_lb.notices import Notice
from twisted_lb.quotas import Quota, QuotaCharge, QuotaLevel
from twisted_lb.usage import WindowCounts
from twisted_lb.users import Changed, Key, KeyChange, Shadow, User, UserChange, UserFilter, UserPage

# One token, as stored: levels are integers in millionths of a token, so that a rate of r tokens per second
# refills exactly r of them per microsecond.
MICROTOKENS: Final = 1_000_000


class Account(NamedTuple):
    """A user's name and bucket policy."""

    name: str
    capacity: int  # tokens, at least 1
    rate_per_sec: float  # tokens per second, 0 or more


class Profile(NamedTuple):
    """An account and the level of its bucket now."""

    account: Account
    level: int  # microtokens; negative while the bucket is in debt
    # Of a user with a shadow policy, with the digest of the user's first key.
    owner: str = ""
    shadow: Shadow | None = None
    quota: Quota | None = None  # as it is now, if there is one


class Policy(NamedTuple):
    """The policy of a bucket that belongs to no account."""

    capacity: int = 0  # tokens; 0: the bucket does not exist
    rate_per_sec: float = 0.0  # tokens per second


class Limits(NamedTuple):
    """The limits besides the bucket of the key."""

    global_bucket: Policy = Policy()  # one bucket for all users, shared by all instances
    address: Policy = Policy()  # one bucket for each client network, for requests without a valid key
    in_flight: int = 0  # concurrent requests of one key on all instances together; 0: unlimited


# The names of the limits in responses and header fields.
KEY: Final = "default"  # the bucket of the user, to which all keys of the user lead
OWN: Final = "api-key"  # the bucket of one key's own
QUOTA: Final = "quota"  # of the user, for a day or a month
GLOBAL: Final = "global"
ADDRESS: Final = "address"
IN_FLIGHT: Final = "in-flight"
# The shadow policy of a user, which no response names.
SHADOW: Final = "shadow"


class LimitRule:
    """A limit of a route or a pool, or that of client networks: which buckets there are, and their policy.

    The policy may change while requests have tokens of its buckets; then the new one applies to these as well.
    """

    __slots__ = ("key", "name", "capacity", "rate_per_sec", "unbounded")

    def __init__(self, key: str, name: str, capacity: int, rate_per_sec: float, unbounded: bool = False) -> None:
        """`key` is unique, and the same on all instances; `name` is for responses.

        `unbounded`: clients can make any number of its buckets, as they have any number of addresses.
        """
        self.key = key
        self.name = name
        self.capacity = capacity  # tokens, at least 1
        self.rate_per_sec = rate_per_sec
        self.unbounded = unbounded

    def bucket(self, subject: str = "", shadow: bool = False) -> SharedBucket:
        """Its bucket for a key's digest or a network; for a rule with one bucket, ""."""
        return SharedBucket(self, f"{self.key}|{subject}" if subject else self.key, shadow)


class SharedBucket(NamedTuple):
    """A bucket that belongs to no account.  It is full until it is used."""

    rule: LimitRule
    key: str  # unique among all buckets
    # It refuses nothing: a request that the other limits admit takes its tokens if it has as many, and else none of
    # it.
    shadow: bool = False


def enforced(limits: tuple[SharedBucket, ...]) -> tuple[SharedBucket, ...]:
    """Those that are no shadows.  Shadows come last."""
    if not limits or not limits[-1].shadow:
        return limits
    return tuple([shared for shared in limits if not shared.shadow])


def shadows(limits: tuple[SharedBucket, ...]) -> tuple[SharedBucket, ...]:
    """The others."""
    if not limits or not limits[-1].shadow:
        return ()
    return tuple([shared for shared in limits if shared.shadow])


class ShadowDecision(NamedTuple):
    """What a shadow said of a request that was admitted."""

    shared: SharedBucket
    would_refuse: bool  # it had not enough tokens, and nothing was taken of it


def shadow_bucket(owner: str, capacity: int, rate_per_sec: float) -> SharedBucket:
    """The bucket of a user's shadow policy; `owner` is the digest of the user's first key."""
    rule = LimitRule(f"shadow:{owner}", SHADOW, capacity, rate_per_sec)
    return SharedBucket(rule, f"shadow_bucket:{{{owner}}}", True)


def is_of_user(shared: SharedBucket) -> bool:
    """Whether it is a `shadow_bucket`."""
    return shared.rule.name == SHADOW


class LimitLevel(NamedTuple):
    """A limit that a request was admitted by, and its level after that."""

    capacity: int  # tokens
    rate_per_sec: float
    level: int  # microtokens
    limit: str  # its name


class Taken(NamedTuple):
    """The decision of the limits.  All rate-limit fields are derived from it."""

    admitted: bool
    name: bytes  # the user's name in UTF-8; b"" when no account is concerned
    capacity: int  # tokens; for IN_FLIGHT: concurrent requests
    rate_per_sec: float  # tokens per second; for IN_FLIGHT: 0
    level: int  # microtokens, after the tokens were taken; when refused, the present level; may be negative
    # The limit described: when refused the one that did; else KEY, or without a key the first.  Where it is one of
    # `users.REFUSALS`, the key must not be used, and the capacity is 0.
    limit: str = KEY
    more: tuple[LimitLevel, ...] = ()  # when admitted: the buckets beside the one described, without the global one
    shadows: tuple[ShadowDecision, ...] = ()  # when admitted: those that were asked, that of the user last
    quota: QuotaLevel | None = None  # that of the user, if there is one
    counted: bool = True  # False: it is admitted without tokens, and nothing of it is settled or refunded


class StoreState(NamedTuple):
    """Whether a store is available, for operators: the reason may name hosts, which clients must not see."""

    up: bool
    reason: str  # why it is not up, and what happens to requests meanwhile
    reached: bool = True  # it has answered since this process started


class NameTaken(Exception):
    """An account with this name exists already."""


class StoreUnavailable(Exception):
    """The store is unavailable; the text says what an operator can do."""


class NotStored(StoreUnavailable):
    """The store cannot write, and has stored nothing of the call, which can be repeated."""


class ITokenReceiver(Interface):
    """Receives the decision of the limits.  Exactly one method is called, exactly once; it must not raise."""

    def bucket_answered(taken: Taken | None) -> None:
        """The decision; None when no account has this key."""

    def bucket_unavailable(reason: str) -> None:
        """The store is unavailable; as far as is known, nothing was taken.  `reason` is not for clients."""


class IBucketStore(Interface):
    """The buckets, by the key's digest (SHA-256 in lower-case hexadecimal).

    In any time t a bucket admits at most capacity + rate * t.  All limits of a request are checked in one step: it is
    admitted by all of them, or it is refused by one and takes no tokens from any.
    """

    counts_in_flight = Attribute("bool; whether `release` must be called for every admitted request")

    def take(
        digest: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        network: str = "",
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        """Take `cost` tokens, 0 or more, for a request, and call `receiver`, within this call or later.

        The limits are the bucket of the key's user, the key's own bucket, the user's quota, the requests in flight of
        the key, the buckets in `limits`, and the global bucket, in this order; the first that refuses is reported.  A
        refusal takes nothing and writes nothing.  A key that must not be used is refused before all of them; a revoked
        one is unknown.

        Shadows among `limits`, which come last, and the shadow policy of the key's user refuse nothing: each of them is
        asked for the tokens of a request that all others admit, and the decisions are in `Taken.shadows`.

        `network` is given for a key that was not seen from this client's network before.  Then an unknown key takes
        one token from the network's bucket, and while that bucket is empty, every key is refused unless it is in use
        (see IAccountStore.in_use).
        """

    def take_without_key(limits: tuple[SharedBucket, ...], receiver: ITokenReceiver, cost: int = 1) -> None:
        """The same for a request without a key, which is limited by these buckets, at least one, and no others.

        At least one is no shadow.
        """

    def release(
        digest: str,
        tokens: int,
        limits: tuple[SharedBucket, ...] = (),
        quota: QuotaCharge | None = None,
    ) -> None:
        """An admitted request has ended; called at most once for each.  Does not raise.

        `digest` is "" for a request without a key, and `limits` are those of `take` or `take_without_key`; of shadows,
        those that would not have refused the request, that of the user included.

        The request no longer counts as in flight.  `tokens` are taken in addition from all its buckets and, with a key,
        from the global bucket, even if their levels become negative; negative `tokens` are refunded, up to the
        capacity.  If `tokens` is 0, there is no `quota` and `counts_in_flight` is false, the call may be omitted.
        For a request that was not counted (see Taken), `tokens` is 0 and there is no `quota`.

        `quota` is what the user's quota is charged: see `limits.quota_count`.
        """

    def take_address(
        network: str,
        receiver: ITokenReceiver,
        cost: int = 1,
        served: bool = False,
        limits: tuple[SharedBucket, ...] = (),
    ) -> None:
        """Take tokens from the bucket of a client's network, for a request without a valid key.

        Always admitted where this limit is disabled.  `served`: the request is served for these tokens, so that the
        store may be unavailable for it; the others are refused anyway, and are only limited.  `limits` are the shadows
        of the request; tokens that were taken of them are released by `release`.
        """

    def release_address(network: str, tokens: int) -> None:
        """Take `tokens` more from it, or refund them if they are negative, as `release` does.  Does not raise."""


class IStoreReport(Interface):
    """The state of a store, for operators."""

    def state() -> StoreState:
        """The present state."""

    def counts() -> dict[str, float]:
        """Counters since the start, by the names of the metrics.

        See `limits.fallback.COUNTS` and `stores.sqlite.store.COUNTS`.
        """

    def levels(buckets: Sequence[SharedBucket]) -> Deferred[list[int]]:
        """The levels of these buckets now, in microtokens, and of the global one under the key "global".

        Takes no tokens.  Fails with StoreUnavailable.
        """


class AccountPage(NamedTuple):
    """Some accounts, sorted by name (as UTF-8 bytes)."""

    profiles: list[Profile]
    more_after: str | None  # the `after` of the next page; None: this is the last one


class IAccountStore(Interface):
    """The accounts.  Each call returns a Deferred, which fails with StoreUnavailable when the store is unavailable, and
    with NotStored when the call is certain to have changed nothing.

    Every key of a user leads to the user's account.  With a key that exists and must not be used, `profile` and
    `change` fail with KeyRefused; a revoked key is unknown.
    """

    def create(digest: str, account: Account) -> Deferred[None]:
        """Store `account` under the key's digest with a full bucket.  Fails with NameTaken.

        The name is stored in NFC, and is taken by an account whose name is the same in NFC.
        """

    def profile(digest: str) -> Deferred[Profile | None]:
        """The account and its level; None if no account has this key.  Takes no tokens."""

    def in_use(digest: str) -> Deferred[bool]:
        """Whether an account has this key, and tokens were taken from it in the last month.

        Such a key is not a guess, whichever network it is used from (`limits.client_networks`).
        """

    def change(digest: str, capacity: int | None, rate_per_sec: float | None) -> Deferred[Profile | None]:
        """Set the arguments that are not None.  The level is kept, or reduced to a smaller capacity.

        None: no such account.  The profile is without a shadow policy.
        """

    def page(after: str, count: int) -> Deferred[AccountPage]:
        """The first `count` (1 to 200) accounts whose names come after `after` ("" is before all), without quotas.

        The time depends on the size of the page, not on the number of accounts.
        """


class IUserStore(Interface):
    """Users and their keys: see `twisted_lb.users`.

    Each call returns a Deferred, which fails like those of IAccountStore, and with ValueError for an argument that
    cannot be stored.  A call is one step: it is stored completely or not at all, and is in effect for all instances
    from their next request.  `name` is the name of a user, in any form (see `user_names`).
    """

    def user_page(after: str, count: int, filter: UserFilter) -> Deferred[UserPage]:
        """Users whose names come after `after` ("" is before all), at most `count` (1 to 200).

        With a filter, the page may have fewer users though there are more, so that one call never searches for long:
        `more_after` says where to go on.
        """

    def user(name: str) -> Deferred[User | None]:
        """The user of this name."""

    def user_of_key(digest: str) -> Deferred[User | None]:
        """The user with this key, for the user: fails with KeyRefused; None for a revoked or unknown key."""

    def find_key(key_id: str) -> Deferred[User | None]:
        """The user who has this key, whatever its state."""

    def create_user(user: User) -> Deferred[None]:
        """Store a user with all keys.  Fails with NameTaken and KeyTaken.

        The parts that are None are those of a new user and a new key: full buckets, created now.
        """

    def change_user(name: str, change: UserChange) -> Deferred[Changed | None]:
        """Change a user; None: there is no such user.  As in `change`, a level above the capacity is reduced to it."""

    def promote_shadow(name: str) -> Deferred[Changed | None]:
        """Make the shadow policy of a user the policy, and remove the shadow; the level is kept, as in `change`.

        None: there is no such user.  Fails with NoShadow.
        """

    def delete_user(name: str) -> Deferred[User | None]:
        """Remove a user and all keys, which are unknown from then on.  The user as it was; None: there was none."""

    def create_key(name: str, key: Key) -> Deferred[Changed | None]:
        """Add a key; None: there is no such user.  Fails with KeyTaken and TooManyKeys.

        If it is the user's already, nothing is changed, and both users of Changed are the present one: the call may be
        repeated.
        """

    def change_key(name: str, key_id: str, change: KeyChange) -> Deferred[Changed | None]:
        """Change a key; None: there is no such user, or it has no such key.  Fails with KeyRevoked.

        To revoke a key that is revoked already is no error.
        """

    def rotate_key(
        name: str, key_id: str, grace_us: int, digest: str, keep_expiry: bool = False
    ) -> Deferred[Changed | None]:
        """Add the key `digest` in place of another one, which expires after the grace (0: is revoked now).

        The new key has the label and the bucket of the old one, with its level; it does not expire, or with
        `keep_expiry` as the old one did.  The old one expires no later than it did before.  None, failures and
        repetition are as in `create_key` and `change_key`.
        """

    def refused_keys(digests: Sequence[str]) -> Deferred[list[str]]:
        """Those of these keys that must not be used now, or are unknown: open tunnels of such keys are ended."""


class IUsageReport(Interface):
    """Counts by time, for reports: see `twisted_lb.usage`."""

    def counts_of(subjects: Sequence[str]) -> Deferred[list[WindowCounts]]:
        """What was counted of each of these subjects until now.  Fails with StoreUnavailable."""


class IUsageStore(IUsageReport):
    """Stores counts by time.

    The names of subjects and counters are ASCII without spaces.  What belongs to a key (see
    `usage.digest_of_subject`) is counted while the key exists, and goes with it; a subject that was silent for a day
    is forgotten.
    """

    def add_counts(counts: Mapping[str, Mapping[str, int]]) -> Deferred[dict[str, Mapping[str, int]]]:
        """Count so many more now, by subject and counter.  Does not fail.

        The result is what was not stored, and should be given again.  What may have been stored is not in it: it is
        lost rather than counted twice.
        """


class INoticeOutbox(Interface):
    """Notices about quotas that are not delivered yet (see `twisted_lb.notices`).

    A notice is made in the step in which its threshold is reached, at most once for each user, period and threshold,
    and is kept until it is removed, also over a restart.  The Deferreds fail with StoreUnavailable.
    """

    def want_notices(webhook: str = "") -> None:
        """From now on there are notices: somebody takes them, for the webhook with this digest."""

    def refuse_notices() -> Deferred[None]:
        """This webhook wants nothing more, so that no notices are made and other processes get none for it.

        This ends when want_notices is called for it anew, in any process, or after a day.
        """

    def claim_notices(most: int, lease_seconds: float) -> Deferred[list[Notice]]:
        """Up to `most` notices that are due; nobody else gets them before the lease is over."""

    def remove_notice(notice_id: str) -> Deferred[None]:
        """It was delivered, or is given up."""

    def delay_notice(notice_id: str, seconds: float) -> Deferred[None]:
        """It is due again after this time."""


class IRequest(Interface):
    """A request, as balancers and pricing classes see it."""

    method = Attribute("bytes, such as b'GET'")
    target = Attribute("bytes, the request target as received, but without the API key")
    consumer = Attribute("bytes, the user's name in UTF-8; empty in IPricing.cost and for CORS preflights")
    client_address = Attribute("str, the client's IP address; 'unix:' for a Unix socket")
    content_length = Attribute("int, the length of the content; -1 when it is sent chunked, and unknown")

    def header(name: bytes) -> bytes | None:
        """The value of the field with this name (case-insensitive), or None.

        Several fields of one name are joined with ", ", and those of Cookie with "; ".
        """


class IResponse(Interface):
    """A server's response, as a pricing class sees it."""

    status = Attribute("int, such as 200")
    body_bytes = Attribute("int, the received length of the content: all of it, unless it was truncated")
    token_cost = Attribute("int or None: the cost that the server reported in X-Token-Cost")

    def header(name: bytes) -> bytes | None:
        """The value of the field with this name (case-insensitive), or None; see IRequest.

        Of several Set-Cookie fields, the first.
        """


# Plug-ins: classes of the user's own.
#
# All are named `package.module:Class`, are marked with @implementer, and have their options as keyword arguments
# of the constructor.  A parameter of the constructor named `now` receives the clock (a callable that returns seconds),
# and one named `chance` a `random.Random`.  Their methods run in the event loop and must not block.  Header fields are
# pairs of bytes, (name, value).
#
# The phases of a request, and what is called in each:
#
#   request_received   IAuthenticator.identify, ICosting.cost, and IHooks of the route when the tokens are taken
#   server_chosen      IBalancer.choices, and then the optional method `server_chosen` of the balancer
#   response_started   IResponseFields.response_fields, and the optional method `response_started` of the balancer
#   request_finished   ISettling.settle, and the optional method `request_finished` of the balancer
#
# Optional methods of balancers are not declared by an interface.  Whether they exist is determined when the balancer is
# installed.  For each server that is chosen for a request they are called in this order, with the request of `choices`:
#
#   server_chosen(request, backend)                 The request goes to `backend`, whose `in_flight` counts it already.
#   response_started(request, backend, response)    The head of its response has arrived: an IResponse without content.
#                                                   Not called if there is no response.
#   request_finished(request, backend)              It has the request no longer; `in_flight` does not count it.
#
# After a reload a new balancer also gets the calls for servers that the former one has chosen.  The methods must not
# block or raise; exceptions are logged, and do not affect the request.
OPTIONAL_METHODS: Final = {
    "server_chosen": ("request", "backend"),
    "response_started": ("request", "backend", "response"),
    "request_finished": ("request", "backend"),
}


class CredentialsRejected(Exception):
    """Raised by an authenticator: the credentials are not valid.  The text is the `detail` of the 401 response."""


class IAuthenticator(Interface):
    """Finds the API key of requests, in place of the fields in KEY_FIELDS and the parameter KEY_QUERY_PARAMETER.

    These still are not forwarded to servers.  The key is treated like one that the client has sent: stores receive its
    digest, and where it occurs in what servers receive, it is replaced by REDACTED.
    """

    def identify(request: IRequest) -> bytes | None:
        """The API key, as issued, of the user who is charged for the request; None without credentials (401).

        Called for each request for a server, except CORS preflights, before any tokens are taken, and rarely again for
        the same one.  `request` has its fields as they were received, and no `consumer`.

        Raises CredentialsRejected for credentials that are not valid: 401 with its text, which must not contain them.
        After any other exception, and any other result, the response is 500; this is logged without the exception's
        text.
        """


class ICosting(Interface):
    """Decides the cost of a request, in tokens, before it is sent.

    Costs are integers from 0 to 1,000,000,000.  After an invalid one, or an exception, which is logged, the response is
    500.
    """

    def cost(request: IRequest) -> int:
        """The tokens to take before the request is sent to a server.  Without this method: 1."""


class ISettling(Interface):
    """Decides the cost of a request, in tokens, when its response has ended.

    Costs are as in ICosting.  An invalid one, or an exception, is logged, and counts as the result of `cost`.
    """

    def settle(request: IRequest, response: IResponse) -> int | None:
        """The total cost of the request, when its response has ended: the difference is taken or refunded.

        None: the cost that the server reported in X-Token-Cost, or else the result of `cost`.
        """


class IPricing(ICosting, ISettling):
    """Decides the cost of requests before and after.  A pricing class may also provide only one of the two interfaces.

    For compatibility, a class that has the methods, but is not marked with an interface, is accepted.
    """


class IFieldChanges(Interface):
    """Changes the header fields of a request on its way to a server, or of a response on its way to the client.

    Names and values are bytes; the case of names does not matter.  Each method raises ValueError for what is not a
    valid field (RFC 9110 section 5), and for the fields of the framing and of the connection.
    """

    def set(name: bytes, value: bytes) -> None:
        """Have one field of this name, in place of all that there are."""

    def add(name: bytes, value: bytes) -> None:
        """Have one more field of this name."""

    def remove(name: bytes) -> None:
        """Have no field of this name."""


class IHookRequest(IRequest):
    """A request, as hooks see it: `header` has their own changes too."""

    fields = Attribute("IFieldChanges; what servers get.  It has no effect any more when the request was sent")
    state = Attribute("anything that the hooks keep with the request; None at first; see IHooks.request_finished")


class IHookResponse(IResponse):
    """A server's response, as hooks see it when its head has arrived: `body_bytes` is 0."""

    fields = Attribute("IFieldChanges; what the client gets")


class HookResponse(NamedTuple):
    """The response of hooks to a request, in place of a server's."""

    status: int  # from 200 to 599
    fields: Sequence[tuple[bytes, bytes]] = ()  # not those of the framing and of the connection
    body: bytes = b""


class IHooks(Interface):
    """Called in the phases of each request of a route.  All methods are optional, but a class has at least one.

    Whether they exist is determined when the object is created, see HOOK_METHODS.  They run in the event loop and must
    not block; each returns None, but `request_received`.  An exception, and any other result, is logged.

    After a reload with another class or other options, requests that have begun keep their hooks.  CORS preflights
    have none.
    """

    def request_received(request: IHookRequest) -> HookResponse | Deferred[HookResponse | None] | None:
        """The limits have admitted the request: `consumer` is known, and the tokens are taken.

        A HookResponse is sent to the client, and the request costs what was taken.  After None, the request is sent to
        a server.  The result may come later: as a Deferred, or from a coroutine (`async def`).  It is cancelled after
        HOOK_TIMEOUT (504), and when the client disconnects.

        After an exception, and any other result, the response is 500.  The tokens are refunded, as after 504.
        """

    def server_chosen(request: IHookRequest, backend: Backend) -> None:
        """The request goes to `backend`.  Called again for each further server that is tried."""

    def response_started(request: IHookRequest, backend: Backend, response: IHookResponse) -> None:
        """The head of the response of `backend` has arrived; nothing was sent to the client yet.

        Not called for responses that are made here.  After an exception the response to the client is 500; the tokens
        are not refunded, since the server had the request.
        """

    def request_finished(record: object) -> None:
        """The request is over, and its record complete; `record.state` is what the hooks have kept as `request.state`.

        Called once for each request of which the key was looked at, whether it was admitted or not, and whatever the
        end.  See `request_record.RequestRecord`.
        """


HOOK_METHODS: Final = {
    "request_received": ("request",),
    "server_chosen": ("request", "backend"),
    "response_started": ("request", "backend", "response"),
    "request_finished": ("record",),
}


class IBalancer(Interface):
    """Chooses the server of a request.

    A balancer reads these attributes of a Backend, and must not set any:

    - `effective_weight`, float above 0: its weight, reduced during slow start, each step of which is followed by
      `backends_changed`.  Use it, not `weight`.
    - `in_flight`, int: the requests of this process in flight at the server.
    - `full`, bool: whether it has `maxconn` requests.  A full server may be yielded, preferably last: the proxy skips
      it, and lets the request wait in the queue if every server that was yielded is full.
    - `latency`, float: peak EWMA of the seconds to the first byte of a response; 0.0 while none was measured.
    - `name`, str: unique in the pool.

    A server that stays in the pool remains the same object; `backend is other` and hashing are by identity.

    A balancer may also have the methods in OPTIONAL_METHODS.
    """

    def backends_changed(backends: list[Backend]) -> None:
        """Choose among these servers from now on: all are up, and have a weight of at least 1.

        Called once before the first `choices`, and again whenever servers are added or removed, or change their state
        or weight.  The list may be empty, and belongs to the balancer.
        """

    def choices(request: IRequest) -> Iterator[Backend]:
        """An iterator over the servers, best first, each at most once.

        The request is sent to the first one that is not full, and to the next only after a failed attempt, so most
        calls draw one item.  The iterator is dropped when the request has ended.

        It may be called again for the same request, when its choices are exhausted or it has waited in the queue:
        servers may have come up, or have room, since.  The proxy skips servers that have failed for this request.

        Must not block, and must not raise for any request.
        """


class IPeeking(Interface):
    """Also provided by a balancer that can tell what it would choose, for GET /explain on the admin listener."""

    def peek(request: IRequest) -> Iterator[Backend]:
        """What `choices` would yield for `request` now.

        Changes nothing: the next `choices` are as if it had not been called.  All items are drawn at once.  Must not
        block, and must not raise for any request.
        """


class IPreparing(Interface):
    """Also provided by a balancer whose `backends_changed` would block the event loop with thousands of servers."""

    def prepare(weights: Mapping[Backend, float]) -> Iterator[None]:
        """Prepare for a `backends_changed` with these servers and effective weights, in steps of a few milliseconds.

        Choices are not affected yet.  `backends_changed` is usually called in the iteration of the event loop in which
        the iterator ends, but with other servers possibly; it may also be called before the end, or not at all.
        """


class IResponseFields(Interface):
    """Also provided by a balancer that adds fields to responses, such as a cookie."""

    def response_fields(request: IRequest, backend: Backend) -> Sequence[tuple[bytes, bytes]]:
        """The name and value of each field to add to the response of `backend` to `request`.

        If one of them is not a valid field (RFC 9110 section 5), or concerns framing or the connection, this is logged
        and none is added.  Called once for each response of a server, after `choices` and with the same request.  Must
        not block, and must not raise.
        """


class IReply(Interface):
    """The client of one request that a door serves."""

    request_id = Attribute("bytes, the id of the request, for problem documents; empty where requests get none")

    def write(data: bytes) -> None:
        """Bytes of the response, including its head, in order; the head in one piece."""

    def finished(close: bool) -> None:
        """The response is complete.  `close`: the connection cannot carry another request.  Called once."""


class IServing(Interface):
    """A request that a door is serving."""

    def abandon() -> None:
        """The client has disconnected: its IReply must not be called any more."""


class IDoor(Interface):
    """Serves some requests of the public listener itself, instead of a server."""

    max_body_bytes = Attribute("int; a longer request body is answered 413 and does not reach the door")

    def owns(path: bytes) -> bool:
        """Whether requests for this path (the target up to '?') are served by the door, whatever their method."""

    def serve(head: bytes, body: bytes, peer: IAddress, reply: IReply) -> IServing:
        """Serve one request.

        `head` is a validated HTTP/1 head including the empty line, whose only framing
        field is `Content-Length: <len(body)>`; `peer` is the client's IAddress.
        """
