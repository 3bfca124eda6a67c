"""servers.yaml, watched while the program runs, and read again on SIGHUP.

1. Twice a second the file is looked at: its time, size and inode, so that an editor that writes a new
   file and renames it is seen as well.  What has changed may still be written: it is read when it was
   the same at two looks.
2. The text is checked as a whole first.  A bad one is one line in the log and changes nothing, and the
   line is not repeated until the file changes again.
3. A good one is swapped in at once, and one line says what has changed.

Looking costs one system call; watching with inotify would not see changes over network and some
container mounts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from twisted_lb.balancers.backups import Backups
from twisted_lb.balancers.registry import BalancerError, make_balancer
from twisted_lb.fleet_spec import FleetSpec
from twisted_lb.interfaces import IBalancer
from twisted_lb.limits.pricing import NO_PRICING, Pricing, PricingError, make_pricing
from twisted_lb.plan import check_fleet, read_text
from twisted_lb.proxy.fleet import Change, Fleet, made
from twisted_lb.settings import Misconfigured

LOOK_SECONDS = 0.5
SHOWN_NAMES = 10  # of each kind, in a log line
# Fields of the configuration whose change is told by more than its name.
SAID_IN_FULL = ("servers", "balancer", "options", "pricing", "pricing_options")

_log = Logger()

# What two looks at a file compare; None while there is no file.
Look = tuple[int, int, int, int] | None


class ServersFile(Service):
    """The file, and the configuration that was last taken from it."""

    def __init__(
        self, reactor: Any, file_name: str, text: str, swap: Callable[[FleetSpec, str], str]
    ) -> None:
        """`text` is what the program runs with now.

        `swap` has the program run with another configuration, of which it gets the text too, and says
        what has changed; it raises Misconfigured when that cannot be done, and then nothing has changed.
        """
        self._reactor = reactor
        self._file_name = file_name
        self._text = text
        self._swap = swap
        self._last: Look = None
        self._settled = False
        self._refused = False
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._call = self._reactor.callLater(LOOK_SECONDS, self._tick)

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _tick(self) -> None:
        self._call = self._reactor.callLater(LOOK_SECONDS, self._tick)
        self.look()

    def look(self) -> None:
        """Read the file when it has changed, and has not changed since the last look."""
        now = look_at(self._file_name)
        if now != self._last:
            self._last = now
            self._settled = False
        elif not self._settled:
            self._settled = True
            self.read()

    def read(self, asked: bool = False) -> None:
        """Read the file and use it when it is good.  `asked`: somebody waits for a line in the log."""
        try:
            text = read_text(self._file_name)
            if text == self._text:
                if asked or self._refused:
                    _log.info("{file}: this is what runs already", file=self._file_name)
                self._refused = False
                return
            said = self._swap(check_fleet(text, self._file_name), text)
        except Misconfigured as error:
            self._refused = True
            _log.error("The servers file is not used, nothing changes: {problems}", problems="; ".join(error.problems))
            return
        self._refused = False
        self._text = text
        _log.info("{file} is used from now on: {said}", file=self._file_name, said=said)


def look_at(file_name: str) -> Look:
    """What tells one state of a file from another, without reading it."""
    try:
        status = os.stat(file_name)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev


def balancer_of(spec: FleetSpec, reactor: Any) -> IBalancer:
    """The balancer that a configuration asks for, with another one for the backups if it has any.

    Raises BalancerError.
    """
    word, options, backups = _balancing(spec)
    balancers: list[IBalancer] = [make_balancer(word, options, reactor.seconds) for _ in range(1 + backups)]
    return Backups(*balancers) if backups else balancers[0]


def fleet_of(spec: FleetSpec, reactor: Any) -> Fleet:
    """The fleet that a configuration asks for."""
    return Fleet(balancer_of(spec, reactor), [made(server) for server in spec.servers])


def pricing_of(spec: FleetSpec, reactor: Any) -> Pricing:
    """What a configuration has requests cost.  Raises PricingError."""
    return make_pricing(spec.pricing, spec.pricing_options, reactor.seconds)


def _balancing(spec: FleetSpec) -> tuple[str, Mapping[str, object], bool]:
    return spec.balancer, spec.options, any(server.backup for server in spec.servers)


def _pricing(spec: FleetSpec) -> tuple[str, Mapping[str, object]]:
    return spec.pricing, spec.pricing_options


class Swap:
    """Has a fleet, and all that follows its configuration, run with another one."""

    def __init__(
        self,
        reactor: Any,
        fleet: Fleet,
        spec: FleetSpec,
        follow: Callable[[FleetSpec], None] = lambda spec: None,
        pricing: Pricing = NO_PRICING,
    ) -> None:
        """`spec` and `pricing` are what runs now; `follow` takes over what is not the fleet's, and does not raise.

        When `follow` is called, the attribute `pricing` is the one of its configuration.
        """
        self.pricing = pricing
        self._reactor = reactor
        self._fleet = fleet
        self._spec = spec
        self._follow = follow

    def __call__(self, spec: FleetSpec, text: str = "") -> str:
        """Swap, and say what has changed.  Raises Misconfigured, and then nothing has changed."""
        fleet, before = self._fleet, self._spec
        same = _balancing(spec) == _balancing(before)
        try:
            # One that stays keeps what it has learned.
            balancer = fleet.balancer if same else balancer_of(spec, self._reactor)
            pricing = self.pricing if _pricing(spec) == _pricing(before) else pricing_of(spec, self._reactor)
            change = fleet.change(balancer, spec.servers)
        except BalancerError as error:
            raise Misconfigured([f"balancer: {error}"]) from None
        except PricingError as error:
            raise Misconfigured([f"pricing: {error}"]) from None
        except Exception as error:
            _log.failure("The balancer does not take the servers")
            raise Misconfigured([f"balancer: it does not take the servers: {error!r}"]) from error
        self._spec = spec
        self.pricing = pricing
        self._follow(spec)
        return what_changed(before, spec, change)


def what_changed(before: FleetSpec, now: FleetSpec, change: Change) -> str:
    """A change in words, for one line."""
    moved = {backend.name for backend in change.added} & {backend.name for backend in change.removed}
    parts = [
        _listed("added", [f"{one.name} {_url(one)}" for one in change.added if one.name not in moved]),
        _listed("removed", [one.name for one in change.removed if one.name not in moved]),
        _listed("moved", [f"{one.name} to {_url(one)}" for one in change.added if one.name in moved]),
        _listed("changed", [f"{one.name} ({difference})" for one, difference in change.changed]),
        _listed("health check of", _other_checks(before, now)),
        "servers in another order" if change.reordered else "",
    ]
    parts.append(_other_class("balancer", before.balancer, before.options, now.balancer, now.options))
    parts.append(_other_class("pricing", *_pricing(before), *_pricing(now)))
    for field in fields(FleetSpec):
        was, is_now = getattr(before, field.name), getattr(now, field.name)
        if field.name not in SAID_IN_FULL and was != is_now:
            parts.append(f"{field.name} is another")
    return "; ".join(part for part in parts if part) or "the same servers and balancer as before"


def _other_class(
    key: str, before: str, options_before: Mapping[str, object], now: str, options: Mapping[str, object]
) -> str:
    if before != now:
        return f"{key} {before or 'none'} -> {now or 'none'}"
    # An option may be a secret: its name is enough.
    names = options_before.keys() | options.keys()
    differing = sorted(name for name in names if _option(options_before, name) != _option(options, name))
    return f"other options of {now}: {', '.join(differing)}" if differing else ""


def _option(options: Mapping[str, object], name: str) -> tuple[bool, object]:
    return name in options, options.get(name)


def _other_checks(before: FleetSpec, now: FleetSpec) -> list[str]:
    checks = {one.name: one.health_check for one in before.servers}
    return [one.name for one in now.servers if one.name in checks and checks[one.name] != one.health_check]


def _url(backend: Any) -> str:
    return f"http://{backend.authority.decode()}"


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{what} {', '.join(names[:SHOWN_NAMES])}{more}"
