"""Builds the parts and passes each what it needs.

    store <- demo servers <- admin and health listeners <- proxy, with the user API as its door
          <- the watched servers file

The parts start in this order and stop in the reverse order: the proxy completes its exchanges while everything they
need still runs, and the store is closed last.

With several workers this process only has the ports, the demo servers and the listeners for operators; `workers` starts
the processes that serve clients.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from twisted_lb.api.admin import admin_factory, health_factory
from twisted_lb.api.operator_token import OperatorTokens
from twisted_lb.api.status import Running, WithCounts
from twisted_lb.api.users import UserAdministration
from twisted_lb.app.admin_tokens_file import AdminTokensFile
from twisted_lb.app.audit_log import AuditLog
from twisted_lb.app.certificate_watch import CertificateWatch
from twisted_lb.app.explain import Explainer
from twisted_lb.app.gateway import Gateway
from twisted_lb.app.listener_tls import new_contexts
from twisted_lb.app.operator_changes import OperatorChanges
from twisted_lb.app.process import Serving, limits_of, resolving
from twisted_lb.app.reload import ServersFile
from twisted_lb.app.rlimit import TOO_FEW, raise_open_files, shortage
from twisted_lb.app.servers_writer import write_text
from twisted_lb.app.services import (
    CannotStart,
    DemoServers,
    ListeningService,
    Opening,
    ordered,
    secured,
)
from twisted_lb.app.signals import Hangups, Reopening
from twisted_lb.app.startup import Startup, endpoints_of
from twisted_lb.app.ticket_rotation import TicketRotation
from twisted_lb.app.workers.remote_usage import UsageOfWorkers
from twisted_lb.app.workers.remote_users import UsersOfWorkers
from twisted_lb.app.workers.supervisor import Workers
from twisted_lb.config.admin_tokens import AdminToken, admin_tokens
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.server_tls import files_of
from twisted_lb.config.settings import Settings
from twisted_lb.credentials import key_places
from twisted_lb.discovery.service import Apply, Discovery, Found, in_one_process
from twisted_lb.interfaces import IUsageReport, IUserStore
from twisted_lb.key_format import KeyFormat
from twisted_lb.network.certificate import Certificate
from twisted_lb.network.listener import listen
from twisted_lb.steps import run_in_turns

__all__ = ["CannotStart", "build"]

SHOWN_SERVERS = 6  # in the announcement
ANNOUNCEMENT = """twisted_lb listens
public   {public}
admin    {admin}/readyz{health}
store    {store}
servers  {servers}; {balancer}
Try:
curl {base}/user/create -H 'Content-Type: application/json' -d '{{"name": "user1"}}'
curl {base}/ -H '{field}'
curl {base}/user/tokens/profile -H '{field}'"""

_log = Logger()


def build(reactor: Any, startup: Startup) -> IService:
    """The whole program as one service."""
    settings = startup.settings
    for notice in startup.notices:
        _log.warn("{notice}", notice=notice)
    listeners = 2 if settings.health_listen else 1
    others = listeners * settings.admin_max_connections + settings.lingering_connections
    short = shortage(raise_open_files(), settings.max_connections, others)
    if short:
        _log.warn(TOO_FEW, **short)
    tokens = OperatorTokens(startup.admin_tokens)
    token_file = _token_file(reactor, settings, tokens)
    if settings.workers > 1:
        workers = Workers(reactor, startup)
        # Without clients: it validates changes and describes them.
        gateway = Gateway(reactor, startup.listed)
        apply = _change_of_workers(gateway, workers)
        names, services = resolving(reactor, settings)
        discovery = Discovery(reactor, startup.gateway, startup.answers, names, services, apply)
        workers.found = discovery.started
        file = _file(reactor, startup, discovery.use)
        watch = _watch(reactor, startup, workers)
        rotation = _rotation(reactor, startup, workers)
        audit = AuditLog(reactor, settings.audit_log)
        users = UsersOfWorkers(workers.ask_about_users)
        usage = UsageOfWorkers(workers.usage)
        running = WithCounts(workers, _counts(file, watch))
        admin = _admin(reactor, settings, tokens, running, gateway, file, audit, users, usage)
        health = _health(reactor, settings, workers)
        announcement = _Announcement(startup, workers, admin, health)
        demo = _demo(reactor, startup, gateway)
        signals = _signals(reactor, settings, [file, *watch, *token_file], audit, workers.reopen_logs)
        started = (audit, *token_file, admin, *health, workers, discovery, file)
        return ordered(*demo, *started, *watch, *rotation, *signals, announcement)
    serving = Serving(reactor, settings, startup.listed, _openings(reactor, startup))
    discovery = in_one_process(reactor, startup.gateway, startup.answers, serving)
    file = _file(reactor, startup, discovery.use)
    watch = _watch(reactor, startup)
    audit = AuditLog(reactor, settings.audit_log)
    running = WithCounts(serving, _counts(file, watch))
    admin = _admin(reactor, settings, tokens, running, serving.gateway, file, audit, serving.users, serving.usage)
    health = _health(reactor, settings, serving)
    return ordered(
        serving.store,
        *_demo(reactor, startup, serving.gateway),
        audit,
        *token_file,
        admin,
        *health,
        *serving.parts[1:],
        discovery,
        file,
        *watch,
        *_rotation(reactor, startup),
        *_signals(reactor, settings, [file, *watch, *token_file], audit, serving.reopen_logs),
        _Announcement(startup, serving.proxy, admin, health),
    )


def _demo(reactor: Any, startup: Startup, gateway: Gateway) -> list[IService]:
    if not startup.demo:
        return []
    demo = DemoServers(reactor, gateway.backends)
    gateway.subscribe(demo)
    return [demo]


def _file(reactor: Any, startup: Startup, change: Callable[[GatewaySpec, str], Deferred[str]]) -> ServersFile:
    spec, name = startup.gateway, startup.settings.servers_file
    return ServersFile(reactor, name, startup.servers_text, change, files=files_of(spec), spec=spec)


def _change_of_workers(gateway: Gateway, workers: Workers) -> Apply:
    def use(found: Found) -> Deferred[str]:
        return gateway.change_in_turns(found.spec).addCallback(tell, found)

    def tell(said: str, found: Found) -> Deferred[str]:
        places = [(pool.name, server.name, server.url) for pool in found.spec.pools for server in pool.servers]
        used = workers.use(found.text, places, files_of(found.configured), found.answers)
        return used.addCallback(lambda _: said)

    return use


def _watch(reactor: Any, startup: Startup, workers: Workers | None = None) -> list[CertificateWatch]:
    """The watch of the certificates, if there are any; `workers` are told of others."""
    tls = startup.tls
    if tls is None:
        return []

    def use(certificates: Sequence[Certificate]) -> Deferred[None]:
        if workers is not None:
            workers.use_certificates(certificates)
        return run_in_turns(reactor, tls.certificates.use_in_steps(certificates, time.time()))

    def use_authorities(text: str) -> Deferred[None]:
        if workers is not None:
            workers.use_client_authorities(text)
        contexts = new_contexts(startup.settings, text)
        return run_in_turns(reactor, tls.certificates.use_contexts_in_steps(contexts))

    return [CertificateWatch(reactor, tls.files, use, time.time, tls.client_authorities, use_authorities)]


def _rotation(reactor: Any, startup: Startup, workers: Workers | None = None) -> list[IService]:
    """The rotation of the keys of session tickets, if there are certificates; `workers` are told of others."""
    if startup.tls is None:
        return []
    tell = None if workers is None else workers.use_ticket_secrets
    return [TicketRotation(reactor, startup.tls.certificates.ticket_keys, tell)]


def _counts(file: ServersFile, watch: Sequence[CertificateWatch]) -> Callable[[], dict[str, float]]:
    def counts() -> dict[str, float]:
        more = watch[0].counts() if watch else {}
        return {**file.counts(), **more}

    return counts


def _signals(
    reactor: Any,
    settings: Settings,
    watched: Sequence[ServersFile | CertificateWatch | AdminTokensFile],
    audit: AuditLog,
    reopen_logs: Callable[[], object],
) -> list[IService]:
    def read() -> None:
        for part in watched:
            part.read(True)

    def reopen() -> None:
        reopen_logs()
        audit.reopen()

    hangups = Hangups(reactor, read)
    has_files = settings.access_log or settings.audit_log
    return [hangups, Reopening(reactor, reopen)] if has_files else [hangups]


def _openings(reactor: Any, startup: Startup) -> dict[str, Opening]:
    settings, tls = startup.settings, startup.tls
    openings: dict[str, Opening] = {
        f"LISTEN {endpoint}": _opening(reactor, settings, endpoint) for endpoint in settings.listen
    }
    if tls is not None:
        for endpoint in settings.tls_listen:
            opening = _opening(reactor, settings, endpoint)
            openings[f"TLS_LISTEN {endpoint}"] = secured(opening, tls.certificates.present_context)
    return openings


def _opening(reactor: Any, settings: Settings, endpoint: str) -> Opening:
    others = [other for _, other in endpoints_of(settings) if other != endpoint]
    return partial(listen, reactor, endpoint, others)


def _token_file(reactor: Any, settings: Settings, tokens: OperatorTokens) -> list[AdminTokensFile]:
    if not settings.admin_tokens_file:
        return []

    def use(others: Sequence[AdminToken]) -> None:
        tokens.use([*admin_tokens(settings.admin_token), *others])

    return [AdminTokensFile(reactor, settings.admin_tokens_file, use)]


def _admin(
    reactor: Any,
    settings: Settings,
    tokens: OperatorTokens,
    running: Running,
    gateway: Gateway,
    file: ServersFile,
    audit: AuditLog,
    store: IUserStore,
    usage: IUsageReport,
) -> ListeningService:
    most = settings.admin_max_connections
    changes = OperatorChanges(reactor, file, _writing(reactor, settings) if settings.admin_writes == "file" else None)
    explaining = Explainer(gateway, limits_of(settings))
    form, default = KeyFormat(settings.key_prefix), (settings.default_capacity, settings.default_rate_per_sec)
    users = UserAdministration(store, form, *default, now_us, usage)
    factory = admin_factory(reactor, running, tokens, most, explaining, changes, audit, users)
    endpoint = settings.admin_listen
    return ListeningService(factory, {f"ADMIN_LISTEN {endpoint}": _opening(reactor, settings, endpoint)})


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def _writing(reactor: Any, settings: Settings) -> Callable[[str, str], Deferred[None]]:
    """Writes servers.yaml in a thread: the disk may take its time."""

    def write(before: str, after: str) -> Deferred[None]:
        threads = reactor.getThreadPool()
        return deferToThreadPool(reactor, threads, write_text, settings.servers_file, before, after)

    return write


def _health(reactor: Any, settings: Settings, running: Running) -> list[ListeningService]:
    if not settings.health_listen:
        return []
    openings: dict[str, Opening] = {
        f"HEALTH_LISTEN {endpoint}": _opening(reactor, settings, endpoint) for endpoint in settings.health_listen
    }
    return [ListeningService(health_factory(reactor, running, settings.admin_max_connections), openings)]


class _Announcement(Service):
    """Logs, when all parts run, where the program listens, and some commands to try."""

    def __init__(
        self, startup: Startup, public: Any, admin: ListeningService, health: Sequence[ListeningService] = ()
    ) -> None:
        """`public` has the ports for clients, `health` those for probes only."""
        self._startup = startup
        self._public = public
        self._admin = admin
        self._health = health

    def startService(self) -> None:
        super().startService()
        _log.info(ANNOUNCEMENT, **self._fields())

    def _fields(self) -> dict[str, object]:
        settings, gateway = self._startup.settings, self._startup.listed
        # The ports with TLS come last.
        clear = len(settings.listen)
        public = [url(port) for port in self._public.ports[:clear]]
        public += [url(port, "https") for port in self._public.ports[clear:]]
        servers = gateway.servers
        shown = [f"{server.name} {server.url}" for server in servers[:SHOWN_SERVERS]]
        if len(servers) > SHOWN_SERVERS:
            shown.append(f"and {len(servers) - SHOWN_SERVERS} more")
        # A Redis URL may contain a password.
        store = "Redis" if settings.redis_url else f"embedded, in {settings.data_dir}"
        probed = [f"{url(port)}/readyz" for service in self._health for port in service.ports]
        return {
            "public": ", ".join(public),
            "admin": ", ".join(url(port) for port in self._admin.ports),
            "health": f"\nhealth   {', '.join(probed)}" if probed else "",
            "store": store,
            "servers": ", ".join(shown) or "none yet",
            "balancer": ", ".join(dict.fromkeys(pool.balancer for pool in gateway.pools[:SHOWN_SERVERS])),
            "base": self._base(public),
            "field": key_places(settings).example.replace("<key>", "API_KEY"),
        }

    def _base(self, public: Sequence[str]) -> str:
        """The URL that the commands use: one where requests are not redirected."""
        redirected = self._startup.settings.http_redirect == "https"
        schemes = ("https:", "http:") if redirected else ("http:", "https:")
        found = [address for scheme in schemes for address in public if address.startswith(scheme)]
        return found[0] if found else "http://localhost:8080"


def url(port: IListeningPort, scheme: str = "http") -> str:
    """The URL of a port for a client on this machine."""
    address = port.getHost()
    if not isinstance(address, (IPv4Address, IPv6Address)):
        name = getattr(address, "name", None)
        return f"unix:{os.fsdecode(name)}" if name else str(address)
    host = "localhost" if address.host in ("0.0.0.0", "::") else address.host
    return f"{scheme}://[{host}]:{address.port}" if ":" in host else f"{scheme}://{host}:{address.port}"
