"""What all exchanges of a process share, whatever their route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted_lb.config.settings import ProxySettings
from twisted_lb.cors import CorsPolicy
from twisted_lb.credentials import REDACTED, KeyPlaces
from twisted_lb.deadlines import Sweeper
from twisted_lb.interfaces import IBucketStore, Taken
from twisted_lb.limits.authentication import Authentication
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.limits.collected_counts import CollectedCounts
from twisted_lb.limits.shadow_counts import ShadowCounts
from twisted_lb.limits.wait_queue import WaitQueue
from twisted_lb.network.posted import PostedWork
from twisted_lb.proxy.counts import Counts
from twisted_lb.proxy.failure_log import FailureLog
from twisted_lb.proxy.request_ids import RequestIds
from twisted_lb.proxy.tunnel import OpenTunnels
from twisted_lb.request_record import CLIENT_CLOSED_REQUEST, CLIENT_LEFT, RequestRecord, RequestRecords
from twisted_lb.routing.table import RouteTable
from twisted_lb.wire.query import mask_parameter

# As a number: given bytes, `in` first tries to use them as a number, which costs an exception.
QUESTION_MARK: Final = 0x3F
_NO_SUBSCRIBERS: Final = RequestRecords()


class ProxyContext:
    """What all exchanges of a process share."""

    # Slots, since they are read for each request.
    __slots__ = (
        "buckets",
        "routes",
        "cors",
        "sweeper",
        "limit_fields",
        "seconds",
        "settings",
        "waiting",
        "known_keys",
        "posted",
        "keys",
        "authentication",
        "counts",
        "collected",
        "failures",
        "invalid_cost_reported",
        "counts_in_flight",
        "tunnels",
        "records",
        "ids",
        "shadow_counts",
    )

    def __init__(
        self,
        buckets: IBucketStore,
        sweeper: Sweeper,
        limit_fields: Callable[[Taken], bytes],
        seconds: Callable[[], float],
        settings: ProxySettings,
        waiting: WaitQueue,
        known_keys: KnownKeys | None,
        posted: PostedWork,
        keys: KeyPlaces,
        authentication: Authentication | None = None,
        collected: CollectedCounts | None = None,
    ) -> None:
        """The routes and the CORS policy are those of the configuration, see `ProxyFactory.use`.

        `limit_fields` makes the rate-limit header lines; `seconds` is the reactor's clock.

        `known_keys` is None where client addresses have no bucket; `authentication` is None where requests carry their
        keys in the places of `keys`.  `collected` counts the outcomes of the requests of each key.
        """
        self.buckets = buckets
        self.routes: RouteTable = RouteTable(())
        self.cors: CorsPolicy | None = None  # None: CORS is left to the servers
        self.sweeper = sweeper
        self.limit_fields = limit_fields
        self.seconds = seconds
        self.settings = settings
        self.waiting = waiting
        self.known_keys = known_keys
        self.posted = posted
        self.keys = keys
        self.authentication = authentication
        self.counts = Counts()
        self.collected: CollectedCounts = CollectedCounts() if collected is None else collected
        self.shadow_counts = ShadowCounts(self.collected)
        self.failures = FailureLog(sweeper)
        self.invalid_cost_reported: set[str] = set()  # servers that have sent an invalid X-Token-Cost
        self.counts_in_flight: bool = buckets.counts_in_flight
        self.tunnels = OpenTunnels(sweeper, settings.tunnel_timeout)
        self.ids: RequestIds | None = None  # None: requests get no ids
        if settings.request_ids != "off":
            self.ids = RequestIds(settings.request_ids == "on")
        self.records: RequestRecords | None = None  # None: no records of requests are needed

    def request_finished(self, record: RequestRecord) -> None:
        """A request is over: pass its record to the subscribers.  See RequestRecords."""
        records = self.records
        if records is None:
            if record.finished is None:
                return
            # The routes have no hooks any more, but the one of this request had.
            records = _NO_SUBSCRIBERS
        record.ended_at = self.seconds()
        anonymous = not record.user
        if not record.status and record.reason == CLIENT_LEFT:
            record.status = CLIENT_CLOSED_REQUEST
        if anonymous or QUESTION_MARK in record.target or record.fields:
            self._mask(record, anonymous)
        records.request_finished(record)

    def _mask(self, record: RequestRecord, anonymous: bool) -> None:
        """Replace what may be a key; that of a user was replaced already."""
        parameter = self.keys.parameter
        if parameter and QUESTION_MARK in record.target:
            record.target = mask_parameter(record.target, parameter, REDACTED)
        if anonymous or QUESTION_MARK in record.target:
            record.target = self.keys.masked(record.target, anonymous)
        if anonymous:
            record.host = self.keys.masked(record.host, True)
        if record.fields:
            record.fields = self.keys.masked(record.fields, anonymous)

    def copied(self) -> ProxyContext:
        """A copy, in which parts may be replaced."""
        other = ProxyContext(
            self.buckets,
            self.sweeper,
            self.limit_fields,
            self.seconds,
            self.settings,
            self.waiting,
            self.known_keys,
            self.posted,
            self.keys,
            self.authentication,
            self.collected,
        )
        other.routes = self.routes
        other.cors = self.cors
        other.counts = self.counts
        other.shadow_counts = self.shadow_counts
        other.failures = self.failures
        other.invalid_cost_reported = self.invalid_cost_reported
        other.counts_in_flight = self.counts_in_flight
        other.tunnels = self.tunnels
        other.ids = self.ids
        other.records = self.records
        return other
