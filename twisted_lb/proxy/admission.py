"""A request's way through the limits, in and out: whose it is, what it costs, and what is left to pay at the end.

    ask -> bucket_answered -> admitted (the servers' part, `exchange`)  ... -> _settle, once
              |    |  ^    |
             401  429 |    +- 400, where other credentials hold another user's key (`second_key`)
                      +- waiting, for a client that prefers to wait

What was taken is settled exactly once: when the response is over, when there is none to give, or when the
client has left.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from twisted.logger import Logger
from zope.interface import implementer

from twisted_lb.api_key import (
    REDACTED,
    TWO_KEYS,
    AmbiguousKey,
    digest,
    holds_key,
    issued_within,
    key_from_fields,
    other_credentials,
)
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import ADDRESS, MICROTOKENS, IAsker, Taken
from twisted_lb.limits.prefer import preferred_wait
from twisted_lb.limits.pricing import PricingFailed, token_cost
from twisted_lb.limits.refusal import STATUS, refusal
from twisted_lb.proxy.guard import guarded
from twisted_lb.proxy.second_key import SecondKeys
from twisted_lb.proxy.surroundings import Client, Shared
from twisted_lb.proxy.view import RequestView, ResponseView, all_values
from twisted_lb.proxy.waiting import Line
from twisted_lb.wire.head import RequestHead, ResponseHead

CHALLENGE = b'\r\nWWW-Authenticate: Bearer realm="twisted_lb"'
RETRY_SOON = b"\r\nRetry-After: 1"
TOKEN_COST = b"x-token-cost"
# What looks like a key in credentials of another scheme is looked up, but no more than this of one request.
MAX_SECOND_KEYS = 4

_log = BoundedLog(Logger())


@implementer(IAsker)
class Admission(RequestView):
    """The part of an exchange that deals with keys and tokens."""

    __slots__ = (
        "_client",
        "_shared",
        "_key",
        "_digest",
        "_network",
        "_pricing",
        "_cost",
        "_told_cost",
        "_response",
        "_owes",
        "_over",
        "waiting",
        "_waited",
    )

    def __init__(self, shared: Shared, client: Client, head: RequestHead, framing: int) -> None:
        self.method = head.method
        self.target = head.target
        self._head = head
        self._framing = framing
        self._client = client
        self._shared = shared
        self._key = b""
        self._digest = ""  # of the key
        self._network = ""  # the client's, when the key is not known to come from there
        self._pricing = shared.pricing  # to the end, whatever comes after it
        self._cost = 1  # tokens, as taken
        self._taken: Taken | None = None
        self._told_cost: int | None = None  # what the server says it cost
        self._response: ResponseView | None = None  # for pricing
        self._owes = False  # admitted and not settled
        self._over = False
        self.waiting = False  # for tokens
        self._waited = 0.0  # seconds that the client prefers to wait, when its request was not admitted at once

    def _sender(self) -> Client:
        return self._client

    def _admitted(self) -> None:
        """On to the servers."""
        raise NotImplementedError

    def _end(self) -> None:
        """Nothing more is done for this request."""
        raise NotImplementedError

    def broke(self) -> None:
        """Something has raised where nothing should, and is being handled: the exchange ends, whatever its state."""
        raise NotImplementedError

    def _answer(self, status: int, detail: str, fields: bytes = b"", members: Mapping[str, object] = {}) -> None:
        """Answer with a problem made here; the exchange is over."""
        self._end()
        if self._taken is not None:
            fields = self._limit_fields(self._taken) + fields
        self._client.answer(status, detail, fields, members)

    def _limit_fields(self, taken: Taken) -> bytes:
        fields = self._shared.limit_fields(taken)
        if self._waited and taken.admitted:
            # RFC 7240 section 3: without it the client could not tell.
            fields += b"\r\nPreference-Applied: wait=%d" % ceil(self._waited)
        return fields

    # In

    def _ask(self) -> None:
        """Whose request is it, what does it cost, and may it pass?"""
        shared = self._shared
        try:
            key = key_from_fields(self._head.notable)
        except AmbiguousKey as error:
            self._answer(400, str(error))
            return
        familiar = shared.familiar
        if key is None:
            if familiar is None:
                self._answer(401, "Send your API key as: Authorization: <key>.", CHALLENGE)
            else:
                shared.buckets.take_address(self._client.network, self)
            return
        self._key = key
        self._digest = found = digest(key)
        if familiar is not None and not familiar.knows(found, self._client.network):
            self._network = self._client.network
        if self._pricing.asks:
            try:
                self._cost = self._pricing.cost(self)
            except PricingFailed:
                self._answer(500, "The cost of the request could not be told.")
                return
        lines = shared.waiting.lines
        # A key that may be a guess has to be asked for with its network first.
        if lines and found in lines and not self._network:
            self._stand_behind(lines[found])
            return
        shared.buckets.take(found, self, self._cost, self._network)

    def _without_key(self, trailers: list[bytes]) -> list[bytes]:
        """Trailers as servers may see them, also before the key has been asked for."""
        try:
            key = key_from_fields(self._head.notable)
        except AmbiguousKey:
            key = None
        return [line.replace(key, REDACTED) for line in trailers] if key else trailers

    @guarded
    def ask_again(self) -> None:
        """The waiting room says that its tokens may be there."""
        self._shared.buckets.take(self._digest, self, self._cost, self._network)

    @guarded
    def waited_in_vain(self, taken: Taken, ahead: int) -> None:
        """The waiting room has let it go without its tokens."""
        self.waiting = False
        self._refuse(taken._replace(admitted=False), ahead)

    # From the store (IAsker)

    def bucket_answered(self, taken: Taken | None) -> None:
        try:
            if self._over:
                if taken is not None and taken.admitted and self._digest:
                    # What a client aborts is not given back, but what came after all waiting was in vain is.
                    self._owes = True
                    self._settle(0 if self._waited else self._cost)
                return
            if taken is None:
                self._leave_line()
                self._answer(401, "No user has this API key.", CHALLENGE)
                return
            if self._network and taken.limit != ADDRESS:
                # Only somebody's key is told of another limit.
                if self._shared.familiar is not None:
                    self._shared.familiar.learn(self._digest, self._network)
                self._network = ""
            if not taken.admitted:
                if not self.waiting:
                    self._refused(taken)
                elif taken.limit == ADDRESS:
                    # This says nothing of the others in its line.
                    self._leave_line()
                    self._refuse(taken, 0)
                else:
                    self._shared.waiting.refused(self._digest, self, taken)
                return
            if not self._digest:
                self._answer(401, "Send your API key as: Authorization: <key>.", CHALLENGE)
                return
            self._taken = taken
            self._owes = True
            if self.waiting:
                self.waiting = False
                self._shared.waiting.served(self._digest, self, taken)
                self._client.wait_over()
            authorization = self._head.notable.get(b"authorization")
            if authorization is None or authorization[0] == self._key or not self._look_into_credentials():
                self._admitted()
        except BaseException:
            self.broke()

    def _look_into_credentials(self) -> bool:
        """Those of another scheme are for the server, but for the keys in them; return whether it has to wait for that.

        Only those of users are worth the time.
        """
        notable = self._head.notable
        credentials = other_credentials(notable)
        if not credentials:
            return False
        if holds_key(credentials, self._key):
            del notable[b"authorization"]
            return False
        keys = issued_within(credentials, MAX_SECOND_KEYS)
        if not keys:
            return False
        SecondKeys(self._shared.buckets, keys, self._second_keys_known).look_up()
        return True

    @guarded
    def _second_keys_known(self, found: bool | None) -> None:
        """Whether credentials of another scheme hold somebody's key; None where the store cannot tell."""
        if self._over:
            return
        if found:
            self._give_back()
            self._answer(400, TWO_KEYS)
            return
        if found is None:
            del self._head.notable[b"authorization"]
        self._admitted()

    @guarded
    def bucket_unavailable(self, reason: str) -> None:
        if self._over:
            return
        self._leave_line()
        # The reason names hosts: the store has logged it, and it is not for clients.
        self._answer(503, "The rate limit of this key cannot be checked now. Try again soon.", RETRY_SOON)

    def _refused(self, taken: Taken) -> None:
        """One of the limits says no: wait, if the client prefers that, or answer."""
        self._taken = taken
        # Who guesses keys need not be served better.
        seconds = self._patience() if taken.limit != ADDRESS else 0.0
        self.waiting = seconds > 0
        if self.waiting and self._shared.waiting.join(self, self._digest, self._cost, seconds, taken):
            return
        self.waiting = False
        self._refuse(taken, 0)

    def _stand_behind(self, line: Line) -> None:
        """Others of this key wait already, and are not to be overtaken."""
        self._taken = line.taken._replace(admitted=False)
        self.waiting = True
        self._shared.waiting.stand_behind(self, self._digest, self._cost, self._patience())

    def _patience(self) -> float:
        """Seconds that the client is ready to wait."""
        prefer = all_values(self._head, b"prefer")
        if not prefer or self._client.left:
            return 0.0
        self._waited = min(preferred_wait(prefer), self._shared.settings.max_wait)
        return self._waited

    def _refuse(self, taken: Taken, ahead: int) -> None:
        self._taken = taken
        why = refusal(taken, self._cost if self._digest else 1, ahead)
        self._answer(STATUS, why.detail, why.fields, why.members)

    def _leave_line(self) -> None:
        if self.waiting:
            self.waiting = False
            self._shared.waiting.leave(self._digest, self)

    # Out

    def _priced(self, head: ResponseHead, server: str) -> Taken:
        """A server has answered, and may have said what the request cost; what the limit fields tell then."""
        taken = self._taken
        assert taken is not None
        if TOKEN_COST in head.notable:
            self._told_cost = told = token_cost(head.notable[TOKEN_COST])
            if told is not None:
                taken = taken._replace(level=taken.level - (told - self._cost) * MICROTOKENS)
            elif server not in self._shared.misspoken:
                # Once is enough: it may do so with every response.
                self._shared.misspoken.add(server)
                _log.warn(
                    server, "{server} sent an X-Token-Cost that is no number of tokens: it is ignored", server=server
                )
        if self._pricing.settles:
            self._response = ResponseView(head, self._told_cost)
        return taken

    def _trailers_priced(self, trailers: list[bytes]) -> list[bytes]:
        """What a server says at the end of its response goes before what it said at the beginning."""
        said = [line for line in trailers if line.partition(b":")[0].lower() == TOKEN_COST]
        if not said:
            return trailers
        told = token_cost([line.partition(b":")[2].strip(b" \t") for line in said])
        if told is not None:
            self._told_cost = told
            if self._response is not None:
                self._response.token_cost = told
        return [line for line in trailers if line not in said]

    def _settle_response(self) -> None:
        """The response is over, whole or not: it costs what the server or the pricing class says."""
        if not self._owes:
            return
        cost = self._cost if self._told_cost is None else self._told_cost
        if self._response is not None:
            cost = self._pricing.settle(self, self._response, cost)
        self._settle(cost)

    def _settle(self, cost: int) -> None:
        """The request is over, and has cost this much."""
        if not self._owes:
            return
        self._owes = False
        shared = self._shared
        if cost != self._cost or shared.counts_in_flight:
            shared.buckets.release(self._digest, cost - self._cost)
            lines = shared.waiting.lines
            if lines and self._digest in lines:
                shared.waiting.room_came(self._digest)

    def _give_back(self) -> None:
        """No server answered, so the request costs nothing."""
        taken = self._taken
        assert taken is not None
        self._settle(0)
        level = min(taken.level + self._cost * MICROTOKENS, taken.capacity * MICROTOKENS)
        self._taken = taken._replace(level=level)
