"""The tokens of one request: taken once, and then refunded or settled, once.

    take -> granted -> refund            no server has answered: the request costs nothing
                    -> settle            it costs what the pricing class, the server, or the first price says
"""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.interfaces import (
    ADDRESS,
    MICROTOKENS,
    IRequest,
    ITokenReceiver,
    ShadowDecision,
    SharedBucket,
    Taken,
    enforced,
)
from twisted_lb.limits.pricing import Pricing, token_cost
from twisted_lb.own_fields import TOKEN_COST
from twisted_lb.proxy.context import ProxyContext
from twisted_lb.proxy.request_view import ResponseView
from twisted_lb.proxy.route import Terms
from twisted_lb.quotas import REQUESTS, QuotaCharge, QuotaLevel
from twisted_lb.request_record import RequestRecord
from twisted_lb.users import key_id_of
from twisted_lb.wire.head import ResponseHead

# Positions in Taken: in compiled code this is several times faster than access by name.
_NAME: Final = 1
_LEVEL: Final = 4
_COUNTED: Final = 9

# Cached key_ids, by digest; when there are more, the cache is cleared.
MAX_KEY_IDS: Final = 4096
_key_ids: dict[str, str] = {}

_log = BoundedLog(Logger(__name__))


class TokenGrant:
    """The tokens that a request takes from its key's bucket, and from all other limits that apply to it."""

    __slots__ = (
        "digest",
        "network",
        "limits",
        "queue",
        "pays_without_key",
        "cost",
        "taken",
        "granted",
        "settled",
        "refunded",
        "_context",
        "_pricing",
        "_reported",
        "_response",
    )

    def __init__(self, context: ProxyContext, pricing: Pricing) -> None:
        self.digest = ""  # of the key
        self.network = ""  # the client's, if it is not known to use the key, or if the network pays
        # Those of the route, the pool and all requests; once admitted, without shadows that would have refused it.
        self.limits: tuple[SharedBucket, ...] = ()
        self.queue = ""  # the queue in which it may wait for its tokens: that of the key, with these limits
        self.pays_without_key = False  # these limits pay, or the network's bucket if all of them are shadows
        self.cost = pricing.default_cost  # tokens, as taken
        self.taken: Taken | None = None  # the last decision of the limits
        self.granted = False  # the tokens are taken, and neither refunded nor settled yet
        self.settled = 0  # tokens that it has cost, once it is refunded or settled
        self.refunded = False  # `taken` has the level after the refund
        self._context = context
        self._pricing = pricing
        self._reported: int | None = None  # tokens that it has cost, as the server says
        self._response: ResponseView | None = None  # for a pricing class that settles

    # In

    def price(self, request: IRequest) -> None:
        """Ask the pricing class for the cost.  Raises PricingFailed."""
        if self._pricing.asks:
            self.cost = self._pricing.cost(request)

    def use(self, terms: Terms, network: str) -> None:
        """Apply the terms for this client, once it is known which key it has, or that it has none."""
        self._pricing = terms.pricing
        self.cost = terms.pricing.default_cost
        limits = terms.limits
        if limits is not None:
            self.limits = limits.buckets(self.digest, network)
            if limits.key:
                self.queue = f"{self.digest} {limits.key}"

    def take_without_key(self, network: str, receiver: ITokenReceiver) -> None:
        """Ask the limits of the route for the tokens, or, if there are none, the client's network."""
        self.pays_without_key = True
        limits = self.limits
        if limits and not limits[0].shadow:
            self._context.buckets.take_without_key(limits, receiver, self.cost)
        else:
            self.network = network
            self._context.buckets.take_address(network, receiver, self.cost, True, limits)

    def take(self, receiver: ITokenReceiver) -> None:
        """Ask the limits for the tokens; `receiver` gets the decision, and passes an admission on to `grant`."""
        self._context.buckets.take(self.digest, receiver, self.cost, self.network, self.limits)

    def asked_of(self, limit: str) -> int:
        """How many tokens a limit that has refused the request was asked for."""
        if self.pays_without_key or (self.digest and limit != ADDRESS):
            return self.cost
        return 1

    def grant(self, taken: Taken) -> None:
        """The tokens are taken."""
        self.taken = taken
        self.granted = True
        if taken.shadows:
            self._count_shadows(taken.shadows)
        elif self.limits and self.limits[-1].shadow:
            # They were not asked: see `Fallback`.
            self.limits = enforced(self.limits)

    def _count_shadows(self, decisions: tuple[ShadowDecision, ...]) -> None:
        self._context.shadow_counts.add(decisions)
        admitting = [shared for shared, would_refuse in decisions if not would_refuse]
        self.limits = (*enforced(self.limits), *admitting)

    # The response

    @property
    def by_response(self) -> bool:
        """Whether the store has to be told of the end of the response, for the cost or for requests in flight."""
        return self._reported is not None or self._response is not None or self._context.counts_in_flight

    def response_started(self, head: ResponseHead, server: str) -> Taken:
        """A server has answered, and may have reported a cost; return the decision for the limit fields."""
        taken = self.taken
        assert taken is not None
        if TOKEN_COST in head.notable:
            self._reported = reported = token_cost(head.notable[TOKEN_COST])
            if reported is not None:
                taken = _less(taken, reported - self.cost)
            elif server not in self._context.invalid_cost_reported:
                # This is logged once: it may do so in every response.
                self._context.invalid_cost_reported.add(server)
                _log.warn(
                    server, "{server} sent an X-Token-Cost that is no number of tokens: it is ignored", server=server
                )
        if self._pricing.settles:
            self._response = ResponseView(head, self._reported)
        return taken

    def view_of(self, head: ResponseHead) -> ResponseView:
        """What a plug-in sees of the response that has started with this head."""
        return self._response or ResponseView(head, self._reported)

    def content_received(self, size: int) -> None:
        """`size` more bytes of the response's content were received."""
        if self._response is not None:
            self._response.body_bytes += size

    def trailers_received(self, trailers: list[bytes]) -> list[bytes]:
        """The trailers for the client: a cost is removed, and replaces the one in the head."""
        costs = [line for line in trailers if line.partition(b":")[0].lower() == TOKEN_COST]
        if not costs:
            return trailers
        reported = token_cost([line.partition(b":")[2].strip(b" \t") for line in costs])
        if reported is not None:
            self._reported = reported
            if self._response is not None:
                self._response.token_cost = reported
        return [line for line in trailers if line not in costs]

    # Out

    def settle(self, request: IRequest) -> None:
        """The response is over, whole or not: it costs what the server or the pricing class says."""
        if not self.granted:
            return
        cost = self.cost if self._reported is None else self._reported
        if self._response is not None:
            cost = self._pricing.settle(request, self._response, cost)
        self._settle_at(cost)

    def settle_as_taken(self) -> None:
        """The request is over, and costs what was taken."""
        self._settle_at(self.cost)

    def ended_as_taken(self) -> None:
        """The same, if the store need not be told; see `by_response`."""
        if not self.granted:
            return
        self.granted = False
        self.settled = cost = self.cost
        digest = self.digest
        if digest:
            self._context.collected.request_ended(digest, cost)

    def refund(self) -> None:
        """The request costs nothing; `taken` then has the level after the refund."""
        if not self.granted:
            return
        self._settle_at(0, True)
        self.refunded = True
        taken = self.taken
        assert taken is not None
        self.taken = taken = _less(taken, -self.cost)
        quota = taken.quota
        if quota is not None and quota.unit == REQUESTS and taken.counted:
            self.taken = taken._replace(quota=quota._replace(left=quota.left + 1))

    def record(self, record: RequestRecord) -> None:
        """Enter the decision of the limits, and what the request has cost."""
        taken = self.taken
        if taken is None:
            return
        record.taken = taken
        record.level = taken[_LEVEL]
        name = taken[_NAME]
        if name:
            record.user = name
            # Only for the key of a user: any other text, which may be a password, is not recorded.
            record.key_id = _key_id(self.digest)
        if self.granted:
            record.cost = self.cost
        elif taken.admitted:
            record.cost = self.settled
            if taken.counted and not self.refunded:
                record.level -= (self.settled - self.cost) * MICROTOKENS
        else:
            record.limit = taken.limit

    def _settle_at(self, cost: int, unanswered: bool = False) -> None:
        if not self.granted:
            return
        self.granted = False
        self.settled = cost
        context = self._context
        if self.digest:
            context.collected.request_ended(self.digest, cost)
        limits, taken = self.limits, self.taken
        if taken is not None and not taken[_COUNTED]:
            if self.digest and context.counts_in_flight:
                context.buckets.release(self.digest, 0)
                self._room_available()
        elif self.pays_without_key and (not limits or limits[0].shadow):
            if cost != self.cost:
                context.buckets.release_address(self.network, cost - self.cost)
                if limits:
                    context.buckets.release("", cost - self.cost, limits)
        elif taken is not None and taken.quota is not None:
            self._settle_quota(taken.quota, cost, unanswered)
        elif cost != self.cost or context.counts_in_flight:
            context.buckets.release(self.digest, cost - self.cost, limits)
            self._room_available()

    def _settle_quota(self, quota: QuotaLevel, cost: int, unanswered: bool) -> None:
        """The same for a request that a quota has counted; one that no server has answered does not count."""
        context = self._context
        amount = cost - self.cost
        if quota.unit == REQUESTS:
            amount = -1 if unanswered else 0
        charge = QuotaCharge(quota.unit, quota.starts_us, quota.ends_us, amount) if amount else None
        if charge is not None:
            context.buckets.release(self.digest, cost - self.cost, self.limits, charge)
        elif cost != self.cost or context.counts_in_flight:
            context.buckets.release(self.digest, cost - self.cost, self.limits)
        else:
            return
        self._room_available()

    def _room_available(self) -> None:
        """Waiting requests of the key may be admitted now."""
        context = self._context
        key_queues = context.waiting.key_queues
        if key_queues and self.queue in key_queues:
            context.waiting.room_available(self.queue)


def _key_id(digest: str) -> str:
    """The key_id; the same object each time."""
    found = _key_ids.get(digest)
    if found is None:
        if len(_key_ids) >= MAX_KEY_IDS:
            _key_ids.clear()
        _key_ids[digest] = found = key_id_of(digest)
    return found


def _less(taken: Taken, tokens: int) -> Taken:
    """The decision after `tokens` more were taken from all its buckets; less than 0: refunded, up to the capacities."""
    if not taken.counted:
        return taken
    level = min(taken.level - tokens * MICROTOKENS, taken.capacity * MICROTOKENS)
    quota = taken.quota
    if quota is not None and quota.unit != REQUESTS:
        taken = taken._replace(quota=quota._replace(left=min(quota.left - tokens, quota.amount)))
    if not taken.more:
        return taken._replace(level=level)
    more = [
        one._replace(level=min(one.level - tokens * MICROTOKENS, one.capacity * MICROTOKENS)) for one in taken.more
    ]
    return taken._replace(level=level, more=tuple(more))
