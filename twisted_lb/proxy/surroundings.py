"""What an exchange finds around it: its client's connection, and what all exchanges of a process share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted_lb.backend import Backend
from twisted_lb.interfaces import IBucketStore, Taken
from twisted_lb.limits.addresses import FamiliarKeys
from twisted_lb.limits.pricing import Pricing
from twisted_lb.proxy.connections import ConnectionPool
from twisted_lb.proxy.deadlines import Sweeper
from twisted_lb.proxy.fleet import Fleet
from twisted_lb.proxy.posted import PostedWork
from twisted_lb.proxy.queue import FairQueue
from twisted_lb.proxy.relay import Tap, Throttle
from twisted_lb.proxy.retry import RetryBudget
from twisted_lb.proxy.waiting import WaitingRoom
from twisted_lb.settings import Settings
from twisted_lb.wire.forwarding import Hop

# Passive health: what is seen of a server: the status of its response, or 0 and why there was none; and when.
Seen = Callable[[Backend, int, float, str], object]


class Client(Protocol):
    """The client's connection, as an exchange uses it."""

    address: str
    network: str  # of the address, for what comes without a valid key
    left: bool  # it will send no more
    hop: Hop
    tap: Tap
    throttle: Throttle
    transport: Any

    def closing(self) -> bool:
        """Whether this connection ends after the response that is about to begin."""

    def wait_over(self) -> None:
        """The request, which waited for tokens or for a server, goes on: now it is up to the client again."""

    def answer(self, status: int, detail: str, fields: bytes = b"", members: Mapping[str, object] = {}) -> None:
        """Answer the request with a problem made here, with these extension members; the exchange is over."""

    def exchange_done(self, close: bool) -> None:
        """The response is written; the exchange is over."""

    def exchange_broke(self, exchange: object, replied: bool) -> None:
        """The exchange ended because something raised: answer 500, or cut where a response has begun."""

    def cut(self, reset: bool) -> None:
        """The response cannot be completed: end the connection so that the client can tell.

        `reset`: the client takes an orderly end for the end of the body.
        """


class Shared:
    """What all exchanges of a process share."""

    def __init__(
        self,
        buckets: IBucketStore,
        fleet: Fleet,
        pools: dict[Backend, ConnectionPool],
        sweeper: Sweeper,
        limit_fields: Callable[[Taken], bytes],
        queue: FairQueue,
        retries: RetryBudget,
        seen: Seen,
        seconds: Callable[[], float],
        settings: Settings,
        waiting: WaitingRoom,
        pricing: Pricing,
        familiar: FamiliarKeys | None,
        posted: PostedWork,
    ) -> None:
        """`limit_fields` makes the rate-limit header lines; `seconds` is the reactor's clock.

        `familiar` is None where client addresses have no bucket.
        """
        self.buckets = buckets
        self.fleet = fleet
        self.pools = pools
        self.sweeper = sweeper
        self.limit_fields = limit_fields
        self.queue = queue
        self.retries = retries
        self.seen = seen
        self.seconds = seconds
        self.settings = settings
        self.waiting = waiting
        self.familiar = familiar
        self.posted = posted
        self.misspoken: set[str] = set()  # servers that sent an X-Token-Cost which is none
        self.counts_in_flight: bool = buckets.counts_in_flight
        self.pricing = pricing  # of requests that come from now on
