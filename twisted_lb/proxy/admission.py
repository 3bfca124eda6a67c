"""Authentication and limits of a request: which key it has, what it costs, and whether it is admitted.

    ask -> bucket_answered -> admitted (continues in `exchange`)
              |    |  ^    |
             401  429 |    +- 400, if other credentials contain another user's key (`second_key`)
                      +- waiting, for a client that prefers to wait

The tokens that were taken are kept in a part of its own, see `token_grant`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Final

from zope.interface import implementer

from twisted_lb.credentials import (
    REDACTED,
    TWO_KEYS,
    AmbiguousKey,
    digest,
    holds_key,
)
from twisted_lb.interfaces import ADDRESS, CredentialsRejected, ITokenReceiver, Taken
from twisted_lb.limits.authentication import Authentication, AuthenticationFailed
from twisted_lb.limits.prefer import preferred_wait
from twisted_lb.limits.pricing import PricingFailed
from twisted_lb.limits.rejection import MISTYPED, REFUSED_STATUS, STATUS, key_refusal, refusal
from twisted_lb.limits.wait_queue import KeyQueue
from twisted_lb.network.peer import PeerInfo
from twisted_lb.own_fields import username_value
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.guard import guarded
from twisted_lb.proxy.header_rules import HeaderRules
from twisted_lb.proxy.request_view import RequestView
from twisted_lb.proxy.route import NO_KEY, OPTIONAL, REQUIRED, Terms
from twisted_lb.proxy.route_answer import RouteAnswer
from twisted_lb.proxy.second_key import SecondKeys
from twisted_lb.proxy.streams import NO_TRAILERS, IClientStream
from twisted_lb.proxy.token_grant import TokenGrant
from twisted_lb.request_record import (
    BAD_REQUEST,
    COMPLETE,
    INTERNAL_ERROR,
    KEY_REFUSED,
    LIMITED,
    STORE_UNAVAILABLE,
    UNAUTHORIZED,
    RequestRecord,
)
from twisted_lb.users import REFUSALS
from twisted_lb.wire.field_value import field_value
from twisted_lb.wire.framing import NOT_MODIFIED
from twisted_lb.wire.head import RequestHead, ResponseHead

RETRY_SOON: Final = b"\r\nRetry-After: 1"
IN_MAINTENANCE: Final = "This is in maintenance. Try again later."
# Text that looks like a key in credentials of another scheme is looked up, but at most this many times per request.
MAX_SECOND_KEYS: Final = 4
# If no user has the key that was sent, it is replaced in records if it has at least this many bytes: it may have been
# a key, or be one of another service.
SHORTEST_HIDDEN: Final = 16


def retry_after(seconds: float) -> bytes:
    """The line of Retry-After, with a CRLF before it."""
    return b"\r\nRetry-After: %d" % ceil(seconds)


@implementer(ITokenReceiver)
class Admission(RequestView):
    """The part of an exchange that deals with keys and tokens."""

    free = False  # a served request costs its client something

    __slots__ = (
        "peer",
        "_client",
        "_context",
        "_terms",
        "_tokens",
        "_over",
        "waiting",
        "_waited",
        "_record",
    )

    def __init__(
        self, context: ProxyContext, terms: Terms, client: IClientStream, head: RequestHead, framing: int
    ) -> None:
        self.method = head.method
        self.target = head.target
        self._head = head
        self._framing = framing
        # The client's connection may be at its next request while something of this one is not done yet.
        self.peer: PeerInfo = client.peer
        self._client = client
        self._context = context
        self._terms = terms
        self._key = b""
        self._changes = None
        self._tokens = TokenGrant(context, terms.pricing)
        self._over = False
        self.waiting = False  # for tokens
        self._record: RequestRecord | None = client.record  # None: no records are made
        self._waited = 0.0  # seconds that the client prefers to wait, when its request was not admitted at once

    @property
    def consumer(self) -> bytes:
        taken = self._tokens.taken
        return taken.name if taken is not None else b""

    @property
    def client_address(self) -> str:
        return self.peer.address

    def _forwarded(self, name: bytes) -> bytes | None:
        value: bytes | None = self._client.forwarded.value(name, self._head)
        return value

    def value_of(self, name: bytes) -> bytes:
        """See RequestValues."""
        value = self._value(name)
        key = self._key
        return value.replace(key, REDACTED) if key and key in value else value

    def _value(self, name: bytes) -> bytes:
        """The values that are known here; the server and the pool are added by `Exchange`."""
        if name == b"client_address":
            return self.peer.address.encode()
        if name == b"user":
            return username_value(self.consumer)
        if name == b"route":
            return self._terms.name.encode()
        if name == b"request_id":
            request_id: bytes = self._client.request_id
            return request_id
        if name == b"scheme":
            return self.peer.scheme
        if name == b"host":
            return self._head.host
        if name == b"method":
            return self.method
        path, mark, query = self.target.partition(b"?")
        if name == b"query":
            return mark + query
        return path if name == b"path" else b""

    def _admitted(self) -> None:
        """The request is admitted: continue with the servers."""
        raise NotImplementedError

    def _end(self) -> None:
        """Nothing more is done for this request."""
        raise NotImplementedError

    def broke(self) -> None:
        """For an unexpected exception, while it is handled: end the exchange, whatever its state."""
        raise NotImplementedError

    def _answer(
        self, reason: str, status: int, detail: str, fields: bytes = b"", members: Mapping[str, object] = {}
    ) -> None:
        """Answer with a problem document; the exchange is over.  `reason` is one of those in `request_record`."""
        self._end()
        if self._record is not None:
            self._enter(self._record, reason)
        taken = self._tokens.taken
        if taken is not None:
            fields = self._limit_fields(taken) + fields
        self._client.reject(status, detail, fields, members)

    def _answer_with(self, answer: RouteAnswer, location: bytes, rules: tuple[HeaderRules, ...]) -> None:
        """Answer with a whole response made here; the tokens are not refunded, and the exchange is over.

        `location` is the Location line of a redirect, or b""; `rules` are those for responses.
        """
        tokens = self._tokens
        taken = tokens.taken
        assert taken is not None
        fields = self._limit_fields(taken)
        for one in rules:
            fields = one.without_removed(fields)
        fields += location
        self._end()
        tokens.settle_as_taken()
        if self._record is not None:
            self._enter(self._record, COMPLETE)
        head = ResponseHead()
        head.status = answer.status
        head.minor = 1
        head.reason = answer.reason
        # RFC 9110 section 8.6: there it would be the length of the response with status 200.
        has_length = answer.status != NOT_MODIFIED
        head.notable = {b"content-length": [b"%d" % len(answer.content)]} if has_length else {}
        head.fields = answer.fields
        for one in rules:
            head.fields = one.apply(head.fields, self)
        cors = self._context.cors
        if cors is not None:
            # As in the response of a server, its own lines are replaced.
            fields += cors.on_answer(self._head, head)
        head.size = 0
        head.keep_alive = True
        client = self._client
        client.respond(head, len(answer.content), fields, b"" if self.method == b"HEAD" else answer.content)
        client.finish(NO_TRAILERS)

    def _enter(self, record: RequestRecord, reason: str) -> None:
        """Complete the record, now that the request is over; `reason` applies unless there was another before."""
        self._tokens.record(record)
        if record.reason == COMPLETE:
            record.reason = reason
        if record.waits_since >= 0:
            record.waited(self._context.seconds())
        key = self._key
        # A short text that is no user's key need not be hidden, and replacing it would make the record unreadable.
        if key and (record.user or len(key) >= SHORTEST_HIDDEN):
            # Most texts are shorter than a key.
            size = len(key)
            if len(record.target) >= size:
                record.target = record.target.replace(key, REDACTED)
            if len(record.host) >= size:
                record.host = record.host.replace(key, REDACTED)
            if len(record.request_id) >= size:
                record.request_id = record.request_id.replace(key, REDACTED)
            if record.fields:
                record.fields = record.fields.replace(key, REDACTED)

    def _unauthorized(self, detail: str) -> None:
        self._answer(UNAUTHORIZED, 401, detail, b"\r\nWWW-Authenticate: " + self._context.keys.challenge)

    def _limit_fields(self, taken: Taken) -> bytes:
        if not taken.capacity:
            # A request without a key, where networks have no limit, or with a key that must not be used.
            return b""
        fields = self._context.limit_fields(taken)
        if self._waited and taken.admitted:
            # RFC 7240 section 3: otherwise the client could not tell that its preference was applied.
            fields += b"\r\nPreference-Applied: wait=%d" % ceil(self._waited)
        return fields

    # In

    def _ask(self) -> None:
        """Find the key and the cost, and ask the store for the tokens."""
        context = self._context
        authentication = context.authentication
        route_key = self._terms.key
        if route_key == NO_KEY:
            # Servers never get the fields for keys, whatever they contain.
            context.keys.remove(self._head.notable)
            self._ask_without_key()
            return
        try:
            if authentication is None:
                key = context.keys.take(self._head.notable)
            else:
                key = self._identified(authentication)
        except AmbiguousKey as error:
            self._answer(BAD_REQUEST, 400, str(error))
            return
        except CredentialsRejected as rejected:  # the compiler gives each name one type
            self._reject_credentials(str(rejected))
            return
        except AuthenticationFailed:
            self._answer(INTERNAL_ERROR, 500, "The request could not be identified.")
            return
        known_keys = context.known_keys
        if key is None:
            if route_key == OPTIONAL:
                self._ask_without_key()
            elif known_keys is None:
                self._unauthorized(self._no_key())
            else:
                context.buckets.take_address(self.peer.network, self)
            return
        self._key = key
        if len(self.target) >= len(key):
            self.target = self.target.replace(key, REDACTED)
        if context.keys.form.is_mistyped(key):
            self._reject_credentials(MISTYPED)
            return
        tokens = self._tokens
        tokens.digest = found = digest(key)
        if known_keys is not None and not known_keys.knows(found, self.peer.network):
            tokens.network = self.peer.network
        tokens.queue = found
        if self._terms.depends_on_client:
            self._client_known()
        if not self._priced():
            return
        key_queues = context.waiting.key_queues
        # A key that may be guessed must first be looked up together with its network.
        if key_queues and tokens.queue in key_queues and not tokens.network:
            self._enqueue(key_queues[tokens.queue])
            return
        tokens.take(self)

    def _reject_credentials(self, detail: str) -> None:
        """Answer 401 without asking the store for a key; such requests are limited like those with unknown keys."""
        if self._context.known_keys is None:
            self._unauthorized(detail)
        else:
            self._context.buckets.take_address(self.peer.network, _Rejected(self, detail))

    def _ask_without_key(self) -> None:
        """The route serves requests without a key: ask for the tokens of this one."""
        if self._terms.depends_on_client:
            self._client_known()
        if self._priced():
            self._tokens.take_without_key(self.peer.network, self)

    def _client_known(self) -> None:
        """It is known which key there is, or that there is none: apply the terms for this client."""
        self._tokens.use(self._terms, self.peer.network)

    def _priced(self) -> bool:
        """Find out what the request costs; if that fails, answer it and return False."""
        try:
            self._tokens.price(self)
        except PricingFailed:
            self._answer(INTERNAL_ERROR, 500, "The cost of the request could not be told.")
            return False
        return True

    def _identified(self, authentication: Authentication) -> bytes | None:
        """The key that the configured authenticator finds.  Raises CredentialsRejected and AuthenticationFailed."""
        key = authentication.key(self)
        # Servers never get the fields for keys, whatever they contain.
        self._context.keys.remove(self._head.notable)
        return key

    def _no_key(self) -> str:
        """The detail of a response to a request without a key."""
        context = self._context
        if context.authentication is not None:
            return "The request has no credentials."
        return f"Send your API key as: {context.keys.example}."

    def _without_key(self, trailers: list[bytes]) -> list[bytes]:
        """Trailers as servers may see them, without the key, even if the key was not read yet."""
        key: bytes | None = self._key
        if not key:
            authentication = self._context.authentication
            try:
                if authentication is None:
                    key = self._context.keys.take(dict(self._head.notable))
                else:
                    key = authentication.key(self)
            except (AmbiguousKey, CredentialsRejected, AuthenticationFailed):
                # It will be refused.
                return NO_TRAILERS
        return [line.replace(key, REDACTED) for line in trailers] if key else trailers

    @guarded
    def ask_again(self) -> None:
        """Called by the wait queue: the tokens may be there now."""
        self._tokens.take(self)

    @guarded
    def wait_timed_out(self, taken: Taken, ahead: int) -> None:
        """Called by the wait queue: the time is up, and the tokens were not there."""
        self.waiting = False
        self._refuse(taken._replace(admitted=False), ahead)

    # From the store (ITokenReceiver)

    def bucket_answered(self, taken: Taken | None) -> None:
        try:
            tokens = self._tokens
            if self._over:
                if taken is not None and taken.admitted and tokens.digest:
                    tokens.grant(taken)
                    if self._waited:
                        # The client has left while it waited, and is not served.
                        tokens.refund()
                    else:
                        # What a client aborts is not refunded.
                        tokens.settle_as_taken()
                return
            if taken is None:
                self._leave_wait_queue()
                self._unauthorized("No user has this API key.")
                return
            if tokens.network and tokens.digest and taken.limit != ADDRESS:
                # A limit other than the network's means that a user has the key.
                if self._context.known_keys is not None:
                    self._context.known_keys.learn(tokens.digest, tokens.network)
                tokens.network = ""
            if not taken.admitted:
                if taken.limit in REFUSALS:
                    self._key_refused(taken)
                elif not self.waiting:
                    self._refused(taken)
                elif taken.limit == ADDRESS:
                    # This says nothing about the other requests in its queue.
                    self._leave_wait_queue()
                    self._refuse(taken, 0)
                else:
                    self._context.waiting.refused(tokens.queue, self, taken)
                return
            if not tokens.digest and self._terms.key == REQUIRED:
                self._unauthorized(self._no_key())
                return
            tokens.grant(taken)
            self._context.counts.admitted += 1
            if self.waiting:
                self.waiting = False
                self._wait_ended()
                self._context.waiting.served(tokens.queue, self, taken)
                self._client.request_resumed()
            if b"authorization" not in self._head.notable or not self._look_into_credentials():
                self._admitted()
        except BaseException:
            self.broke()

    def _look_into_credentials(self) -> bool:
        """Credentials in Authorization other than the key are for the server, unless they contain a key.

        Returns whether the request waits while keys are looked up.  Only requests that were admitted get this far,
        since it takes time.
        """
        notable = self._head.notable
        credentials = notable[b"authorization"][0].strip(b" \t")
        if holds_key(credentials, self._key):
            del notable[b"authorization"]
            return False
        keys = self._context.keys.issued_within(credentials, MAX_SECOND_KEYS)
        if not keys:
            return False
        SecondKeys(self._context.buckets, keys, self._second_keys_known).look_up()
        return True

    @guarded
    def _second_keys_known(self, found: bool | None) -> None:
        """`found`: whether credentials for the server contain a user's key; None: the store cannot tell."""
        if self._over:
            return
        if found:
            self._tokens.refund()
            self._answer(BAD_REQUEST, 400, TWO_KEYS)
            return
        if found is None:
            del self._head.notable[b"authorization"]
        self._admitted()

    @guarded
    def bucket_unavailable(self, reason: str) -> None:
        if self._over:
            return
        self._leave_wait_queue()
        # The reason names hosts: the store has logged it, and it is not for clients.
        whose = "key" if self._tokens.digest else "request"
        detail = f"The rate limit of this {whose} cannot be checked now. Try again soon."
        self._answer(STORE_UNAVAILABLE, 503, detail, RETRY_SOON)

    def _key_refused(self, taken: Taken) -> None:
        """The key exists, and must not be used."""
        self._leave_wait_queue()
        self._tokens.taken = taken
        self._count_refused(taken)
        detail, members = key_refusal(taken.limit)
        self._answer(KEY_REFUSED, REFUSED_STATUS, detail, b"", members)

    def _refused(self, taken: Taken) -> None:
        """A limit has refused the request: wait, if the client prefers that, or answer."""
        tokens = self._tokens
        tokens.taken = taken
        # Clients that guess keys cannot wait.
        seconds = self._wait_timeout() if tokens.digest and taken.limit != ADDRESS else 0.0
        self.waiting = seconds > 0
        if self.waiting and self._context.waiting.join(self, tokens.queue, tokens.cost, seconds, taken):
            self._wait_begins()
            return
        self.waiting = False
        self._refuse(taken, 0)

    def _enqueue(self, line: KeyQueue) -> None:
        """Other requests with this key wait already: wait after them."""
        tokens = self._tokens
        tokens.taken = line.taken._replace(admitted=False)
        self.waiting = True
        self._wait_begins()
        self._context.waiting.enqueue(self, tokens.queue, tokens.cost, self._wait_timeout())

    def _wait_timeout(self) -> float:
        """Seconds that the client is willing to wait."""
        prefer = field_value(self._head, b"prefer")
        if not prefer or self._client.half_closed:
            return 0.0
        self._waited = min(preferred_wait(prefer), self._context.settings.max_wait)
        return self._waited

    def _wait_begins(self) -> None:
        """The request waits for tokens, or for a server."""
        if self._record is not None:
            self._record.waits_since = self._context.seconds()

    def _wait_ended(self) -> None:
        if self._record is not None:
            self._record.waited(self._context.seconds())

    def _refuse(self, taken: Taken, ahead: int) -> None:
        tokens = self._tokens
        tokens.taken = taken
        self._count_refused(taken)
        why = refusal(taken, tokens.asked_of(taken.limit), ahead)
        self._answer(LIMITED, STATUS, why.detail, why.fields, why.members)

    def _count_refused(self, taken: Taken) -> None:
        context, digest = self._context, self._tokens.digest
        context.counts.refused[taken.limit] += 1
        # Unknown keys are not counted, since clients can send any number of them; while the limit of a network refuses,
        # it is not known which keys are unknown.
        if digest and taken.name and taken.limit != ADDRESS:
            context.collected.request_refused(digest, taken.limit)

    def _leave_wait_queue(self) -> None:
        if self.waiting:
            self.waiting = False
            self._context.waiting.leave(self._tokens.queue, self)

    @guarded
    def credentials_rejected(self, detail: str, taken: Taken | None) -> None:
        """The token of the network for a request with invalid credentials was taken, or refused."""
        if self._over:
            return
        if taken is None or taken.admitted:
            self._unauthorized(detail)
        else:
            self._refuse(taken, 0)


@implementer(ITokenReceiver)
class _Rejected:
    """Receives the token of the client's network for a request whose credentials are not valid."""

    __slots__ = ("_admission", "_detail")

    def __init__(self, admission: Admission, detail: str) -> None:
        """`detail` is for the client."""
        self._admission = admission
        self._detail = detail

    def bucket_answered(self, taken: Taken | None) -> None:
        """See ITokenReceiver."""
        self._admission.credentials_rejected(self._detail, taken)

    def bucket_unavailable(self, reason: str) -> None:
        """See ITokenReceiver."""
        self._admission.bucket_unavailable(reason)
