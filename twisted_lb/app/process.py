"""The parts that serve clients in one process: a store, pools with their balancers, and the proxy.

A program with one process has them in addition to its listeners for operators; with several, each worker has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory

from twisted_lb.access_log.destinations import STANDARD_OUTPUT
from twisted_lb.api.address_limit import AddressGate, Gate
from twisted_lb.api.bridge import ApiDoor
from twisted_lb.api.self_service import self_service_of
from twisted_lb.api.status import Report, shown_removed, shown_server
from twisted_lb.api.user import UserApi
from twisted_lb.app.access_log import AccessLogService
from twisted_lb.app.data_path import data_path_reactor
from twisted_lb.app.explain_servers import choices
from twisted_lb.app.fatal import end_process
from twisted_lb.app.gateway import Gateway
from twisted_lb.app.pools_in_process import PoolsInProcess
from twisted_lb.app.services import Opening, OrderedServices, ProxyService, StoreService, ordered
from twisted_lb.app.startup import security_of
from twisted_lb.app.tunnel_keys import TunnelKeys
from twisted_lb.app.usage_service import UsageService
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.settings import Settings
from twisted_lb.credentials import key_places
from twisted_lb.interfaces import MICROTOKENS, INoticeOutbox, IUserStore, LimitRule, Limits, Policy, SharedBucket
from twisted_lb.limits.authentication import make_authentication
from twisted_lb.limits.client_networks import KnownKeys
from twisted_lb.limits.collected_counts import CollectedCounts
from twisted_lb.limits.fallback import Fallback
from twisted_lb.limits.response_headers import rate_limit_fields
from twisted_lb.listed import listed
from twisted_lb.network.dialer import DeadAddresses, Dialer
from twisted_lb.network.hostname_resolver import HostnameResolver
from twisted_lb.network.lookup import Resolver
from twisted_lb.network.names import Names
from twisted_lb.network.stock import StockReactor
from twisted_lb.network.system_files import read_name_servers
from twisted_lb.network.tls_client import TlsContexts, open_tls
from twisted_lb.proxy.factory import ProxyFactory
from twisted_lb.stores.sqlite.store import EmbeddedStore, steady_clock
from twisted_lb.users import KeyBucket, KeyRefused, Shadow, User, key_id_of
from twisted_lb.webhook import digest_of_url, host_of, read_secret_key

if TYPE_CHECKING:
    from twisted_lb.app.notice_delivery import NoticeDelivery

SHOWN_POOLS = 5  # in a reason


class Serving:
    """The parts, of which `store` starts first and `proxy` last; `gateway` applies other configurations."""

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        spec: GatewaySpec,
        openings: dict[str, Opening],
        of_program: bool = True,
        standard_output: int = STANDARD_OUTPUT,
    ) -> None:
        """`of_program`: the process runs this program, rather than another application.

        `standard_output` is the file descriptor of ACCESS_LOG=-.
        """
        limits = limits_of(settings)
        self._settings = settings
        self.fallback = _fallback(settings, limits)
        self._store = store = _store(reactor, settings, limits, self.fallback)
        collected = CollectedCounts()
        self.usage = UsageService(reactor, collected, store)
        # Shared by the proxy and the user API: a key that one of them has admitted is known to both.
        known_keys = KnownKeys(settings.local_keys) if limits.address.capacity else None
        self.gate: Gate = Gate()
        if known_keys is not None:
            self.gate = AddressGate(store, store, known_keys, rate_limit_fields(settings.rate_limit_headers))
        keys = key_places(settings)
        users = UserApi(
            store,
            settings.default_capacity,
            settings.default_rate_per_sec,
            gate=self.gate,
            keys=keys,
            users=store,
            self_service=self_service_of(settings),
            usage=self.usage,
        )
        self.user_api = users.resource()
        self.gateway = Gateway(reactor, spec)
        self.names, self.services = names, _ = resolving(reactor, settings)
        if of_program:
            reactor.installNameResolver(HostnameResolver(names))
        dead = DeadAddresses(reactor.seconds)
        contexts = TlsContexts()
        connect_tls = partial(open_tls, StockReactor(reactor))
        dialer = Dialer(reactor, names, dead, partial(_dial, reactor), connect_tls, contexts)
        self.factory = ProxyFactory(
            # Another application's reactor stays as it is.
            data_path_reactor(reactor, around=of_program),
            settings.for_proxy(),
            store,
            ApiDoor(self.user_api),
            names,
            known_keys=known_keys,
            dead=dead,
            data_path_lost=partial(end_process, reactor, "The epoll set of the data path was lost"),
            authentication=make_authentication(settings.authenticator, reactor.seconds),
            contexts=contexts,
            collected=collected,
        )
        self.pools = PoolsInProcess(reactor, self.gateway, self.factory, dialer)
        self.access_log: AccessLogService | None = None
        if settings.access_log:
            self.access_log = AccessLogService(reactor, settings, self.factory.subscribe, standard_output)
        self._notices: NoticeDelivery | None = None
        if settings.webhook_url:
            self._notices = _notices(reactor, settings, store)
        self.store = StoreService(store)
        self._tunnel_keys = TunnelKeys(reactor, self.factory, store)
        self.proxy = ProxyService(self.factory, openings, settings.drain_seconds, self.store.started)

    @property
    def parts(self) -> tuple[IService, ...]:
        """The parts in the order in which they start."""
        log = () if self.access_log is None else (self.access_log,)
        notices = () if self._notices is None else (self._notices,)
        return self.store, *log, self.usage, self.pools, self._tunnel_keys, *notices, self.proxy

    def together(self) -> OrderedServices:
        """The parts as one service."""
        return ordered(*self.parts)

    def report(self) -> Report:
        """The state of this process.  See api.status.Running."""
        servers = []
        for name, one in self.gateway.pools.items():
            # Including removed ones that still have exchanges.
            servers += [shown_server(backend, name) for backend in [*one.pool.backends, *one.pool.leaving]]
        servers += [shown_removed(backend, name) for name, backend in self.pools.removed]
        counts = {**self._store.counts(), **self.factory.counts()}
        if self.access_log is not None:
            counts.update(self.access_log.counts())
        if self._notices is not None:
            counts.update(self._notices.counts())
        return Report(*self._readiness(), servers, counts)

    def _readiness(self) -> tuple[bool, bool, str]:
        """Whether this process is ready for traffic, whether it is degraded, and the reason."""
        if not self.proxy.running:
            return False, False, "draining"
        pools = self.gateway.pools
        down = [name for name, one in pools.items() if not any(backend.available for backend in one.pool.backends)]
        if len(down) == len(pools):
            return False, False, "no server is available"
        state = self._store.state()
        if not state.up:
            # The embedded store has all data in memory.  If Redis was never reached, no keys are known, and no request
            # can be served.
            goes_on = not self._settings.redis_url or (state.reached and self._settings.on_store_error != "deny")
            return goes_on, goes_on, state.reason
        if down:
            return True, True, f"no server of the pool {listed(down, SHOWN_POOLS)} is available"
        return True, False, "serving"

    def reopen_logs(self) -> None:
        """Open the file of the access log again: it was renamed."""
        if self.access_log is not None:
            self.access_log.reopen()

    def news(self) -> list[Any]:
        """Keys for other processes, for outages of the store.  See Fallback."""
        return list(self.fallback.news()) if self.fallback is not None else []

    def learn(self, news: list[Any]) -> None:
        """Keys from other processes."""
        if self.fallback is not None:
            self.fallback.learn(news)

    def choices(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """See api.status.Running."""
        return choices(self.gateway, asked)

    def levels(self, digest: str, buckets: list[list[Any]]) -> Deferred[dict[str, Any]]:
        """See api.status.Running."""
        return Deferred.fromCoroutine(self._levels(digest, buckets))

    async def _levels(self, digest: str, buckets: list[list[Any]]) -> dict[str, Any]:
        keys = [key for key, _, _ in buckets]
        shared = [SharedBucket(LimitRule(key, "", *policy), key) for key, *policy in buckets]
        levels = await self._store.levels(shared)
        account, refused = None, ""
        try:
            user = await self._store.user_of_key(digest) if digest else None
        except KeyRefused as error:
            user, refused = None, error.reason
        if user is not None:
            key = user.key(key_id_of(digest))
            own = None if key is None or key.bucket is None else _shown_bucket(key.bucket)
            shadow = None if user.shadow is None else _shown_bucket(user.shadow)
            account = {"user": user.name, **_shown_bucket(user), "own": own, "shadow": shadow}
            if user.quota is not None:
                left = max(user.quota.left, 0)
                account["quota"] = {"capacity": user.quota.amount, "rate_per_sec": 0.0, "level": left}
        return {"levels": dict(zip(keys, levels)), "key": account, "refused": refused}

    @property
    def users(self) -> IUserStore:
        """The users and keys."""
        users: IUserStore = self._store
        return users


def _shown_bucket(bucket: User | KeyBucket | Shadow) -> dict[str, Any]:
    level = None if bucket.level is None else bucket.level / MICROTOKENS
    return {"capacity": bucket.capacity, "rate_per_sec": bucket.rate_per_sec, "level": level}


def resolving(reactor: Any, settings: Settings) -> tuple[Names, Names]:
    """The caches of the addresses of names, and of the SRV records of services."""
    resolver = Resolver(reactor, read_name_servers(settings.resolver))
    return Names(reactor, resolver.look_up), Names(reactor, resolver.look_up_service)


def _dial(reactor: Any, address: str, port: int, factory: ClientFactory, timeout: float) -> Any:
    """Connect with Twisted's own transport, for connections outside the data path."""
    return reactor.connectTCP(address, port, factory, timeout)


