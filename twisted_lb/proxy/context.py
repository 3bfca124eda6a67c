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
from twisted_lb.limits.wait_queue import WaitQueue
from twisted_lb.network.posted import PostedWork
from twisted_lb.proxy.counts import Counts
from twisted_lb.proxy.failure_log import FailureLog
from twisted_lb.proxy.request_ids import RequestIds
from twisted_lb.proxy.tunnel import OpenTunnels
from twisted_lb.request_record import CLIENT_CLOSED_REQUEST, CLIENT_LEFT, RequestRecord, RequestRecords
from twisted_lb.routing.table import RouteTable
from twisted_lb.wire.query import mask_parameter

# As a number: `in` takes bytes for a number at first, which costs an exception.
QUESTION_MARK: Final = 0x3F
_NO_SUBSCRIBERS: Final = RequestRecords()


class ProxyContext:
    """What all exchanges of a process share."""

    # They are read for each request.
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
        "failures",
        "invalid_cost_reported",
        "counts_in_flight",
        "tunnels",
        "records",
        "ids",
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
    ) -> None:
        """The routes and the CORS policy are those of the configuration, see `ProxyFactory.use`.

        `limit_fields` makes the rate-limit header lines; `seconds` is the reactor's clock.

        `known_keys` is None where client addresses have no bucket; `authentication` is None where requests carry their
        keys in the places of `keys`.
        """
        self.buckets = buckets
        self.routes: RouteTable = RouteTable(())
        self.cors: CorsPolicy | None = None  # None: pages of other origins are the servers' business
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
        self.failures = FailureLog(sweeper)
        self.invalid_cost_reported: set[str] = set()  # servers that sent an X-Token-Cost which is none
        self.counts_in_flight: bool = buckets.counts_in_flight
        self.tunnels = OpenTunnels(sweeper, settings.tunnel_timeout)
        self.ids: RequestIds | None = None  # None: requests get no ids
        if settings.request_ids != "off":
            self.ids = RequestIds(settings.request_ids == "on")
        self.records: RequestRecords | None = None  # None: nobody wants to know what becomes of requests

    def request_finished(self, record: RequestRecord) -> None:
        """A request is over: tell those who want to know.  See RequestRecords."""
        records = self.records
        if records is None:
            if record.finished is None:
                return
            # No route has hooks any more, but that of this request had.
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
        """Another one, in which parts may be replaced."""
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
        )
        other.routes = self.routes
        other.cors = self.cors
        other.counts = self.counts
        other.failures = self.failures
        other.invalid_cost_reported = self.invalid_cost_reported
        other.counts_in_flight = self.counts_in_flight
        other.tunnels = self.tunnels
        other.ids = self.ids
        other.records = self.records
        return other
