"""Keeps the health of the servers, the checks that find it out, and the fleet in step.

What an exchange saw of a server, and what a check found, goes to `Health`.  Each change of state is
one line in the log, and the balancer is told at once.
"""

from __future__ import annotations

from random import random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from twisted_lb.backend import Backend
from twisted_lb.bounded_log import BoundedLog
from twisted_lb.fleet_spec import FleetSpec
from twisted_lb.health.fleet import Health
from twisted_lb.probes import Probes
from twisted_lb.proxy.fleet import Fleet, place

# How often ejections end and slow starts move on.
TICK_SECONDS = 0.25

_log = Logger()
_bounded = BoundedLog(_log)


class Caretaker(Service):
    """The health of one fleet."""

    def __init__(self, reactor: Any, fleet: Fleet, spec: FleetSpec) -> None:
        """`spec` is what `fleet` was made of."""
        self._reactor = reactor
        self._fleet = fleet
        self._call: IDelayedCall | None = None
        self.health = Health(spec.ejection, spec.panic_threshold, self._changed)
        self._probes = Probes(reactor, self.health, random)
        self.follow(spec)

    def follow(self, spec: FleetSpec) -> None:
        """The fleet has become what `spec` says."""
        checks = {place(server): server.health_check for server in spec.servers}
        self.health.configure(spec.ejection, spec.panic_threshold)
        self.health.follow([(one, checks[place(one)]) for one in self._fleet.backends], self._reactor.seconds())
        self._probes.follow(self._fleet.backends)
        # New servers may start slowly.
        self._tell_balancer()

    def seen(self, backend: Backend, status: int, now: float, why: str) -> None:
        """What an exchange saw: the status of a response, or 0 and why there was none."""
        if status:
            self.health.answered(backend, status, now)
        else:
            self.health.seen(backend, False, now, why)

    def startService(self) -> None:
        """Begin to check."""
        super().startService()
        self._call = self._reactor.callLater(TICK_SECONDS, self._tick)
        self._probes.start()

    def stopService(self) -> Deferred[None]:
        """Check no more."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return self._probes.stop()

    def _tick(self) -> None:
        self._call = self._reactor.callLater(TICK_SECONDS, self._tick)
        if self.health.tick(self._reactor.seconds()):
            self._tell_balancer()

    def _changed(self, backend: Backend | None, text: str) -> None:
        if backend is not None and backend.up:
            _log.info("{text}", text=text)
        else:
            _log.warn("{text}", text=text)
        self._tell_balancer()

    def _tell_balancer(self) -> None:
        try:
            self._fleet.refresh()
        except Exception:
            # A balancer may be anybody's class.
            _bounded.failure("servers", "The balancer does not take the servers")
