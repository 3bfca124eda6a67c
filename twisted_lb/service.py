"""Builds everything and hands each part what it needs.

    store <- demo servers <- admin listener <- proxy, with the user API as its door

The parts start in this order and stop in the opposite one: the proxy lets its exchanges finish while
all that they need is still there, and the store is closed last.

With several workers this process only holds the ports, the demo servers and the admin listener;
`workers` starts the processes that serve.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from twisted_lb.api.admin import admin_site
from twisted_lb.api.door import ApiDoor
from twisted_lb.api.user import UserApi
from twisted_lb.backend import Backend
from twisted_lb.balancers.registry import make_balancer
from twisted_lb.config import FleetSpec
from twisted_lb.demo import DemoSite, demo_address, demo_endpoint
from twisted_lb.open_files import raise_open_files, shortage
from twisted_lb.parts import (
    CannotStart,
    InOrder,
    ListeningService,
    Opening,
    ProxyService,
    StoreService,
    in_order,
    listen_plainly,
)
from twisted_lb.plan import Plan
from twisted_lb.proxy.fleet import Fleet
from twisted_lb.proxy.listening import ProxyFactory, listen
from twisted_lb.settings import Settings
from twisted_lb.stores.embedded_store import EmbeddedStore, steady_clock
from twisted_lb.stores.redis_store import RedisStore
from twisted_lb.workers import Workers

__all__ = ["CannotStart", "build", "build_serving"]

SHOWN_SERVERS = 6  # in the announcement

_log = Logger()


def build(reactor: Any, plan: Plan) -> IService:
    """The whole program as one service."""
    settings = plan.settings
    short = shortage(raise_open_files(), settings.max_connections)
    if short:
        _log.warn("{short}", short=short)
    parts: list[IService] = []
    if plan.demo:
        parts.extend(_demo_servers(reactor, plan.fleet))
    if settings.workers > 1:
        backends = _backends(plan.fleet)
        workers = Workers(reactor, plan)
        admin = _admin(reactor, settings, workers.readiness, backends)
        together = in_order(*parts, admin, workers)
        together.addService(_Announcement(plan, workers, admin))
        return together
    store, proxy = _serving(reactor, settings, plan.fleet, _openings(reactor, settings))
    readiness = partial(_readiness, proxy)
    admin = _admin(reactor, settings, readiness, proxy.fleet.backends)
    return in_order(store, *parts, admin, proxy, _Announcement(plan, proxy, admin))


def build_serving(reactor: Any, settings: Settings, fleet: FleetSpec, openings: dict[str, Opening]) -> InOrder:
    """What serves clients, without the listeners that a process has only once: one worker."""
    return in_order(*_serving(reactor, settings, fleet, openings))


def _serving(
    reactor: Any, settings: Settings, fleet: FleetSpec, openings: dict[str, Opening]
) -> tuple[StoreService, ProxyService]:
    store: Any
    if settings.redis_url:
        store = RedisStore(settings.redis_url, reactor)
    else:
        store = EmbeddedStore(settings.data_dir, steady_clock(), reactor)
    users = UserApi(store, settings.default_capacity, settings.default_rate_per_sec)
    pool = Fleet(make_balancer(fleet.balancer, fleet.options), _backends(fleet))
    factory = ProxyFactory(reactor, settings, store, pool, ApiDoor(users.resource()))
    opened = StoreService(store)
    return opened, ProxyService(factory, openings, settings.drain_seconds, pool, opened.started)


def _backends(fleet: FleetSpec) -> list[Backend]:
    return [Backend(server.name, server.host, server.port, server.weight) for server in fleet.servers]


def _openings(reactor: Any, settings: Settings) -> dict[str, Opening]:
    return {f"LISTEN {endpoint}": partial(listen, reactor, endpoint) for endpoint in settings.listen}


def _admin(reactor: Any, settings: Settings, readiness: Any, backends: list[Backend]) -> ListeningService:
    site = admin_site(reactor, readiness, lambda: backends, settings.admin_token)
    site.noisy = False
    endpoint = settings.admin_listen
    return ListeningService(site, {f"ADMIN_LISTEN {endpoint}": partial(listen_plainly, reactor, endpoint)})


def _demo_servers(reactor: Any, fleet: FleetSpec) -> list[IService]:
    demos: list[IService] = []
    for server in fleet.servers:
        address = demo_address(server.host)
        if address is not None:
            opening = partial(listen_plainly, reactor, demo_endpoint(address, server.port))
            demos.append(ListeningService(DemoSite(server.name, reactor), {f"--demo {server.name}": opening}))
    return demos


def _readiness(proxy: ProxyService) -> tuple[bool, str]:
    """Whether traffic is welcome, and why or why not."""
    if not proxy.running:
        return False, "draining"
    if not any(backend.available for backend in proxy.fleet.backends):
        return False, "no server is available"
    return True, "serving"


class _Announcement(Service):
    """Says, once all parts run, where the program listens and what to try."""

    def __init__(self, plan: Plan, public: Any, admin: ListeningService) -> None:
        """`public` has the ports that clients come to."""
        self._plan = plan
        self._public = public
        self._admin = admin

    def startService(self) -> None:
        super().startService()
        _log.info("{text}", text=self._text())

    def _text(self) -> str:
        settings, fleet = self._plan.settings, self._plan.fleet
        public = [url(port) for port in self._public.ports]
        shown = [f"{server.name} {server.url}" for server in fleet.servers[:SHOWN_SERVERS]]
        if len(fleet.servers) > SHOWN_SERVERS:
            shown.append(f"and {len(fleet.servers) - SHOWN_SERVERS} more")
        # A Redis URL may hold a password.
        store = "Redis" if settings.redis_url else f"embedded, in {settings.data_dir}"
        base = next((address for address in public if address.startswith("http")), "http://localhost:8080")
        return f"""twisted_lb listens
public   {", ".join(public)}
admin    {", ".join(url(port) for port in self._admin.ports)}/readyz
store    {store}
servers  {", ".join(shown)}; {fleet.balancer}
Try:
curl {base}/user/create -H 'Content-Type: application/json' -d '{{"name": "user1"}}'
curl {base}/ -H 'Authorization: API_KEY'
curl {base}/user/tokens/profile -H 'Authorization: API_KEY'"""


def url(port: IListeningPort) -> str:
    """Where a client of this machine reaches a port."""
    address = port.getHost()
    if not isinstance(address, (IPv4Address, IPv6Address)):
        return str(getattr(address, "name", address))
    host = "localhost" if address.host in ("0.0.0.0", "::") else address.host
    return f"http://[{host}]:{address.port}" if ":" in host else f"http://{host}:{address.port}"
