"""Reloads servers.yaml when it changes, and on SIGHUP.

1. Twice a second the modification time, size and inode of the file are checked, so that editors that write a new file
   and rename it are detected as well.  A changed file may still be incomplete: it is read when two successive checks
   are equal.
2. The text is validated as a whole first, a long one in another process (`servers_reader`).  An invalid one is logged
   once, until the file changes again, and changes nothing.
3. The files that it names (`tls`) are read with it, and on SIGHUP also when only they have changed.
4. A valid one is applied, and the changes are logged.  With many servers this takes several iterations of the reactor,
   between which clients are served.

A check costs one system call.  inotify would not detect changes over network mounts and some container mounts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, execute, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_lb.app.collector import Hold
from twisted_lb.app.servers_reader import Reading
from twisted_lb.app.startup import check_classes, read_text
from twisted_lb.backend import Backend
from twisted_lb.balancers.failover import Failover
from twisted_lb.balancers.registry import BalancerError, make_balancer
from twisted_lb.config.pool import PoolSpec
from twisted_lb.config.server_tls import files_changed, files_of, tls_notices
from twisted_lb.config.settings import Misconfigured
from twisted_lb.interfaces import IBalancer
from twisted_lb.limits.pricing import NO_PRICING, Pricing, PricingError, make_pricing
from twisted_lb.pool.pool import Change, Pool, made
from twisted_lb.repeated import Repeated
from twisted_lb.steps import Steps, finish, run_in_turns

LOOK_SECONDS = 0.5
MANY_SERVERS = 1000  # new ones, which the garbage collector takes long to traverse
FEW_SERVERS = 200  # with which a swap takes no longer than a request
SHOWN_NAMES = 10  # of each kind, in a log line
# Fields of the configuration whose changes are described separately.
SAID_IN_FULL = ("servers", "balancer", "options", "pricing", "pricing_options")

_log = Logger()

NO_FILES: Mapping[str, bytes] = {}

# What is compared of a file; None while it does not exist.
Look = tuple[int, int, int, int] | None


class ServersFile(Service):
    """The file, and the configuration that was last read from it."""

    def __init__(
        self,
        reactor: Any,
        file_name: str,
        text: str,
        swap: Callable[[PoolSpec, str], str | Deferred[str]],
        wall_clock: Callable[[], float] = time.time,
        files: Mapping[str, bytes] = NO_FILES,
    ) -> None:
        """`text` is the present configuration, with what the `files` that it names held; `wall_clock` returns the
        seconds since 1970.

        `swap` applies another configuration, of which it gets the text too, and returns a description of the changes,
        now or later; it raises Misconfigured when that is not possible, and then nothing has changed.
        """
        self._reactor = reactor
        self._file_name = file_name
        self._text = text
        self._files = files
        self._swap = swap
        self._used_at = wall_clock()
        self._wall_clock = wall_clock
        self._last: Look = None
        self._settled = False
        self._refused = False
        self._reading = Reading(reactor)
        self._under_way = False
        self._again = False
        self._looks = Repeated(reactor, self.look, "the watch of the servers file")

    def startService(self) -> None:
        """Start watching."""
        super().startService()
        self._looks.start(LOOK_SECONDS)

    def stopService(self) -> None:
        """Stop watching."""
        super().stopService()
        self._reading.stop()
        self._looks.stop()

    def look(self) -> None:
        """Read the file if it has changed, but not since the last check."""
        now = look_at(self._file_name)
        if now != self._last:
            self._last = now
            self._settled = False
        elif not self._settled:
            self._settled = True
            self.read()

    def read(self, asked: bool = False) -> None:
        """Read the file and apply it if it is valid.  `asked`: log the result even without changes."""
        if self._under_way:
            # The file may have changed by now.
            self._again = True
            return
        try:
            text = read_text(self._file_name)
        except Misconfigured as error:
            self._refuse(error)
            return
        if text == self._text and not files_changed(self._files):
            if asked or self._refused:
                _log.info("{file}: no change", file=self._file_name)
            self._refused = False
            return
        self._under_way = True
        Deferred.fromCoroutine(self._use(text)).addBoth(self._used)

    async def _use(self, text: str) -> None:
        try:
            spec, lines = await self._reading.read(text, self._file_name)
            check_classes(spec, self._file_name, lines)
            said = await maybeDeferred(self._swap, spec, text)
        except Misconfigured as error:
            self._refuse(error)
            return
        self._refused = False
        self._used_at = self._wall_clock()
        self._text = text
        self._files = files_of(spec)
        for notice in tls_notices(spec, self._file_name, self._wall_clock()):
            _log.warn("{notice}", notice=notice)
        _log.info(
            "{file} was reloaded: {said}",
            file=self._file_name,
            said=said,
            servers=len(spec.servers),
            balancer=spec.balancer,
        )

    def _used(self, result: Failure | None) -> None:
        self._under_way = False
        if result is not None:
            _log.failure("The servers file could not be used", result, file=self._file_name)
        again, self._again = self._again, False
        if again and self.running:
            self.read()

    def counts(self) -> dict[str, float]:
        """For the metrics: whether the file was valid when last read, and the time of the last successful reload."""
        return {"reload_ok": float(not self._refused), "reloaded_at": self._used_at}

    def _refuse(self, error: Misconfigured) -> None:
        self._refused = True
        _log.error(
            "The servers file was rejected, nothing changes: {problems}",
            problems="; ".join(error.problems),
            file=self._file_name,
        )


def look_at(file_name: str) -> Look:
    """What distinguishes versions of a file without reading it."""
    try:
        status = os.stat(file_name)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def balancer_of(spec: PoolSpec, reactor: Any) -> IBalancer:
    """The balancer of a configuration, with a second one for backup servers if there are any.

    Raises BalancerError.
    """
    word, options, backups = _balancing(spec)
    balancers: list[IBalancer] = [make_balancer(word, options, reactor.seconds) for _ in range(1 + backups)]
    return Failover(*balancers) if backups else balancers[0]


def pool_of(spec: PoolSpec, reactor: Any) -> Pool:
    """The pool of a configuration.  Raises Misconfigured when its balancer rejects the servers."""
    try:
        return Pool(balancer_of(spec, reactor), [made(server) for server in spec.servers])
    except Exception as error:
        raise Misconfigured([_not_taken(error)]) from error


def _not_taken(error: Exception) -> str:
    # The balancer may be a custom class.
    said = str(error) if isinstance(error, BalancerError) else f"it rejected the servers: {error!r}"
    return f"balancer: {said}"


def pricing_of(spec: PoolSpec, reactor: Any) -> Pricing:
    """The pricing of a configuration.  Raises PricingError."""
    return make_pricing(spec.pricing, spec.pricing_options, reactor.seconds)


def _balancing(spec: PoolSpec) -> tuple[str, Mapping[str, object], bool]:
    return spec.balancer, spec.options, any(server.backup for server in spec.servers)


def _pricing(spec: PoolSpec) -> tuple[str, Mapping[str, object]]:
    return spec.pricing, spec.pricing_options


class Swap:
    """Applies a new configuration to a pool and the parts that depend on it."""

    def __init__(
        self,
        reactor: Any,
        pool: Pool,
        spec: PoolSpec,
        follow: Callable[[PoolSpec], Iterable[None] | None] = lambda spec: None,
        pricing: Pricing = NO_PRICING,
    ) -> None:
        """`spec` and `pricing` are the present ones; `follow` applies everything outside the pool, and does not raise.
        It may do so in steps, which it returns then.

        When `follow` is called, the attribute `pricing` is that of the new configuration.
        """
        self.pricing = pricing
        self._reactor = reactor
        self._pool = pool
        self._spec = spec
        self._follow = follow
        self._lock = DeferredLock()

    def __call__(self, spec: PoolSpec, text: str = "") -> str:
        """Apply `spec`, and return a description of the changes.  Raises Misconfigured; then nothing has changed."""
        return finish(self._steps(spec))

    def in_turns(self, spec: PoolSpec, text: str = "") -> Deferred[str]:
        """The same over several iterations of the reactor with many servers, so that clients are served meanwhile.

        Swaps are sequential: a second one waits for the first.
        """
        return self._lock.run(self._in_turns, spec)

    def _in_turns(self, spec: PoolSpec) -> Deferred[str]:
        if len(spec.servers) + len(self._spec.servers) <= FEW_SERVERS:
            return execute(self, spec)
        before, hold = set(self._pool.backends), Hold()
        return run_in_turns(self._reactor, self._steps(spec)).addBoth(self._swapped, before, hold)

    def _swapped(self, result: Any, before: set[Backend], hold: Hold) -> Any:
        hold.release(long_lived=len(set(self._pool.backends) - before) >= MANY_SERVERS)
        return result

    def _steps(self, spec: PoolSpec) -> Steps[str]:
        pool, before = self._pool, self._spec
        same = _balancing(spec) == _balancing(before)
        try:
            # An unchanged one keeps its state.
            balancer = pool.balancer if same else balancer_of(spec, self._reactor)
            pricing = self.pricing if _pricing(spec) == _pricing(before) else pricing_of(spec, self._reactor)
            change = yield from pool.change_in_steps(balancer, spec.servers)
        except PricingError as error:
            raise Misconfigured([f"pricing: {error}"]) from None
        except Exception as error:
            if not isinstance(error, BalancerError):
                _log.failure("The balancer rejected the servers", balancer=spec.balancer)
            raise Misconfigured([_not_taken(error)]) from error
        self._spec = spec
        self.pricing = pricing
        yield
        yield from self._follow(spec) or ()
        yield
        return what_changed(before, spec, change)


def what_changed(before: PoolSpec, now: PoolSpec, change: Change) -> str:
    """A description of a change, on one line."""
    moved = {backend.name for backend in change.added} & {backend.name for backend in change.removed}
    parts = [
        _listed("added", [f"{one.name} {one.url}" for one in change.added if one.name not in moved]),
        _listed("removed", [one.name for one in change.removed if one.name not in moved]),
        _listed("moved", [f"{one.name} to {one.url}" for one in change.added if one.name in moved]),
        _listed("changed", [f"{one.name} ({difference})" for one, difference in change.changed]),
        _listed("health check of", _other_checks(before, now)),
        "order of the servers" if change.reordered else "",
    ]
    parts.append(_other_class("balancer", before.balancer, before.options, now.balancer, now.options))
    parts.append(_other_class("pricing", *_pricing(before), *_pricing(now)))
    for field in fields(PoolSpec):
        was, is_now = getattr(before, field.name), getattr(now, field.name)
        if field.name not in SAID_IN_FULL and was != is_now:
            parts.append(f"{field.name} changed")
    return "; ".join(part for part in parts if part) or "the same servers and balancer as before"


def _other_class(
    key: str, before: str, options_before: Mapping[str, object], now: str, options: Mapping[str, object]
) -> str:
    if before != now:
        return f"{key} {before or 'none'} -> {now or 'none'}"
    # An option may be a secret: only its name is shown.
    names = options_before.keys() | options.keys()
    differing = sorted(name for name in names if _option(options_before, name) != _option(options, name))
    return f"changed options of {now}: {', '.join(differing)}" if differing else ""


def _option(options: Mapping[str, object], name: str) -> tuple[bool, object]:
    return name in options, options.get(name)


def _other_checks(before: PoolSpec, now: PoolSpec) -> list[str]:
    checks = {one.name: one.health_check for one in before.servers}
    return [one.name for one in now.servers if one.name in checks and checks[one.name] != one.health_check]


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{what} {', '.join(names[:SHOWN_NAMES])}{more}"
