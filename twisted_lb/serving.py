"""What serves clients, in one process: a store, a fleet with its balancer, and the proxy.

A program with one process has one of these beside its listeners; with several, each worker has one.
"""

from __future__ import annotations

from functools import partial
from math import ceil, log
from time import monotonic
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred

from twisted_lb.api.accounts import shown_page
from twisted_lb.api.door import ApiDoor
from twisted_lb.api.gate import AddressGate, Gate
from twisted_lb.api.report import Report, shown_server
from twisted_lb.api.user import UserApi
from twisted_lb.caretaker import Caretaker
from twisted_lb.fatal import end_process
from twisted_lb.fleet_spec import FleetSpec
from twisted_lb.interfaces import Limits, Policy
from twisted_lb.limits.addresses import FamiliarKeys
from twisted_lb.limits.headers import rate_limit_fields
from twisted_lb.limits.standby import Standby
from twisted_lb.parts import InOrder, Opening, ProxyService, StoreService, in_order
from twisted_lb.plan import security_of
from twisted_lb.proxy.listening import ProxyFactory, Queue, Retries
from twisted_lb.proxy.retry import WINDOW_SECONDS
from twisted_lb.reload import Swap, fleet_of, pricing_of
from twisted_lb.settings import Settings
from twisted_lb.stores.embedded_store import EmbeddedStore, steady_clock
from twisted_lb.stores.redis_store import RedisStore


class Serving:
    """The parts, of which `store` starts first and `proxy` last; `swap` has them run with another configuration."""

    def __init__(self, reactor: Any, settings: Settings, spec: FleetSpec, openings: dict[str, Opening]) -> None:
        limits = limits_of(settings)
        self._settings = settings
        self._store = store = _store(reactor, settings, limits)
        # Shared by the proxy and the user API: a key that one of them has let pass is known to both.
        familiar = FamiliarKeys(settings.local_keys) if limits.address.capacity else None
        self.gate: Gate = Gate()
        if familiar is not None:
            self.gate = AddressGate(store, store, familiar, rate_limit_fields(settings.rate_limit_headers))
        users = UserApi(store, settings.default_capacity, settings.default_rate_per_sec, gate=self.gate)
        self.fleet = fleet_of(spec, reactor)
        self.caretaker = Caretaker(reactor, self.fleet, spec)
        pricing = pricing_of(spec, reactor)
        self._factory = ProxyFactory(
            reactor,
            settings,
            store,
            self.fleet,
            ApiDoor(users.resource()),
            seen=self.caretaker.seen,
            retries=retries_of(spec),
            queue=queue_of(spec),
            pricing=pricing,
            familiar=familiar,
            poller_lost=partial(end_process, reactor, "The poller of the data path was lost"),
        )
        self.store = StoreService(store)
        self.proxy = ProxyService(self._factory, openings, settings.drain_seconds, self.store.started)
        self.swap = Swap(reactor, self.fleet, spec, self._follow, pricing)

    def _follow(self, spec: FleetSpec) -> None:
        self.caretaker.follow(spec)
        self._factory.configure(retries_of(spec), queue_of(spec), self.swap.pricing)

    @property
    def parts(self) -> tuple[IService, ...]:
        """In the order in which they start."""
        return self.store, self.caretaker, self.proxy

    def together(self) -> InOrder:
        """The parts as one service."""
        return in_order(*self.parts)

    def report(self) -> Report:
        """How this process does.  See api.report.Running."""
        # With those that are gone but still have exchanges.
        servers = [shown_server(backend) for backend in [*self.fleet.backends, *self.fleet.leaving]]
        return Report(*self._readiness(), servers, self._store.counts())

    def _readiness(self) -> tuple[bool, bool, str]:
        """Whether traffic is welcome, whether it is served worse than it should be, and why or why not."""
        if not self.proxy.running:
            return False, False, "draining"
        if not any(backend.available for backend in self.fleet.backends):
            return False, False, "no server is available"
        state = self._store.state()
        if not state.up:
            # The embedded store has all that it takes in memory.
            goes_on = not self._settings.redis_url or self._settings.on_store_error != "deny"
            return goes_on, goes_on, state.reason
        return True, False, "serving"

    def users(self, after: str, count: int) -> Deferred[dict[str, object]]:
        """A page of the users.  See api.report.Running."""
        page: Deferred[Any] = self._store.page(after, count)
        return page.addCallback(shown_page)


def limits_of(settings: Settings) -> Limits:
    """The limits beside the key's own bucket."""
    return Limits(
        Policy(settings.global_capacity, settings.global_rate_per_sec),
        Policy(settings.address_capacity, settings.address_rate_per_sec),
        settings.max_in_flight_per_key,
    )


def _store(reactor: Any, settings: Settings, limits: Limits) -> Any:
    """An IBucketStore, IAccountStore and IStoreReport."""
    if not settings.redis_url:
        return EmbeddedStore(settings.data_dir, steady_clock(), reactor, limits=limits)
    # The reactor's clock is that of the wall, and may be set.
    standby = Standby(settings.on_store_error, monotonic, settings.local_keys, limits)
    security = security_of(settings)
    return RedisStore(settings.redis_url, reactor, limits, standby, settings.redis_deadline, security=security)


def retries_of(spec: FleetSpec) -> Retries:
    """The bounds for retries, as the proxy counts them: what is free in a second as what is free in its window."""
    asked = spec.retries
    return Retries(asked.attempts, asked.budget, ceil(asked.min_per_second * WINDOW_SECONDS / log(2)))


def queue_of(spec: FleetSpec) -> Queue:
    """The bounds for the queue."""
    return Queue(spec.queue.size, spec.queue.timeout)