def limits_of(settings: Settings) -> Limits:
    """The limits other than the bucket of the key."""
    return Limits(
        Policy(settings.global_capacity, settings.global_rate_per_sec),
        Policy(settings.address_capacity, settings.address_rate_per_sec),
        settings.max_in_flight_per_key,
    )


def _fallback(settings: Settings, limits: Limits) -> Fallback | None:
    """Decides during outages of Redis; None with the embedded store."""
    if not settings.redis_url:
        return None
    return Fallback(settings.on_store_error, monotonic, settings.local_keys, limits)


def _notices(reactor: Any, settings: Settings, store: INoticeOutbox) -> NoticeDelivery:
    """Sends notices about quotas."""
    # A client of HTTP is not loaded by processes that send nothing.
    from twisted_lb.app.notice_delivery import NoticeDelivery, webhook_post

    url = settings.webhook_url
    key = read_secret_key(settings.webhook_secret)
    post = webhook_post(reactor, url)
    return NoticeDelivery(reactor, store, post, key, time, host_of(url), digest_of_url(url))


def _store(reactor: Any, settings: Settings, limits: Limits, fallback: Fallback | None) -> Any:
    """An IBucketStore, IAccountStore, IUserStore, IUsageStore and IStoreReport."""
    if fallback is None:
        return EmbeddedStore(settings.data_dir, steady_clock(), reactor, limits=limits)
    # The client of Redis is not loaded by processes that have none.
    from twisted_lb.stores.redis.store import RedisStore

    security = security_of(settings)
    deadline = settings.redis_deadline
    return RedisStore(settings.redis_url, reactor, limits, fallback, deadline, security=security, advise=True)
