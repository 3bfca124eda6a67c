"""What serves clients, in one process: a store, a fleet with its balancer, and the proxy.

A program with one process has one of these beside its listeners; with several, each worker has one.
"""

from __future__ import annotations

from math import ceil, log
from typing import Any

from twisted.application.service import IService

from twisted_lb.api.admin import shown_server
from twisted_lb.api.door import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.caretaker import Caretaker
from twisted_lb.fleet_spec import FleetSpec
from twisted_lb.parts import InOrder, Opening, ProxyService, StoreService, in_order
from twisted_lb.proxy.listening import ProxyFactory, Queue, Retries
from twisted_lb.proxy.retry import WINDOW_SECONDS
from twisted_lb.reload import Swap, fleet_of
from twisted_lb.settings import Settings
from twisted_lb.stores.embedded_store import EmbeddedStore, steady_clock
from twisted_lb.stores.redis_store import RedisStore


class Serving:
    """The parts, of which `store` starts first and `proxy` last; `swap` has them run with another configuration."""

    def __init__(self, reactor: Any, settings: Settings, spec: FleetSpec, openings: dict[str, Opening]) -> None:
        store: Any
        if settings.redis_url:
            store = RedisStore(settings.redis_url, reactor)
        else:
            store = EmbeddedStore(settings.data_dir, steady_clock(), reactor)
        users = UserApi(store, settings.default_capacity, settings.default_rate_per_sec)
        self.fleet = fleet_of(spec, reactor)
        self.caretaker = Caretaker(reactor, self.fleet, spec)
        door = ApiDoor(users.resource())
        self._factory = ProxyFactory(
            reactor, settings, store, self.fleet, door, None, self.caretaker.seen, retries_of(spec), queue_of(spec)
        )
        self.store = StoreService(store)
        self.proxy = ProxyService(self._factory, openings, settings.drain_seconds, self.store.started)
        self.swap = Swap(reactor, self.fleet, spec, self._follow)

    def _follow(self, spec: FleetSpec) -> None:
        self.caretaker.follow(spec)
        self._factory.configure(retries_of(spec), queue_of(spec))

    @property
    def parts(self) -> tuple[IService, ...]:
        """In the order in which they start."""
        return self.store, self.caretaker, self.proxy

    def together(self) -> InOrder:
        """The parts as one service."""
        return in_order(*self.parts)

    def shown(self) -> list[dict[str, object]]:
        """The servers as the admin listener shows them, with those that are gone but still have exchanges."""
        return [shown_server(backend) for backend in [*self.fleet.backends, *self.fleet.leaving]]

    def readiness(self) -> tuple[bool, str]:
        """Whether traffic is welcome, and why or why not."""
        if not self.proxy.running:
            return False, "draining"
        if not any(backend.available for backend in self.fleet.backends):
            return False, "no server is available"
        return True, "serving"


def retries_of(spec: FleetSpec) -> Retries:
    """The bounds for retries, as the proxy counts them: what is free in a second as what is free in its window."""
    asked = spec.retries
    return Retries(asked.attempts, asked.budget, ceil(asked.min_per_second * WINDOW_SECONDS / log(2)))


def queue_of(spec: FleetSpec) -> Queue:
    """The bounds for the queue."""
    return Queue(spec.queue.size, spec.queue.timeout)
