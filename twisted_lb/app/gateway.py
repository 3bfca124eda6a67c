"""The pools in use, and how another configuration replaces them.

1. New balancers, pricing classes and hooks are created; when one cannot be, nothing has changed.
2. The servers of the pools that stay are changed, one pool after the other.  When a balancer rejects its servers, the
   pools before it get their previous servers again.
3. The other parts of the process follow (`Parts`): health checks, connections, and finally the routes, all at once.
   Until then, no request goes to a new pool; after that, none begins that goes to a removed one.

With many servers this takes several iterations of the reactor, between which clients are served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from twisted.internet.defer import Deferred, DeferredLock, execute
from twisted.logger import Logger

from twisted_lb.app.changes import what_changed
from twisted_lb.app.collector import Hold
from twisted_lb.backend import Backend
from twisted_lb.balancers.failover import Failover
from twisted_lb.balancers.registry import BalancerError, make_balancer
from twisted_lb.config.gateway import GatewaySpec
from twisted_lb.config.pool import ONLY_POOL, ClassSpec, PoolSpec
from twisted_lb.config.settings import Misconfigured
from twisted_lb.hooks.hooks import Hooks, HooksError, make_hooks
from twisted_lb.interfaces import IBalancer
from twisted_lb.limits.pricing import Pricing, PricingError, make_pricing
from twisted_lb.pool.pool import Change, Observer, Pool, made
from twisted_lb.steps import Steps, chunks, finish, run_in_turns

MANY_SERVERS: Final = 1000  # new ones, which the garbage collector takes long to traverse
FEW: Final = 200  # servers and routes with which a change takes no longer than a request

_log = Logger()


class PoolInUse(NamedTuple):
    """A pool, its configuration, and the objects made from that."""

    spec: PoolSpec
    pool: Pool
    balancer: IBalancer
    pricing: Pricing
    hooks: Hooks | None = None


class Parts(Protocol):
    """The other parts of the process, which follow a change of the configuration."""

    def follow(self, spec: GatewaySpec, pools: Mapping[str, PoolInUse]) -> Iterable[None]:
        """`pools` are in use now, and no others; may return steps.  Does not raise."""


class Gateway:
    """The pools by their names, in the order of the file."""

    def __init__(self, reactor: Any, spec: GatewaySpec) -> None:
        """Raises Misconfigured, when a balancer rejects its servers or a class cannot be used."""
        self.spec = spec
        self.parts: Parts | None = None
        self._reactor = reactor
        self._observers: list[Observer] = []
        self._lock = DeferredLock()
        self.hooks: dict[int, Hooks] = {}
        self.pools = {one.name: self._started(one) for one in spec.pools}
        # Those of the routes that have their own, by their positions in the file.
        self.hooks = finish(self._hooks_of_routes(spec))

    @property
    def backends(self) -> list[Backend]:
        """The servers of all pools."""
        return [backend for one in self.pools.values() for backend in one.pool.backends]

    def subscribe(self, observer: Observer) -> None:
        """Notify `observer` of the servers that are added and removed in any pool; it reads `backends` first."""
        self._observers.append(observer)
        for one in self.pools.values():
            one.pool.subscribe(observer)

    def change(self, spec: GatewaySpec) -> str:
        """Apply `spec`, and return a description of the changes.  Raises Misconfigured; then nothing has changed."""
        return finish(self._steps(spec))

    def change_in_turns(self, spec: GatewaySpec) -> Deferred[str]:
        """The same over several iterations of the reactor with many servers, so that clients are served meanwhile.

        Changes are sequential: a second one waits for the first.
        """
        return self._lock.run(self._in_turns, spec)

    def _in_turns(self, spec: GatewaySpec) -> Deferred[str]:
        if sum(len(one.servers) + len(one.routes) for one in (spec, self.spec)) <= FEW:
            return execute(self.change, spec)
        before, hold = set(self.backends), Hold()
        return run_in_turns(self._reactor, self._steps(spec)).addBoth(self._changed, before, hold)

    def _changed(self, result: Any, before: set[Backend], hold: Hold) -> Any:
        hold.release(long_lived=len(set(self.backends) - before) >= MANY_SERVERS)
        return result

    def _steps(self, spec: GatewaySpec) -> Steps[str]:
        before, present = self.spec, self.pools
        pools: dict[str, PoolInUse] = {}
        for one in spec.pools:
            pools[one.name] = self._planned(one, present.get(one.name))
            yield
        hooks = yield from self._hooks_of_routes(spec)
        changes = yield from self._changes(pools)
        self.spec, self.pools, self.hooks = spec, pools, hooks
        for name in pools.keys() - present.keys():
            yield from self._announce(pools[name].pool)
        yield
        if self.parts is not None:
            yield from self.parts.follow(spec, pools)
        for name in present.keys() - pools.keys():
            yield from self._withdraw(present[name].pool)
        return (yield from what_changed(before, spec, changes))

    def _planned(self, spec: PoolSpec, present: PoolInUse | None) -> PoolInUse:
        """The pool with its future balancer and pricing; a new one has no servers yet.  Raises Misconfigured."""
        try:
            if present is None:
                balancer = balancer_of(spec, self._reactor)
                pricing, hooks = pricing_of(spec, self._reactor), self._hooks_of_pool(spec)
                return PoolInUse(spec, Pool(balancer, []), balancer, pricing, hooks)
            # Unchanged objects keep their state.
            same = _balancing(spec) == _balancing(present.spec)
            balancer = present.balancer if same else balancer_of(spec, self._reactor)
            same = _pricing(spec) == _pricing(present.spec)
            pricing = present.pricing if same else pricing_of(spec, self._reactor)
            hooks = present.hooks if spec.hooks == present.spec.hooks else self._hooks_of_pool(spec)
            return PoolInUse(spec, present.pool, balancer, pricing, hooks)
        except PricingError as error:
            raise Misconfigured([f"{key_in(spec, 'pricing')}: {error}"]) from None
        except BalancerError as error:
            raise Misconfigured([f"{key_in(spec, 'balancer')}: {error}"]) from error

    def _hooks_of_pool(self, spec: PoolSpec) -> Hooks | None:
        return None if spec.hooks is None else self._new_hooks(spec.hooks, key_in(spec, "hooks"))

    def _hooks_of_routes(self, spec: GatewaySpec) -> Steps[dict[int, Hooks]]:
        """The hooks of routes, by their positions; those whose route, class and options are the same are kept.

        Raises Misconfigured.
        """
        former: dict[str, list[tuple[ClassSpec, Hooks]]] = {}
        for place, one in enumerate(self.spec.routes) if self.hooks else ():
            if one.hooks is not None:
                former.setdefault(one.name, []).append((one.hooks, self.hooks[place]))
        found: dict[int, Hooks] = {}
        for some in chunks(list(enumerate(spec.routes))):
            for place, one in some:
                if one.hooks is not None:
                    same = [hooks for named, hooks in former.get(one.name, ()) if named == one.hooks]
                    found[place] = same[0] if same else self._new_hooks(one.hooks, f"routes[{place}].hooks")
            yield
        return found

    def _new_hooks(self, spec: ClassSpec, key: str) -> Hooks:
        try:
            return make_hooks(spec.name, spec.options, self._reactor.seconds)
        except HooksError as error:
            raise Misconfigured([f"{key}: {error}"]) from error

    def _changes(self, pools: Mapping[str, PoolInUse]) -> Steps[dict[str, Change]]:
        """Give each pool its servers.  Raises Misconfigured when a balancer rejects them; then none has changed."""
        changes: dict[str, Change] = {}
        for name, one in pools.items():
            try:
                changes[name] = yield from one.pool.change_in_steps(one.balancer, one.spec.servers)
            except Exception as error:
                for changed in changes.keys() & self.pools.keys():
                    former = self.pools[changed]
                    former.pool.change(former.balancer, former.spec.servers)
                if not isinstance(error, BalancerError):
                    _log.failure("The balancer rejected the servers", balancer=one.spec.balancer, pool=name)
                raise Misconfigured([_not_taken(one.spec, error)]) from error
            yield
        return changes

    def _announce(self, pool: Pool) -> Steps[None]:
        """The observers are notified of a new pool."""
        for observer in self._observers:
            pool.subscribe(observer)
        for some in chunks(pool.backends):
            for backend in some:
                for observer in self._observers:
                    observer.backend_added(backend)
            yield

    def _withdraw(self, pool: Pool) -> Steps[None]:
        """The observers are notified that a pool was removed."""
        for some in chunks(pool.backends):
            for backend in some:
                for observer in self._observers:
                    observer.backend_removed(backend)
            yield

    def _started(self, spec: PoolSpec) -> PoolInUse:
        pool = pool_of(spec, self._reactor)
        try:
            return PoolInUse(
                spec, pool, pool.balancer, pricing_of(spec, self._reactor), self._hooks_of_pool(spec)
            )
        except PricingError as error:
            raise Misconfigured([f"{key_in(spec, 'pricing')}: {error}"]) from None


def pool_of(spec: PoolSpec, reactor: Any) -> Pool:
    """The pool of a configuration.  Raises Misconfigured when its balancer rejects the servers."""
    try:
        return Pool(balancer_of(spec, reactor), [made(server) for server in spec.servers])
    except Exception as error:
        raise Misconfigured([_not_taken(spec, error)]) from error


def balancer_of(spec: PoolSpec, reactor: Any) -> IBalancer:
    """The balancer of a configuration, with a second one for backup servers if there are any.

    Raises BalancerError.
    """
    word, options, backups = _balancing(spec)
    balancers: list[IBalancer] = [make_balancer(word, options, reactor.seconds) for _ in range(1 + backups)]
    return Failover(*balancers) if backups else balancers[0]


def pricing_of(spec: PoolSpec, reactor: Any) -> Pricing:
    """The pricing of a configuration.  Raises PricingError."""
    return make_pricing(spec.pricing, spec.pricing_options, reactor.seconds)


def key_in(spec: PoolSpec, key: str) -> str:
    """The place of a key of a pool in the file, for people."""
    return key if spec.name == ONLY_POOL else f"pools.{spec.name}.{key}"


def _not_taken(spec: PoolSpec, error: Exception) -> str:
    # The balancer may be a custom class.
    said = str(error) if isinstance(error, BalancerError) else f"it rejected the servers: {error!r}"
    return f"{key_in(spec, 'balancer')}: {said}"


def _balancing(spec: PoolSpec) -> tuple[str, Mapping[str, object], bool]:
    return spec.balancer, spec.options, any(server.backup for server in spec.servers)


def _pricing(spec: PoolSpec) -> tuple[str, Mapping[str, object]]:
    return spec.pricing, spec.pricing_options
