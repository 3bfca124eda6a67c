"""Builds everything and hands each part what it needs.

    store <- demo servers <- admin and health listeners <- proxy, with the user API as its door
          <- the watched servers file

The parts start in this order and stop in the opposite one: the proxy lets its exchanges finish while
all that they need is still there, and the store is closed last.

With several workers this process only holds the ports, the demo servers and the listeners for operators;
`workers` starts the processes that serve.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from twisted_lb.api.admin import admin_factory, health_factory
from twisted_lb.api.report import Running
from twisted_lb.fleet_spec import FleetSpec
from twisted_lb.hang_ups import HangUps
from twisted_lb.open_files import raise_open_files, shortage
from twisted_lb.parts import (
    CannotStart,
    DemoServers,
    ListeningService,
    Opening,
    in_order,
    listen_plainly,
)
from twisted_lb.plan import Plan
from twisted_lb.proxy.fleet import Fleet
from twisted_lb.proxy.listening import listen
from twisted_lb.reload import ServersFile, Swap, fleet_of
from twisted_lb.serving import Serving
from twisted_lb.settings import Settings
from twisted_lb.workers import Workers

__all__ = ["CannotStart", "build"]

SHOWN_SERVERS = 6  # in the announcement

_log = Logger()


def build(reactor: Any, plan: Plan) -> IService:
    """The whole program as one service."""
    settings = plan.settings
    listeners = 2 if settings.health_listen else 1
    short = shortage(raise_open_files(), settings.max_connections, listeners * settings.admin_max_connections)
    if short:
        _log.warn("{short}", short=short)
    if settings.workers > 1:
        workers = Workers(reactor, plan)
        # A fleet without clients, which tells what a change is, and whether the balancer takes it.
        fleet = fleet_of(plan.fleet, reactor)
        file = _file(reactor, plan, _swap_of_workers(Swap(reactor, fleet, plan.fleet), workers))
        admin = _admin(reactor, settings, workers)
        health = _health(reactor, settings, workers)
        announcement = _Announcement(plan, workers, admin, health)
        demo = _demo(reactor, plan, fleet)
        return in_order(*demo, admin, *health, workers, file, _hang_ups(reactor, file), announcement)
    serving = Serving(reactor, settings, plan.fleet, _openings(reactor, settings))
    file = _file(reactor, plan, serving.swap)
    admin = _admin(reactor, settings, serving)
    health = _health(reactor, settings, serving)
    return in_order(
        serving.store,
        *_demo(reactor, plan, serving.fleet),
        admin,
        *health,
        serving.caretaker,
        serving.proxy,
        file,
        _hang_ups(reactor, file),
        _Announcement(plan, serving.proxy, admin, health),
    )


def _demo(reactor: Any, plan: Plan, fleet: Fleet) -> list[IService]:
    if not plan.demo:
        return []
    demo = DemoServers(reactor, fleet.backends)
    fleet.subscribe(demo)
    return [demo]


def _file(reactor: Any, plan: Plan, swap: Callable[[FleetSpec, str], str]) -> ServersFile:
    return ServersFile(reactor, plan.settings.servers_file, plan.fleet_text, swap)


def _swap_of_workers(swap: Swap, workers: Workers) -> Callable[[FleetSpec, str], str]:
    def use(spec: FleetSpec, text: str) -> str:
        said = swap(spec)
        workers.use(text)
        return said

    return use


def _hang_ups(reactor: Any, file: ServersFile) -> HangUps:
    return HangUps(reactor, partial(file.read, True))


def _openings(reactor: Any, settings: Settings) -> dict[str, Opening]:
    return {f"LISTEN {endpoint}": partial(listen, reactor, endpoint) for endpoint in settings.listen}


def _admin(reactor: Any, settings: Settings, running: Running) -> ListeningService:
    factory = admin_factory(reactor, running, settings.admin_token, settings.admin_max_connections)
    endpoint = settings.admin_listen
    return ListeningService(factory, {f"ADMIN_LISTEN {endpoint}": partial(listen_plainly, reactor, endpoint)})


def _health(reactor: Any, settings: Settings, running: Running) -> list[ListeningService]:
    if not settings.health_listen:
        return []
    openings: dict[str, Opening] = {
        f"HEALTH_LISTEN {endpoint}": partial(listen_plainly, reactor, endpoint) for endpoint in settings.health_listen
    }
    return [ListeningService(health_factory(reactor, running, settings.admin_max_connections), openings)]


class _Announcement(Service):
    """Says, once all parts run, where the program listens and what to try."""

    def __init__(
        self, plan: Plan, public: Any, admin: ListeningService, health: Sequence[ListeningService] = ()
    ) -> None:
        """`public` has the ports that clients come to, `health` those that are for probes only."""
        self._plan = plan
        self._public = public
        self._admin = admin
        self._health = health

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
        probed = [f"{url(port)}/readyz" for service in self._health for port in service.ports]
        health = f"\nhealth   {', '.join(probed)}" if probed else ""
        base = next((address for address in public if address.startswith("http")), "http://localhost:8080")
        return f"""twisted_lb listens
public   {", ".join(public)}
admin    {", ".join(url(port) for port in self._admin.ports)}/readyz{health}
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
        name = getattr(address, "name", None)
        return f"unix:{os.fsdecode(name)}" if name else str(address)
    host = "localhost" if address.host in ("0.0.0.0", "::") else address.host
    return f"http://[{host}]:{address.port}" if ":" in host else f"http://{host}:{address.port}"
