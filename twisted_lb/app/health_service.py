"""Connects the health of the servers, the health checks and the pool.

The results of requests and of checks are passed to `Health`.  Each change of state is logged, and the balancer is
notified immediately, or, with hundreds of servers, of several changes together.
"""

from __future__ import annotations

from random import random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from twisted_lb.bounded_log import BoundedLog
from twisted_lb.config.pool import DISABLED, PoolSpec
from twisted_lb.health.active_checks import ActiveChecks
from twisted_lb.health.news import News
from twisted_lb.health.tracker import Health
from twisted_lb.network.dialer import Dialer
from twisted_lb.pool.pool import Pool, place
from twisted_lb.repeated import Repeated
from twisted_lb.steps import Steps, finish, run_in_turns

# How often ends of ejections and steps of slow starts are processed.
TICK_SECONDS = 0.25
# This many servers take less than a millisecond.  With more, the balancer is notified every TELL_SECONDS.
FEW_SERVERS = 200
TELL_SECONDS = 0.05

_log = Logger()
_bounded = BoundedLog(_log)


class HealthService(Service):
    """The health of one pool."""

    def __init__(self, reactor: Any, pool: Pool, spec: PoolSpec, dialer: Dialer) -> None:
        """`spec` is the configuration of `pool`, which has to be followed first.

        `dialer` opens the connections of the checks.
        """
        self._reactor = reactor
        self._pool = pool
        self._ticks = Repeated(reactor, self._tick, "the health service")
        self._telling: IDelayedCall | None = None  # pending, or called while the balancer is being notified
        self._untold = False  # there were changes since the notification began
        self.health = Health(spec.ejection, spec.panic_threshold, self._changed)
        self._checks = ActiveChecks(reactor, self.health, random, dialer)

    def follow(self, spec: PoolSpec) -> None:
        """The pool now has the configuration `spec`."""
        finish(self.follow_in_steps(spec))

    def follow_in_steps(self, spec: PoolSpec) -> Steps[None]:
        """The same in steps."""
        checks = {
            place(one): one.health_check if one.admin_state != DISABLED else None for one in spec.servers
        }
        backends = self._pool.backends
        yield
        self.health.configure(spec.ejection, spec.panic_threshold)
        followed = ((one, checks[place(one)]) for one in backends)
        yield from self.health.follow_in_steps(followed, self._reactor.seconds())
        yield
        yield from self._checks.follow_in_steps(backends)
        # New servers may start slowly.
        self._tell_balancer()

    def startService(self) -> None:
        """Start the checks."""
        super().startService()
        self._ticks.start(TICK_SECONDS)
        self._checks.start()

    def stopService(self) -> Deferred[None]:
        """Stop the checks."""
        super().stopService()
        self._ticks.stop()
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        return self._checks.stop()

    def _tick(self) -> None:
        if self.health.tick(self._reactor.seconds()):
            self._tell_balancer()

    def _changed(self, news: News) -> None:
        good = news.backend is not None and news.backend.up
        _log.emit(LogLevel.info if good else LogLevel.warn, news.format, **news.fields)
        self._tell_balancer()

    def _tell_balancer(self) -> None:
        """Notify now, or soon with many servers: when thousands fail, each notification would process all of them."""
        if len(self._pool.backends) <= FEW_SERVERS:
            try:
                self._pool.refresh()
            except Exception:
                # The balancer may be a custom class.
                _bounded.failure("servers", "The balancer rejected the servers", balancer=self._balancer_name)
            return
        self._untold = True
        if self._telling is None:
            self._telling = self._reactor.callLater(TELL_SECONDS, self._tell_all)

    def _tell_all(self) -> None:
        self._untold = False
        told = run_in_turns(self._reactor, self._pool.refresh_in_steps())
        told.addErrback(self._not_taken)
        told.addCallback(self._told)

    def _not_taken(self, failure: Failure) -> None:
        _bounded.failure("servers", "The balancer rejected the servers", failure, balancer=self._balancer_name)

    @property
    def _balancer_name(self) -> str:
        return type(self._pool.balancer).__name__

    def _told(self, _: object) -> None:
        self._telling = None
        if self._untold:
            self._tell_balancer()
